"""RFT: rejection-sampling fine-tuning. Sample, keep what succeeds, imitate it together with the experts.

Source: arXiv 2308.01825 (Yuan et al.), as used in arXiv 2511.22254, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparring.analysis.endings import describe_endings
from sparring.core.convert import check_values
from sparring.core.filters import dedupe, successes
from sparring.core.ranges import Repeats
from sparring.methods.base import Agent, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class RftConfig:
    """Rejection-sampling fine-tuning."""

    num_samples: Repeats = 4
    """Rollouts per training task, of which the distinct successes are kept."""

    def __post_init__(self) -> None:
        check_values(self)


def rft(session: Session) -> Agent:
    """Train the base model anew on the experts and on the SFT agent's own successes."""
    config = session.config
    sampler = session.imitate("target")
    session.evaluate(sampler, 0)

    rollouts = session.rollout(sampler, 1, num_per_task=config.rft.num_samples)
    kept = dedupe(successes(rollouts, config.pairs.success_eps))
    if not kept:
        session.warn(f"no rollout succeeded ({describe_endings(rollouts)}), so RFT is SFT on the experts once more.")

    target = session.imitate("target", extra=kept, round_number=1)
    session.evaluate(target, 1)
    return target
