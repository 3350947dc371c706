"""The scripted partner's part of a round: experts' episodes, each with one wrong action near its end."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.core.types import Task, Trajectory
from sparring.data.mistakes import draw_mistakes
from sparring.data.pivots import given
from sparring.methods.base import Session
from sparring.rollouts.branch import Branch, Script


def play_mistakes(
    session: Session, experts: Sequence[Trajectory], tasks: Sequence[Task], number: int, *, is_refreshed: bool = False
) -> list[Trajectory]:
    """Return a round's scripted episodes as the partner's own: all of their turns count.

    Args:
        session: plays.
        experts: in whose episodes mistakes are made.
        tasks: those of the round.
        number: of the round.
        is_refreshed: as in `Session.rollout`: other mistakes, where the partner would play again.
    """
    key = f"{session.seed}/{number}/mistakes" + ("/refreshed" if is_refreshed else "")
    mistakes = draw_mistakes(experts, tasks, session.config.pairs, key=key)
    scripts = [Script(branch=Branch(of=one.way, turn=one.turn), actions=one.actions) for one in mistakes]
    played = session.script(number, scripts, is_refreshed=is_refreshed) if scripts else []
    if not played:
        session.warn(f"round {number}: no expert's episode in which a mistake could be scripted.")
    return [given(one, 0) for one in played]
