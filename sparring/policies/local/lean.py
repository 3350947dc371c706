"""A lean forward for small models of the Llama and Qwen3 families: the same mathematics in a third of the operations.

At a few million parameters a decoding step is not arithmetic but calls: transformers needs some fifty operations and a
dozen Python frames a layer. Here projections that share an input are one product, queries and keys are normalised and
turned together, and grouped queries are folded into the attention's rows. It is trusted only after its logits on a
short sequence equal the model's own.

Shapes: B rows, T new tokens, N = B·T, W positions seen, D width, H query heads, K key-value heads, E head width,
R rows and L positions of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sparring.models.lora import has_adapters, weight_of
from sparring.models.plain_layers import has_plain_layers
from sparring.policies.local.cache import Block, SlotCache

CHECK_TOKENS = 24
CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 0.25}
"""Largest difference of two logits at which the lean forward is trusted."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A decoder layer's weights, joined where they share an input."""

    attention_norm_D: Tensor
    qkv_PD: Tensor
    qk_norm_HE: Tensor | None
    """Norm weights per query head, then per key head; none where the family has none."""
    out_DP: Tensor
    mlp_norm_D: Tensor
    gate_up_FD: Tensor
    down_DF: Tensor


class LeanModel:
    """The forward of a supported model over a `SlotCache`."""

    def __init__(self, model: PreTrainedModel, max_positions: int) -> None:
        """Join the weights (a copy) and tabulate the rotary angles of `max_positions` positions."""
        config: Any = model.config
        base: Any = model.base_model
        self.embedding_VD: Tensor = base.embed_tokens.weight
        self.norm_D = _norm_weight(base.norm)
        self.head_VD: Tensor = model.get_output_embeddings().weight  # pyright: ignore
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim: int = base.layers[0].self_attn.head_dim
        weight_V = self.embedding_VD[:, 0].detach()
        self.floor = weight_V.new_tensor((config.rms_norm_eps * config.hidden_size) ** 0.5)
        self.head_floor = weight_V.new_tensor((config.rms_norm_eps * self.head_dim) ** 0.5)
        self.layers = [_join(layer, self.num_heads, self.num_kv_heads) for layer in base.layers]
        positions_1T = torch.arange(max_positions, device=model.device)[None]
        cos_1TE, sin_1TE = base.rotary_emb(self.embedding_VD[:1], positions_1T)
        half = self.head_dim // 2
        self.cos_T1E = cos_1TE[0, :, None].contiguous()
        # Rotating by half a head is rolling it, with the first half's sign turned.
        self.sin_T1E = torch.cat([-sin_1TE[0, :, :half], sin_1TE[0, :, half:]], -1)[:, None].contiguous()

    @staticmethod
    def of(model: PreTrainedModel, max_positions: int) -> LeanModel | None:
        """Return the lean forward of a model, or none if it can't be had or differs from the model's own.

        An adapter is merged into the copies of the weights, which in half precision would round away what it learnt.
        """
        if not has_plain_layers(model) or (has_adapters(model) and model.dtype != torch.float32):
            return None
        try:
            lean = LeanModel(model, max_positions)
            return lean if lean.agrees_with(model) else None
        except (
            AttributeError,
            RuntimeError,
            TypeError,
        ) as error:  # layers that only their code tells from the family's
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return None

    def agrees_with(self, model: PreTrainedModel) -> bool:
        """Compare the logits of a short sequence, fed in two pieces, with those of the model's own forward."""
        num = min(CHECK_TOKENS, len(self.cos_T1E))
        ids_1T = (torch.arange(num, device=model.device) * 7919 % len(self.embedding_VD))[None]
        positions_1T = torch.arange(num, device=model.device)[None]
        cache = SlotCache()
        cache.reserve(1, num)
        logits = []
        with torch.inference_mode():
            own_V = model(input_ids=ids_1T, use_cache=False).logits[0, -1].float()
            for start, end in ((0, num // 2), (num // 2, num)):
                cache.aim(positions_1T[:, start:end], [0], [end])
                seen_TW = positions_1T[0, start:end, None] >= torch.arange(cache.window, device=model.device)
                mask_TW = torch.zeros(seen_TW.shape, dtype=model.dtype, device=model.device)
                mask_TW.masked_fill_(~seen_TW, torch.finfo(model.dtype).min)
                logits.append(self(ids_1T[:, start:end], positions_1T[:, start:end], mask_TW[None, None], cache))
        gap = float((logits[-1][0].float() - own_V).abs().max())
        return gap <= CHECK_TOLERANCE.get(model.dtype, 0.0)

    def __call__(self, ids_BT: Tensor, position_BT: Tensor, mask_B1TW: Tensor, cache: SlotCache) -> Tensor:
        """Feed new tokens and return the logits after each row's last one, logits_BV; the cache is aimed beforehand."""
        num_rows, num_new = ids_BT.shape
        num_tokens, groups = num_rows * num_new, self.num_heads // self.num_kv_heads
        heads, kv_heads, width = self.num_heads, self.num_kv_heads, self.head_dim
        position_N = position_BT.reshape(-1)
        cos_N1E, sin_N1E = self.cos_T1E[position_N], self.sin_T1E[position_N]
        mask_B1SW = mask_B1TW.repeat(1, 1, groups, 1) if groups > 1 else mask_B1TW
        x_ND = functional.embedding(ids_BT.reshape(-1), self.embedding_VD)
        for number, layer in enumerate(self.layers):
            h_ND = _rms_norm(x_ND, layer.attention_norm_D, self.floor)
            qkv_NPE = functional.linear(h_ND, layer.qkv_PD).view(num_tokens, -1, width)
            qk_NPE, v_NKE = qkv_NPE[:, : heads + kv_heads], qkv_NPE[:, heads + kv_heads :]
            if layer.qk_norm_HE is not None:
                qk_NPE = _rms_norm(qk_NPE, layer.qk_norm_HE, self.head_floor)
            qk_NPE = torch.addcmul(qk_NPE * cos_N1E, qk_NPE.roll(width // 2, -1), sin_N1E)
            k_RKLE, v_RKLE = cache.write(number, qk_NPE[:, heads:], v_NKE)
            # Query heads of one group become further rows of one head: S = groups · T.
            q_BKSE = qk_NPE[:, :heads].view(num_rows, num_new, kv_heads, groups, width)
            q_BKSE = q_BKSE.permute(0, 2, 3, 1, 4).reshape(num_rows, kv_heads, groups * num_new, width)
            o_BKSE = _attend(q_BKSE, k_RKLE, v_RKLE, mask_B1SW, cache.blocks)
            o_BTHE = o_BKSE.view(num_rows, kv_heads, groups, num_new, width).permute(0, 3, 1, 2, 4)
            x_ND = torch.addmm(x_ND, o_BTHE.reshape(num_tokens, -1), layer.out_DP.T)
            h_ND = _rms_norm(x_ND, layer.mlp_norm_D, self.floor)
            gate_NF, up_NF = functional.linear(h_ND, layer.gate_up_FD).chunk(2, -1)
            x_ND = torch.addmm(x_ND, functional.silu(gate_NF) * up_NF, layer.down_DF.T)
        last_BD = x_ND.view(num_rows, num_new, -1)[:, -1]
        return functional.linear(_rms_norm(last_BD, self.norm_D, self.floor), self.head_VD)


def _attend(q_BKSE: Tensor, k_RKLE: Tensor, v_RKLE: Tensor, mask_B1SW: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Let each block of rows attend to what its own longest row holds."""
    return torch.cat(
        [
            functional.scaled_dot_product_attention(
                q_BKSE[block.batch],
                k_RKLE[block.rows, :, : block.window],
                v_RKLE[block.rows, :, : block.window],
                attn_mask=mask_B1SW[block.batch, :, :, : block.window],
            )
            for block in blocks
        ]
    )


def _rms_norm(x: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    """Divide by the root mean square of the last dimension, and scale: half the calls of torch's own on a CPU.

    √(mean x² + ε) is hypot(‖x‖, √(ε·width)) / √width; `floor` is √(ε·width), and `weight` has √width in it.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.hypot(norm, floor) * weight


def _norm_weight(norm: Any) -> Tensor:
    return norm.weight.detach() * norm.weight.shape[-1] ** 0.5


def _join(layer: Any, num_heads: int, num_kv_heads: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qk_norm_HE = None
    if hasattr(attention, "q_norm"):
        norms = [_norm_weight(attention.q_norm)] * num_heads + [_norm_weight(attention.k_norm)] * num_kv_heads
        qk_norm_HE = torch.stack(norms)
    return _Layer(
        attention_norm_D=_norm_weight(layer.input_layernorm),
        qkv_PD=torch.cat([weight_of(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]),
        qk_norm_HE=qk_norm_HE,
        out_DP=weight_of(attention.o_proj),
        mlp_norm_D=_norm_weight(layer.post_attention_layernorm),
        gate_up_FD=torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)]),
        down_DF=weight_of(mlp.down_proj),
    )
