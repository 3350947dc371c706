// Where the page begins: at what its address names. A page of a run in progress loads itself again, and comes back to
// the same place.
(function live() {
  markScrolling(document);
  const every = Number(document.body.dataset.every || 0);
  const folds = () => [...document.querySelectorAll("main details")].filter((one) => !one.closest("#list, #pair-list"));
  const keyOf = (one) => (one.closest("section")?.id || "") + "/" + (one.querySelector("summary")?.textContent || "");
  const place = history.state;
  if (place && place.y !== undefined) {
    for (const one of folds()) if (keyOf(one) in place.folds) one.open = place.folds[keyOf(one)];
    scrollTo({ top: place.y, behavior: "instant" });
    history.replaceState(null, "");
  } else {
    const named = (state.get("t") && "#list") || (state.get("p") && "#pair-list");
    if (named) document.querySelector(named + " details[open]")?.closest("li").scrollIntoView({ behavior: "instant" });
  }
  if (!every) return;
  const isBusy = () => document.activeElement?.matches("input, select") || String(getSelection()) !== "";
  setInterval(() => {
    if (isBusy() || document.hidden) return;
    history.replaceState({ y: scrollY, folds: Object.fromEntries(folds().map((one) => [keyOf(one), one.open])) }, "");
    location.reload();
  }, every * 1000);
})();
