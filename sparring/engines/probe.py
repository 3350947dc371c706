"""A fixed text, and what learners and servers say of it: whether a server plays with the weights that were trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from sparring.core.types import Turn
from sparring.data.chat import Encoded
from sparring.engines.base import Compute

if TYPE_CHECKING:
    from sparring.data.chat import Chat
    from sparring.engines.base import Learner

PROBE_TURNS = (
    ("You are in a kitchen. In it you see: a table. On the table is a red box, and a door to the hall.", "look around"),
    ("Nothing new is to be seen.", "go to the hall"),
)
"""Observations and actions of the fixed text whose log-probabilities are compared."""
SAME = 1e-6
"""Mean difference in nats below which two learners have the same weights."""


def probe_of(chat: Chat) -> Encoded:
    """Return the fixed text whose log-probabilities are compared: two made-up turns, with their prompts."""
    turns = [Turn(observation=seen, text=done, action=done, reward=0.0) for seen, done in PROBE_TURNS]
    ids = chat.history(turns, "You are in the hall.")[: chat.config.max_context - 1]  # a token is asked for besides
    return Encoded(ids=tuple(ids), spans=((1, len(ids)),))


def say(learner: Learner, node: Encoded) -> list[float]:
    """Return what a learner says of the probe's tokens."""
    (said_N,), _ = learner.score([node], Compute())
    return said_N.tolist()


def difference(
    said: Sequence[float], own: Sequence[float], others: Iterable[Sequence[float]], tolerance: float, *, key: str
) -> str:
    """Say how a server's log-probabilities of the probe differ from the learner's; empty where they are alike.

    Args:
        said: the server's.
        own: the learner's.
        others: those of weights that the server might play with by mistake.
        tolerance: largest mean difference.
        key: the setting that it comes from.
    """
    gap = _gap(said, own)
    nearest = min((_gap(said, other) for other in others if _gap(own, other) > SAME), default=math.inf)
    if gap <= tolerance and gap <= 2 * nearest:
        return ""
    like = " It plays like weights that were published before." if nearest < gap else ""
    return (
        f"over {len(own)} probe tokens its mean log-probability is {fmean(said):.4f} and the learner's "
        f"{fmean(own):.4f}, {gap:.2g} nats apart on average where {tolerance:g} is allowed ({key}).{like}"
    )


def _gap(one: Sequence[float], other: Sequence[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))
