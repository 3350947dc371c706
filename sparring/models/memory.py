"""What a run takes of a device's memory, estimated from a model's config and weight headers before anything is loaded.

Weights, gradients and moments are arithmetic. Activations are counted: the decoder runs on the meta device, where
tensors have a shape and no content, and what its backward pass would need is summed; so they are those of any
architecture, with its adapters. Playing and training take turns, so the larger of the two counts.

Shapes: T tokens, N action tokens, D width, V vocabulary, F width of the gate, H query heads, K key-value heads, E head
width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.models.folders import check_folder, empty_model
from sparring.models.linear_layers import linear_layers
from sparring.models.lora import LoraConfig, attach, has_adapters, parameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GB = 10**9
TRIAL_TOKENS = 64
"""Tokens whose activations are counted; they are scaled, since each takes as much."""
CPU_PASS_TOKENS = 1024
"""Tokens of a forward pass on a CPU, as in `engines.scoring`; on a GPU a pass has all that are kept."""
HEAD_CHUNK = 1024
"""Action tokens whose logits exist at once, as in `engines.scoring`."""
ACTION_SHARE = 1 / 4
"""Share of a pass's tokens that are taken for action tokens."""
SIDE_BY_SIDE = 3
"""Gradients at once of a small model on a CPU, whose passes have some of their own (`models.threads`)."""
NF4_BYTES = 0.5 + 4 / 64
"""Of a weight in 4 bits, with a float32 scale for each 64 of them."""
LORA_RANK = 16
"""The rank that is proposed where full weights don't fit."""
LEAST_TOKENS = 512
"""The smallest `max_tokens_per_batch` that is proposed."""
ADVICE = (
    "Set recompute to true or lower max_tokens_per_batch; train adapters alone (lora.rank) and, on a GPU, over a 4-bit "
    "base (lora.quantize); or play with fewer envs (env.num_envs) or a smaller chat.max_context."
)
_ATTENTION = "sparring_counted"
"""The attention function's name at transformers while activations are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a run asks of one device."""

    folder: Path
    """The base model's."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters, or none: full weights, in float32."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    dtype: str = "float32"
    """The base's in memory under adapters: `float32` or `bfloat16`."""
    is_autocast: bool = False
    """Products are computed in bfloat16."""
    max_tokens_per_batch: int = 8192
    """Tokens whose activations are kept at once."""
    recompute: bool = False
    """Layers keep their inputs alone."""
    num_envs: int = 16
    """Episodes open at once."""
    max_context: int = 4096
    """Tokens of an episode at most."""
    num_agents: int = 2
    """Agents in memory at once: models of their own, or adapters on one base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a demand takes, in bytes."""

    demand: Demand
    weights: int
    adapters: int
    gradients: int
    """Of one agent: they train in turns."""
    moments: int
    """AdamW's, of one agent."""
    activations: int
    logits: int
    """The language-model head's, and what its gradient takes."""
    cache: int
    """Keys and values of all episodes at their full length."""

    @property
    def total(self) -> int:
        """What is taken at once at most."""
        training = self.gradients + self.moments + self.activations + self.logits
        return self.weights + self.adapters + max(training, self.cache)

    def describe(self, available: int | None = None) -> str:
        """Return it as one line.

        Args:
            available: bytes that the device has, to stand beside it.
        """
        demand, has_rank = self.demand, self.demand.lora.rank is not None
        kind = "4-bit" if demand.lora.quantize == "4bit" else demand.dtype if has_rank else "float32"
        parts = [f"weights {_gb(self.weights)} {kind}"]
        learnt = self.adapters + self.gradients + self.moments
        parts.append(f"{'adapters, gradients' if has_rank else 'gradients'} and moments {_gb(learnt)}")
        again = ", recomputed" if demand.recompute else ""
        tokens = f"{demand.max_tokens_per_batch:,} tokens{again}"
        parts.append(f"activations about {_gb(self.activations + self.logits)} at {tokens}")
        parts.append(f"or, while playing, {_gb(self.cache)} for {demand.num_envs} episodes")
        end = "" if available is None else f"; the device has {available / GB:.0f}"
        return f"{', '.join(parts)}: {_gb(self.total)} in all{end}"


def estimate(demand: Demand) -> Estimate:
    """Estimate what a run takes.

    Raises:
        ModelError: the model's folder is refused, or its config describes no model.
        ConfigError: `lora.targets` names what it lacks.
    """
    counts = _counts(demand.folder, demand.lora, demand.dtype, demand.is_autocast)
    num_agents, is_full = demand.num_agents, demand.lora.rank is None
    trained = counts.num_trained
    tokens = demand.max_tokens_per_batch
    num_in_pass = min(tokens, CPU_PASS_TOKENS) if demand.device == "cpu" else tokens
    kept = counts.lean_token if demand.device == "cpu" and not demand.recompute else 0
    kept = kept or counts.token
    activations = tokens * kept
    if demand.recompute:
        activations = tokens * counts.layer_input + num_in_pass * counts.layer
    num_actions = min(HEAD_CHUNK, int(num_in_pass * ACTION_SHARE))
    logits = num_actions * counts.vocabulary * (10 if counts.is_half else 8) + (counts.head_gradient if is_full else 0)
    if demand.is_autocast and is_full:
        activations += 2 * trained  # the weights as bfloat16, for as long as a pass lasts
    return Estimate(
        demand=demand,
        weights=num_agents * 4 * counts.num_base if is_full else counts.base_bytes,
        adapters=0 if is_full else num_agents * 4 * trained,
        gradients=(SIDE_BY_SIDE if counts.is_small and demand.device == "cpu" else 1) * 4 * trained,
        moments=8 * trained,
        activations=int(activations),
        logits=logits,
        cache=demand.num_envs * demand.max_context * counts.cached_token,
    )


def check_fits(found: Estimate, device: torch.device) -> None:
    """Refuse what can't fit on a device, and name what would.

    Raises:
        ConfigError: it can't.
    """
    available = memory_of(device)
    if available is None or found.total <= available:
        return
    fitting = []
    for what, changed in _alternatives(found.demand):
        other = estimate(changed)
        if other.total <= available:
            fitting.append(f"{what} ({_gb(other.total)})")
    remedy = f"It would fit with {'; or with '.join(fitting)}." if fitting else f"{ADVICE} Or take a smaller model."
    raise ConfigError(f"memory: {found.describe(available)}. {remedy}")


def memory_of(device: torch.device) -> int | None:
    """Return how many bytes a device has left, none where that can't be told."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        left = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), left)
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.is_file() and (most := limit.read_text(encoding="ascii").strip()).isdecimal():
            left = min(left, int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
    return left


def out_of_memory(error: BaseException | None) -> str | None:
    """Say what to do about an error if memory ran out; none: it is something else."""
    import torch

    while error is not None:
        said = str(error)
        is_allocator = isinstance(error, RuntimeError) and (
            "DefaultCPUAllocator" in said or "not enough memory" in said or "CUDA out of memory" in said
        )
        if is_allocator or isinstance(error, MemoryError | torch.OutOfMemoryError):
            return f"memory ran out. Nothing that was saved is lost: the same command goes on. {ADVICE}"
        error = error.__cause__ or error.__context__
    return None


# ── Counting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
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
    cached_token: int
    """What a token's keys and values take."""
    is_half: bool
    """Whether logits come in bfloat16."""
    is_small: bool
    """Whether the passes of a step run side by side on a CPU."""


@lru_cache(maxsize=32)
def _counts(folder: Path, lora: LoraConfig, dtype: str, is_autocast: bool) -> _Counts:
    import torch

    from sparring.models.threads import SMALL_MODEL

    empty = empty_model(folder, check_folder(folder, trusts_code=False), trusts_code=False)
    model = deepcopy(empty).to(getattr(torch, dtype if lora.rank is not None else "float32")).eval()
    num_base = sum(parameter.numel() for parameter in model.parameters())
    num_packed = 0
    if lora.quantize == "4bit":
        num_packed = sum(layer.weight.numel() for _, layer in linear_layers(model))
    base_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    base_bytes -= num_packed * (model.dtype.itemsize - NF4_BYTES)
    cached_token = _cached(model)
    num_trained = num_base
    if lora.rank is not None:
        attach(model, "counted", lora, 0)
        num_trained = sum(parameter.numel() for parameter in parameters(model, "counted").values())
    if is_autocast:
        model.to(torch.bfloat16)
    head: Any = model.get_output_embeddings()
    num_layers = max((len(part) for part in model.modules() if isinstance(part, torch.nn.ModuleList)), default=1)
    saved = _saved(model) / TRIAL_TOKENS
    width, size = head.weight.shape[1], 4 if is_autocast else model.dtype.itemsize
    is_tied = head.weight is getattr(model.get_input_embeddings(), "weight", None)
    return _Counts(
        num_base=num_base,
        base_bytes=int(base_bytes),
        num_trained=num_trained,
        token=saved,
        lean_token=_lean(model) if not is_autocast else 0,
        layer=saved / num_layers,
        layer_input=(num_layers + 3) * width * size,  # and the last norm's
        vocabulary=head.weight.shape[0],
        head_gradient=(2 if is_tied else 1) * 4 * head.weight.numel(),
        cached_token=cached_token,
        is_half=model.dtype != torch.float32,
        is_small=num_base <= SMALL_MODEL,
    )


def _saved(model: Any) -> int:
    """Sum the bytes of the tensors that the decoder's backward pass would need for the trial's tokens."""
    import torch
    from transformers import AttentionInterface

    model = deepcopy(model)
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


def _alternatives(demand: Demand) -> Iterator[tuple[str, Demand]]:
    """Yield what could be changed, the smallest change first, by its keys."""
    changes: list[tuple[str, dict[str, Any]]] = []
    if not demand.recompute:
        changes.append(("recompute = true", {"recompute": True}))
    tokens = demand.max_tokens_per_batch
    while tokens // 2 >= LEAST_TOKENS:
        tokens //= 2
        changes.append((f"max_tokens_per_batch = {tokens}", {"max_tokens_per_batch": tokens}))
    if demand.lora.rank is None:
        changes.append((f"lora.rank = {LORA_RANK}", {"lora": LoraConfig(rank=LORA_RANK)}))
        both = {"lora": LoraConfig(rank=LORA_RANK), "recompute": True}
        changes.append((f"lora.rank = {LORA_RANK} and recompute = true", both))
    if demand.device == "cuda" and demand.lora.quantize == "none":
        packed = replace(demand.lora, rank=demand.lora.rank or LORA_RANK, quantize="4bit")
        rank = "" if demand.lora.rank else f"lora.rank = {LORA_RANK} and "
        changes.append((f'{rank}lora.quantize = "4bit"', {"lora": packed}))
        changes.append((f'{rank}lora.quantize = "4bit" and recompute = true', {"lora": packed, "recompute": True}))
    yield from ((what, replace(demand, **change)) for what, change in changes)


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / GB:.3f} GB"
