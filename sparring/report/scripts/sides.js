// Two trajectories of a task, side by side from the turn where they part.

// Counts the first turns in which both saw the same and did the same.
function numAlike(a, b) {
  let num = 0;
  while (num < a.turns.length && num < b.turns.length && a.turns[num][0] === b.turns[num][0] && a.turns[num][2] === b.turns[num][2]) num += 1;
  return num;
}

const seenAfter = (episode, num) => (num < episode.turns.length ? episode.turns[num][0] : episode.last);

function describe(episode) {
  const parts = [run.methods(episode), run.where(episode)];
  if (run.hasSeeds && episode.seed !== "") parts.push("seed " + episode.seed);
  return parts.filter((part) => part).join(" · ");
}

function sideHead(episode, title, numTurns, parted, note) {
  const name = title ? title + ": " + run.agentName(episode) : run.agentName(episode);
  const about = `reward ${run.score(episode)}, ${plural(episode.turns.length, "turn")}, ${episode.stop.replaceAll("_", " ")}${note}`;
  return element("article", run.colour(episode.agent), element("h4", "", name), element("p", "quiet", describe(episode)),
    element("p", "quiet", about), element("p", "quiet file", run.data.places[episode.place][0]), staircase(episode, numTurns, parted));
}

// What both begin with, folded.
function beginning(episode, num, words) {
  const reward = num ? episode.turns[num - 1][3].toFixed(2) : "0.00";
  const details = element("details", "beginning", element("summary", "", `What both begin with: ${plural(num, "turn")}, reward ${reward}`));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(turnList(episode, { words, to: num, withLast: false }));
  });
  return details;
}

// Returns, for the turn where both part, what stands in the place of its texts: differences word by word.
function partingTexts(a, b, num) {
  const [one, other] = [a.turns[num], b.turns[num]];
  if (!one || !other) return [{}, {}];
  const sides = [{}, {}];
  const compare = (key, place, tag, className) => {
    const [left, right] = [one[place], other[place]].map((index) => (index >= 0 ? run.text(index) : ""));
    if (left === right || !left || !right) return;
    const pieces = difference(left, right);
    const isRelated = pieces.some(([kind, text]) => kind === "same" && text.trim() !== "");
    [left, right].forEach((text, i) => {
      const block = element(tag, className);
      if (isRelated) appendDifferent(block, pieces, i ? "in" : "out");
      else block.append(element("em", "differs", text));
      sides[i][key] = tag === "code" ? block : fold(block, text);
    });
  };
  compare("observation", 0, "div", "observation");
  compare("says", 1, "div", "says");
  compare("action", 2, "code", "");
  return sides;
}

function sideCell(episode, place, letter, options) {
  const { counted, hidesView, shown, words } = options;
  const turn = episode.turns[place];
  if (turn) {
    const before = place ? episode.turns[place - 1][3] : 0;
    const cell = element("div", "cell" + (turn[3] > before ? " gain" : "") + (counted && place >= counted ? " uncounted" : ""),
      ...turnParts(turn, before, { words, number: place + 1, skipsView: hidesView, shown }));
    cell.dataset.side = letter;
    cell.setAttribute("role", "group");
    cell.setAttribute("aria-label", `${letter}, turn ${place + 1}`);
    if (counted && place === counted) cell.prepend(element("p", "cut", "From here on nothing counts in the loss."));
    return cell;
  }
  const cell = element("div", "cell last");
  cell.dataset.side = letter;
  if (place === episode.turns.length) {
    cell.setAttribute("role", "group");
    cell.setAttribute("aria-label", `${letter}, the end`);
    if (!hidesView) cell.append(textBlock("observation", run.text(episode.last), words));
    cell.append(element("p", "quiet", `It ended here, at ${run.score(episode)}: ${episode.stop.replaceAll("_", " ")}.`));
  }
  return cell;
}

// `titles`: for instance Chosen and Rejected. `counted`: turns up to which each side counts in the loss; 0: not said.
function sideBySide(a, b, { titles = ["A", "B"], counted = [0, 0], words = "" } = {}) {
  const num = numAlike(a, b), longest = Math.max(a.turns.length, b.turns.length);
  const root = element("div", "compared");
  const isSame = num === longest && num === a.turns.length && num === b.turns.length && a.last === b.last;
  root.append(element("p", "quiet", isSame ? "They are the same to the end." : num ? `They part after turn ${num}.` : "They part at the first turn."));
  if (num) root.append(beginning(a, num, words));
  const isSameView = seenAfter(a, num) === seenAfter(b, num);
  if (isSameView) {
    root.append(element("p", "quiet", `What both ${num ? "then" : "first"} see`), textBlock("seen", run.text(seenAfter(a, num)), words));
  }
  const grid = element("div", "sidegrid");
  const notes = [a, b].map((one, i) => (counted[i] && counted[i] < one.turns.length ? `; up to turn ${counted[i]} it counts in the loss` : ""));
  grid.append(sideHead(a, titles[0], longest, num, notes[0]), sideHead(b, titles[1], longest, num, notes[1]));
  const shown = partingTexts(a, b, num);
  for (let place = num; place <= longest; place += 1) {
    [a, b].forEach((episode, i) => {
      const isParting = place === num;
      grid.append(sideCell(episode, place, titles[i], { counted: counted[i], hidesView: isParting && isSameView, shown: isParting ? shown[i] : {}, words }));
    });
  }
  root.append(grid);
  return root;
}
