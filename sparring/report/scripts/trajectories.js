// The list of trajectories: filters, search, one opened, and a second one beside it.
(function trajectories() {
  if (!run) return;
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const chip = document.getElementById("of-task");
  const pageSize = 25;
  const fields = ["m", "agent", "act", "round", "seed", "kind", "outcome", "order", "in", "q"];
  let found = [], shown = 0, hits = null;

  function distinct(key) {
    return [...new Set(run.episodes.map((e) => e[key]))].filter((value) => value !== "").sort(byName);
  }

  const any = [["", "all"]];
  const agentNames = { target: "target agent", expert: "expert", partner: [...new Set(run.data.partners)].length === 1 ? run.data.partners[0] : "partner" };
  const options = {
    m: run.data.arms.map((label, i) => [run.data.keys[i], label, i]).filter(([, , i]) => run.episodes.some((e) => e.arms.includes(i))),
    agent: distinct("agent").reverse().map((a) => [a, agentNames[a] || a]),
    act: distinct("act").map((a) => [a, run.acts[a] || a]),
    round: distinct("round").map((r) => [r, r === 0 ? "start" : r]),
    seed: run.seeds.map((s) => [s, s]),
    kind: distinct("kind").map((k) => [k, k]),
    outcome: [["success", "success"], ["failure", "failure"], ["hard", "hard negative"], ["other", "other failure"], ["broken", "broken or diverged"]],
  };
  for (const [name, pairs] of Object.entries(options)) fillSelect(form.elements[name], [...any, ...pairs]);
  fillSelect(form.elements.order, [["", "as played"], ["down", "highest reward first"], ["up", "lowest reward first"], ["long", "longest first"], ["task", "by task"], ["hits", "most hits first"]]);
  fillSelect(form.elements.in, [["", "everything"], ["observations", "observations"], ["thoughts", "thoughts"], ["actions", "actions"], ["task", "task ids"]]);
  if (!run.hasSeeds) form.querySelector(".of-seeds").hidden = true;

  const orders = {
    down: (a, b) => b.reward - a.reward,
    up: (a, b) => a.reward - b.reward,
    long: (a, b) => b.turns.length - a.turns.length,
    task: (a, b) => byName(a.task, b.task) || byName(a.key, b.key),
    hits: (a, b) => hits.get(b) - hits.get(a),
  };

  // Counts the hits of a search in each trajectory; each distinct text is searched once.
  function counter(words, scope) {
    const inText = new Map();
    const ofText = (index) => {
      if (index < 0) return 0;
      if (!inText.has(index)) inText.set(index, hitsOf(run.text(index), words).length);
      return inText.get(index);
    };
    const places = { observations: [0], thoughts: [1], actions: [2], task: [] }[scope] || [0, 1, 2];
    return (e) => {
      let num = scope === "" || scope === "task" ? hitsOf(e.task, words).length : 0;
      for (const turn of e.turns) for (const place of places) num += ofText(turn[place]);
      return places.includes(0) ? num + ofText(e.last) : num;
    };
  }

  function matches(e, want) {
    if (want.m !== "" && !e.arms.includes(run.data.keys.indexOf(want.m))) return false;
    for (const key of ["agent", "act", "seed", "kind", "task"]) if (want[key] !== "" && e[key] !== want[key]) return false;
    if (want.round !== "" && e.round !== Number(want.round)) return false;
    const is = run.outcome(e);
    return want.outcome === "failure" ? is === "hard" || is === "other" : want.outcome === "" || is === want.outcome;
  }

  const words = () => state.get("q").trim().toLowerCase();

  // ── One trajectory ──────────────────────────────────────────────────────────────────────────────────────────────

  function option(e) {
    const made = element("option", "", `${run.score(e)} · ${run.agentName(e)} · ${describe(e)}`);
    made.value = e.key;
    return made;
  }

  function chooser(episode) {
    const select = element("select");
    const others = run.ofTask(episode).filter((e) => e !== episode);
    select.append(element("option", "", others.length ? `none (${plural(others.length, "other")} of this task)` : "none: the page has no other of this task"));
    select.firstChild.value = "";
    select.append(...others.sort((a, b) => byName(a.act, b.act) || a.round - b.round || byName(a.key, b.key)).map(option));
    select.value = state.get("u");
    select.addEventListener("change", () => state.set({ t: episode.key, u: select.value }));
    return element("label", "", "Side by side with ", select);
  }

  function tools(episode) {
    const link = copyButton("Copy link", () => state.link(Object.fromEntries(["t", "u", "task", ...fields].map((name) => [name, state.get(name)]))));
    const same = button("small", "All of this task", () => {
      state.set({ ...Object.fromEntries(fields.map((name) => [name, ""])), task: episode.task, order: "" });
    });
    return element("div", "tools", chooser(episode), same, link);
  }

  function origin(episode) {
    const [path, command] = run.data.places[episode.place];
    const about = element("dl", "origin");
    const add = (name, ...values) => about.append(element("div", "", element("dt", "", name), element("dd", "", ...values)));
    add("File", element("code", "", path));
    add("Id", element("code", "", episode.id));
    add("Made by", element("code", "", command), command.includes("RECIPE") ? ` (recipe “${run.data.runs[episode.run][2]}”)` : "");
    if (episode.error) add("Error", episode.error);
    return about;
  }

  function fill(details, episode) {
    while (details.children.length > 1) details.lastChild.remove();
    const other = run.byKey.get(state.get("u"));
    const body = element("div", "reader", tools(episode), origin(episode));
    const isCompared = other && other !== episode && other.task === episode.task && other.group === episode.group;
    body.append(isCompared ? sideBySide(episode, other, { words: words() }) : turnList(episode, { words: words() }));
    details.append(body);
    details.dataset.filled = state.get("u") + " " + words();
  }

  function row(episode) {
    const parts = [describe(episode), plural(episode.turns.length, "turn"), episode.stop.replaceAll("_", " ")];
    if (episode.retries) parts.push(episode.retries + (episode.retries === 1 ? " retry" : " retries"));
    const meter = element("span", "meter " + run.colour(episode.agent));
    meter.style.setProperty("--share", run.broken(episode) ? 0 : episode.reward);
    const summary = element("summary", "", element("span", "reward " + run.outcome(episode), run.score(episode)), meter,
      element("b", "", episode.task), " ", element("span", "badge " + run.colour(episode.agent), run.agentName(episode)), " ",
      element("span", "quiet", parts.filter((part) => part).join(" · ")));
    if (hits) summary.append(" ", element("span", "hits", plural(hits.get(episode) || 0, "hit")));
    const details = element("details", "episode", summary);
    details.dataset.key = episode.key;
    details.addEventListener("toggle", () => {
      const isMeant = state.get("t") === episode.key;
      if (details.open) {
        if (!isMeant) state.set({ t: episode.key, u: "" });
        if (details.dataset.filled !== state.get("u") + " " + words()) fill(details, episode);
      } else if (isMeant) state.set({ t: "", u: "" });
    });
    return element("li", "", details);
  }

  // ── The list ────────────────────────────────────────────────────────────────────────────────────────────────────

  const detailsOf = (key) => [...list.querySelectorAll("details.episode")].find((one) => one.dataset.key === key);

  function grow() {
    for (const episode of found.slice(shown, shown + pageSize)) list.append(row(episode));
    shown = Math.min(found.length, shown + pageSize);
    more.hidden = shown >= found.length;
    more.textContent = `Show more (${(found.length - shown).toLocaleString("en")} left)`;
  }

  // Opens what the address names, and closes all else.
  function open() {
    const key = state.get("t"), episode = run.byKey.get(key);
    for (const one of list.querySelectorAll("details.episode[open]")) if (one.dataset.key !== key) one.open = false;
    if (!episode) return null;
    while (!detailsOf(key) && shown < found.length) grow();
    if (!detailsOf(key)) {
      const item = row(episode);
      item.className = "outside";
      item.prepend(element("p", "caption", "Named by the link, outside the filters:"));
      list.prepend(item);
    }
    const details = detailsOf(key);
    fill(details, episode);
    details.open = true;
    return details;
  }

  function count() {
    const rewards = found.filter((e) => !run.broken(e)).map((e) => e.reward);
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / (rewards.length || 1);
    const parts = [`${plural(found.length, "trajectory").replace("trajectorys", "trajectories")} found`];
    if (hits) parts.push(plural([...found].reduce((sum, e) => sum + hits.get(e), 0), "hit") + ` of “${state.get("q").trim()}”`);
    if (rewards.length) parts.push(`mean reward ${mean.toFixed(3)}`, plural(found.filter(run.solved).length, "success").replace("successs", "successes"));
    document.getElementById("count").textContent = found.length ? parts.join(", ") : "None found. " + (document.getElementById("trajectories").dataset.isPart ? "The page holds a part of the run’s trajectories." : "");
  }

  let drawn = null;
  function update() {
    for (const name of fields) if (form.elements[name].value !== state.get(name)) form.elements[name].value = state.get(name);
    const want = Object.fromEntries([...fields, "task"].map((name) => [name, state.get(name)]));
    chip.hidden = want.task === "";
    chip.replaceChildren("Task ", element("b", "", want.task), " ", button("small", "All tasks", () => state.set({ task: "" })));
    if (JSON.stringify(want) === drawn) return open();
    drawn = JSON.stringify(want);
    found = run.episodes.filter((e) => matches(e, want));
    hits = null;
    if (words() !== "") {
      const countOf = counter(words(), want.in);
      hits = new Map(found.map((e) => [e, countOf(e)]));
      found = found.filter((e) => hits.get(e) > 0);
    }
    if (orders[want.order] && (want.order !== "hits" || hits)) found.sort(orders[want.order]);
    list.replaceChildren();
    shown = 0;
    count();
    grow();
    return open();
  }

  // ── Keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

  function move(step) {
    const rows = [...list.querySelectorAll("summary")].filter((one) => one.parentElement.classList.contains("episode"));
    const at = rows.indexOf(document.activeElement.closest?.(".episode")?.querySelector("summary"));
    if (at === rows.length - 1 && step > 0 && !more.hidden) { grow(); return move(step); }
    const next = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + step))];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
    return undefined;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.closest("input, select, textarea");
    if (isTyping) {
      if (event.key === "Escape" && event.target.name === "q") move(0);
      return;
    }
    const isInList = list.contains(document.activeElement);
    const steps = { j: 1, k: -1, ...(isInList && document.activeElement.matches("summary") ? { ArrowDown: 1, ArrowUp: -1 } : {}) };
    if (event.key === "/") form.elements.q.focus();
    else if (steps[event.key] !== undefined) move(isInList ? steps[event.key] : 0);
    else return;
    event.preventDefault();
  });

  const typed = rested(150, () => state.set({ q: form.elements.q.value }, false));
  form.addEventListener("input", (event) => {
    if (event.target.name === "q") typed();
    else state.set({ [event.target.name]: event.target.value });
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("[type=reset]").addEventListener("click", (event) => {
    event.preventDefault();
    state.set({ ...Object.fromEntries(fields.map((name) => [name, ""])), task: "", t: "", u: "" });
  });
  more.addEventListener("click", grow);
  state.listen(update);
  form.hidden = false;
  update();
})();
