"""Log-probabilities of sampled trajectories come in, the policy-gradient loss and its metrics go out: GRPO's and PPO's.

Advantages, sampled log-probabilities and the critic's expectations lie beside the nodes, in `Group.samples`; the
arithmetic is in `losses`. Shapes: N action tokens.

Paper: arXiv 2402.03300 (GRPO), 2503.14476 (DAPO), 1707.06347 (PPO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sparring.data.batches import Group, num_action_tokens
from sparring.engines.base import Metrics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchBounds:
    """How far training may be from what sampled, as long as the weights are the same, before it is worth a warning.

    The mean ratio is no measure: under samples of the old policy its expectation is 1, whatever the new one is.
    """

    mean: float
    """Of |Δ log π| over action tokens, in nats."""
    largest: float
    """|Δ log π| of one token."""
    clipped: float
    """Share of tokens that are clipped."""


EXACT = MismatchBounds(mean=1e-3, largest=0.05, clipped=1e-3)
"""Both in float32: several hundred times the rounding of a small model (3·10⁻⁶ and 3·10⁻⁵ nats)."""
ROUNDED = MismatchBounds(mean=0.05, largest=1.5, clipped=0.02)
"""One of them in bfloat16, whose rounding is 0.02 nats on average, 0.45 at most and clips 0.5 % for a small model."""


def mismatch(record: Mapping[str, Any], bounds: MismatchBounds) -> str:
    """Say how a round's first step differs from what sampled; empty where it is within bounds.

    Args:
        record: the step's line of the log.
        bounds: those of the precision.
    """
    mean, largest = record.get("pg/log_ratio", 0.0), record.get("pg/log_ratio_max", 0.0)
    clipped = record.get("pg/clipped", 0.0)
    if mean <= bounds.mean and largest <= bounds.largest and clipped <= bounds.clipped:
        return ""
    return (
        f"in the first step the sampled tokens' log-probabilities differ from those they were sampled at by {mean:.2g} "
        f"nats on average and {largest:.2g} at most, and {clipped:.1%} of the tokens are clipped, though the weights "
        "are the same: the model gives tokens another probability in training than when it played "
        "(docs/methods/grpo.md, the importance ratio)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradientObjective:
    """Raise the probability of what turned out better than expected, and stop where the policy has moved far enough.

    Per action token the clipped surrogate, plus `kl_weight` times the KL to the reference. The ratio compares the
    policy with what the tokens were sampled from, both at the sampling temperature: the rewards belong to samples of
    that distribution.

    Source: arXiv 2402.03300, Eq. 3 (GRPO); 2503.14476, Eq. 8 and 12 (two bounds, a mean over tokens).
    """

    clip_low: float = 0.2
    """How far below 1 the ratio still counts."""
    clip_high: float = 0.28
    """How far above 1."""
    kl_weight: float = 0.0
    """Weight of the KL to the reference, whose log-probabilities the samples then have."""
    average: Literal["token", "sequence"] = "token"
    """`token`: over all action tokens of a step (DAPO). `sequence`: over each trajectory's first (GRPO's first form),
    so that a token of a long trajectory weighs less."""
    temperature: float = 1.0
    """At which the tokens were sampled."""
    max_server_ratio: float | None = None
    """Where the samples have log-probabilities of a server besides the learner's own: largest weight that corrects for
    the difference. The importance ratio then compares with the learner's own."""
    needs_reference: bool = field(default=False, init=False)
    """The samples bring their own, which is not the policy as training begins."""

    def size(self, group: Group) -> int:
        """Count trajectories."""
        return len(group.nodes)

    def weight(self, group: Group) -> float:
        """Count action tokens, or trajectories."""
        return sum(map(num_action_tokens, group.nodes)) if self.average == "token" else len(group.nodes)

    def teaches(self, group: Group) -> bool:
        """Say whether an advantage is not 0, or the KL holds the group to the reference.

        Where all rewards of a task are alike, as they are for most tasks of a round, all its advantages are 0.
        """
        return bool(self.kl_weight) or any(any(sample.advantages) for sample in group.samples)

    def token_weights(self, groups: Sequence[Group], like: Tensor) -> Tensor:
        """Return how much each action token counts, shape N: 1, or 1 over the length of its trajectory."""
        import torch

        if self.average == "token":
            return torch.ones_like(like)
        lengths = [num_action_tokens(node) for group in groups for node in group.nodes]
        return like.new_tensor([1 / length for length in lengths for _ in range(length)])

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None = None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum the loss over action tokens, weighted."""
        import torch

        from sparring.learning import losses

        logprobs_N = torch.cat(list(logprobs))
        old_N = _joined(groups, "logprobs", logprobs_N)
        advantages_N = _joined(groups, "advantages", logprobs_N)
        weights_N, gaps = self.token_weights(groups, logprobs_N), Metrics()
        if self.max_server_ratio is not None:
            sampled_N = _joined(groups, "sampled", logprobs_N)
            weights_N = weights_N * losses.truncated_weights(old_N, sampled_N, largest=self.max_server_ratio)
            gaps = _gaps(old_N - sampled_N, self.max_server_ratio)
        surrogate_N = losses.clipped_surrogate(
            logprobs_N, old_N, advantages_N, clip_low=self.clip_low, clip_high=self.clip_high
        )
        loss_N, kl_N = surrogate_N, None
        if self.kl_weight:
            kl_N = losses.kl_penalty(logprobs_N, _joined(groups, "reference", logprobs_N))
            loss_N = surrogate_N + self.kl_weight * kl_N
        with torch.no_grad():
            log_ratio_N = logprobs_N - old_N
            ratio_N, distance_N = log_ratio_N.exp(), log_ratio_N.abs()
            is_clipped_N = torch.where(
                advantages_N > 0, ratio_N > 1 + self.clip_high, (ratio_N < 1 - self.clip_low) & (advantages_N < 0)
            )
            num = len(logprobs_N)
            metrics: Metrics = {
                **gaps,
                "pg/surrogate": ((surrogate_N * weights_N).sum().item(), weights_N.sum().item()),
                "pg/ratio": (ratio_N.sum().item(), num),
                "pg/ratio_max": (ratio_N.max().item(), 1),
                "pg/log_ratio": (distance_N.sum().item(), num),
                "pg/log_ratio_max": (distance_N.max().item(), 1),
                "pg/clipped": (is_clipped_N.sum().item(), num),
                "pg/entropy": (-logprobs_N.sum().item(), num),
            }
            if kl_N is not None:
                metrics["pg/kl"] = (kl_N.sum().item(), num)
        return (loss_N * weights_N).sum(), metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCriticObjective:
    """Policy gradient whose advantages come from a value head, which learns beside it.

    Source: arXiv 1707.06347, Eq. 9, without the entropy bonus.
    """

    policy: PolicyGradientObjective
    """The actor's part."""
    value_weight: float = 0.1
    """Weight of the value loss."""
    value_clip: float = 0.2
    """How far a value may move from the old one before its loss goes flat."""
    needs_reference: bool = field(default=False, init=False)
    """As the actor's."""

    @property
    def temperature(self) -> float:
        """At which the tokens were sampled."""
        return self.policy.temperature

    def size(self, group: Group) -> int:
        """Count trajectories."""
        return self.policy.size(group)

    def weight(self, group: Group) -> float:
        """Count action tokens, or trajectories."""
        return self.policy.weight(group)

    def teaches(self, group: Group) -> bool:
        """Say yes: the value head learns from all that happened."""
        return True

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None = None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum both losses over action tokens, weighted."""
        import torch

        from sparring.learning import losses

        assert values is not None, "a critic needs a value head"
        loss, metrics = self.policy(groups, logprobs)
        values_N = torch.cat(list(values))
        old_N, returns_N = _joined(groups, "values", values_N), _joined(groups, "returns", values_N)
        weights_N = self.policy.token_weights(groups, values_N)
        value_loss_N = losses.clipped_value_loss(values_N, old_N, returns_N, clip=self.value_clip)
        with torch.no_grad():
            num = len(values_N)
            metrics["value/mean"] = (values_N.sum().item(), num)
            metrics["value/error"] = (((values_N - returns_N) ** 2).sum().item(), num)
        return loss + self.value_weight * (value_loss_N * weights_N).sum(), metrics


def _gaps(gap_N: Tensor, largest: float) -> Metrics:
    """Return how far the learner's log-probabilities are from the server's, and how many weights were truncated."""
    num, distance_N = len(gap_N), gap_N.abs()
    return {
        "pg/server_gap": (distance_N.sum().item(), num),
        "pg/server_gap_max": (distance_N.max().item(), 1),
        "pg/truncated": ((gap_N.exp() > largest).sum().item(), num),
    }


def _joined(
    groups: Sequence[Group],
    name: Literal["advantages", "logprobs", "sampled", "reference", "values", "returns"],
    like: Tensor,
) -> Tensor:
    """Join one of the samples' columns, shape N."""
    column = [value for group in groups for sample in group.samples for value in getattr(sample, name)]
    assert len(column) == len(like), f"every action token has one of {name}"
    return like.new_tensor(column)
