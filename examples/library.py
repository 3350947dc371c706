"""Sparring as a library, in ten lines: two agents play, and what they fail at becomes preference pairs."""

from sparring import EnvPool, PairConfig, RandomPolicy, failure_pairs, load_benchmark, summarise
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout

world = load_benchmark("examples.treasure:Treasure")
actions, tasks, played = ["go left", "go right", "dig"], world.tasks("train"), {}
with EnvPool("examples.treasure:Treasure", num_envs=4) as pool:
    for agent in ("target", "partner"):
        specs = episode_specs(agent, tasks, agent=agent, seed=0, num_per_task=2)
        played[agent] = rollout(RandomPolicy(0, actions), pool, world, cut_waves(specs), num_slots=4)
pairs = failure_pairs(played["target"], played["partner"], PairConfig())
print(summarise({0: {episode.id: episode.reward for episode in played["target"]}}))
print(f"{len(pairs)} pairs; the first prefers {pairs[0].chosen.reward:.2f} to {pairs[0].rejected.reward:.2f}")
