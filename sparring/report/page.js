// The theme switch and the list of trajectories. All text goes in as text nodes: nothing here makes markup of strings.
"use strict";

(function theme() {
  const root = document.documentElement;
  const store = { get: () => { try { return localStorage.getItem("sparring-theme"); } catch { return null; } },
                  set: (value) => { try { localStorage.setItem("sparring-theme", value); } catch { /* a file: page */ } } };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const saved = store.get();
  if (saved === "dark" || saved === "light") root.dataset.theme = saved;
  const button = document.getElementById("theme");
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; store.set(root.dataset.theme); label(); });
  label();
})();

// What scrolls can be reached by keyboard; what fits is no stop on the way.
(function scrolling() {
  function mark(root) {
    for (const box of root.querySelectorAll(".scroll, .observation, .says, .turns code, pre")) {
      if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }
  document.addEventListener("toggle", (event) => { if (event.target.open) setTimeout(() => mark(event.target)); }, true);
  addEventListener("resize", () => mark(document));
  mark(document);
})();

(function trajectories() {
  const source = document.getElementById("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const names = ["arms", "seed", "act", "agent", "round", "kind", "task", "reward", "stop", "retries", "error", "turns", "last"];
  const episodes = data.episodes.map((row) => Object.fromEntries(row.map((value, i) => [names[i], value])));
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const pageSize = 25;
  const threshold = Number(form.elements.outcome.dataset.threshold);
  const solved = (e) => e.reward >= 1 - data.eps;
  const broken = (e) => e.stop === "env_fault" || e.stop === "diverged";
  let found = [];
  let shown = 0;

  // Characters that turn the direction of the text around them are shown by their numbers.
  const visible = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (one) => "\\u" + one.charCodeAt(0).toString(16));

  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    for (const child of children) made.append(typeof child === "string" ? visible(child) : child);
    return made;
  }

  function agentName(episode) {
    return episode.agent === "partner" ? data.partners[episode.arms[episode.arms.length - 1]] : "target agent";
  }

  function options(name, pairs) {
    const select = form.elements[name];
    for (const [value, label] of pairs) {
      const option = element("option", "", label);
      option.value = value;
      select.append(option);
    }
  }

  function distinct(key) {
    const values = [...new Set(episodes.map((e) => e[key]))];
    return values.sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
  }

  function outcome(episode) {
    if (broken(episode)) return "broken";
    if (solved(episode)) return "success";
    return episode.reward >= threshold - 1e-9 ? "hard" : "other";
  }

  const any = [["", "all"]];
  const acts = { rollout: "training tasks", evaluate: "held-out tasks", "rollout-refreshed": "training tasks, second rollout", branch: "branches" };
  options("arm", [...any, ...data.arms.map((label, i) => [i, label]).filter(([i]) => episodes.some((e) => e.arms.includes(i)))]);
  options("agent", [...any, ...distinct("agent").reverse().map((a) => [a, a === "target" ? "target agent" : "partner"])]);
  options("act", [...any, ...distinct("act").map((a) => [a, acts[a] || a])]);
  options("round", [...any, ...distinct("round").map((r) => [r, r === 0 ? "start" : r])]);
  options("seed", [...any, ...distinct("seed").map((s) => [s, s])]);
  options("kind", [...any, ...distinct("kind").map((k) => [k, k])]);
  options("outcome", [...any, ["success", "success"], ["failure", "failure"], ["hard", "hard negative"], ["other", "other failure"], ["broken", "broken or diverged"]]);
  options("order", [["", "as played"], ["down", "highest reward first"], ["up", "lowest reward first"], ["long", "longest first"], ["task", "by task"]]);
  if (distinct("seed").length < 2) form.querySelector(".of-seeds").hidden = true;

  const orders = {
    down: (a, b) => b.reward - a.reward,
    up: (a, b) => a.reward - b.reward,
    long: (a, b) => b.turns.length - a.turns.length,
    task: (a, b) => a.task.localeCompare(b.task, "en", { numeric: true }),
  };

  function contains(episode, words) {
    if (episode.task.toLowerCase().includes(words)) return true;
    return episode.turns.some((turn) => turn.slice(0, 3).some((i) => i >= 0 && data.texts[i].toLowerCase().includes(words)));
  }

  function matches(episode, want) {
    if (want.arm !== "" && !episode.arms.includes(Number(want.arm))) return false;
    for (const key of ["agent", "act", "seed", "kind"]) if (want[key] !== "" && episode[key] !== want[key]) return false;
    if (want.round !== "" && episode.round !== Number(want.round)) return false;
    const is = outcome(episode);
    if (want.outcome === "failure" ? !["hard", "other"].includes(is) : want.outcome !== "" && is !== want.outcome) return false;
    return want.words === "" || contains(episode, want.words);
  }

  function turnItem(turn, before) {
    const gained = turn[3] > before;
    const score = element("span", "score", turn[3].toFixed(2));
    if (gained) score.append(" ", element("b", "", "+" + (turn[3] - before).toFixed(2)));
    const item = element("li", gained ? "gain" : "", element("div", "observation", data.texts[turn[0]]));
    if (turn[1] >= 0) item.append(element("div", "says", data.texts[turn[1]]));
    item.append(element("div", "action", element("code", "", data.texts[turn[2]] || "(nothing)"), score));
    return item;
  }

  function fill(details, episode) {
    const turns = element("ol", "turns");
    let before = 0;
    for (const turn of episode.turns) {
      turns.append(turnItem(turn, before));
      before = turn[3];
    }
    turns.append(element("li", "last", element("div", "observation", data.texts[episode.last])));
    details.append(turns);
  }

  function row(episode) {
    const methods = episode.arms.length > 2 && episode.arms.length === data.arms.length ? "all methods" : episode.arms.map((i) => data.arms[i]).join(", ");
    const reward = element("span", "reward " + outcome(episode), broken(episode) ? "broken" : episode.reward.toFixed(2));
    const where = (acts[episode.act] || episode.act) + (episode.round ? ", round " + episode.round : ", start");
    const parts = [methods, where, episode.turns.length + " turns", episode.stop.replace("_", " ")];
    if (!form.querySelector(".of-seeds").hidden) parts.push("seed " + episode.seed);
    if (episode.retries) parts.push(episode.retries + (episode.retries === 1 ? " retry" : " retries"));
    if (episode.error) parts.push(episode.error);
    const meter = element("span", "meter");
    meter.style.setProperty("--share", broken(episode) ? 0 : episode.reward);
    meter.classList.add(episode.agent);
    const summary = element("summary", "", reward, meter, element("b", "", episode.task), " ",
      element("span", "badge " + episode.agent, agentName(episode)), " ", element("span", "quiet", parts.join(" · ")));
    const details = element("details", "episode", summary);
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) fill(details, episode); });
    return details;
  }

  function grow() {
    for (const episode of found.slice(shown, shown + pageSize)) list.append(row(episode));
    shown = Math.min(found.length, shown + pageSize);
    more.hidden = shown >= found.length;
    more.textContent = "Show more (" + (found.length - shown) + " left)";
  }

  function update() {
    const want = Object.fromEntries(new FormData(form));
    want.words = want.words.trim().toLowerCase();
    found = episodes.filter((episode) => matches(episode, want));
    if (orders[want.order]) found.sort(orders[want.order]);
    list.replaceChildren();
    shown = 0;
    const counted = found.filter((e) => !broken(e));
    const mean = counted.reduce((sum, e) => sum + e.reward, 0) / (counted.length || 1);
    const successes = counted.filter(solved).length;
    document.getElementById("count").textContent = found.length
      ? `${found.length} found, mean reward ${mean.toFixed(3)}, ${successes} successes`
      : "None found.";
    grow();
  }

  let waiting = 0;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 120); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  form.hidden = false;
  update();
})();
