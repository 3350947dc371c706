"""A lean forward for training small models of the Llama and Qwen3 families: token ids and positions come in, the last
hidden states at those positions go out.

Three savings over transformers' modules, all exact to rounding: the last layer asks its queries, and computes
everything behind them, at the wanted positions alone (the action tokens, a sixth of all); norms, rotations and gates
are single nodes of autograd with backward passes written by hand; and products add to the residual stream as they go.
It is trusted only after its hidden states on a short sequence equal the model's own.

Shapes: B rows, T tokens, N wanted positions, S most of them in a row, R = B·T rows of products (B·S in the last layer),
D width, F width of the gate, H query heads, K key-value heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sparring.models.lora import has_adapters
from sparring.models.plain_layers import has_plain_layers

CHECK_TOKENS = 24
CHECK_TOLERANCE = 1e-4
"""Largest difference of two hidden states, relative to the largest, at which the lean forward is trusted."""


@dataclass(frozen=True, slots=True)
class _Reads:
    """The wanted positions as a rectangle, so that each row asks equally many queries; what is too much is left out."""

    index_R: Tensor
    """Which tokens the last layer goes on with, B·S of them."""
    kept_N: Tensor
    """Which of these are wanted."""
    mask_B1ST: Tensor
    """Added to attention scores: nothing for tokens up to the query's, -inf for later ones."""

    @staticmethod
    def at(positions_N: Tensor, num_rows: int, width: int, dtype: torch.dtype) -> _Reads:
        """Arrange positions of the flattened tokens, which come row after row."""
        row_N = positions_N // width
        count_B = row_N.bincount(minlength=num_rows)
        most = int(count_B.max())
        first_B = torch.arange(num_rows) * width
        slot_N = torch.arange(len(positions_N)) - (count_B.cumsum(0) - count_B)[row_N]
        index_BS = first_B[:, None].repeat(1, most)
        index_BS[row_N, slot_N] = positions_N
        later_BST = (index_BS - first_B[:, None])[..., None] < torch.arange(width)
        mask_BST = torch.zeros(later_BST.shape, dtype=dtype).masked_fill_(later_BST, float("-inf"))
        return _Reads(index_BS.view(-1), row_N * most + slot_N, mask_BST[:, None])


class LeanForward:
    """The training forward of a supported model, whose parameters are read at each call."""

    def __init__(self, model: Any) -> None:
        self._base = model.base_model
        self._eps: float = model.config.rms_norm_eps
        self._head_dim: int = self._base.layers[0].self_attn.head_dim

    @staticmethod
    def of(model: Any) -> LeanForward | None:
        """Return the lean forward of a model, or none if it can't be had or differs from the model's own."""
        is_known = isinstance(model, PreTrainedModel) and has_plain_layers(model) and _is_bare(model)
        if not is_known:
            return None
        try:
            lean = LeanForward(model)
            return lean if lean._agrees() else None
        except (AttributeError, RuntimeError, TypeError):  # layers that only their code tells from the family's
            return None

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Compare the hidden states of a short sequence, read in part, with those of the model's own forward."""
        num_tokens = self._base.embed_tokens.weight.shape[0]
        ids_1T = (torch.arange(CHECK_TOKENS) * 7919 % num_tokens)[None]
        own_TD = self._base(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
        positions_N = torch.arange(1, CHECK_TOKENS, 2)
        gap = (self(ids_1T, positions_N) - own_TD[positions_N]).abs().max() / own_TD.abs().max()
        return bool(gap <= CHECK_TOLERANCE)

    def __call__(self, ids_BT: Tensor, positions_N: Tensor) -> Tensor:
        """Compute the last hidden states, hidden_ND, at positions of the flattened tokens, which come row after row."""
        num_rows, width = ids_BT.shape
        x_RD = self._base.embed_tokens(ids_BT.view(-1))
        if not len(positions_N):
            return x_RD[:0]
        with torch.no_grad():
            cos_1TE, sin_1TE = self._base.rotary_emb(x_RD, torch.arange(width)[None])
        cos_R1E, sin_R1E = (angle.repeat(num_rows, 1, 1).flatten(0, 1)[:, None] for angle in (cos_1TE, sin_1TE))
        reads = _Reads.at(positions_N, num_rows, width, x_RD.dtype)
        *layers, last = self._base.layers
        for layer in layers:
            x_RD = self._layer(layer, x_RD, (cos_R1E, sin_R1E), num_rows)
        x_RD = self._layer(last, x_RD, (cos_R1E, sin_R1E), num_rows, reads)
        return _RMSNorm.apply(x_RD.index_select(0, reads.kept_N), self._base.norm.weight, self._eps)

    def _layer(
        self, layer: Any, x_RD: Tensor, turn: tuple[Tensor, Tensor], num_rows: int, reads: _Reads | None = None
    ) -> Tensor:
        attention, mlp = layer.self_attn, layer.mlp
        h_RD = _RMSNorm.apply(x_RD, layer.input_layernorm.weight, self._eps)
        k_RKE = self._heads(h_RD, attention.k_proj, getattr(attention, "k_norm", None), turn)
        v_RKE = functional.linear(h_RD, attention.v_proj.weight).view(k_RKE.shape)
        if reads is not None:
            x_RD, h_RD = x_RD.index_select(0, reads.index_R), h_RD.index_select(0, reads.index_R)
            turn = (turn[0][reads.index_R], turn[1][reads.index_R])
        q_RHE = self._heads(h_RD, attention.q_proj, getattr(attention, "q_norm", None), turn)
        o_BHTE = functional.scaled_dot_product_attention(
            *(part.unflatten(0, (num_rows, -1)).transpose(1, 2) for part in (q_RHE, k_RKE, v_RKE)),
            attn_mask=None if reads is None else reads.mask_B1ST,
            is_causal=reads is None,
            scale=attention.scaling,
            enable_gqa=True,
        )
        o_RP = o_BHTE.transpose(1, 2).reshape(len(x_RD), -1)
        x_RD = torch.addmm(x_RD, o_RP, attention.o_proj.weight.T)
        h_RD = _RMSNorm.apply(x_RD, layer.post_attention_layernorm.weight, self._eps)
        gate_RF, up_RF = functional.linear(h_RD, mlp.gate_proj.weight), functional.linear(h_RD, mlp.up_proj.weight)
        return torch.addmm(x_RD, _Gate.apply(gate_RF, up_RF), mlp.down_proj.weight.T)

    def _heads(self, h_RD: Tensor, projection: Any, norm: Any, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Project to queries or keys, normalise them where the family does, and turn them by their position."""
        heads_RHE = functional.linear(h_RD, projection.weight).unflatten(-1, (-1, self._head_dim))
        if norm is not None:
            heads_RHE = _RMSNorm.apply(heads_RHE, norm.weight, self._eps)
        return _Turn.apply(heads_RHE, *turn)


def _is_bare(model: PreTrainedModel) -> bool:
    """Say whether the weights are float32, and in plain modules: an adapter's do nothing yet when they are compared."""
    if has_adapters(model):
        return False
    matrices = [part for part in model.modules() if any(p.dim() > 1 for p in part.parameters(recurse=False))]
    return all(type(part) in (torch.nn.Linear, torch.nn.Embedding) for part in matrices) and all(
        parameter.dtype == torch.float32 for parameter in model.parameters()
    )


class _RMSNorm(torch.autograd.Function):
    """x / √(mean x² + ε), scaled by a weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = (norm * norm / x.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(x, weight_E, scale)
        return (x * scale).mul_(weight_E)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Let layer normalisation's kernel do it, told that the mean is zero; it also subtracts the gradient's mean."""
        grad, (x, weight_E, scale) = grads[0].contiguous(), ctx.saved_tensors
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, weight_E.shape, torch.zeros_like(scale), scale, weight_E, None, [True, True, False]
        )
        mean = (grad @ weight_E).div_(x.shape[-1]).unsqueeze_(-1)
        return grad_x.add_(mean.mul_(scale)), grad_weight, None


class _Turn(torch.autograd.Function):
    """Rotate pairs of a head's halves; the gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_R1E: Tensor, sin_R1E: Tensor) -> Tensor:
        ctx.save_for_backward(cos_R1E, sin_R1E)
        return _turned(x, cos_R1E, sin_R1E, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos_R1E, sin_R1E = ctx.saved_tensors
        return _turned(grads[0], cos_R1E, sin_R1E, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sense: int) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-sense)
    turned[..., half:].addcmul_(x[..., :half], sin[..., :half], value=sense)
    return turned


class _Gate(torch.autograd.Function):
    """silu(gate) · up; silu(gate) is made again for backward."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (gate, up) = grads, ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, functional.silu(gate).mul_(grad)
