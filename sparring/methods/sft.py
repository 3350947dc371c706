"""SFT: behavioural cloning of the experts. Where every other method starts, and the first row of every table.

Source: arXiv 2511.22254, section 3.2, Eq. 3-5.
"""

from __future__ import annotations

from sparring.methods.base import Agent, Session


def sft(session: Session) -> Agent:
    """Imitate the experts, once."""
    target = session.imitate("target")
    session.evaluate(target, 0)
    return target
