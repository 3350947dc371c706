"""Zero-shot: the base model as it comes, with the worked examples of `chat.num_examples`, if any. It learns nothing."""

from __future__ import annotations

from sparring.methods.base import Agent, Session


def zero_shot(session: Session) -> Agent:
    """Measure the base model."""
    target = session.base("target")
    session.evaluate(target, 0)
    return target
