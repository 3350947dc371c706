// What all parts of the page use. All text goes in as text nodes: nothing here makes markup of strings.
"use strict";

// Characters that turn the direction of the text around them are shown by their numbers.
const visible = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (one) => "\\u" + one.charCodeAt(0).toString(16));

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  for (const child of children) made.append(typeof child === "string" ? visible(child) : child);
  return made;
}

function button(className, label, onClick) {
  const made = element("button", className, label);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function fillSelect(select, pairs) {
  for (const [value, label] of pairs) {
    const option = element("option", "", label);
    option.value = value;
    select.append(option);
  }
}

const byName = (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
const plural = (num, word) => num.toLocaleString("en") + " " + word + (num === 1 ? "" : "s");

// Returns what a `<script type="application/json">` holds, or null where the page has none.
function readJson(id) {
  const source = document.getElementById(id);
  return source ? JSON.parse(source.textContent) : null;
}

// Copies text; where the browser has no clipboard for this page, by way of a selection.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", "offscreen", "");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function copyButton(label, text) {
  const made = button("small", label, async () => {
    made.textContent = (await copyText(text())) ? "Copied" : "Not copied";
    setTimeout(() => { made.textContent = label; }, 1500);
  });
  return made;
}

// Calls a function once the input has rested.
function rested(milliseconds, call) {
  let waiting = 0;
  return () => { clearTimeout(waiting); waiting = setTimeout(call, milliseconds); };
}
