"""A causal language model and encoded trajectories come in, log-probabilities of their action tokens go out; and
values, where the model has a value head.

Invariant: what comes out equals the model's own log-softmax at the action positions; this is checked on one short
sequence before anything is trained. Hidden states are computed for all tokens, the head for action tokens alone; what
lies between them in the last layer too, where the lean forward serves.
Sequences of a pass stand one after another in one row where attention can be kept within each (`packing`).
Elsewhere, and under the lean forward, they are padded on the right. Neither carries an attention mask: under causal
attention no real token sees padding, and attention kernels are fastest without a mask.

Shapes: B sequences, T tokens, N action tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from sparring.data.batches import num_action_tokens, pack_together, pad_together
from sparring.models.linear_layers import has_experts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sparring.data.chat import Encoded
    from sparring.engines.packing import Packing
    from sparring.engines.routing import Balance

CPU_PASS_TOKENS = 1024
"""Most tokens per pass, padding included, on a CPU, which gains nothing from more: what fits its caches is fastest, and
a step's passes spread over threads."""
CHECK_TOKENS = 48
"""Length of the sequence on which the fast path is compared with the model's own forward."""
CHECK_TOLERANCE = 1e-3
"""Largest difference, in nats per token, at which the fast path is trusted."""
CHECK_ROUNDINGS = 4
"""Roundings of the largest logit that it may also be in half precision, and the median one."""
LARGE_LOGIT = 256.0
"""How large logits are made for another comparison: a soft cap changes nothing while they are small."""


@dataclass(frozen=True, slots=True)
class _Own:
    """What a model's own forward says of a sequence."""

    logprobs_N: Tensor
    largest: float
    """Its largest logit."""
    eps: float
    """The relative rounding of its logits."""

    @property
    def is_half(self) -> bool:
        """Whether they are in half precision."""
        return self.eps > CHECK_TOLERANCE / 10


class Forward:
    """Log-probabilities of action tokens under one model.

    Args:
        model: a transformers model with a causal language-model head. Its parameters are read at each call.
        max_tokens: tokens per pass, padding included.
        head_chunk: action tokens whose logits exist at once.
        autocast: dtype of matrix products, or none for the weights' own.
        temperature: divides the logits; log-probabilities are those of sampling at it.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_tokens: int,
        head_chunk: int = 1024,
        autocast: torch.dtype | None = None,
        temperature: float = 1.0,
    ) -> None:
        import torch

        from sparring.engines.lean import LeanForward
        from sparring.engines.packing import Packing
        from sparring.engines.recomputation import recomputes
        from sparring.models.rope import has_static_rope
        from sparring.models.threads import SideBySide, is_small

        self.model = model
        self.head_chunk = head_chunk
        self.autocast = autocast
        self.temperature = temperature
        self.device = next(model.parameters()).device
        self.max_tokens = min(max_tokens, CPU_PASS_TOKENS) if self.device.type == "cpu" else max_tokens
        self.shares_passes = has_static_rope(model)
        """Whether sequences may share a pass; false where angles depend on its longest and weren't fixed."""
        small = is_small(model) and self.shares_passes
        self.threads = SideBySide(torch.get_num_threads()) if small else None
        """Where the passes of a small model on a CPU run, side by side; none: one after another."""
        self.lean = LeanForward.of(model) if small and autocast is None and not recomputes(model) else None
        """What computes a small model's hidden states in the model's stead; none: the model itself does."""
        self.packing = Packing.of(model) if self.lean is None else None
        """What runs a pass without padding; none: passes are padded."""
        self.balance: Balance | None = None
        """Gathers what routers say, pass after pass; none: nobody asks."""
        self._scale = 1.0
        """What the head's inputs are multiplied by, while that is compared."""
        self.is_fast = True
        """Whether the head runs at action tokens alone; false for a model that does more than a linear head."""

    def __call__(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """Compute log π of each node's action tokens, shape N each, in the order of the nodes."""
        return self.with_values(nodes)[0]

    def with_values(self, nodes: Sequence[Encoded]) -> tuple[list[Tensor], list[Tensor] | None]:
        """Compute log π of each node's action tokens, and the value head's values before them (none without a head)."""
        logprobs: dict[int, Tensor] = {}
        values: dict[int, Tensor] = {}
        cut = pad_together if self._packing() is None else pack_together
        batches = cut([len(node.ids) for node in nodes], self.max_tokens if self.shares_passes else 1)
        passes = [partial(self._pass, [nodes[index] for index in batch]) for batch in batches]
        if self.threads is None:
            found = [one() for one in passes]
        else:
            found = self.threads.passes(passes, list(self.model.parameters()))
        for batch, (logprobs_N, *values_N) in zip(batches, found, strict=True):
            counts = [num_action_tokens(nodes[index]) for index in batch]
            logprobs.update(zip(batch, logprobs_N.split(counts), strict=True))
            if values_N:
                values.update(zip(batch, values_N[0].split(counts), strict=True))
        order = range(len(nodes))
        return [logprobs[i] for i in order], [values[i] for i in order] if values else None

    def check(self, node: Encoded) -> None:
        """Compare with the model's own forward once; where it differs, give up packing, then the head at action tokens.

        A sequence follows a longer one in the pass, so that attention across the border would show, and padding too.
        """
        import torch

        ids = node.ids[:CHECK_TOKENS]
        short = replace(node, ids=ids, spans=((1, len(ids)),))
        longer = replace(node, ids=(*ids, *ids[:8]), spans=((1, len(ids)),))
        with torch.no_grad():
            own = self._own(ids)
            reason = unpacked = self._difference([longer, short], own)
            if unpacked and self._packing() is not None:
                self.packing = None
                reason = self._difference([longer, short], own)
            if not reason and 0 < own.largest < LARGE_LOGIT:
                with self._scaled(2.0 ** math.ceil(math.log2(LARGE_LOGIT / own.largest))):
                    reason = self._difference([longer, short], self._own(ids))
        name = type(self.model).__name__
        if reason:
            self.is_fast = False
            warnings.warn(
                f"{name} is more than a decoder and a linear head ({reason}): training on full logits, which is slower "
                "and takes more memory.",
                stacklevel=2,
            )
        elif unpacked:
            warnings.warn(
                f"{name} does not keep sequences of one row apart ({unpacked}): training on padded passes, which are "
                "slower.",
                stacklevel=2,
            )

    def _own(self, ids: Sequence[int]) -> _Own:
        """Ask the model's own forward for the log-probabilities of all tokens but one."""
        import torch

        ids_BT = torch.tensor([ids], device=self.device)
        logits_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0]
        eps = torch.finfo(logits_TV.dtype).eps
        logprobs_TV = (logits_TV[:-1].float() / self.temperature).log_softmax(-1)
        return _Own(logprobs_TV.gather(-1, ids_BT[0, 1:, None]).squeeze(-1), float(logits_TV.abs().max()), eps)

    @contextmanager
    def _scaled(self, factor: float) -> Iterator[None]:
        """Multiply what the head gets, in the model's own forward and in the fast path alike."""
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factor, *inputs[1:]))
        self._scale = factor
        try:
            yield
        finally:
            self._scale = 1.0
            handle.remove()

    def _difference(self, nodes: Sequence[Encoded], own: _Own) -> str:
        """Say why a pass may not be trusted, whose sequences all have these log-probabilities; empty: it may.

        Rounding in half precision may choose another expert at a position, so there it is the median alone that counts.
        """
        try:
            nodes = nodes if self.shares_passes else nodes[-1:]
            gaps_BN = (self._flat(nodes)[0].view(len(nodes), -1) - own.logprobs_N).abs()
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        allowed, gap = CHECK_TOLERANCE * max(1.0, float(own.logprobs_N.abs().max()) / 10), float(gaps_BN.max())
        if own.is_half:
            rounding, middle = own.eps * own.largest / self.temperature, float(gaps_BN.median(-1).values.max())
            if middle <= rounding and (gap <= CHECK_ROUNDINGS * rounding or has_experts(self.model)):
                return ""
        return "" if gap <= allowed else f"log-probabilities differ by {gap:.2g} nats"

    def _packing(self) -> Packing | None:
        """Return what runs the passes as things are; none: they are padded."""
        is_packed = self.is_fast and self.packing is not None and self.packing.is_possible()
        return self.packing if is_packed else None

    def _pass(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """Run one pass; return the action tokens' log-probabilities and, with a value head, their values."""
        import torch

        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return [tensor for tensor in self._flat(nodes) if tensor is not None]

    def _flat(self, nodes: Sequence[Encoded]) -> tuple[Tensor, Tensor | None]:
        """Run one pass; return the action tokens' log-probabilities and values, node after node."""
        import torch

        from sparring.engines.head import token_logprobs

        lengths = [len(node.ids) for node in nodes]
        width, packing = max(lengths), self._packing()
        if packing is None:
            rows = [[*node.ids, *[0] * (width - len(node.ids))] for node in nodes]
            firsts = range(0, width * len(nodes), width)
        else:
            rows = [[token for node in nodes for token in node.ids]]
            firsts = accumulate(lengths[:-1], initial=0)
        ids_BT = torch.tensor(rows, device=self.device)
        positions = [
            first + position
            for first, node in zip(firsts, nodes, strict=True)
            for start, end in node.spans
            for position in range(start, end)
        ]
        positions_N = torch.tensor(positions, dtype=torch.long, device=self.device)
        assert all(node.spans[0][0] > 0 for node in nodes if node.spans), "nothing predicts the first token"
        targets_N = ids_BT.view(-1)[positions_N]
        if self.balance is not None:
            self.balance.begin_pass(None if packing is not None and self.is_fast else _real(lengths, self.device))
        if not self.is_fast:
            return self._full(nodes, ids_BT, positions_N, targets_N)
        if packing is None:
            hidden_ND = self._hidden(ids_BT, positions_N - 1)
        else:
            hidden_ND = packing(ids_BT[0], lengths).index_select(0, positions_N - 1)
        values_N = self._values(hidden_ND)
        if self._scale != 1:
            hidden_ND = hidden_ND * self._scale
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        if self.temperature != 1:  # a linear head's logits are divided by dividing what goes in
            hidden_ND, bias = hidden_ND / self.temperature, None if bias is None else bias / self.temperature
        return token_logprobs(hidden_ND, head.weight, targets_N, chunk=self.head_chunk, bias=bias), values_N

    def _hidden(self, ids_BT: Tensor, positions_N: Tensor) -> Tensor:
        """Compute the last hidden states at positions of the flattened tokens."""
        if self.lean is not None and not self.model.training:
            return self.lean(ids_BT, positions_N)
        hidden_BTD = self.model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return hidden_BTD.flatten(0, 1).index_select(0, positions_N)

    def _values(self, hidden_ND: Tensor) -> Tensor | None:
        head = getattr(self.model, "value_head", None)
        return None if head is None else head(hidden_ND)

    def _full(
        self, nodes: Sequence[Encoded], ids_BT: Tensor, positions_N: Tensor, targets_N: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        mask_BT = ids_BT.new_zeros(ids_BT.shape)
        for row, node in enumerate(nodes):
            mask_BT[row, : len(node.ids)] = 1
        with _inputs_of(self.model.get_output_embeddings() if hasattr(self.model, "value_head") else None) as hidden:
            out = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
        logits_NV = out.logits.flatten(0, 1).index_select(0, positions_N - 1).float()
        if self.temperature != 1:
            logits_NV = logits_NV / self.temperature
        logprobs_N = logits_NV.log_softmax(-1).gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
        if not hidden:
            return logprobs_N, None
        return logprobs_N, self._values(hidden[0].flatten(0, 1).index_select(0, positions_N - 1))


def _real(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Say which of the flattened tokens of a padded pass are no padding."""
    import torch

    columns_1T = torch.arange(max(lengths), device=device)[None]
    return (columns_1T < torch.tensor(lengths, device=device)[:, None]).view(-1)


@contextmanager
def _inputs_of(module: torch.nn.Module | None) -> Iterator[list[Tensor]]:
    """Gather what a module is called with; nothing where there is no module."""
    gathered: list[Tensor] = []
    if module is None:
        yield gathered
        return
    handle = module.register_forward_pre_hook(lambda _, inputs: gathered.append(inputs[0]))
    try:
        yield gathered
    finally:
        handle.remove()


def autocast_dtype(device: torch.device, mode: Literal["auto", "off"]) -> torch.dtype | None:
    """Choose bfloat16 on a GPU that multiplies it natively, nothing elsewhere; `is_bfloat16` says why not on a CPU."""
    import torch

    if mode == "off" or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
