"""Near misses become pairs that differ from the turn on where they went wrong.

A whole-trajectory pair on a near miss also says something of what both sides did right. A pivot pair shares the near
miss's beginning, which then cancels in the loss (Eq. 7 is a difference of sums), and compares what comes after it: what
the near miss did next, and what leads to success from there.

Source: ours; near CSO (arXiv 2602.03412) and R³L (arXiv 2601.03715).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.filters import actions, by_task, dedupe, failures, is_success, num_shared, successes, usable
from sparring.core.ranges import CountOrZero, Range, Repeats
from sparring.core.types import PairKind, PreferencePair, Trajectory
from sparring.data.pairs import ROUNDING, PairConfig, make_pair, prefers


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotConfig:
    """Pairs that begin where a near miss went wrong."""

    num: CountOrZero = 0
    """Near misses a round that are played on from their turning point; 0: none."""
    of: Literal["both", "target", "partner"] = "both"
    """Whose near misses."""
    turn: Literal["last-gain", "left-the-way"] = "last-gain"
    """Where a near miss went wrong. `last-gain`: after the last turn that raised its reward. `left-the-way`: where it
    first did something else than an expert."""
    num_tries: Repeats = 4
    """Times that the target agent plays on from there. Where an expert begins in the same way, its rest is taken."""
    min_reward: Annotated[float, Range(at_least=0, below=1)] = 0.25
    """A failure below it is no near miss."""
    accept: Literal["success", "better"] = "success"
    """What a try must be: a success, or better than the near miss by `pairs.min_gap`."""
    reject: Literal["near-miss", "all"] = "near-miss"
    """What is rejected: the near miss, or also each try that ends lower than the chosen one by `pairs.min_gap`."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pivot:
    """A near miss, and where it went wrong."""

    near_miss: Trajectory
    turn: int
    """Turns before that."""
    rest: Trajectory | None = None
    """An expert's trajectory that begins in the same way and succeeds; none: somebody has to play on."""


def find_pivots(
    played: Iterable[Trajectory], experts: Iterable[Trajectory], config: PivotConfig, pairs: PairConfig
) -> list[Pivot]:
    """Return a round's turning points, those of the nearest misses.

    A failure with the rewards .25 .75 .75 .75 went wrong after its second turn. One that gained with its last turn, or
    never, has no such turn. Each task gives as many as it has near misses, the nearest first.

    Args:
        played: the round's trajectories, of those agents whose near misses count.
        experts: of any tasks.
        config: which ones, and how many.
        pairs: what a success is.
    """
    ways = by_task(successes(experts, pairs.success_eps))
    near = [one for one in dedupe(failures(played, pairs.success_eps)) if one.reward >= config.min_reward - ROUNDING]
    found: list[Pivot] = []
    for one in sorted(near, key=lambda one: -one.reward):
        turn = turning_point(one, ways.get(one.task.id, ()), config.turn)
        if not one.num_given < turn < len(one.turns):
            continue
        same = (way for way in ways.get(one.task.id, ()) if num_shared(actions(one), actions(way)) >= turn)
        rest = next((way for way in same if len(way.turns) > turn), None)
        found.append(Pivot(near_miss=one, turn=turn, rest=rest))
    return found[: config.num]


def turning_point(one: Trajectory, ways: Sequence[Trajectory], where: Literal["last-gain", "left-the-way"]) -> int:
    """Return how many turns a failure did well, before what went wrong; 0: none."""
    if where == "left-the-way":
        return max((num_shared(actions(one), actions(way)) for way in ways), default=0)
    before = [0.0, *(turn.reward for turn in one.turns)]
    return max((i for i in range(1, len(before)) if before[i] > before[i - 1] + ROUNDING), default=0)


def pivot_pairs(
    pivots: Sequence[Pivot], tries: Mapping[str, Sequence[Trajectory]], config: PivotConfig, pairs: PairConfig
) -> list[PreferencePair]:
    """Pair what leads to success from a turning point with what the near miss did there.

    Args:
        pivots: turning points.
        tries: the near miss's id → what was played on from there; its first that is good enough is chosen.
        config: what is good enough.
        pairs: what a success is, and how many turns of a rejected side count.
    """
    found: list[PreferencePair] = []
    for pivot in pivots:
        near_miss, played = pivot.near_miss, usable(tries.get(pivot.near_miss.id, ()))
        chosen = pivot.rest and given(pivot.rest, pivot.turn)
        if chosen is None:
            chosen = next((one for one in played if _is_good(one, near_miss, config, pairs)), None)
        if chosen is None:
            continue
        rejected = [given(near_miss, pivot.turn)]
        if config.reject == "all":
            rejected += [one for one in dedupe(played) if prefers(chosen, one, pairs.min_gap)]
        found += [make_pair(PairKind.PIVOT, chosen, one, pairs) for one in rejected]
    return found


def given(trajectory: Trajectory, num_turns: int) -> Trajectory:
    """Return a trajectory whose first turns are context; its id says so: `round-1/…/0@3`."""
    return replace(trajectory, id=f"{trajectory.id}@{num_turns}", num_given=num_turns)


def _is_good(one: Trajectory, near_miss: Trajectory, config: PivotConfig, pairs: PairConfig) -> bool:
    if config.accept == "success":
        return is_success(one.reward, pairs.success_eps)
    return one.reward >= near_miss.reward + pairs.min_gap - ROUNDING
