"""What a trainer asks of whoever holds live weights, and what an objective is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sparring.data.batches import Group

if TYPE_CHECKING:
    from torch import Tensor

Metrics = dict[str, tuple[float, float]]
"""Per name, a sum and the count to divide it by; so metrics of parts add up. A name that ends in `_max` has a maximum
and 1."""


def add_metrics(total: Metrics, part: Metrics) -> None:
    """Add the metrics of a part to those of the whole."""
    for name, (value, count) in part.items():
        if name.endswith("_max"):
            total[name] = (max(value, total.get(name, (value, 1))[0]), 1)
        else:
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + value, before[1] + count)


class Objective(Protocol):
    """What a trainer minimises: per step, the sum of its groups' losses over the sum of their weights."""

    @property
    def needs_reference(self) -> bool:
        """Whether the log-probabilities of the policy as training begins are used."""
        ...

    @property
    def temperature(self) -> float:
        """The temperature at which log-probabilities are taken."""
        ...

    def size(self, group: Group) -> int:
        """Count what `TrainConfig.batch_size` counts."""
        ...

    def weight(self, group: Group) -> float:
        """Return the group's part of the loss's denominator."""
        ...

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum the loss over groups.

        Args:
            groups: their nodes, one after the other, are what the next two run over.
            logprobs: per node, log π of its action tokens, shape N.
            reference: likewise of the reference, without gradient.
            values: per node, the value head's value before each action token; none for a model without one.
        """
        ...
