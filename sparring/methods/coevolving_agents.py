"""Co-Evolving Agents: a target agent and a failure agent improve in turns; near misses become hard negatives.

The target should succeed. Its partner, the failure agent, never sees a success: it learns which of two failures came
closer, and so fails ever closer to success. What it plays stands on the rejected side of the target's expert pairs, and
on either side of failure-failure pairs.

Source: arXiv 2511.22254, section 4, Eq. 6-9. Deviates: see docs/methods/coevolving_agents.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from sparring.core.convert import check_values
from sparring.core.ranges import Count
from sparring.core.types import Task, Trajectory
from sparring.data.pairs import adopt_successes, choose_rule, target_pairs
from sparring.methods.base import Agent, Session
from sparring.methods.late import late_pairs, play_late
from sparring.methods.loop import eto_loss, is_evaluation_due
from sparring.methods.partners import PartnerKind, find_partner
from sparring.methods.pivots import play_pivots


@dataclass(frozen=True, slots=True, kw_only=True)
class FailConfig:
    """The failure agent's own training set, D_fail."""

    pair_scope: Literal["cross", "all"] = "cross"
    """`cross`: pairs of a target's and a partner's failure (Eq. 6 to the letter). `all`: also of one agent's own."""
    min_pairs: Count = 8
    """With fewer pairs than this in a round the failure agent is not updated, and a warning says so."""

    def __post_init__(self) -> None:
        check_values(self)


def coevolving_agents(session: Session) -> Agent:
    """Run the co-evolving loop; `partner.kind` names the partner (`methods.partners`), the failure agent or another."""
    config, duo, experts = session.config, start(session), session.experts
    evaluate(session, duo, 0)

    for number in range(1, config.loop.rounds + 1):
        tasks = session.draw_tasks(number, config.rollout.num_tasks)
        f_tgt, f_fail = play(session, duo, experts, number, tasks=tasks)
        experts = solutions(session, experts, [*f_tgt, *f_fail])
        duo = improve(session, duo, experts, f_tgt, f_fail, number, tasks=tasks)
        evaluate(session, duo, number)
    return duo.target


@dataclass(frozen=True, kw_only=True)
class Duo:
    """The two agents as they stand, and as they started."""

    kind: PartnerKind
    target: Agent
    partner: Agent
    target_start: Agent
    partner_start: Agent


def start(session: Session) -> Duo:
    """Let both imitate the experts; the partner with another seed, or it starts as the target or as `partner` says."""
    target = session.imitate("target")
    config = session.config.partner
    kind = find_partner(config.kind)
    if config.checkpoint is not None:
        partner = session.adopt("partner", config.checkpoint)
    else:
        is_copy = config.start == "shared" or kind.plays is not None
        partner = replace(target, name="partner") if is_copy else session.imitate("partner")
    return Duo(kind=kind, target=target, partner=partner, target_start=target, partner_start=partner)


def play(
    session: Session, duo: Duo, experts: Sequence[Trajectory], number: int, *, tasks: Sequence[Task]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Let both play a round's tasks, or the target agent and what plays in the partner's place."""
    if duo.kind.plays is not None:
        return session.rollout(duo.target, number, tasks=tasks), duo.kind.plays(session, experts, tasks, number)
    f_tgt, f_fail = session.rollouts([duo.target, duo.partner], number, tasks=tasks)
    return f_tgt, f_fail


def solutions(session: Session, experts: Sequence[Trajectory], played: Sequence[Trajectory]) -> Sequence[Trajectory]:
    """Return the experts, with agents' successes on tasks that have none where `loop.adopt_successes` says so."""
    config = session.config
    return adopt_successes(experts, played, config.pairs.success_eps) if config.loop.adopt_successes else experts


def improve(
    session: Session,
    duo: Duo,
    experts: Sequence[Trajectory],
    f_tgt: Sequence[Trajectory],
    f_fail: Sequence[Trajectory],
    number: int,
    *,
    tasks: Sequence[Task],
) -> Duo:
    """Update the failure agent, then the target: one round of the paper's algorithm after its rollouts."""
    config, restart = session.config, session.config.loop.restart
    partner, kind = duo.partner, duo.kind

    late = play_late(session, partner, experts, tasks, number)
    d_fail = list(kind.learns(session, experts, f_tgt, f_fail, late)) if kind.learns else []  # Eq. 6
    if len(d_fail) >= config.fail.min_pairs:
        learner = duo.partner_start if restart else partner
        partner = session.prefer(learner, d_fail, number, loss=eto_loss(config))  # Eq. 7
    elif kind.learns:
        session.warn(f"round {number}: {len(d_fail)} pairs for the partner, fewer than fail.min_pairs: it rests.")
    if config.loop.refresh_failure_rollouts:
        if kind.plays is not None:
            f_fail = kind.plays(session, experts, tasks, number, is_refreshed=True)
        else:
            f_fail = session.rollout(partner, number, tasks=tasks, is_refreshed=True)

    rule = choose_rule(config.pairs, partial(target_pairs, pair_scope=config.fail.pair_scope))
    d_tgt = list(rule(experts, f_tgt, f_fail, config.pairs))  # Eq. 8
    d_tgt = [*d_tgt, *late_pairs(session, duo.target, late, number)]
    d_tgt = [*d_tgt, *play_pivots(session, duo.target, experts, f_tgt, f_fail, number)]
    target = session.prefer(duo.target_start if restart else duo.target, d_tgt, number)  # Eq. 9
    return replace(duo, target=target, partner=partner)


def evaluate(session: Session, duo: Duo, number: int) -> None:
    """Measure the target on held-out tasks, and the partner where the config asks for it, in rounds that are due."""
    if not is_evaluation_due(session.config.loop, number):
        return
    session.evaluate(duo.target, number)
    if session.config.partner.evaluate:
        session.evaluate(duo.partner, number)
