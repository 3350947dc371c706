// What can be taken elsewhere: tables as CSV and LaTeX, drawings as SVG files that stand alone.
function download(name, kind, text) {
  const link = element("a", "offscreen");
  link.href = URL.createObjectURL(new Blob([text], { type: kind + ";charset=utf-8" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const fileName = (...parts) => parts.join(" ").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 100);

const KEPT_STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-family",
  "font-size", "font-weight", "text-anchor"];

// Returns copies of drawings whose styles are attributes, as they are on the light page.
function lightCopies(drawings) {
  const stage = element("div", "stage");
  stage.style.colorScheme = "light";
  const copies = drawings.map((one) => one.cloneNode(true));
  copies.forEach((one) => {
    one.style.width = one.viewBox.baseVal.width + "px";
    stage.append(one);
  });
  document.body.append(stage);
  for (const copy of copies) {
    for (const one of copy.querySelectorAll("*")) {
      const style = getComputedStyle(one);
      for (const name of KEPT_STYLES) {
        const value = style.getPropertyValue(name);
        if (value && value !== "normal" && !(name === "opacity" && value === "1")) one.setAttribute(name, value);
      }
    }
    for (const one of [copy, ...copy.querySelectorAll("*")]) { one.removeAttribute("class"); one.removeAttribute("style"); }
  }
  stage.remove();
  return copies;
}

function svgFile(width, height, title, ...inside) {
  const ns = "http://www.w3.org/2000/svg";
  const root = document.createElementNS(ns, "svg");
  for (const [name, value] of [["width", width], ["height", height], ["viewBox", `0 0 ${width} ${height}`]]) root.setAttribute(name, value);
  const name = document.createElementNS(ns, "title");
  name.textContent = title;
  const ground = document.createElementNS(ns, "rect");
  for (const [key, value] of [["width", width], ["height", height], ["fill", "#ffffff"]]) ground.setAttribute(key, value);
  root.append(name, ground, ...inside);
  return '<?xml version="1.0" encoding="UTF-8"?>\n' + new XMLSerializer().serializeToString(root) + "\n";
}

// Returns one drawing as the text of a file.
function standalone(drawing) {
  const { width, height } = drawing.viewBox.baseVal;
  const [copy] = lightCopies([drawing]);
  return svgFile(width, height, drawing.getAttribute("aria-label") || "", ...copy.childNodes);
}

// Returns a table's drawings below each other, each row's text before them, as the text of a file.
function tableDrawing(table, title) {
  const ns = "http://www.w3.org/2000/svg";
  const pad = 8, labels = 250;
  const rows = [...table.rows].filter((row) => row.querySelector("svg.chart") || row.classList.contains("group"));
  const drawings = rows.map((row) => [...row.querySelectorAll("svg.chart")]);
  const copies = lightCopies(drawings.flat());
  const inside = [];
  const family = getComputedStyle(document.body).fontFamily;
  let y = pad, widest = 0, next = 0;
  rows.forEach((row, i) => {
    const height = Math.max(row.classList.contains("group") ? 22 : 0, ...drawings[i].map((one) => one.viewBox.baseVal.height)) + 4;
    const words = [...row.cells].filter((cell) => !cell.querySelector("svg") && !cell.classList.contains("num")).map((cell) => cell.textContent.trim()).filter((text) => text);
    const label = document.createElementNS(ns, "text");
    for (const [key, value] of [["x", pad], ["y", y + height / 2 + 4], ["font-family", family], ["font-size", 12], ["fill", "#1c1c1a"]]) label.setAttribute(key, value);
    if (row.classList.contains("group")) label.setAttribute("font-weight", "600");
    label.textContent = words.join(", ");
    if (words.length) inside.push(label);
    let x = labels;
    if (row.parentElement.tagName === "TFOOT" || drawings[i].length < 2) x = labels + (rowShift(row) || 0);
    for (const one of drawings[i]) {
      const group = document.createElementNS(ns, "g");
      group.setAttribute("transform", `translate(${x} ${y})`);
      group.append(...copies[next].childNodes);
      next += 1;
      inside.push(group);
      x += one.viewBox.baseVal.width + 16;
      widest = Math.max(widest, x);
    }
    y += height;
  });
  return svgFile(Math.ceil(widest), Math.ceil(y + pad), title, ...inside);
}

// A row that lacks its first drawing leaves its place empty.
function rowShift(row) {
  const plots = [...row.cells].filter((cell) => cell.classList.contains("plot") || cell.querySelector("svg"));
  const first = plots.findIndex((cell) => cell.querySelector("svg"));
  return first > 0 ? first * 156 : 0;
}

(function downloads() {
  const name = tables ? tables.name : document.title;
  for (const figure of document.querySelectorAll("figure")) {
    const drawing = figure.querySelector("svg.chart");
    if (!drawing) continue;
    const title = drawing.getAttribute("aria-label") || "drawing";
    const made = button("small save", "SVG", () => download(fileName(name, title) + ".svg", "image/svg+xml", standalone(drawing)));
    made.setAttribute("aria-label", `Download as SVG: ${title}`);
    (figure.querySelector("figcaption") || figure).append(made);
  }
  for (const table of document.querySelectorAll("table.headline, table.bars")) {
    const box = table.closest(".scroll");
    const title = box.getAttribute("aria-label");
    const made = button("small save", "SVG", () => download(fileName(name, title) + ".svg", "image/svg+xml", tableDrawing(table, title)));
    made.setAttribute("aria-label", `Download as SVG: ${title}`);
    const others = box.parentElement.querySelector(":scope > .takeaway");
    if (!table.querySelector("svg.chart")) continue;
    if (others && table.classList.contains("headline")) others.prepend(made);
    else box.after(element("p", "saves", made));
  }
  const csv = { "csv-methods": () => tables.methods_csv, "csv-tasks": () => toCsv([["task", "type", ...tables.keys, "spread"], ...tables.tasks]) };
  for (const [id, text] of Object.entries(csv)) {
    const made = document.getElementById(id);
    if (!made || !tables) continue;
    made.hidden = false;
    made.addEventListener("click", () => download(fileName(name, id.slice(4)) + ".csv", "text/csv", text()));
  }
  const copy = document.getElementById("copy-latex");
  if (copy) copy.replaceWith(copyButton("Copy", () => document.getElementById("latex").textContent));
})();
