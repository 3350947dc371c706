// The table of held-out tasks by method: sorted, filtered, and leading to the trajectories.
const tables = readJson("tables");

// Returns rows as CSV. Text that a spreadsheet would take for a formula has ' before it.
function toCsv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

(function tasks() {
  const form = document.getElementById("task-filters");
  if (!form || !tables) return;
  const table = document.getElementById("task-table");
  const more = document.getElementById("more-tasks");
  const numArms = tables.arms.length;
  const head = ["Task", "Type", ...tables.arms, "Spread"];
  const pageSize = 30;
  let found = [], shown = 0;

  fillSelect(form.elements.tk, [["", "all"], ...[...new Set(tables.tasks.map((row) => row[1]))].sort(byName).map((kind) => [kind, kind])]);
  const body = element("tbody");
  const heads = head.map((label, i) => {
    const cell = element("th", i > 1 ? "num" : "", button("sort", label, () => {
      const [column, way] = order();
      state.set({ ts: `${i}${column === i ? (way === "down" ? "up" : "down") : i > 1 ? "down" : "up"}` });
    }));
    cell.scope = "col";
    return cell;
  });
  table.append(element("thead", "", element("tr", "", ...heads)), body);

  function order() {
    const [, column, way] = /^(\d+)(up|down)$/.exec(state.get("ts")) || [null, "0", "up"];
    return [Math.min(Number(column), head.length - 1), way];
  }

  function show(task, place) {
    const wanted = { m: tables.keys[place], act: "evaluate", task };
    for (const name of ["agent", "round", "seed", "kind", "outcome", "order", "in", "q", "t", "u"]) wanted[name] = "";
    state.set(wanted);
    document.getElementById("trajectories").scrollIntoView();
    document.querySelector("#list summary")?.focus({ preventScroll: true });
  }

  function cellOf(row, i, best) {
    const value = row[i + 2];
    if (value === null) return element("td", "num", "–");
    const isBest = value === best;
    const label = `${row[0]}, ${tables.arms[i]}: ${value.toFixed(2)}${isBest ? ", best" : ""}. Show the trajectories`;
    const shownValue = run ? button("value", value.toFixed(2), () => show(row[0], i)) : element("span", "value", value.toFixed(2));
    shownValue.setAttribute("aria-label", label);
    const cell = element("td", "num" + (isBest ? " best" : ""), shownValue);
    cell.style.setProperty("--share", value);
    return cell;
  }

  function rowOf(row) {
    const values = row.slice(2, 2 + numArms).filter((value) => value !== null);
    const best = row[numArms + 2] > 0 ? Math.max(...values) : null;
    const name = element("th", "", row[0]);
    name.scope = "row";
    const cells = tables.arms.map((_, i) => cellOf(row, i, best));
    return element("tr", "", name, element("td", "kind", row[1]), ...cells, element("td", "num", row[numArms + 2].toFixed(2)));
  }

  function grow() {
    for (const row of found.slice(shown, shown + pageSize)) body.append(rowOf(row));
    shown = Math.min(found.length, shown + pageSize);
    more.hidden = shown >= found.length;
    more.textContent = `Show more (${(found.length - shown).toLocaleString("en")} left)`;
  }

  function update() {
    for (const name of ["tk", "tq"]) if (form.elements[name].value !== state.get(name)) form.elements[name].value = state.get(name);
    const kind = state.get("tk"), words = state.get("tq").trim().toLowerCase(), [column, way] = order();
    found = tables.tasks.filter((row) => (kind === "" || row[1] === kind) && (words === "" || row[0].toLowerCase().includes(words)));
    const sign = way === "down" ? -1 : 1;
    found.sort((a, b) => {
      if (a[column] === null || b[column] === null) return (a[column] === null) - (b[column] === null);
      const first = typeof a[column] === "number" ? a[column] - b[column] : byName(a[column], b[column]);
      return sign * first || byName(a[0], b[0]);
    });
    heads.forEach((one, i) => {
      if (i === column) one.setAttribute("aria-sort", way === "down" ? "descending" : "ascending");
      else one.removeAttribute("aria-sort");
    });
    body.replaceChildren();
    shown = 0;
    document.getElementById("task-count").textContent = plural(found.length, "task") + (found.length < tables.tasks.length ? ` of ${tables.tasks.length}` : "");
    grow();
    markScrolling(document);
  }

  const typed = rested(150, () => state.set({ tq: form.elements.tq.value }, false));
  form.addEventListener("input", (event) => (event.target.name === "tq" ? typed() : state.set({ tk: form.elements.tk.value })));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  let known = null;
  state.listen(() => {
    const now = ["ts", "tk", "tq"].map(state.get).join("\n");
    if (now !== known) update();
    known = now;
  });
  form.hidden = false;
  update();
  known = ["ts", "tk", "tq"].map(state.get).join("\n");
})();
