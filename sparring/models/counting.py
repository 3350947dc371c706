"""What a model takes for each token and weight, counted from its config, before it is loaded.

Activations are counted on the meta device, where tensors have a shape and no content: the decoder runs there, and what
its backward pass would need is summed. So they are those of any architecture, with its adapters.

Shapes: B sequences, T tokens, H query heads, E head width.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.models.folders import check_folder, empty_model
from sparring.models.linear_layers import linear_layers
from sparring.models.lora import LoraConfig, attach, has_adapters, parameters

if TYPE_CHECKING:
    from torch import Tensor

TRIAL_TOKENS = 64
"""Tokens whose activations are counted; they are scaled, since each takes as much."""
ACTION_SHARE = 1 / 4
"""Share of a pass's tokens that are taken for action tokens."""
NF4_BYTES = 0.5 + 4 / 64
"""Of a weight in 4 bits, with a float32 scale for each 64 of them."""
_ATTENTION = "sparring_counted"
"""The attention function's name at transformers while activations are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a model and its adapter are, in numbers and bytes."""

    num_base: int
    base_bytes: int
    num_trained: int
    token: float
    """What a token's activations take, all layers together."""
    lean_token: float
    """The same under the lean training forward; 0 where that doesn't serve."""
    layer: float
    """What a token's activations take in one layer."""
    layer_input: float
    """What a token takes where layers keep their inputs alone."""
    vocabulary: int
    head_gradient: int
    num_outside: int
    """Weights of the embeddings and the head."""
    cached_token: int
    """What a token's keys and values take."""
    is_half: bool
    """Whether logits come in bfloat16."""
    is_small: bool
    """Whether the passes of a step run side by side on a CPU."""


@lru_cache(maxsize=32)
def count(folder: Path, lora: LoraConfig, dtype: str, is_autocast: bool) -> Counts:
    """Count what a model takes.

    Args:
        folder: the base model's.
        lora: its adapters, or none.
        dtype: the base's under adapters; full weights are float32.
        is_autocast: products are computed in bfloat16.

    Raises:
        ModelError: the folder is refused, or its config describes no model.
        ConfigError: `lora.targets` names what it lacks.
    """
    import torch

    from sparring.models.threads import SMALL_MODEL

    empty = empty_model(folder, check_folder(folder, trusts_code=False), trusts_code=False)
    model = deepcopy(empty).to(getattr(torch, dtype if lora.rank is not None else "float32")).eval()
    num_base = sum(parameter.numel() for parameter in model.parameters())
    base_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    if lora.quantize == "4bit":
        num_packed = sum(layer.weight.numel() for _, layer in linear_layers(model))
        base_bytes -= num_packed * (model.dtype.itemsize - NF4_BYTES)
    cached_token, num_trained = _cached(model), num_base
    if lora.rank is not None:
        attach(model, "counted", lora, 0)
        num_trained = sum(parameter.numel() for parameter in parameters(model, "counted").values())
    if is_autocast:
        model.to(torch.bfloat16)
    head: Any = model.get_output_embeddings()
    num_layers = max((len(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList)), default=1)
    width, size = head.weight.shape[1], 4 if is_autocast else model.dtype.itemsize
    is_tied = head.weight is getattr(model.get_input_embeddings(), "weight", None)
    lean, saved = 0 if is_autocast else _lean(model), _saved(model) / TRIAL_TOKENS
    return Counts(
        num_base=num_base,
        base_bytes=int(base_bytes),
        num_trained=num_trained,
        token=saved,
        lean_token=lean,
        layer=saved / num_layers,
        layer_input=(num_layers + 3) * width * size,  # and the last norm's
        vocabulary=head.weight.shape[0],
        head_gradient=(2 if is_tied else 1) * 4 * head.weight.numel(),
        num_outside=(1 if is_tied else 2) * head.weight.numel(),
        cached_token=cached_token,
        is_half=model.dtype != torch.float32,
        is_small=num_base <= SMALL_MODEL,
    )


def _saved(model: Any) -> int:
    """Sum the bytes of the tensors that the decoder's backward pass would need for the trial's tokens.

    The model is of no use afterwards: attention computes nothing.
    """
    import torch
    from transformers import AttentionInterface

    if getattr(model, "_supports_attention_backend", False):
        AttentionInterface.register(_ATTENTION, _attend)
        model.config._attn_implementation = _ATTENTION
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            seen[key] = tensor  # held, so that no other storage gets its number
        return tensor

    ids_1T = torch.zeros(1, TRIAL_TOKENS, dtype=torch.long, device="meta")
    # Some models look into the tokens for what the mask has to be, which meta tensors don't have; so it is given then.
    masks = ({}, {"attention_mask": torch.zeros(1, 1, TRIAL_TOKENS, TRIAL_TOKENS, dtype=model.dtype, device="meta")})
    for mask in masks:
        seen.clear()
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                out = model.base_model(input_ids=ids_1T, use_cache=False, **mask)
        except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError):
            continue
        del out
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    return _roughly_saved(model)


def _attend(
    module: Any, query_BHTE: Tensor, key: Tensor, value: Tensor, mask: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """Keep what torch's fused attention keeps, in the manner of transformers' attention functions."""
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            num, heads, length, _ = query.shape
            out_BTHE = query.new_empty(num, length, heads, value.shape[-1])
            ctx.save_for_backward(query, key, value, out_BTHE, query.new_empty(num, heads, length).float())
            return torch.empty_like(out_BTHE)  # sequences' parts are put together in another tensor

    return Attention.apply(query_BHTE, key, value), None  # pyright: ignore[reportReturnType]


def _roughly_saved(model: Any) -> int:
    """Estimate the same for a model that the meta device can't run: a mixture of experts, by what a token uses."""
    config = model.config.get_text_config()
    width, num_layers = config.hidden_size, config.num_hidden_layers
    gates = getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None) or 4 * width
    num_used = getattr(config, "num_experts_per_tok", None) or 1
    numbers = num_layers * (16 * width + num_used * (5 * gates + 2 * width))
    return TRIAL_TOKENS * numbers * model.dtype.itemsize


def _lean(model: Any) -> int:
    """Return what a token takes under the lean training forward of small models (`engines.lean`), 0 if it can't serve.

    Its nodes keep, a layer: the stream twice, both norms' output, queries and keys before and after they are turned
    (before: where they have norms), values, attention's output, and three of the gate's width.
    """
    from sparring.models.plain_layers import has_plain_layers
    from sparring.models.threads import SMALL_MODEL

    num = sum(parameter.numel() for parameter in model.parameters())
    if num > SMALL_MODEL or has_adapters(model) or not has_plain_layers(model):
        return 0
    config = model.config
    attention = model.base_model.layers[0].self_attn
    head_width = attention.head_dim
    queries, keys = config.num_attention_heads * head_width, config.num_key_value_heads * head_width
    has_norms = hasattr(attention, "q_norm")
    asked = 2 * config.hidden_size + 3 * config.intermediate_size + 2 * queries + config.num_attention_heads
    seen = 2 * config.hidden_size + 2 * keys
    asked, seen = asked + (queries if has_norms else 0), seen + (keys if has_norms else 0)
    # The last layer asks at action tokens alone.
    return int(4 * (config.num_hidden_layers * (asked + seen) - (1 - ACTION_SHARE) * asked))


def _cached(model: Any) -> int:
    """Return what a token's keys and values take in all layers; of recurrent layers, whose state is small, nothing."""
    import torch

    ids_1T = torch.zeros(1, 2, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            cache = model.base_model(input_ids=ids_1T, use_cache=True).past_key_values
        stores = [(layer.keys, layer.values) for layer in cache.layers if getattr(layer, "keys", None) is not None]
        return sum(t.shape[1] * t.shape[3] * t.element_size() for store in stores for t in store)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
