"""The small configs of the methods: what their outer loops do, and which methods there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.convert import check_values
from sparring.ranges import Count, CountOrZero, LearningRate, Range, Repeats, Share, Weight

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
class PartnerConfig:
    """The target agent's partner in Co-Evolving Agents."""

    kind: Literal["failure", "frozen", "positive"] = "failure"
    """`failure`: learns to fail ever closer to success (the paper). Ablations: `frozen` stays at its SFT weights;
    `positive` learns to succeed, as a second target agent."""
    start: Literal["independent", "shared"] = "independent"
    """`independent`: an SFT of its own, with another seed (paper). `shared`: the target's SFT weights, cheaper."""
    lr: LearningRate | None = None
    """The partner's learning rate in preference learning; none: the target's, `dpo.lr`."""
    evaluate: bool = False
    """Play the held-out tasks with the partner too, each round: for the analysis alone."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailConfig:
    """The failure agent's own training set, D_fail."""

    pair_scope: Literal["cross", "all"] = "cross"
    """`cross`: pairs of a target's and a partner's failure (Eq. 6 to the letter). `all`: also of one agent's own."""
    min_pairs: Count = 8
    """With fewer pairs than this in a round the failure agent is not updated, and a warning says so."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RftConfig:
    """Rejection-sampling fine-tuning."""

    num_samples: Repeats = 4
    """Rollouts per training task, of which the distinct successes are kept."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation; how it is optimised is `[rl]`, how it is sampled `rollout.temperature`."""

    rounds: Repeats = 120
    """Rounds of rollout and update (CoEvolve: 120)."""
    num_tasks: Count = 32
    """Training tasks played in a round, drawn anew each time (CoEvolve: 32)."""
    num_per_task: Annotated[int, Range(at_least=2, at_most=10_000)] = 8
    """Episodes per task: the group whose rewards are compared (CoEvolve: 8)."""
    start: Literal["imitation", "base"] = "imitation"
    """`imitation`: from the SFT agent, as the other methods. `base`: from the base model (CoEvolve)."""
    scale: Literal["deviation", "none"] = "deviation"
    """`deviation`: advantages are divided by the group's standard deviation (GRPO). `none`: they are not (Dr. GRPO)."""
    clip_low: Share = 0.2
    """How far below 1 the importance ratio still counts."""
    clip_high: Annotated[float, Range(at_least=0, at_most=100)] = 0.28
    """How far above 1; more than below lets rare tokens grow (DAPO)."""
    kl_weight: Weight = 1e-3
    """Weight of the KL to the agent as it started (CoEvolve: 1e-3); 0: the start is not asked."""
    average: Literal["token", "sequence"] = "token"
    """The loss's mean: over all action tokens of a step (DAPO), or over each trajectory's tokens first (GRPO)."""
    evaluate_every: Repeats = 10
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """Proximal policy optimisation with a value head; how it is optimised is `[rl]`."""

    kind: Literal["online", "offline"] = "online"
    """`online`: each round plays anew. `offline`: round 1's trajectories serve all rounds, and the ratio compares with
    the agent at the round's start (ETO's baseline)."""
    rounds: Repeats = 3
    """Rounds; offline: passes over the trajectories."""
    num_tasks: Count | None = None
    """Training tasks played in a round; none: all."""
    num_per_task: Repeats = 1
    """Episodes per task."""
    clip: Share = 0.2
    """How far from 1 the importance ratio still counts."""
    value_clip: Weight = 0.2
    """How far a value may move in a round before its loss goes flat."""
    value_weight: Weight = 0.1
    """Weight of the value loss, whose gradient reaches the agent too."""
    value_lr: Annotated[float, Range(at_least=0, at_most=10)] = 0.01
    """Learning rate of the value head alone: about how far a value moves in an optimizer step."""
    kl_weight: Weight = 0.1
    """What a nat of log π / π_start costs, taken off the reward token by token; 0: the start is not asked."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """GAE's λ, per token."""
    evaluate_every: Repeats = 1
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        check_values(self)


def is_evaluation_due(loop: LoopConfig | GrpoConfig | PpoConfig, number: int) -> bool:
    """Say whether round `number` ends with an evaluation on held-out tasks; the last round always does."""
    return number % loop.evaluate_every == 0 or number == loop.rounds
