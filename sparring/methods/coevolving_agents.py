"""Co-Evolving Agents: a target agent and a failure agent improve in turns; near misses become hard negatives.

The target should succeed. Its partner, the failure agent, never sees a success: it learns which of two failures came
closer, and so fails ever closer to success. What it plays stands on the rejected side of the target's expert pairs, and
on either side of failure-failure pairs.

Source: arXiv 2511.22254, section 4, Eq. 6-9. Deviates: see docs/methods/coevolving_agents.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparring.pairs import adopt_successes, expert_pairs, failure_pairs, target_pairs
from sparring.session import Agent, Session
from sparring.types import PairKind, PreferencePair, Trajectory


def coevolving_agents(session: Session) -> Agent:
    """Run the co-evolving loop; `partner.kind` names the ablations."""
    config = session.config
    target_start = target = session.imitate("target")
    partner_start = partner = start_partner(session, target)
    evaluate(session, target, partner, 0)
    experts = session.experts

    for number in range(1, config.loop.rounds + 1):
        f_tgt = session.rollout(target, number)
        f_fail = session.rollout(partner, number)

        if config.loop.adopt_successes:
            experts = adopt_successes(experts, [*f_tgt, *f_fail], config.pairs.success_eps)

        d_fail = partner_pairs(session, experts, f_tgt, f_fail)  # Eq. 6
        if len(d_fail) >= config.fail.min_pairs:
            learner = partner_start if config.loop.restart else partner
            partner = session.prefer(learner, d_fail, number, loss=session.eto_loss())  # Eq. 7
        elif config.partner.kind != "frozen":
            session.warn(f"round {number}: {len(d_fail)} pairs for the partner, fewer than fail.min_pairs: it rests.")
        if config.loop.refresh_failure_rollouts:
            f_fail = session.rollout(partner, number, is_refreshed=True)

        d_tgt = target_pairs(experts, f_tgt, f_fail, config.pairs, pair_scope=config.fail.pair_scope)  # Eq. 8
        target = session.prefer(target_start if config.loop.restart else target, d_tgt, number)  # Eq. 9
        evaluate(session, target, partner, number)
    return target


def start_partner(session: Session, target: Agent) -> Agent:
    """Imitate the experts a second time, with another seed; or share the target's start."""
    if session.config.partner.start == "shared":
        return replace(target, name="partner")
    return session.imitate("partner")


def partner_pairs(
    session: Session, experts: Sequence[Trajectory], f_tgt: Sequence[Trajectory], f_fail: Sequence[Trajectory]
) -> list[PreferencePair]:
    """Return what the partner learns from: its kind is the ablation.

    `failure`: failure-failure pairs of both agents, D_fail (Eq. 6). `positive`: expert over own trajectory, like ETO's
    agent. `frozen`: nothing, so that no more than a second sampler remains.
    """
    config = session.config
    match config.partner.kind:
        case "failure":
            return failure_pairs(f_tgt, f_fail, config.pairs, pair_scope=config.fail.pair_scope)
        case "positive":
            return expert_pairs(experts, f_fail, PairKind.EXPERT_PARTNER, config.pairs)
        case "frozen":
            return []


def evaluate(session: Session, target: Agent, partner: Agent, number: int) -> None:
    """Measure the target on held-out tasks, and the partner where the config asks for it."""
    session.evaluate(target, number)
    if session.config.partner.evaluate:
        session.evaluate(partner, number)
