"""The small configs of the methods: what their outer loops do, and which methods there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

METHODS: Mapping[str, str] = {
    "sft": "SFT",
    "rft": "RFT",
    "eto": "ETO",
    "coevolving_agents": "Co-Evolving Agents",
}
"""Known methods: id → the name that tables show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """The outer loop that ETO and Co-Evolving Agents share."""

    rounds: int = 3
    """Rounds of rollout and training (paper: 3 on WebShop and ScienceWorld, 5 on InterCodeSQL)."""
    restart: bool = False
    """Each round's training starts from the SFT weights instead of going on from the last round's."""
    refresh_failure_rollouts: bool = False
    """The failure agent rolls out again between its own update and the target's, so that round 1 already has its
    negatives; costs one more rollout a round."""
    adopt_successes: bool = False
    """A training task without an expert trajectory takes the agents' shortest success for one, for all rounds to
    come: the chosen side is then the agents' own. For few demonstrations and many tasks."""
    buffer_rounds: int = 1
    """Rounds whose rollouts make pairs; 1: this round's only."""
    later_beta: float | None = None
    """DPO's beta from round 2 on (ETO: 0.1, later 0.5); none: as in round 1."""
    later_lr: float | None = None
    """Preference learning rate from round 2 on (ETO: 1e-6, later 5e-7); none: as in round 1."""

    def __post_init__(self) -> None:
        """Refuse a loop that does nothing."""
        _at_least(1, rounds=self.rounds, buffer_rounds=self.buffer_rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartnerConfig:
    """The target agent's partner in Co-Evolving Agents."""

    kind: Literal["failure", "frozen", "positive"] = "failure"
    """`failure`: learns to fail ever closer to success (the paper). Ablations: `frozen` stays at its SFT weights;
    `positive` learns to succeed, as a second target agent."""
    start: Literal["independent", "shared"] = "independent"
    """`independent`: an SFT of its own, with another seed (paper). `shared`: the target's SFT weights, cheaper."""
    lr: float | None = None
    """The partner's learning rate in preference learning; none: the target's, `dpo.lr`."""
    evaluate: bool = False
    """Play the held-out tasks with the partner too, each round: for the analysis alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailConfig:
    """The failure agent's own training set, D_fail."""

    pair_scope: Literal["cross", "all"] = "cross"
    """`cross`: pairs of a target's and a partner's failure (Eq. 6 to the letter). `all`: also of one agent's own."""
    min_pairs: int = 8
    """With fewer pairs than this in a round the failure agent is not updated, and a warning says so."""

    def __post_init__(self) -> None:
        """Refuse an update on nothing."""
        _at_least(1, min_pairs=self.min_pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class EtoConfig:
    """ETO's loss on expert pairs, in place of Eq. 9's weights; the `positive` partner is trained by it too."""

    dpo_weight: float = 1.0
    """λ_DPO (ETO: pure DPO)."""
    sft_weight: float = 0.0
    """λ_SFT; above 0 is a variant with the NLL term that Eq. 9 has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RftConfig:
    """Rejection-sampling fine-tuning."""

    num_samples: int = 4
    """Rollouts per training task, of which the distinct successes are kept."""

    def __post_init__(self) -> None:
        """Refuse to sample nothing."""
        _at_least(1, num_samples=self.num_samples)


def _at_least(minimum: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")
