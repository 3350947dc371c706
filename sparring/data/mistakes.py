"""Scripted mistakes: an expert's episode with one wrong action near its end. The control of whether failing is worth
learning: nobody learns to fail, and the negatives are the same kind from the first round to the last.

What is wrong is not invented: it is what experts do near the end of other tasks of the same type, with the same verb
where there is one.

Source: ours, for the control of "expert-designed" negatives that arXiv 2511.22254 leaves open.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparring.core.filters import actions, successes
from sparring.core.types import Task, Trajectory
from sparring.data.pairs import PairConfig

LATE_TURNS = 4
"""A mistake is made in one of an expert's last turns, so many at most."""
_VERB = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """An expert's episode, and what is done in it otherwise."""

    way: Trajectory
    turn: int
    """Turns before the mistake."""
    actions: tuple[str, ...]
    """The wrong action, then what the expert did after the right one."""


def draw_mistakes(
    experts: Iterable[Trajectory], tasks: Iterable[Task], pairs: PairConfig, *, key: str
) -> list[Mistake]:
    """Draw a mistake for each task that an expert solves, where another expert's action can serve.

    "move egg to red box" becomes "move stone to blue box", if that is what an expert did late in another task of the
    type; "go to kitchen" becomes another "go to". Without another action of the verb any late one is taken.

    Args:
        experts: of any tasks; those of other tasks say what can be done wrong.
        tasks: those of the round.
        pairs: what a success is.
        key: what the draw depends on.
    """
    ways, rng = successes(experts, pairs.success_eps), random.Random(key)
    late = {(way.task.kind, way.task.id, action) for way in ways for action in actions(way)[-LATE_TURNS:]}
    first = {way.task.id: way for way in reversed(ways)}
    found: list[Mistake] = []
    for task in tasks:
        if (way := first.get(task.id)) is None:
            continue
        turn = len(way.turns) - rng.randint(1, min(LATE_TURNS, len(way.turns)))
        right, *rest = actions(way)[turn:]
        others = {action for kind, task_id, action in late if kind == task.kind and task_id != task.id} - {right}
        if others:
            wrong = rng.choice(_alike(right, sorted(others)))
            found.append(Mistake(way=way, turn=turn, actions=(wrong, *rest)))
    return found


def _alike(right: str, others: Sequence[str]) -> Sequence[str]:
    """Keep what begins with the same word, where anything does."""
    return [one for one in others if _verb(one) == _verb(right)] or others


def _verb(action: str) -> str:
    found = _VERB.search(action)
    return found[0] if found else ""
