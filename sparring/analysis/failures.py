"""Trajectories come in, what the failures look like goes out: counts, near misses, repetition, shared failures.

A *hard negative* is a failure with a reward of at least a threshold, 0.6 in the paper. Episodes that infrastructure
broke are counted as faults and enter nothing else.

Source: arXiv 2511.22254, section 5 (Figure 2 and the shares of success, failure and hard negative).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sparring.core.convert import check_values
from sparring.core.filters import SUCCESS_EPS, counted, is_success
from sparring.core.ranges import Share
from sparring.core.types import Trajectory

Key = TypeVar("Key", bound=Hashable)
"""What episodes are compared by: a task, or a seed and a task."""

ROUNDING = 1e-9
"""Slack when a reward is compared with a threshold: 0.1 · 6 is a hard negative at 0.6."""


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """What counts as a near miss in the analysis. It changes no training."""

    hard_thresholds: tuple[Share, ...] = (0.6, 0.7, 0.8)
    """Rewards from which a failure is a hard negative; the first is the paper's."""
    collapse_drop: Share = 0.15
    """Fall of the mean reward against the agent's start from which a notice says that its behaviour may have broken."""
    collapse_rise: Share = 0.3
    """The same for a rise of the share of episodes that end at a limit, that repeat themselves, or that are alike."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSummary:
    """What a set of episodes of one agent looks like. Means and shares are None where there is nothing to average."""

    num: int
    """Episodes, broken ones left out."""
    mean: float | None
    """Mean reward."""
    mean_error: float | None
    """Its standard error over tasks; None with fewer than two."""
    success: float | None
    """Share of episodes with a reward of one."""
    failures: int
    """Episodes with a lower one."""
    failure_mean: float | None
    """Mean reward of the failures."""
    hard_share: dict[str, float | None]
    """Threshold → share of the failures at or above it."""
    hard_share_of_all: dict[str, float | None]
    """Threshold → share of all episodes that are such failures."""
    distinct: int
    """Distinct sequences of actions, counted per task."""
    turns: float | None
    """Mean number of turns."""
    loops: int
    """Turns that repeat the last action although it had left the observation as it was."""
    looping: int
    """Episodes with at least one such turn."""
    alike: float | None
    """Share of the episodes with the commonest sequence of actions, over all tasks; None with fewer than two tasks."""
    commonest: float | None
    """Share of the commonest action among all turns."""
    retries: int
    """How often an episode had to be restored after infrastructure failed, broken episodes included."""
    faults: int
    """Episodes that infrastructure broke for good."""
    stops: dict[str, int]
    """Stop reason → episodes, broken ones included."""


def is_hard(reward: float, threshold: float, success_eps: float = SUCCESS_EPS) -> bool:
    """Say whether a reward is that of a hard negative: a failure at or above the threshold."""
    return reward >= threshold - ROUNDING and not is_success(reward, success_eps)


def count_loops(trajectory: Trajectory) -> int:
    """Count the turns that repeat the action of the turn before, upon the same observation.

    "look" → dark room → "look" → dark room → "look" → dark room holds one loop: the third look. At the second, the
    agent had not yet seen that looking changes nothing.
    """
    turns = trajectory.turns
    return sum(
        now.action == before.action and now.observation == before.observation
        for before, now in itertools.pairwise(turns)
    )


def summarise_rollouts(
    trajectories: Sequence[Trajectory],
    thresholds: Sequence[float] = AnalysisConfig.hard_thresholds,
    success_eps: float = SUCCESS_EPS,
) -> RolloutSummary:
    """Summarise a set of episodes of one agent: rewards, near misses, variety, repetition and faults.

    Rewards 1, .8, .5, .1 make: mean .6, success .25, 3 failures of mean .467, a third of them hard at .6.
    """
    episodes = counted(trajectories)
    rewards = [t.reward for t in episodes]
    missed = [reward for reward in rewards if not is_success(reward, success_eps)]
    hard = {f"{at:g}": sum(is_hard(reward, at, success_eps) for reward in missed) for at in thresholds}
    loops = [count_loops(t) for t in episodes]
    sequences = Counter(tuple(turn.action for turn in t.turns) for t in episodes)
    taken = Counter(turn.action for t in episodes for turn in t.turns)
    has_tasks = len({t.task.id for t in episodes}) > 1
    return RolloutSummary(
        num=len(episodes),
        mean=_mean(rewards),
        mean_error=_mean_error(episodes),
        success=_share(len(rewards) - len(missed), len(rewards)),
        failures=len(missed),
        failure_mean=_mean(missed),
        hard_share={at: _share(num, len(missed)) for at, num in hard.items()},
        hard_share_of_all={at: _share(num, len(rewards)) for at, num in hard.items()},
        distinct=len({(t.task.id, tuple(turn.action for turn in t.turns)) for t in episodes}),
        turns=_mean([len(t.turns) for t in episodes]),
        loops=sum(loops),
        looping=sum(num > 0 for num in loops),
        alike=_share(max(sequences.values()), len(episodes)) if has_tasks else None,
        commonest=_share(max(taken.values(), default=0), taken.total()),
        retries=sum(t.num_retries for t in trajectories),
        faults=len(trajectories) - len(episodes),
        stops=dict(sorted(Counter(t.stop.value for t in trajectories).items())),
    )


def _mean_error(episodes: Sequence[Trajectory]) -> float | None:
    by_task: dict[str, list[float]] = {}
    for trajectory in episodes:
        by_task.setdefault(trajectory.task.id, []).append(trajectory.reward)
    if len(by_task) < 2:
        return None
    return statistics.stdev(map(statistics.fmean, by_task.values())) / math.sqrt(len(by_task))


def to_json(summary: RolloutSummary) -> dict[str, Any]:
    """Return the summary as JSON values, for `results.json`."""
    return asdict(summary)


def histogram(rewards: Iterable[float], *, num_bins: int = 20, success_eps: float = SUCCESS_EPS) -> tuple[int, ...]:
    """Count the failures per bin of equal width over [0,1); successes are left out.

    With 4 bins, rewards 0, .24, .25, .99, 1 make (2, 1, 0, 1).
    """
    counts = [0] * num_bins
    for reward in rewards:
        if not is_success(reward, success_eps):
            counts[min(int(reward * num_bins + ROUNDING), num_bins - 1)] += 1
    return tuple(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Shares of three that add up to one."""

    success: float
    failure: float
    """Failures below the threshold."""
    hard: float
    """Failures at or above it."""
    num: int


def outcomes(
    rewards: Sequence[float],
    *,
    threshold: float = AnalysisConfig.hard_thresholds[0],
    success_eps: float = SUCCESS_EPS,
) -> Outcomes | None:
    """Split episodes into success, failure and hard negative; None where there are no episodes."""
    if not rewards:
        return None
    num_failed = sum(not is_success(reward, success_eps) for reward in rewards)
    num_hard = sum(is_hard(reward, threshold, success_eps) for reward in rewards)
    num = len(rewards)
    return Outcomes(
        success=(num - num_failed) / num, failure=(num_failed - num_hard) / num, hard=num_hard / num, num=num
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFailures:
    """One method's row of Figure 2."""

    num_failures: int
    """Failures on the tasks that are left."""
    num_episodes: int
    """Episodes on the tasks that are left."""
    num_shared: int
    """Failures on the tasks that every method fails."""
    shared_mean: float | None
    """Mean reward of its failures on the tasks that every method fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureComparison:
    """Figure 2 of the paper."""

    left: frozenset[Any]
    """Tasks that are left once those that SFT solves are taken away."""
    shared: frozenset[Any]
    """Tasks among them that every method fails at least once."""
    methods: dict[str, MethodFailures]

    @property
    def num_tasks(self) -> int:
        """Count the tasks that are left."""
        return len(self.left)

    @property
    def num_shared(self) -> int:
        """Count the tasks among them that every method fails."""
        return len(self.shared)


def compare_failures(
    methods: Mapping[str, Mapping[Key, Sequence[float]]],
    solved_by_sft: Collection[Key],
    success_eps: float = SUCCESS_EPS,
) -> FailureComparison:
    """Compare methods by their failures on tasks that SFT does not solve, and on those that all of them fail.

    A fails x with .8 and solves y, B fails x with .4 and y with .6: A has 1 failure, B 2; on x, which both fail, A's
    failures have mean .8, B's .4.

    Args:
        methods: name → task (or any key, such as seed and task) → rewards of its episodes. Tasks that not all methods
            played are left out.
        solved_by_sft: keys that SFT solves.
        success_eps: a reward of at least one minus this is a success.

    Source: arXiv 2511.22254, Figure 2.
    """
    played = [set(by_task) for by_task in methods.values()]
    left = frozenset(set.intersection(*played) if played else set()) - set(solved_by_sft)
    shared = frozenset(key for key in left if all(_failed(by_task[key], success_eps) for by_task in methods.values()))
    return FailureComparison(
        left=left,
        shared=shared,
        methods={name: failures_on(by_task, left, shared, success_eps) for name, by_task in methods.items()},
    )


def failures_on(
    rewards: Mapping[Key, Sequence[float]],
    left: Collection[Key],
    shared: Collection[Key],
    success_eps: float = SUCCESS_EPS,
) -> MethodFailures:
    """Count one method's failures on the tasks that are left; average those on tasks that every method fails."""
    failed = {key: _failed(values, success_eps) for key, values in rewards.items() if key in left}
    values = [value for key, own in failed.items() if key in shared for value in own]
    return MethodFailures(
        num_failures=sum(len(own) for own in failed.values()),
        num_episodes=sum(len(rewards[key]) for key in failed),
        num_shared=len(values),
        shared_mean=_mean(values),
    )


def _failed(rewards: Iterable[float], success_eps: float) -> list[float]:
    return [reward for reward in rewards if not is_success(reward, success_eps)]


def rewards_by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[float]]:
    """Group rewards by task id, broken episodes left out."""
    rewards: dict[str, list[float]] = {}
    for trajectory in counted(trajectories):
        rewards.setdefault(trajectory.task.id, []).append(trajectory.reward)
    return rewards


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
