"""Rewards per seed and task come in, means with 95 % bootstrap intervals and paired differences go out.

Every training seed of a study plays the same held-out tasks, so rewards form a table of seeds by tasks, and both are a
sample: of the trainings that could have been, and of the tasks that could have been asked. The bootstrap redraws both,
rows and columns independently of each other; with one seed it redraws the tasks alone. Two methods are compared on the
same seeds and tasks, by the interval of their difference, which is far narrower than the two intervals suggest.

Source: Efron 1979 (bootstrap, percentile intervals); Owen 2007, arXiv 0712.1111 (the two-way, "pigeonhole" bootstrap).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparring.core.convert import check_values
from sparring.core.filters import SUCCESS_EPS
from sparring.core.ranges import Count, Name, Range

CONFIDENCE = 0.95
"""Share of the resamples that an interval covers."""

Rewards = Mapping[str, float]
"""Task id → reward in [0,1]. A task whose episode infrastructure broke is not in it."""

SeedRewards = Mapping[Any, Rewards]
"""Seed → rewards."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Which held-out tasks the agents are measured on, and how the intervals are made."""

    split: Name = "test"
    """Split that is reported. Tune on `dev`."""
    also: tuple[Name, ...] = ()
    """Further splits, each played once by each arm's last agent, after the rest. They are told apart, and compared by
    nobody: for published tables of several columns."""
    num_tasks: Count | None = None
    """Held-out tasks of each split, spread evenly over the types; none given: all."""
    num_resamples: Annotated[int, Range(at_least=1, at_most=100_000)] = 2000
    """Bootstrap resamples behind each 95 % interval."""

    def __post_init__(self) -> None:
        """Refuse splits whose names no folder can have."""
        check_values(self)
        for name in self.also:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"also: {name!r} becomes a folder's name, so it takes letters, digits and -_.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval; all three are NaN where there was nothing to average."""

    mean: float
    low: float
    high: float
    num: int = 0
    """Values that were averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How one agent did on held-out tasks. Intervals are 95 % and percentile; rates lie in [0,1]."""

    mean: float
    """Mean reward."""
    ci_low: float
    ci_high: float
    success: float
    """Share of episodes with a reward of one."""
    success_ci_low: float
    success_ci_high: float
    num: int
    """Episodes."""
    num_tasks: int
    num_seeds: int


def to_table(rewards: SeedRewards) -> NDArray[np.float64]:
    """Lay rewards out as a table of seeds by tasks; NaN where an episode is missing.

    Both are sorted by name, so that an interval depends on the rewards alone and not on who lists them.
    """
    tasks = sorted({task for by_task in rewards.values() for task in by_task})
    rows = [[rewards[key].get(task, np.nan) for task in tasks] for key in sorted(rewards, key=str)]
    return np.array(rows, dtype=np.float64).reshape(len(rewards), len(tasks))


def bootstrap_mean(values: ArrayLike, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """Average, with the 95 % percentile interval of the bootstrap over tasks, or over seeds and tasks both.

    The mean is that of all values at hand, so a seed that lost a task to a fault weighs a little less.

    Args:
        values: shape [tasks] or [seeds, tasks]; NaN where an episode is missing.
        num_resamples: how many resamples.
        seed: of the resampling, so that the same values always give the same interval.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    is_there = ~np.isnan(table)
    num = int(is_there.sum())
    if num == 0:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"))
    filled, present = np.where(is_there, table, 0.0), is_there.astype(np.float64)
    num_seeds, num_tasks = table.shape
    bits = np.random.Philox(seed)
    weights_RS = _draw_counts(bits, num_seeds, num_resamples)
    weights_RT = _draw_counts(bits, num_tasks, num_resamples)
    totals_R = ((weights_RS @ filled) * weights_RT).sum(axis=1)
    counts_R = ((weights_RS @ present) * weights_RT).sum(axis=1)
    # A resample may draw nothing but missing episodes where nearly all are missing; it then has no mean.
    means_R = totals_R[counts_R > 0] / counts_R[counts_R > 0]
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means_R, [tail, 1.0 - tail]) if means_R.size else (np.nan, np.nan)
    # The last bits depend on the machine's order of summation, and must never tip a printed digit.
    mean, low, high = (round(float(value), 9) for value in (filled.sum() / num, low, high))
    return Interval(mean=mean, low=low, high=high, num=num)


def summarise(
    rewards: SeedRewards, success_eps: float = SUCCESS_EPS, *, num_resamples: int = 2000, seed: int = 0
) -> Summary:
    """Summarise an agent's held-out rewards: mean reward and success rate, each with its 95 % interval.

    The interval of a success rate of exactly 0 or 1 has no width: the bootstrap can't imagine what it never saw.

    Args:
        rewards: seed → task id → reward. For one run: `{0: rewards}`.
        success_eps: a reward of at least one minus this is a success.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
    """
    table = to_table(rewards)
    reward = bootstrap_mean(table, num_resamples=num_resamples, seed=seed)
    solved = np.where(np.isnan(table), np.nan, (table >= 1.0 - success_eps).astype(np.float64))
    success = bootstrap_mean(solved, num_resamples=num_resamples, seed=seed)
    return Summary(
        mean=reward.mean,
        ci_low=reward.low,
        ci_high=reward.high,
        success=success.mean,
        success_ci_low=success.low,
        success_ci_high=success.high,
        num=reward.num,
        num_tasks=table.shape[1],
        num_seeds=table.shape[0],
    )


def paired_difference(a: SeedRewards, b: SeedRewards, *, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the mean of a − b over the seeds and tasks that both played, with its 95 % interval.

    a = {0: {x: .5, y: 1}}, b = {0: {x: .4, z: 0}} differ by .1, over one episode.

    Args:
        a: seed → task id → reward of one method.
        b: of the other.
        num_resamples: bootstrap resamples.
        seed: of the resampling.
    """
    differences = {
        key: {task: by_task[task] - b[key][task] for task in by_task if task in b[key]}
        for key, by_task in a.items()
        if key in b
    }
    return bootstrap_mean(to_table(differences), num_resamples=num_resamples, seed=seed)


def _draw_counts(bits: np.random.Philox, num: int, num_resamples: int) -> NDArray[np.float64]:
    """Return how often each of `num` items is drawn in each resample: shape [resamples, num], rows sum to `num`."""
    # numpy promises the stream of a bit generator for ever, that of a Generator not: published intervals must not move.
    draws = bits.random_raw(num_resamples * num) % np.uint64(num) if num else np.zeros(0, dtype=np.uint64)
    rows = np.repeat(np.arange(num_resamples), num)
    counts = np.bincount(rows * max(num, 1) + draws.astype(np.int64), minlength=num_resamples * num)
    return counts.reshape(num_resamples, num).astype(np.float64)
