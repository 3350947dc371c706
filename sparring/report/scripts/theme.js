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
function markScrolling(root) {
  for (const box of root.querySelectorAll(".scroll, pre")) {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
document.addEventListener("toggle", (event) => { if (event.target.open) setTimeout(() => markScrolling(event.target)); }, true);
addEventListener("resize", () => markScrolling(document));
