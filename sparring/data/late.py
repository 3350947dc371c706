"""Late starts: the failure agent begins inside an expert's episode, near its end, and fails there if it can.

A failure that begins late shares all but its last turns with a success, so it is a near miss by construction. Of
several tries from one beginning, those that fail make many pairs that differ in few turns. The failures that the target
agent finds likeliest, so its own next mistakes, stand against the expert's rest.

Source: ours; near Agentic-DPO (arXiv 2607.10601).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

from sparring.core.convert import check_values
from sparring.core.filters import dedupe, failures, successes
from sparring.core.ranges import Count, CountOrZero, Range, Repeats
from sparring.core.types import PairKind, PreferencePair, Task, Trajectory
from sparring.data.pairs import PairConfig, compare, make_pair
from sparring.data.pivots import given


@dataclass(frozen=True, slots=True, kw_only=True)
class LateConfig:
    """Episodes of the failure agent that begin late in experts' episodes."""

    num: CountOrZero = 0
    """Experts' episodes a round that it begins in, one place in each; 0: none."""
    max_turns_left: Repeats = 4
    """It begins so many turns before the expert's end at most, and one at least; drawn."""
    num_tries: Annotated[int, Range(at_least=2, at_most=1000)] = 4
    """Times that it plays on from each."""
    keep: Count = 1
    """Failures of each that make pairs for the target agent: those that it finds likeliest."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LateStart:
    """A place in an expert's episode, and what was played on from there."""

    way: Trajectory
    turn: int
    """Turns before it."""
    failures: Sequence[Trajectory] = ()
    """Those that failed, each sequence of actions once."""


def draw_starts(
    experts: Iterable[Trajectory], tasks: Iterable[Task], config: LateConfig, pairs: PairConfig, key: str
) -> list[LateStart]:
    """Draw places near the ends of experts' episodes.

    An expert of 10 turns and `max_turns_left` 4: after its turn 6, 7, 8 or 9. One of a single turn has no such place.

    Args:
        experts: of any tasks.
        tasks: those of the round.
        config: how many, and how late.
        pairs: what a success is.
        key: what the draw depends on.
    """
    wanted, rng = {task.id for task in tasks}, random.Random(key)
    ways = [one for one in successes(experts, pairs.success_eps) if one.task.id in wanted and len(one.turns) > 1]
    drawn = sorted(rng.sample(range(len(ways)), min(config.num, len(ways))))
    return [LateStart(way=ways[i], turn=_turn(ways[i], config, rng)) for i in drawn]


def _turn(way: Trajectory, config: LateConfig, rng: random.Random) -> int:
    return len(way.turns) - rng.randint(1, min(config.max_turns_left, len(way.turns) - 1))


def failed(tries: Iterable[Trajectory], pairs: PairConfig) -> list[Trajectory]:
    """Keep what failed from a late start; successes are nothing to the failure agent."""
    return dedupe(failures(tries, pairs.success_eps))


def late_failure_pairs(starts: Iterable[LateStart], pairs: PairConfig) -> list[PreferencePair]:
    """Pair failures from the same start, the higher reward chosen: more of D_fail.

    Failures of .5, .5 and .75 from one start make (.75 over .5) twice; failures from two starts make no pair.

    Source: ours, after arXiv 2511.22254, Eq. 6; both sides are the failure agent's.
    """
    return [pair for start in starts for pair in compare(combinations(start.failures, 2), pairs)]


def late_target_pairs(
    starts: Iterable[LateStart], likelihoods: Mapping[str, float], config: LateConfig, pairs: PairConfig
) -> list[PreferencePair]:
    """Pair the expert's rest with the failures from the same start that the target agent finds likeliest.

    Args:
        starts: with their failures.
        likelihoods: trajectory id → mean log-probability of its own action tokens; what has none is left out.
        config: how many of each start count.
        pairs: how many turns of a rejected side count.
    """
    found: list[PreferencePair] = []
    for start in starts:
        known = [one for one in start.failures if one.id in likelihoods]
        for one in sorted(known, key=lambda one: -likelihoods[one.id])[: config.keep]:
            found.append(make_pair(PairKind.PIVOT, given(start.way, start.turn), one, pairs))
    return found
