"""What the outer loops of several methods share: their settings, and in which rounds the agents are measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Protocol

from sparring.core.convert import check_values
from sparring.core.ranges import CountOrZero, LearningRate, Range, Repeats, Share, Weight

if TYPE_CHECKING:
    from sparring.learning.objectives import LossConfig
    from sparring.methods.base import MethodConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """The outer loop that ETO, IPR and Co-Evolving Agents share."""

    rounds: Repeats = 3
    """Rounds of rollout and training (paper: 3 on WebShop and ScienceWorld, 5 on InterCodeSQL)."""
    restart: bool = False
    """Each round's training starts from the SFT weights instead of going on from the last round's."""
    refresh_failure_rollouts: bool = False
    """The failure agent rolls out again between its own update and the target's, so that round 1 already has its
    negatives; costs one more rollout a round."""
    adopt_successes: bool = False
    """A training task without an expert trajectory takes the agents' shortest success for one, for all rounds to
    come: the chosen side is then the agents' own. For few demonstrations and many tasks."""
    buffer_rounds: Repeats = 1
    """Rounds whose rollouts make pairs; 1: this round's only."""
    later_beta: Annotated[float, Range(above=0, at_most=1000)] | None = None
    """DPO's beta from round 2 on (ETO: 0.1, later 0.5); none: as in round 1."""
    later_lr: LearningRate | None = None
    """Preference learning rate from round 2 on (ETO: 1e-6, later 5e-7); none: as in round 1."""
    evaluate_every: Repeats = 1
    """Rounds between two evaluations on held-out tasks; the start and the last round are always evaluated."""
    accept_tasks: CountOrZero = 32
    """Training tasks that the target agent plays greedily before and after each preference training, as a guard; 0:
    no guard, as in the papers."""
    accept_drop: Share = 0.05
    """Mean reward that it may lose on them against its start and the round before. Where it loses more, the training is
    done again from its start at half the rate, at most twice; after that the weights stay as they were."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EtoConfig:
    """ETO's loss on expert pairs, in place of Eq. 9's weights; the `positive` partner is trained by it too."""

    dpo_weight: Weight = 1.0
    """λ_DPO (ETO: pure DPO)."""
    sft_weight: Weight = 0.0
    """λ_SFT; above 0 is a variant with the NLL term that Eq. 9 has."""

    def __post_init__(self) -> None:
        check_values(self)


class _Rounds(Protocol):
    @property
    def rounds(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...


def is_evaluation_due(loop: _Rounds, number: int) -> bool:
    """Say whether round `number` ends with an evaluation on held-out tasks; the last round always does."""
    return number % loop.evaluate_every == 0 or number == loop.rounds


def eto_loss(config: MethodConfig) -> LossConfig:
    """Return the loss without Eq. 9's weights: ETO's on expert pairs, plain DPO (Eq. 7) on failure pairs."""
    eto = config.eto
    return replace(config.loss, expert_dpo=eto.dpo_weight, expert_sft=eto.sft_weight, failure_dpo=1.0, failure_sft=0.0)
