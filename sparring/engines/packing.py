"""Sequences come in, hidden states of the model's last layer go out: all in one row, without padding.

The sequences stand one after another, positions begin at 0 in each, and attention, the one place where tokens meet, is
causal within a sequence and never crosses into the next. It is the model's own forward with another attention function,
which is put in for the length of a pass and taken out again. What attends in other ways (windows, caps, position
biases, recurrent layers) isn't packed; `Forward.check` compares the rest with the model's own forward.

Shapes: T tokens of the row, H query heads, K key-value heads, E head width, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from sparring.models.rope import has_static_rope

NAME = "sparring_packed"
"""The attention function's name at transformers. It has no mask function of that name, so that no mask is built."""
NOT_PACKED = ("cache", "position_bias", "s_aux", "sliding_window", "softcap")
"""What a model may ask of its attention, and packed attention does not do."""
TRIAL_LENGTHS = (3, 70, 1, 20)
TRIAL_TOLERANCE = 0.05
"""Largest difference, relative to the largest value, at which torch's kernel is trusted in half precision."""


class Packing:
    """The packed forward of one model, whose parameters are read at each call."""

    def __init__(self, model: Any) -> None:
        AttentionInterface.register(NAME, _attend)
        self._model, self._config = model, model.config
        self._lock = Lock()
        self._num_inside = 0
        self._own: str | None = None

    @staticmethod
    def of(model: Any) -> Packing | None:
        """Return the packed forward of a model, or none where its configuration says that it attends otherwise."""
        return Packing(model) if isinstance(model, PreTrainedModel) and _attends_plainly(model) else None

    def is_possible(self) -> bool:
        """Say whether what the backward pass recomputes, if anything, would find packed attention again."""
        if not self._model.training:
            return True
        checkpoints = [
            getattr(part, "_gradient_checkpointing_func", None)
            for part in self._model.modules()
            if getattr(part, "gradient_checkpointing", False)
        ]
        return all(getattr(function, "keywords", {}).get("context_fn") is recomputed for function in checkpoints)

    def __call__(self, ids_T: Tensor, lengths: Sequence[int]) -> Tensor:
        """Compute the last hidden states, hidden_TD, of sequences that stand one after another.

        Raises:
            RuntimeError: not all layers attend by the function that was put in.
        """
        row = _Row(self, tuple(lengths), self._at_once(ids_T.device, lengths))
        positions_T = torch.cat([torch.arange(length) for length in lengths]).to(ids_T.device)
        with row:
            out = self._model.base_model(input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False)
        if row.num_calls != self._config.num_hidden_layers:
            raise RuntimeError(f"{row.num_calls} of {self._config.num_hidden_layers} layers take packed attention")
        return out.last_hidden_state[0]

    def _at_once(self, device: torch.device, lengths: Sequence[int]) -> Callable[..., Tensor] | None:
        """Return what attends within all sequences at once, where torch has it: a function like its kernel's."""
        dtype = _attention_dtype(next(self._model.parameters()))
        if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
            return None
        num_heads = self._config.num_attention_heads
        num_key_heads = getattr(self._config, "num_key_value_heads", None) or num_heads
        width = getattr(self._config, "head_dim", None) or self._config.hidden_size // num_heads
        kernel = trusted_kernel(device, dtype, num_heads, num_key_heads, width)
        return None if kernel is None else partial(kernel, bounds=_bounds(lengths, device), longest=max(lengths))

    def enter(self) -> None:
        """Put packed attention in. Passes may run side by side: the first puts it in, the last takes it out."""
        with self._lock:
            if not self._num_inside:
                self._own, self._config._attn_implementation = self._config._attn_implementation, NAME
            self._num_inside += 1

    def leave(self) -> None:
        """Take packed attention out again."""
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                self._config._attn_implementation = self._own


@dataclass(slots=True, eq=False)
class _Row:
    """What the layers' attention must know of the row; and the context in which they attend by it."""

    packing: Packing
    lengths: tuple[int, ...]
    at_once: Callable[..., Tensor] | None
    """Attends within all sequences at once; none: one after another."""
    num_calls: int = 0
    """How many layers attended."""
    outer: Token[_Row | None] | None = None

    def __enter__(self) -> None:
        self.packing.enter()
        self.outer = _ROW.set(self)

    def __exit__(self, *_: object) -> None:
        assert self.outer is not None
        _ROW.reset(self.outer)
        self.packing.leave()


_ROW: ContextVar[_Row | None] = ContextVar("row", default=None)
"""The row that the calling thread has on its way through a model."""


def recomputed() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return contexts for a checkpoint's forward and for its recomputation, in which attention must be what it was.

    To be given as `context_fn` to torch's checkpoint.
    """
    return nullcontext(), _ROW.get() or nullcontext()


def _attends_plainly(model: Any) -> bool:
    """Say whether a configuration speaks of nothing but causal attention over whole sequences."""
    config = model.config
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and config.get_text_config() is config
        and getattr(config, "is_causal", True)
        and has_static_rope(model)
        and getattr(config, "sliding_window", None) is None
        and not any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    )


def _attend(
    module: Any,
    query_1HTE: Tensor,
    key_1KTE: Tensor,
    value_1KTE: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of the row, in the manner of transformers' attention functions; return out_1THE."""
    row = _ROW.get()
    if row is None:
        raise RuntimeError("packed attention is asked for outside a packed pass")
    wants = [name for name in NOT_PACKED if more.get(name) is not None]
    is_causal = getattr(module, "is_causal", True) if more.get("is_causal") is None else more["is_causal"]
    if wants or attention_mask is not None or not is_causal:
        raise NotImplementedError(f"attention with {', '.join(wants) or 'a mask of its own'} isn't packed")
    row.num_calls += 1
    dtype = _attention_dtype(query_1HTE)  # under autocast, norms and rotations leave queries in float32
    parts = [part.to(dtype) for part in (query_1HTE, key_1KTE, value_1KTE)]
    if row.at_once is not None and not dropout:
        return row.at_once(*(part[0].transpose(0, 1).contiguous() for part in parts), scale=scaling)[None], None
    return _one_by_one(parts, row.lengths, scaling, dropout), None


def _one_by_one(parts: Sequence[Tensor], lengths: Sequence[int], scaling: float | None, dropout: float = 0.0) -> Tensor:
    """Attend within one sequence after another; parts are query_1HTE, key_1KTE and value_1KTE. Return out_1THE."""
    is_grouped = parts[0].shape[1] != parts[1].shape[1]
    pieces = zip(*(part.split(list(lengths), dim=2) for part in parts), strict=True)
    outs = [
        functional.scaled_dot_product_attention(
            *piece, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=is_grouped
        ).transpose(1, 2)
        for piece in pieces
    ]
    return torch.cat(outs, dim=1)


def _attention_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which attention is computed: autocast's, or the tensor's own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@cache
def trusted_kernel(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_key_heads: int, width: int
) -> Callable[..., Tensor] | None:
    """Return torch's attention over sequences of varying length, if torch has it and it computes the same here.

    Output and gradients are compared once with those of attention sequence after sequence.
    """
    attend = _variable_length_attention()
    if attend is None:
        return None
    shapes = [(sum(TRIAL_LENGTHS), heads, width) for heads in (num_heads, num_key_heads, num_key_heads)]
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        waves = [torch.arange(a * b * c).mul(7 + i).sin().mul(2).view(a, b, c) for i, (a, b, c) in enumerate(shapes)]
        theirs = [wave.to(device, dtype).requires_grad_() for wave in waves]
        ours = [wave.to(device, dtype).float().requires_grad_() for wave in waves]
        try:
            out_THE = attend(*theirs, bounds=_bounds(TRIAL_LENGTHS, device), longest=max(TRIAL_LENGTHS), scale=None)
            found = [out_THE, *torch.autograd.grad(out_THE.square().sum(), theirs)]
        except (RuntimeError, TypeError, ValueError):  # no such kernel for this device, dtype or width
            return None
        out_THE = _one_by_one([part.transpose(0, 1)[None] for part in ours], TRIAL_LENGTHS, None)[0]
        expected = [out_THE, *torch.autograd.grad(out_THE.square().sum(), ours)]
    gaps = [(a.float() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)]
    return attend if all(bool(gap <= TRIAL_TOLERANCE) for gap in gaps) else None


def _variable_length_attention() -> Callable[..., Tensor] | None:
    """Return torch's kernel as a function of query_THE, key_TKE and value_TKE, bounds, longest length and scale."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if not {"enable_gqa", "scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys():
        return None  # its first releases lack some of them

    def attend(
        query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, *, bounds: Tensor, longest: int, scale: float | None
    ) -> Tensor:
        out_THE = varlen_attn(
            query_THE,
            key_TKE,
            value_TKE,
            bounds,
            bounds,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),  # causal
            enable_gqa=query_THE.shape[1] != key_TKE.shape[1],
        )
        assert isinstance(out_THE, Tensor), "a pair comes only where more is asked for"
        return out_THE

    return attend
