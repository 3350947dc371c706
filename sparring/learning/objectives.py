"""Log-probabilities of a few task groups come in, their summed loss and its metrics go out: what a trainer minimises.

An objective knows weights per pair kind and reductions; the arithmetic is in `losses`. Shapes: N action tokens of a
node, P preference pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.ranges import Range, Weight
from sparring.core.references import Reference, resolve_function
from sparring.core.types import PairKind
from sparring.data.batches import Edge, Group, num_action_tokens, turn_offsets
from sparring.engines.base import Metrics

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The target agent's loss (Eq. 9) and its documented variants."""

    variant: Literal["dpo", "ipo", "dpop"] | Reference = "dpo"
    """Preference term: Eq. 7 of the paper, or IPO or DPOP, which resist likelihood displacement; or one of yours,
    `package.module:function` (docs/extending.md)."""
    beta: Annotated[float, Range(above=0, at_most=1000)] = 0.1
    """Strength of the pull towards the reference; IPO's τ."""
    length_normalise: bool = False
    """Divide each side's log-ratio by its action tokens (IPO's authors do, the paper does not); wants beta 2-10."""
    dpop_lambda: Weight = 50.0
    """DPOP's penalty on a chosen side that grows less likely."""
    expert_dpo: Weight = 0.5
    """λ_DPO of pairs with an expert side."""
    expert_sft: Weight = 0.5
    """λ_SFT of pairs with an expert side."""
    failure_dpo: Weight = 1.0
    """λ_DPO of failure–failure pairs."""
    failure_sft: Weight = 0.0
    """λ_SFT of failure–failure pairs."""
    pivot_dpo: Weight = 0.5
    """λ_DPO of pivot pairs, whose sides begin alike."""
    pivot_sft: Weight = 0.5
    """λ_SFT of pivot pairs."""
    given_dpo: Weight = 1.0
    """λ_DPO of preferences out of a file (`prefer`)."""
    given_sft: Weight = 0.0
    """λ_SFT of preferences out of a file."""
    sft_reduction: Literal["mean", "sum"] = "sum"
    """The NLL term's reduction over a side's action tokens; `sum` is the letter of Eq. 9."""
    from_first_difference: bool = False
    """Leave out the leading turns that both sides share token for token. They cancel in DPO's difference of sums, so
    this changes only what is not one: the NLL term, DPOP's penalty and length normalisation."""

    def __post_init__(self) -> None:
        check_values(self)

    def weights(self, kind: PairKind) -> tuple[float, float]:
        """Return (λ_DPO, λ_SFT) of a pair kind."""
        if kind is PairKind.FAILURE_FAILURE:
            return self.failure_dpo, self.failure_sft
        if kind is PairKind.PIVOT:
            return self.pivot_dpo, self.pivot_sft
        if kind is PairKind.GIVEN:
            return self.given_dpo, self.given_sft
        return self.expert_dpo, self.expert_sft


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTObjective:
    """Clone every node: −log π of its action tokens.

    Source: arXiv 2511.22254, Eq. 5.
    """

    reduction: Literal["mean", "sum"] = "mean"
    """Divide a step's loss by its action tokens, or by its sequences (Eq. 5 to the letter)."""
    needs_reference: bool = field(default=False, init=False)
    """Cloning compares with nothing."""
    temperature: float = field(default=1.0, init=False, repr=False)
    """The experts' actions were sampled at none."""

    def size(self, group: Group) -> int:
        """Count sequences."""
        return len(group.nodes)

    def weight(self, group: Group) -> float:
        """Count action tokens, or sequences."""
        return sum(map(num_action_tokens, group.nodes)) if self.reduction == "mean" else len(group.nodes)

    def teaches(self, group: Group) -> bool:
        """Say yes: there is always more to learn of an expert."""
        return True

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None = None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum −log π over all action tokens."""
        import torch

        loss = -torch.cat(list(logprobs)).sum()
        num_tokens = sum(num_action_tokens(node) for group in groups for node in group.nodes)
        return loss, {"sft/nll": (loss.item(), num_tokens)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceObjective:
    """Eq. 9 over all edges of the groups, averaged over pairs; with failure pairs alone and weights (1, 0), Eq. 7."""

    config: LossConfig = field(default_factory=LossConfig)
    """Variant and weights."""
    needs_reference: bool = field(default=True, init=False)
    """Every variant compares with the reference."""
    temperature: float = field(default=1.0, init=False, repr=False)
    """Preferences compare whole trajectories, not samples."""

    def size(self, group: Group) -> int:
        """Count pairs."""
        return len(group.edges)

    def weight(self, group: Group) -> float:
        """Count pairs."""
        return len(group.edges)

    def teaches(self, group: Group) -> bool:
        """Say yes: a preference is never quite certain."""
        return True

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum the loss over pairs, with metrics per pair kind."""
        import torch

        from sparring.learning import losses

        assert reference is not None, "a preference needs a reference"
        sides = _Sides.of(groups, logprobs, reference, self.config.from_first_difference)
        weights = sides.chosen_P.new_tensor([self.config.weights(edge.kind) for edge in sides.edges])
        preference_P = self._preference(sides)
        nll_P = losses.nll(sides.chosen_P, sides.chosen_tokens_P, reduction=self.config.sft_reduction)
        loss_P = losses.mix(preference_P, nll_P, weights[:, 0], weights[:, 1])
        loss_P = loss_P * loss_P.new_tensor([edge.weight for edge in sides.edges])
        with torch.no_grad():
            metrics = _metrics(sides, loss_P, nll_P)
        return loss_P.sum(), metrics

    def _preference(self, sides: _Sides) -> Tensor:
        from sparring.learning import losses

        values = (sides.chosen_P, sides.rejected_P, sides.ref_chosen_P, sides.ref_rejected_P)
        if self.config.length_normalise:
            lengths = (sides.chosen_tokens_P, sides.rejected_tokens_P) * 2
            values = tuple(value / length for value, length in zip(values, lengths, strict=True))
        chosen_P, rejected_P, ref_chosen_P, ref_rejected_P = values
        arguments = (chosen_P, rejected_P, ref_chosen_P, ref_rejected_P, self.config.beta)
        if self.config.variant == "ipo":
            return losses.ipo_loss(*arguments)
        if self.config.variant == "dpop":
            return losses.dpop_loss(*arguments, self.config.dpop_lambda)
        if self.config.variant == "dpo":
            return losses.dpo_loss(*arguments)
        return _own_loss(self.config.variant, arguments)


def _own_loss(reference: str, arguments: tuple[Any, ...]) -> Tensor:
    """Compute a user's preference term.

    Raises:
        ConfigError: it can't be imported, or gives anything but one number a pair.
    """
    import torch

    loss_P = resolve_function(reference, key="loss.variant")(*arguments)
    chosen_P = arguments[0]
    if not isinstance(loss_P, torch.Tensor) or loss_P.shape != chosen_P.shape:
        found = f"a tensor of shape {list(loss_P.shape)}" if isinstance(loss_P, torch.Tensor) else type(loss_P).__name__
        raise ConfigError(f"loss.variant: {reference} gives {found}, not one loss for each of {len(chosen_P)} pairs.")
    return loss_P


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """The two sides of every pair, as sums over the turns that count."""

    edges: list[Edge]
    chosen_P: Tensor
    rejected_P: Tensor
    ref_chosen_P: Tensor
    ref_rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor
    kl_P: Tensor
    """Estimated KL per action token on the sides that an agent played."""

    @staticmethod
    def of(
        groups: Sequence[Group], logprobs: Sequence[Tensor], reference: Sequence[Tensor], skip_shared: bool
    ) -> _Sides:
        import torch

        from sparring.learning import losses

        offsets = [turn_offsets(node) for group in groups for node in group.nodes]
        edges: list[Edge] = []
        slices: list[tuple[int, slice]] = []
        first_node = 0
        for group in groups:
            for edge in group.edges:
                edges.append(edge)
                for node, turns in ((edge.chosen, edge.chosen_turns), (edge.rejected, edge.rejected_turns)):
                    start = min(edge.shared_turns, turns) if skip_shared else 0
                    turn_ends = offsets[first_node + node]
                    slices.append((first_node + node, slice(turn_ends[start], turn_ends[turns])))
            first_node += len(group.nodes)
        sums = torch.stack([logprobs[node][part].sum() for node, part in slices])
        ref_sums = torch.stack([reference[node][part].sum() for node, part in slices])
        tokens = sums.new_tensor([max(1, part.stop - part.start) for _, part in slices])
        with torch.no_grad():
            kl_sums = torch.stack(
                [losses.kl_estimate(logprobs[node][part], reference[node][part]).sum() for node, part in slices]
            )
        played = sums.new_tensor([side for edge in edges for side in _played(edge.kind)]).view(-1, 2)
        return _Sides(
            edges=edges,
            chosen_P=sums[0::2],
            rejected_P=sums[1::2],
            ref_chosen_P=ref_sums[0::2],
            ref_rejected_P=ref_sums[1::2],
            chosen_tokens_P=tokens[0::2],
            rejected_tokens_P=tokens[1::2],
            kl_P=(kl_sums.view(-1, 2) * played).sum(1) / (tokens.view(-1, 2) * played).sum(1),
        )


def _played(kind: PairKind) -> tuple[float, float]:
    """Say which sides an agent played: 1 for it, 0 for the expert."""
    if kind in (PairKind.EXPERT_TARGET, PairKind.EXPERT_PARTNER, PairKind.PIVOT):  # a pivot's rest may be an expert's
        return 0.0, 1.0
    return (1.0, 1.0) if kind in (PairKind.FAILURE_FAILURE, PairKind.GIVEN) else (1.0, 0.0)


def _metrics(sides: _Sides, loss_P: Tensor, nll_P: Tensor) -> Metrics:
    import torch

    delta_chosen_P = sides.chosen_P - sides.ref_chosen_P
    delta_rejected_P = sides.rejected_P - sides.ref_rejected_P
    margin_P = delta_chosen_P - delta_rejected_P
    columns = {
        "loss": loss_P,
        "nll": nll_P,
        "accuracy": (margin_P > 0).to(margin_P.dtype),
        "margin": margin_P,
        "delta_chosen": delta_chosen_P,
        "delta_rejected": delta_rejected_P,
        "logp_chosen": sides.chosen_P,
        "logp_rejected": sides.rejected_P,
        "kl": sides.kl_P,
    }
    table = torch.stack(list(columns.values()), dim=1).tolist()
    metrics: Metrics = {}
    for kind in PairKind:
        rows = [row for row, edge in zip(table, sides.edges, strict=True) if edge.kind is kind]
        for name, values in zip(columns, zip(*rows, strict=True), strict=False):
            metrics[f"{kind}/{name}"] = (sum(values), len(rows))
    return metrics
