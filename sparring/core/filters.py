"""Which trajectories count: not those that infrastructure broke, successes and failures apart, each sequence once."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from sparring.core.types import StopReason, Trajectory

SUCCESS_EPS = 1e-6
"""A reward of at least one minus this is a success."""


def is_broken(trajectory: Trajectory) -> bool:
    """Say whether infrastructure broke the episode, so that its reward means nothing."""
    return trajectory.stop is StopReason.ENV_FAULT


def has_reward(trajectory: Trajectory) -> bool:
    """Say whether the episode's reward means anything: it was not broken, and is no branch that did not begin."""
    return trajectory.stop not in (StopReason.ENV_FAULT, StopReason.DIVERGED)


def counted(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Drop the episodes whose reward means nothing. Those without a turn stay: the agent earned nothing."""
    return [t for t in trajectories if has_reward(t)]


def is_success(reward: float, success_eps: float = SUCCESS_EPS) -> bool:
    """Say whether a reward counts as success, r ≥ 1 − ε: 0.9999995 does with 1e-6, 0.99 does not."""
    return reward >= 1.0 - success_eps


def usable(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Drop what says nothing about the agent: episodes whose reward means nothing, and those without a turn of its own.

    Source: METHOD, "an infrastructure fault is never a reward".
    """
    return [t for t in trajectories if has_reward(t) and len(t.turns) > t.num_given]


def failures(trajectories: Iterable[Trajectory], success_eps: float = 1e-6) -> list[Trajectory]:
    """Keep the usable trajectories with r < 1: F_tgt or F_fail.

    Rewards 1.0, 0.7, 0.0 leave 0.7 and 0.0.

    Source: arXiv 2511.22254, section 4.1.
    """
    return [t for t in usable(trajectories) if not is_success(t.reward, success_eps)]


def successes(trajectories: Iterable[Trajectory], success_eps: float = 1e-6) -> list[Trajectory]:
    """Keep the usable trajectories with r = 1: what RFT adds to the experts'."""
    return [t for t in usable(trajectories) if is_success(t.reward, success_eps)]


def actions(trajectory: Trajectory) -> tuple[str, ...]:
    """Return the action sequence, by which duplicates are known; thoughts do not count."""
    return tuple(turn.action for turn in trajectory.turns)


def num_shared(one: Iterable[str], other: Iterable[str]) -> int:
    """Count the first actions that two sequences share: a b x and a b c share two."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def dedupe(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Keep the first trajectory per agent, task and action sequence."""
    first: dict[tuple[str, str, tuple[str, ...]], Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault((trajectory.agent, trajectory.task.id, actions(trajectory)), trajectory)
    return list(first.values())


def by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """Group by task id, tasks in order of first appearance."""
    tasks: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        tasks.setdefault(trajectory.task.id, []).append(trajectory)
    return tasks
