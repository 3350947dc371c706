"""Pivot pairs of a round: the target agent plays on where near misses went wrong, and what succeeds is preferred."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.core.types import PreferencePair, Trajectory
from sparring.data.pivots import find_pivots, pivot_pairs
from sparring.methods.base import Agent, Session
from sparring.rollouts.branch import Branch


def play_pivots(
    session: Session,
    target: Agent,
    experts: Sequence[Trajectory],
    f_tgt: Sequence[Trajectory],
    f_fail: Sequence[Trajectory],
    number: int,
) -> list[PreferencePair]:
    """Return a round's pivot pairs; none where `pivot.num` is 0.

    Args:
        session: plays.
        target: who plays on.
        experts: their rest is taken where a near miss began as they did.
        f_tgt: the target agent's trajectories of the round.
        f_fail: its partner's.
        number: of the round.
    """
    config, pairs = session.config.pivot, session.config.pairs
    if not config.num:
        return []
    whose = {"both": [*f_tgt, *f_fail], "target": f_tgt, "partner": f_fail}
    pivots = find_pivots(whose[config.of], experts, config, pairs)
    open_ones = [pivot for pivot in pivots if pivot.rest is None]
    branches = [Branch(of=pivot.near_miss, turn=pivot.turn) for pivot in open_ones]
    tries = session.branch(target, number, branches, num_per_branch=config.num_tries) if branches else []
    by_near_miss = {
        pivot.near_miss.id: tries[i * config.num_tries : (i + 1) * config.num_tries]
        for i, pivot in enumerate(open_ones)
    }
    found = pivot_pairs(pivots, by_near_miss, config, pairs)
    if not found:
        session.warn(f"round {number}: no pivot pairs, of {len(pivots)} near misses with a turning point.")
    return found
