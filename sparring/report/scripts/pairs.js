// The list of preference pairs: chosen beside rejected.
(function pairs() {
  const form = document.getElementById("pair-filters");
  if (!run || !form) return;
  const list = document.getElementById("pair-list");
  const more = document.getElementById("more-pairs");
  const names = ["arm", "seed", "round", "agent", "kind", "chosen", "rejected", "chosenTurns", "rejectedTurns", "chosenGiven", "rejectedGiven"];
  const all = run.data.pairs.map((row) => {
    const pair = Object.fromEntries(row.map((value, i) => [names[i], value]));
    pair.sides = [run.episodes[pair.chosen], run.episodes[pair.rejected]];
    pair.gap = pair.sides[0].reward - pair.sides[1].reward;
    pair.key = [run.data.keys[pair.arm], pair.seed, pair.round, pair.agent, pair.kind, pair.sides[0].id, pair.sides[1].id].join("/");
    return pair;
  });
  const fields = ["pm", "pseed", "pround", "pagent", "pkind", "porder"];
  const pageSize = 20;
  let found = [], shown = 0, drawn = null;

  const distinct = (pick) => [...new Set(all.map(pick))].sort(byName);
  const agentName = (pair) => (pair.agent === "target" ? "target agent" : run.data.partners[pair.arm]);
  const any = [["", "all"]];
  fillSelect(form.elements.pm, [...any, ...distinct((p) => p.arm).map((arm) => [run.data.keys[arm], run.data.arms[arm]])]);
  fillSelect(form.elements.pseed, [...any, ...distinct((p) => p.seed).map((seed) => [seed, seed])]);
  fillSelect(form.elements.pround, [...any, ...distinct((p) => p.round).map((round) => [round, round])]);
  fillSelect(form.elements.pagent, [...any, ...distinct((p) => p.agent).reverse().map((agent) => [agent, agentName(all.find((p) => p.agent === agent))])]);
  fillSelect(form.elements.pkind, [...any, ...distinct((p) => p.kind).map((kind) => [kind, run.data.kinds[kind][0]])]);
  fillSelect(form.elements.porder, [["", "as made"], ["near", "smallest reward gap first"], ["far", "largest reward gap first"], ["late", "latest parting first"]]);
  const orders = {
    near: (a, b) => a.gap - b.gap,
    far: (a, b) => b.gap - a.gap,
    late: (a, b) => numAlike(...b.sides) - numAlike(...a.sides),
  };

  function matches(pair, want) {
    return (want.pm === "" || run.data.keys[pair.arm] === want.pm) && (want.pseed === "" || pair.seed === want.pseed)
      && (want.pround === "" || String(pair.round) === want.pround) && (want.pagent === "" || pair.agent === want.pagent)
      && (want.pkind === "" || pair.kind === want.pkind);
  }

  function fill(details, pair) {
    const [t, u] = pair.sides.map((one) => one.key);
    const open = button("small", "Show both in the list", () => {
      state.set({ t, u });
      document.querySelector("#list details[open]")?.scrollIntoView();
    });
    const link = copyButton("Copy link", () => state.link({ ...Object.fromEntries(fields.map((name) => [name, state.get(name)])), p: pair.key }));
    const body = element("div", "reader", element("div", "tools", open, link));
    const contexts = [pair.chosenGiven, pair.rejectedGiven];
    if (contexts.some((num) => num)) body.append(element("p", "caption", `First turns that are context alone: ${contexts.join(" and ")}.`));
    body.append(sideBySide(...pair.sides, { titles: ["Chosen", "Rejected"], counted: [pair.chosenTurns, pair.rejectedTurns] }));
    details.append(body);
  }

  function row(pair) {
    const [kind, className] = run.data.kinds[pair.kind];
    const where = [run.data.arms[pair.arm], "round " + pair.round];
    if (run.hasSeeds) where.push("seed " + pair.seed);
    where.push(`${pair.sides[0].reward.toFixed(2)} against ${pair.sides[1].reward.toFixed(2)}`);
    const gap = element("span", "reward", (pair.gap < 0 ? "−" : "+") + Math.abs(pair.gap).toFixed(2));
    const summary = element("summary", "", gap, element("span", "verdict " + className, kind), " ", element("b", "", pair.sides[0].task), " ",
      element("span", "badge " + run.colour(pair.agent), agentName(pair)), " ", element("span", "quiet", where.join(" · ")));
    const details = element("details", "episode", summary);
    details.dataset.key = pair.key;
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) fill(details, pair);
      if (details.open && state.get("p") !== pair.key) state.set({ p: pair.key });
      else if (!details.open && state.get("p") === pair.key) state.set({ p: "" });
    });
    return element("li", "", details);
  }

  function grow() {
    for (const pair of found.slice(shown, shown + pageSize)) list.append(row(pair));
    shown = Math.min(found.length, shown + pageSize);
    more.hidden = shown >= found.length;
    more.textContent = `Show more (${(found.length - shown).toLocaleString("en")} left)`;
  }

  const detailsOf = (key) => [...list.querySelectorAll("details.episode")].find((one) => one.dataset.key === key);

  function open() {
    const key = state.get("p");
    for (const one of list.querySelectorAll("details[open].episode")) if (one.dataset.key !== key) one.open = false;
    if (key === "") return null;
    while (!detailsOf(key) && shown < found.length) grow();
    const details = detailsOf(key);
    if (details) details.open = true;
    return details;
  }

  function update() {
    for (const name of fields) form.elements[name].value = state.get(name);
    const want = Object.fromEntries(fields.map((name) => [name, state.get(name)]));
    if (JSON.stringify(want) === drawn) return open();
    drawn = JSON.stringify(want);
    found = all.filter((pair) => matches(pair, want));
    if (orders[want.porder]) found.sort(orders[want.porder]);
    list.replaceChildren();
    shown = 0;
    const mean = found.reduce((sum, pair) => sum + pair.gap, 0) / (found.length || 1);
    document.getElementById("pair-count").textContent = found.length ? `${plural(found.length, "pair")} found, mean reward gap ${mean.toFixed(3)}` : "None found.";
    grow();
    return open();
  }

  form.addEventListener("input", (event) => state.set({ [event.target.name]: event.target.value }));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  state.listen(update);
  form.hidden = false;
  update();
})();
