// One trajectory, turn by turn. Long texts are folded, and open whole.
const LONG = { letters: 900, lines: 16 };

const isLong = (text) => text.length > LONG.letters || text.split("\n").length > LONG.lines;

// Folds a block of text if it is long; what stands in it must be there already.
function fold(block, text, isOpen = false) {
  if (!isLong(text)) return block;
  const box = element("div", "fold", block);
  const label = () => (box.classList.contains("open") ? "Show less" : `Show all (${text.length.toLocaleString("en")} characters)`);
  const toggle = button("small unfold", "", () => { box.classList.toggle("open"); show(); });
  function show() {
    toggle.textContent = label();
    toggle.setAttribute("aria-expanded", String(box.classList.contains("open")));
  }
  box.classList.toggle("open", isOpen);
  show();
  box.append(toggle);
  return box;
}

function textBlock(className, text, words) {
  const block = appendMarked(element("div", className), text, words);
  return fold(block, text, hitsOf(text, words).length > 0);
}

function scoreOf(turn, before, number) {
  const score = element("span", "score", (number ? "turn " + number + " · " : "") + turn[3].toFixed(2));
  if (turn[3] > before) score.append(" ", element("b", "", "+" + (turn[3] - before).toFixed(2)));
  return score;
}

// Returns what a turn shows. `skipsView`: what the agent saw stands elsewhere already. `shown`: texts that stand in the
// place of the turn's own, for instance with a difference marked: {observation, says, action}.
function turnParts(turn, before, { words = "", number = 0, skipsView = false, shown = {} } = {}) {
  const parts = [];
  if (!skipsView) parts.push(shown.observation || textBlock("observation", run.text(turn[0]), words));
  if (turn[1] >= 0) parts.push(shown.says || textBlock("says", run.text(turn[1]), words));
  const action = shown.action || appendMarked(element("code"), run.text(turn[2]) || "(nothing)", words);
  parts.push(element("div", "action", action, scoreOf(turn, before, number)));
  return parts;
}

function turnItem(turn, before, options) {
  return element("li", turn[3] > before ? "gain" : "", ...turnParts(turn, before, options));
}

function turnList(episode, { words = "", from = 0, to = episode.turns.length, withLast = true } = {}) {
  const list = element("ol", "turns");
  let before = from ? episode.turns[from - 1][3] : 0;
  episode.turns.slice(from, to).forEach((turn, i) => {
    const number = from + i + 1;
    if (episode.given && number === episode.given + 1) list.append(element("li", "cut", "From here on the agent plays."));
    list.append(turnItem(turn, before, { words, number }));
    before = turn[3];
  });
  if (withLast) list.append(element("li", "last", textBlock("observation", run.text(episode.last), words)));
  return list;
}

// The stairs of best reward so far.
function staircase(episode, numTurns, parted = 0) {
  const width = 250, height = 60, left = 4, right = 34, top = 8, bottom = 8;
  const ns = "http://www.w3.org/2000/svg";
  const node = (name, attributes) => {
    const made = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const x = (turn) => left + (turn / Math.max(1, numTurns)) * (width - left - right);
  const y = (reward) => height - bottom - reward * (height - top - bottom);
  const svg = node("svg", { class: "chart " + run.colour(episode.agent), viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "reward by turn: " + episode.turns.map((turn) => turn[3].toFixed(2)).join(", ") });
  for (const level of [0, 0.5, 1]) svg.append(node("line", { class: "gridline", x1: left, x2: width - right, y1: y(level), y2: y(level) }));
  if (parted) svg.append(node("line", { class: "divider", x1: x(parted), x2: x(parted), y1: top, y2: height - bottom }));
  let path = `M${x(0)},${y(0)}`;
  let best = 0;
  episode.turns.forEach((turn, i) => {
    path += `L${x(i + 1)},${y(best)}`;
    best = Math.max(best, turn[3]);
    path += `L${x(i + 1)},${y(best)}`;
  });
  svg.append(node("path", { class: "line", d: path }));
  const label = node("text", { class: "value", x: width - right + 5, y: y(best) + 4 });
  label.textContent = best.toFixed(2);
  svg.append(label);
  return svg;
}

// Texts that the page came with are folded as those of the lists are.
(function foldAll() {
  for (const block of document.querySelectorAll("main .observation, main .says, main .seen, main .goal, main pre:not(#latex)")) {
    const text = block.textContent;
    if (!isLong(text)) continue;
    const mark = document.createComment("");
    block.replaceWith(mark);
    mark.replaceWith(fold(block, text));
  }
})();
