"""Late starts of a round: the failure agent plays on where experts' episodes are nearly over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparring.core.types import PreferencePair, Task, Trajectory
from sparring.data.late import LateStart, draw_starts, failed, late_target_pairs
from sparring.methods.base import Agent, Session
from sparring.rollouts.branch import Branch


def play_late(
    session: Session, partner: Agent, experts: Sequence[Trajectory], tasks: Sequence[Task], number: int
) -> list[LateStart]:
    """Return a round's late starts with what failed from them; none where `late.num` is 0.

    Args:
        session: plays.
        partner: who plays on.
        experts: in whose episodes it begins.
        tasks: those of the round.
        number: of the round.
    """
    config, pairs = session.config.late, session.config.pairs
    if not config.num:
        return []
    starts = draw_starts(experts, tasks, config, pairs, key=f"{session.seed}/{number}/late starts")
    if not starts:
        return []
    branches = [Branch(of=start.way, turn=start.turn) for start in starts]
    tries = session.branch(partner, number, branches, num_per_branch=config.num_tries, name="late")
    return [
        replace(start, failures=failed(tries[i * config.num_tries : (i + 1) * config.num_tries], pairs))
        for i, start in enumerate(starts)
    ]


def late_pairs(session: Session, target: Agent, starts: Sequence[LateStart], number: int) -> list[PreferencePair]:
    """Return what the target agent learns from late starts."""
    found = [one for start in starts for one in start.failures]
    if not found:
        if starts:
            session.warn(f"round {number}: no late start of {len(starts)} led to a failure.")
        return []
    likelihoods = session.likelihoods(target, number, found)
    return late_target_pairs(starts, likelihoods, session.config.late, session.config.pairs)
