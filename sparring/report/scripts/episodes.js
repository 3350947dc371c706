// The trajectories and pairs that the page holds.
const run = (() => {
  const data = readJson("data");
  if (!data) return null;
  const names = ["arms", "seed", "act", "agent", "round", "kind", "task", "reward", "stop", "retries", "error", "turns", "last",
    "id", "given", "place", "run"];
  const episodes = data.episodes.map((row) => Object.fromEntries(row.map((value, i) => [names[i], value])));
  const threshold = Number(document.getElementById("trajectories").dataset.threshold);
  const acts = { rollout: "training tasks", evaluate: "held-out tasks", "rollout-refreshed": "training tasks, second rollout",
    branch: "branches", expert: "expert" };

  // The key stays the same when the page is made anew: links go on to work.
  for (const e of episodes) {
    const runName = data.runs.length > 1 ? data.runs[e.run][0] + "/" : "";
    e.key = e.arms.length ? `${data.keys[e.arms[0]]}/${e.seed}/${e.id}` : runName + e.id;
    e.group = data.groups[e.arms.length ? e.arms[0] : data.runs[e.run][1]];
  }
  const byKey = new Map(episodes.map((e) => [e.key, e]));

  const broken = (e) => e.stop === "env_fault" || e.stop === "diverged";
  const solved = (e) => e.reward >= 1 - data.eps;

  function outcome(e) {
    if (broken(e)) return "broken";
    if (solved(e)) return "success";
    return e.reward >= threshold - 1e-9 ? "hard" : "other";
  }

  function agentName(e) {
    if (e.agent === "expert") return "expert";
    if (e.agent === "target") return "target agent";
    return e.agent === "partner" ? data.partners[e.arms[e.arms.length - 1]] : e.agent;
  }

  function methods(e) {
    if (!e.arms.length) return data.runs.length > 1 ? data.runs[e.run][0] : "";
    if (e.arms.length > 2 && e.arms.length === data.arms.length) return "all methods";
    return e.arms.map((i) => data.arms[i]).join(", ");
  }

  function where(e) {
    if (e.agent === "expert") return "";
    return (acts[e.act] || e.act) + (e.round ? ", round " + e.round : ", start");
  }

  const seeds = [...new Set(episodes.map((e) => e.seed).filter((seed) => seed !== ""))].sort(byName);
  const colour = (agent) => (["expert", "partner"].includes(agent) ? agent : "target");

  return {
    data, episodes, byKey, broken, solved, outcome, agentName, methods, where, acts, seeds, colour,
    text: (index) => data.texts[index],
    ofTask: (e) => episodes.filter((other) => other.task === e.task && other.group === e.group),
    hasSeeds: seeds.length > 1,
    score: (e) => (broken(e) ? "broken" : e.reward.toFixed(2)),
  };
})();
