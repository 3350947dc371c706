"""A causal language model and encoded trajectories come in, log-probabilities of their action tokens go out.

Invariant: what comes out equals the model's own log-softmax at the action positions; this is checked on one short
sequence before anything is trained. Hidden states are computed for all tokens, the head for action tokens alone.
Sequences are padded on the right and carry no attention mask: under causal attention no real token sees padding, and
attention kernels are fastest without a mask.

Shapes: B sequences, T tokens, N action tokens, D width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sparring.batches import num_action_tokens, pad_together

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparring.chat import Encoded

CPU_PASS_TOKENS = 2048
"""Most padded tokens per pass on a CPU, which gains nothing from more: what fits its caches is fastest."""
CHECK_TOKENS = 48
"""Length of the sequence on which the fast path is compared with the model's own forward."""
CHECK_TOLERANCE = 1e-3
"""Largest difference, in nats per token, at which the fast path is trusted."""


class Forward:
    """Log-probabilities of action tokens under one model.

    Args:
        model: a transformers model with a causal language-model head. Its parameters are read at each call.
        max_tokens: padded tokens per pass.
        head_chunk: action tokens whose logits exist at once.
        autocast: dtype of matrix products, or none for the weights' own.
    """

    def __init__(
        self, model: Any, *, max_tokens: int, head_chunk: int = 1024, autocast: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.head_chunk = head_chunk
        self.autocast = autocast
        self.device = next(model.parameters()).device
        self.max_tokens = min(max_tokens, CPU_PASS_TOKENS) if self.device.type == "cpu" else max_tokens
        self.is_fast = True
        """Whether the head runs at action tokens alone; false for a model that does more than a linear head."""

    def __call__(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """Compute log π of each node's action tokens, shape N each, in the order of the nodes."""
        import torch

        results: list[Tensor | None] = [None] * len(nodes)
        enabled = self.autocast is not None
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled):
            for batch in pad_together([len(node.ids) for node in nodes], self.max_tokens):
                part = self._flat([nodes[index] for index in batch])
                counts = [num_action_tokens(nodes[index]) for index in batch]
                for index, logprobs_N in zip(batch, part.split(counts), strict=True):
                    results[index] = logprobs_N
        return [result for result in results if result is not None]

    def check(self, node: Encoded) -> None:
        """Compare with the model's own forward once, and give up the head at action tokens where they differ."""
        import torch

        ids = node.ids[:CHECK_TOKENS]
        short = replace(node, ids=ids, spans=((1, len(ids)),))
        longer = replace(node, ids=(*ids, *ids[:8]), spans=((1, len(ids)),))
        with torch.no_grad():
            ids_BT = torch.tensor([ids], device=self.device)
            logits_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
            own = logits_TV[:-1].log_softmax(-1).gather(-1, ids_BT[0, 1:, None]).squeeze(-1)
            try:
                ours = self._flat([longer, short])[len(ids) - 1 :]
                gap = float((ours - own).abs().max())
            except (AttributeError, TypeError, RuntimeError) as error:
                gap, reason = float("inf"), f"{type(error).__name__}: {error}"
            else:
                reason = f"log-probabilities differ by {gap:.2g} nats"
        if not gap <= CHECK_TOLERANCE:
            self.is_fast = False
            name = type(self.model).__name__
            warnings.warn(
                f"{name} is more than a decoder and a linear head ({reason}): training on full logits, which is slower "
                "and takes more memory.",
                stacklevel=2,
            )

    def _flat(self, nodes: Sequence[Encoded]) -> Tensor:
        """Run one padded pass and return the action tokens' log-probabilities, node after node."""
        import torch

        from sparring.losses import token_logprobs

        width = max(len(node.ids) for node in nodes)
        rows = [[*node.ids, *[0] * (width - len(node.ids))] for node in nodes]
        ids_BT = torch.tensor(rows, device=self.device)
        positions = [
            row * width + position
            for row, node in enumerate(nodes)
            for start, end in node.spans
            for position in range(start, end)
        ]
        positions_N = torch.tensor(positions, dtype=torch.long, device=self.device)
        assert all(node.spans[0][0] > 0 for node in nodes if node.spans), "nothing predicts the first token"
        targets_N = ids_BT.view(-1)[positions_N]
        if not self.is_fast:
            return self._full(nodes, ids_BT, positions_N, targets_N)
        hidden_BTD = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, positions_N - 1)
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return token_logprobs(hidden_ND, head.weight, targets_N, chunk=self.head_chunk, bias=bias)

    def _full(self, nodes: Sequence[Encoded], ids_BT: Tensor, positions_N: Tensor, targets_N: Tensor) -> Tensor:
        mask_BT = ids_BT.new_zeros(ids_BT.shape)
        for row, node in enumerate(nodes):
            mask_BT[row, : len(node.ids)] = 1
        logits_BTV = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        logits_NV = logits_BTV.flatten(0, 1).index_select(0, positions_N - 1).float()
        return logits_NV.log_softmax(-1).gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)


def autocast_dtype(device: torch.device, mode: Literal["auto", "off"]) -> torch.dtype | None:
    """Choose bfloat16 where the hardware multiplies it natively, nothing elsewhere."""
    import torch

    if mode == "off":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return torch.bfloat16 if any(getattr(torch.cpu, check, bool)() for check in checks) else None
    return None
