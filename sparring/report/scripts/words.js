// Search in texts, and the difference of two texts word by word.

// Returns where `words`, in lower case, begins in `text`.
function hitsOf(text, words) {
  const found = [];
  if (words === "") return found;
  const lower = text.toLowerCase();
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, at + words.length)) found.push(at);
  return found;
}

// Appends text, what was searched for marked in it.
function appendMarked(parent, text, words) {
  let from = 0;
  for (const at of hitsOf(text, words)) {
    parent.append(visible(text.slice(from, at)), element("mark", "", text.slice(at, at + words.length)));
    from = at + words.length;
  }
  parent.append(visible(text.slice(from)));
  return parent;
}

const tokens = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];

// Returns the pieces of two texts: [["same", text], ["out", only the first has it], ["in", only the second has it]].
function difference(one, other, mostSteps = 1000000) {
  const a = tokens(one), b = tokens(other);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const left = a.slice(start, a.length - end), right = b.slice(start, b.length - end);
  const middle = left.length * right.length > mostSteps
    ? [["out", left.join("")], ["in", right.join("")]]
    : longestCommon(left, right);
  const pieces = [["same", a.slice(0, start).join("")], ...middle, ["same", a.slice(a.length - end).join("")]];
  return merged(pieces);
}

function longestCommon(a, b) {
  const width = b.length + 1;
  const best = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i * width + j] = a[i] === b[j]
        ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const pieces = [];
  let i = 0, j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) { pieces.push(["same", a[i]]); i += 1; j += 1; }
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) { pieces.push(["out", a[i]]); i += 1; }
    else { pieces.push(["in", b[j]]); j += 1; }
  }
  return [...pieces, ["out", a.slice(i).join("")], ["in", b.slice(j).join("")]];
}

function merged(pieces) {
  const found = [];
  for (const [kind, text] of pieces) {
    if (text === "") continue;
    const last = found[found.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else found.push([kind, text]);
  }
  return found;
}

// Appends one side of a difference: `kind` is "out" for the first text, "in" for the second.
function appendDifferent(parent, pieces, kind) {
  for (const [which, text] of pieces) {
    if (which === "same") parent.append(visible(text));
    else if (which === kind) parent.append(element("em", "differs", text));
  }
  return parent;
}
