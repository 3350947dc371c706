"""The forward passes of a sharded model, of which every rank runs as many, beside those of `engines.scoring`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparring.data.batches import num_action_tokens, pack_together, pad_together
from sparring.data.chat import Encoded
from sparring.engines.packing import Packing
from sparring.engines.scoring import Forward

NOTHING = Encoded(ids=(0, 0), spans=((1, 2),))
"""What a rank runs in a pass in which it has nothing to do."""
WITHIN = "run_within"
"""The method of a sharded model that calls a function while the root's own weights are gathered."""


class ShardedForward(Forward):
    """Runs a given number of passes, one after another, within the forward of the sharded model.

    Values and log-probabilities of a pass without nodes count nothing, but they take part in the backward pass.
    """

    def __init__(self, model: Any, **keywords: Any) -> None:
        """See `Forward`."""
        super().__init__(model, **keywords)
        self.tick: Callable[[], None] = lambda: None
        """Called as this rank comes to a pass: who hangs before it is behind the others."""
        self.threads = self.lean = None
        self.packing = Packing.of(model)

    def agree(self) -> None:
        """Take the slow ways on all ranks that were found necessary on one."""
        flags = torch.tensor([self.is_fast, self._packing() is not None], dtype=torch.float32, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MIN)
        self.is_fast = bool(flags[0])
        self.packing = self.packing if flags[1] else None

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Cut sequences into passes."""
        cut = pad_together if self._packing() is None else pack_together
        return cut(lengths, self.max_tokens if self.shares_passes else 1)

    def run(self, nodes: Sequence[Encoded], num_passes: int) -> tuple[list[Tensor], list[Tensor] | None, Tensor | None]:
        """Return log π of each node's action tokens, values where there is a value head, and a zero.

        Args:
            nodes: this rank's.
            num_passes: how many passes every rank runs.

        Returns:
            The zero depends on the passes that count nothing; none: there were none.
        """
        logprobs: list[Tensor] = [torch.empty(0)] * len(nodes)
        values: list[Tensor] = [torch.empty(0)] * len(nodes)
        has_values, zero = hasattr(self.model, "value_head"), None
        batches = self.cut([len(node.ids) for node in nodes]) if nodes else []
        for batch in [*batches, *[[]] * (num_passes - len(batches))]:
            found = self._pass([nodes[index] for index in batch] or [NOTHING])
            if not batch:
                nothing = 0.0 * torch.stack([one.float().sum() for one in found]).sum()
                zero = nothing if zero is None else zero + nothing
                continue
            counts = [num_action_tokens(nodes[index]) for index in batch]
            for place, column in zip((logprobs, values), found, strict=False):
                for index, part in zip(batch, column.split(counts), strict=True):
                    place[index] = part
        return logprobs, values if has_values else None, zero

    def _flat(self, nodes: Sequence[Encoded]) -> tuple[Tensor, Tensor | None]:
        self.tick()
        inner: Callable[..., Any] = partial(super()._flat, nodes)
        return getattr(self.model, WITHIN)(inner) if self.is_fast else inner()
