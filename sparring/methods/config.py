"""The small configs of the methods: what their outer loops do, and which methods there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

METHODS: Mapping[str, str] = {
    "zero_shot": "Zero-shot",
    "sft": "SFT",
    "rft": "RFT",
    "eto": "ETO",
    "coevolving_agents": "Co-Evolving Agents",
    "ppo": "PPO",
    "grpo": "GRPO",
    "coevolve": "CoEvolve",
    "coevolving_agents_and_tasks": "Co-Evolving Agents and Tasks",
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
    evaluate_every: int = 1
    """Rounds between two evaluations on held-out tasks; the start and the last round are always evaluated."""

    def __post_init__(self) -> None:
        """Refuse a loop that does nothing."""
        _at_least(1, rounds=self.rounds, buffer_rounds=self.buffer_rounds, evaluate_every=self.evaluate_every)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation; how it is optimised is `[rl]`, how it is sampled `rollout.temperature`."""

    rounds: int = 120
    """Rounds of rollout and update (CoEvolve: 120)."""
    num_tasks: int = 32
    """Training tasks played in a round, drawn anew each time (CoEvolve: 32)."""
    num_per_task: int = 8
    """Episodes per task: the group whose rewards are compared (CoEvolve: 8)."""
    start: Literal["imitation", "base"] = "imitation"
    """`imitation`: from the SFT agent, as the other methods. `base`: from the base model (CoEvolve)."""
    scale: Literal["deviation", "none"] = "deviation"
    """`deviation`: advantages are divided by the group's standard deviation (GRPO). `none`: they are not (Dr. GRPO)."""
    clip_low: float = 0.2
    """How far below 1 the importance ratio still counts."""
    clip_high: float = 0.28
    """How far above 1; more than below lets rare tokens grow (DAPO)."""
    kl_weight: float = 1e-3
    """Weight of the KL to the agent as it started (CoEvolve: 1e-3); 0: the start is not asked."""
    average: Literal["token", "sequence"] = "token"
    """The loss's mean: over all action tokens of a step (DAPO), or over each trajectory's tokens first (GRPO)."""
    evaluate_every: int = 10
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        """Refuse groups of one, which have nothing to be compared with."""
        _at_least(1, rounds=self.rounds, num_tasks=self.num_tasks, evaluate_every=self.evaluate_every)
        _at_least(2, num_per_task=self.num_per_task)
        _not_negative(clip_low=self.clip_low, clip_high=self.clip_high, kl_weight=self.kl_weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """Proximal policy optimisation with a value head; how it is optimised is `[rl]`."""

    kind: Literal["online", "offline"] = "online"
    """`online`: each round plays anew. `offline`: round 1's trajectories serve all rounds, and the ratio compares with
    the agent at the round's start (ETO's baseline)."""
    rounds: int = 3
    """Rounds; offline: passes over the trajectories."""
    num_tasks: int | None = None
    """Training tasks played in a round; none: all."""
    num_per_task: int = 1
    """Episodes per task."""
    clip: float = 0.2
    """How far from 1 the importance ratio still counts."""
    value_clip: float = 0.2
    """How far a value may move in a round before its loss goes flat."""
    value_weight: float = 0.1
    """Weight of the value loss, whose gradient reaches the agent too."""
    value_lr: float = 0.01
    """Learning rate of the value head alone: about how far a value moves in an optimizer step."""
    kl_weight: float = 0.1
    """What a nat of log π / π_start costs, taken off the reward token by token; 0: the start is not asked."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's λ, per token."""
    evaluate_every: int = 1
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        """Refuse a loop that does nothing."""
        _at_least(1, rounds=self.rounds, num_per_task=self.num_per_task, evaluate_every=self.evaluate_every)
        _at_least(1, num_tasks=self.num_tasks)
        _not_negative(clip=self.clip, value_clip=self.value_clip, value_weight=self.value_weight)
        _not_negative(value_lr=self.value_lr, kl_weight=self.kl_weight, gamma=self.gamma, lam=self.lam)


def is_evaluation_due(loop: LoopConfig | GrpoConfig | PpoConfig, number: int) -> bool:
    """Say whether round `number` ends with an evaluation on held-out tasks; the last round always does."""
    return number % loop.evaluate_every == 0 or number == loop.rounds


def _at_least(minimum: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, but is {value}")
