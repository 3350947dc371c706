"""ETO: exploration-based trajectory optimisation. The agent learns from expert over own failure, round by round.

Source: arXiv 2403.02502 (Song et al.).
"""

from __future__ import annotations

from collections.abc import Sequence

from sparring.core.types import PairKind, PreferencePair, Trajectory
from sparring.data.pairs import PairConfig, adopt_successes, choose_rule, expert_pairs
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
        pairs = choose_rule(config.pairs, paper)(experts, explored, (), config.pairs)
        pairs = [*pairs, *play_pivots(session, target, experts, explored, (), number)]
        learner = start if config.loop.restart else target
        target = session.prefer(learner, pairs, number, loss=eto_loss(config))
        if is_evaluation_due(config.loop, number):
            session.evaluate(target, number)
    return target


def paper(
    experts: Sequence[Trajectory], target: Sequence[Trajectory], _: Sequence[Trajectory], config: PairConfig
) -> list[PreferencePair]:
    """Pair the experts with what the agent explored: ETO's rule."""
    return expert_pairs(experts, target, PairKind.EXPERT_TARGET, config)
