"""ETO: exploration-based trajectory optimisation. The agent learns from expert over own failure, round by round.

Source: arXiv 2403.02502 (Song et al.).
"""

from __future__ import annotations

from sparring.core.types import PairKind
from sparring.data.pairs import adopt_successes, expert_pairs
from sparring.methods.base import Agent, Session
from sparring.methods.loop import eto_loss, is_evaluation_due
from sparring.methods.pivots import play_pivots


def eto(session: Session) -> Agent:
    """Explore, pair the experts with what came short of them, prefer the experts; repeat."""
    config = session.config
    start = target = session.imitate("target")
    session.evaluate(target, 0)
    experts = session.experts

    for number in range(1, config.loop.rounds + 1):
        explored = session.rollout(target, number)
        if config.loop.adopt_successes:
            experts = adopt_successes(experts, explored, config.pairs.success_eps)
        pairs = expert_pairs(experts, explored, PairKind.EXPERT_TARGET, config.pairs)
        pairs = [*pairs, *play_pivots(session, target, experts, explored, (), number)]
        learner = start if config.loop.restart else target
        target = session.prefer(learner, pairs, number, loss=eto_loss(config))
        if is_evaluation_due(config.loop, number):
            session.evaluate(target, number)
    return target
