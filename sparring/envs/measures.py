"""How a world's own literature measures an agent: rewards on held-out tasks in, named figures out. All of it is pure.

A benchmark that has measures of its own has a method `measures`; one that lacks it is shown by mean reward and success
alone. What several worlds need stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Protocol, runtime_checkable

from sparring.core.errors import ConfigError, quote
from sparring.core.filters import is_success
from sparring.core.types import Task
from sparring.envs.base import Benchmark
from sparring.envs.faults import told

Rewards = Mapping[str, float]
"""Task id → reward in [0,1]. A task whose episode infrastructure broke is not in it."""
Measures = dict[str, float | str]
"""Name → points out of 100; or, in words, why there are none."""

NOTHING_PLAYED = "no episode has a reward"


@runtime_checkable
class Measured(Protocol):
    """A benchmark with measures of its own."""

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Mapping[str, float | str]:
        """Return the measures by name, the most important first.

        Args:
            tasks: all that were to be played, of one split, each once.
            rewards: of those that were played.
        """
        ...


def measures_of(benchmark: Benchmark, tasks: Sequence[Task], rewards: Rewards) -> Measures:
    """Return the benchmark's own measures; nothing where it has none.

    Raises:
        ConfigError: its method raised, or answered with what is no table of numbers and words.
    """
    if not isinstance(benchmark, Measured):
        return {}
    found = told("measures(…)", lambda: dict(benchmark.measures(tasks, rewards)))
    for name, value in found.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(name, str) or not (is_number or isinstance(value, str)):
            raise ConfigError(
                f"env.id: the world's measures(…) hold {quote(name)}: {quote(value)}. Give names with finite numbers, "
                "or with words that say why there is none."
            )
    return {name: value if isinstance(value, str) else float(value) for name, value in found.items()}


def missing_measures(benchmark: Benchmark, tasks: Sequence[Task]) -> list[str]:
    """Say which measures can't be told of these tasks, however they are played, and why: a sentence each.

    Raises:
        ConfigError: as for `measures_of`.
    """
    found = measures_of(benchmark, tasks, {task.id: 0.0 for task in tasks})
    return [f"no {name}: {value}." for name, value in found.items() if isinstance(value, str)]


def mean_points(rewards: Iterable[float]) -> float | str:
    """Return the mean reward in points: .5 and 1 give 75."""
    values = list(rewards)
    return 100 * math.fsum(values) / len(values) if values else NOTHING_PLAYED


def solved_points(rewards: Iterable[float]) -> float | str:
    """Return the share of rewards that are one, in points: .5 and 1 give 50."""
    return mean_points(float(is_success(reward)) for reward in rewards)


def scenario_points(variants: Mapping[str, Sequence[str]], tasks: Sequence[Task], rewards: Rewards) -> float | str:
    """Return the share of scenarios all of whose variants are solved, in points.

    Two scenarios of three variants each, with rewards (1, 1, 1) and (1, 1, 0), give 50. A scenario counts where every
    variant of it has a reward.

    Args:
        variants: scenario → the ids of all its tasks.
        tasks: all that were to be played.
        rewards: of those that were played.
    """
    chosen = {task.id for task in tasks}
    touched = {name: ids for name, ids in variants.items() if chosen.intersection(ids)}
    for name, ids in touched.items():
        if lacking := next((id for id in ids if id not in chosen), None):
            return (
                f"scenario {quote(name, bare=True)} lacks its task {quote(lacking, bare=True)}, and a scenario counts "
                "with all its variants (leave eval.num_tasks out, or mend the list of tasks)"
            )
    whole = [ids for ids in touched.values() if all(id in rewards for id in ids)]
    return mean_points(float(all(is_success(rewards[id]) for id in ids)) for ids in whole)
