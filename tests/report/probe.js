// What a reader does with the page, step by step; what is then there is reported to the page around it.
const wait = (ms = 400) => new Promise((done) => setTimeout(done, ms));
const rows = () => [...document.querySelectorAll("#list details.episode")];
const counted = () => document.getElementById("count").textContent;
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
(async () => {
  const said = {};
  await wait();
  said.all = counted();
  said.difference = difference("go to the kitchen now", "go to the hallway now");
  said.same = difference("a b", "a b");
  said.long = difference("a ".repeat(3000), "b ".repeat(3000)).length;
  said.hits = [hitsOf("Door to door", "door"), hitsOf("aaaa", "aa"), hitsOf("x", "")];
  said.csv = toCsv([["=1", 'say "x"', "a,b", null, -0.5]]);
  said.tasks_csv = toCsv([["task", "type", ...tables.keys, "spread"], ...tables.tasks]);

  // The table by task: sorted by its spread, filtered, then a cell leads to its trajectories.
  const heads = [...document.querySelectorAll("#task-table thead th")];
  heads.at(-1).querySelector("button").click();
  await wait();
  said.spreads = [...document.querySelectorAll("#task-table tbody tr")].map((row) => Number(row.lastChild.textContent));
  said.sorted = heads.map((head) => head.getAttribute("aria-sort"));
  said.best = [...document.querySelectorAll("#task-table tbody tr")].map((row) => {
    const cells = [...row.cells].slice(2, -1);
    return [cells.map((cell) => Number(cell.textContent)), cells.map((cell) => cell.classList.contains("best"))];
  });
  document.querySelector("#task-table tbody tr td.num button").click();
  await wait();
  said.cell = [location.hash, rows().map((row) => row.dataset.key), document.activeElement.tagName];
  document.querySelector("#filters [type=reset]").click();
  await wait();

  // Full text, with hits marked and counted.
  const search = document.querySelector("#filters [name=q]");
  search.value = "OPEN DOOR";
  search.dispatchEvent(new Event("input", { bubbles: true }));
  await wait(600);
  said.searched = counted();
  said.in_hash = location.hash;
  rows()[0].querySelector("summary").click();
  await wait();
  said.marks = rows()[0].querySelectorAll("mark").length;
  said.badge = rows()[0].querySelector(".hits").textContent;
  const scope = document.querySelector("#filters [name=in]");
  scope.value = "thoughts";
  scope.dispatchEvent(new Event("input", { bubbles: true }));
  await wait();
  said.thoughts = counted();
  document.querySelector("#filters [type=reset]").click();
  await wait();

  // One trajectory opened, a second one beside it, and back.
  const first = run.episodes.find((e) => e.act === "rollout" && run.ofTask(e).some((o) => o !== e && o.agent === "partner" && o.turns.length));
  state.set({ t: first.key });
  await wait();
  const select = document.querySelector("#list details[open] select");
  const other = run.ofTask(first).find((e) => e !== first && e.agent === "partner" && e.round === first.round);
  select.value = other.key;
  select.dispatchEvent(new Event("change"));
  await wait();
  const grid = document.querySelector("#list details[open] .sidegrid");
  const cells = [...grid.querySelectorAll(".cell")];
  said.sides = {
    hash: decodeURIComponent(location.hash), keys: [first.key, other.key], alike: numAlike(first, other),
    labels: cells.slice(0, 2).map((cell) => cell.getAttribute("aria-label")),
    cells: cells.length, longest: Math.max(first.turns.length, other.turns.length),
    heads: [...grid.querySelectorAll("h4")].map((head) => head.textContent),
    columns: getComputedStyle(grid).gridTemplateColumns.split(" ").length,
  };
  history.back();
  await wait();
  said.back = [new URLSearchParams(location.hash.slice(1)).get("t") === first.key, location.hash.includes("u="), document.querySelector("#list .sidegrid") === null];
  said.origin = document.querySelector("#list details[open] .origin").textContent;
  history.back();
  await wait();
  said.closed = document.querySelectorAll("#list details[open]").length;

  // Keys.
  document.activeElement.blur();
  press("/");
  said.slash = document.activeElement.name;
  document.activeElement.blur();
  press("j");
  const at = () => rows().findIndex((row) => row.contains(document.activeElement));
  said.keys = [at()];
  press("j"); said.keys.push(at());
  press("ArrowDown"); said.keys.push(at());
  press("k"); said.keys.push(at());

  // Pairs.
  const kind = document.querySelector("#pair-filters [name=pkind]");
  kind.value = "failure>failure";
  kind.dispatchEvent(new Event("input", { bubbles: true }));
  const order = document.querySelector("#pair-filters [name=porder]");
  order.value = "near";
  order.dispatchEvent(new Event("input", { bubbles: true }));
  await wait();
  said.pairs = document.getElementById("pair-count").textContent;
  said.gaps = [...document.querySelectorAll("#pair-list .reward")].map((one) => one.textContent);
  document.querySelector("#pair-list summary").click();
  await wait();
  said.pair_heads = [...document.querySelectorAll("#pair-list .sidegrid h4")].map((head) => head.textContent);
  said.pair_hash = location.hash.includes("p=");

  said.svg = standalone(document.querySelector("figure svg.chart"));
  said.table_svg = tableDrawing(document.querySelector("table.headline"), "Result");
  
  parent.postMessage(JSON.stringify(said), "*");
})().catch((error) => parent.postMessage(JSON.stringify({ error: String(error.stack) }), "*"));
