"""A ScienceWorld JVM that is killed in mid-rollout costs one retry: no trajectory, no reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest

from sparring.core.types import StopReason
from sparring.envs.base import select_tasks
from sparring.envs.pool import EnvPool
from sparring.envs.scienceworld.benchmark import ScienceWorld
from sparring.policies.base import Episode, Reply
from sparring.policies.scripted import ReplayPolicy
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout

NUM_ENVS = 2
KINDS = ("lifespan-longest-lived", "lifespan-shortest-lived")


class Killing:
    """Plays as another policy does, and kills one JVM the first time that an episode is at its third turn."""

    def __init__(self, inner: ReplayPolicy, pid: int) -> None:
        self.inner, self.pid = inner, pid
        self.has_killed = False

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply]:
        if not self.has_killed and any(len(episode.turns) == 2 for episode in episodes):
            self.has_killed = True
            psutil.Process(self.pid).kill()
        return self.inner.act(episodes, lane=lane)

    def close(self, episode_id: str) -> None:
        self.inner.close(episode_id)


def jvms() -> set[int]:
    below = psutil.Process().children(recursive=True)
    return {one.pid for one in below if one.status() != psutil.STATUS_ZOMBIE and "py4j.GatewayServer" in one.cmdline()}


@pytest.mark.slow
def test_a_rollout_whose_jvm_is_killed_equals_one_that_was_left_alone() -> None:
    before = jvms()
    world = ScienceWorld()
    tasks = select_tasks(world.tasks("train"), kinds=KINDS, num=4)
    actions = world.expert_actions(tasks)
    assert len(actions) == len(tasks) == 4
    policy = ReplayPolicy(actions)
    waves = cut_waves(episode_specs("r", tasks, agent="target", seed=0, num_per_task=1), 1)
    with EnvPool("scienceworld", {}, num_envs=NUM_ENVS, max_retries=2) as pool:
        expected = rollout(policy, pool, world, waves, num_slots=NUM_ENVS)
        running = jvms() - before
        assert len(running) == NUM_ENVS
        killing = Killing(policy, min(running))
        played = rollout(killing, pool, world, waves, num_slots=NUM_ENVS)
        assert killing.has_killed
        survivors = jvms() - before
        assert len(survivors) == NUM_ENVS and len(survivors & running) == NUM_ENVS - 1
    assert jvms() == before

    assert [trajectory.num_retries for trajectory in expected] == [0] * 4
    assert sum(trajectory.num_retries for trajectory in played) == 1
    assert [replace(trajectory, num_retries=0) for trajectory in played] == expected
    for trajectory in played:
        assert (trajectory.stop, trajectory.reward, trajectory.error) == (StopReason.DONE, 1.0, "")
