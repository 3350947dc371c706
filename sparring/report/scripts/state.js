// What is shown, as `#name=value&…`: a link to the page with it shows the same, and the back button goes back in it.
const state = (() => {
  const listeners = [];
  let values = new URLSearchParams();
  function read() {
    const hash = location.hash.slice(1);
    if (hash.includes("=") || hash === "") values = new URLSearchParams(hash);
  }
  read();
  let known = values.toString();
  function tell() {
    if (values.toString() === known) return;
    known = values.toString();
    for (const listener of listeners) listener();
  }
  addEventListener("popstate", () => { read(); tell(); });
  addEventListener("hashchange", () => { read(); tell(); });

  // Sets some names, and drops those whose value is empty. `isStep`: the back button comes back to what was before.
  function set(changes, isStep = true) {
    for (const [name, value] of Object.entries(changes)) {
      if (value === "" || value === null || value === undefined) values.delete(name);
      else values.set(name, String(value));
    }
    const text = values.toString();
    if (text === known) return;
    history[isStep ? "pushState" : "replaceState"](history.state, "", "#" + text);
    tell();
  }

  return {
    get: (name) => values.get(name) ?? "",
    set,
    listen: (listener) => listeners.push(listener),
    link: (changes) => {
      const wanted = Object.entries(changes).filter(([, value]) => value !== "");
      return location.href.split("#")[0] + "#" + new URLSearchParams(wanted);
    },
  };
})();
