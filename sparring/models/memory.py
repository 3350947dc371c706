"""What a run takes of a device's memory, estimated from a model's config and weight headers before anything is loaded.

Weights, gradients and moments are arithmetic; what a token takes is counted (`counting.py`). Playing and training take
turns, so the larger of the two counts. On a CPU the C library keeps gaps between what was freed, which come on top.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.models.counting import ACTION_SHARE, Counts, count
from sparring.models.lora import LoraConfig

if TYPE_CHECKING:
    import torch

GB = 10**9
CPU_PASS_TOKENS = 1024
"""Tokens of a forward pass on a CPU, as in `engines.scoring`; on a GPU a pass has all that are kept."""
HEAD_CHUNK = 1024
"""Action tokens whose logits exist at once, as in `engines.scoring`."""
SIDE_BY_SIDE = 3
"""Gradients at once of a small model on a CPU, whose passes have some of their own (`models.threads`)."""
LORA_RANK = 16
"""The rank that is proposed where full weights don't fit."""
PROPOSALS = 3
"""Most that are told."""
LEAST_TOKENS = 512
"""The smallest `max_tokens_per_batch` that is proposed."""
ADVICE = (
    "Set recompute to true or lower max_tokens_per_batch; train adapters alone (lora.rank) and, on a GPU, over a 4-bit "
    "base (lora.quantize); or play with fewer envs (env.num_envs) or a smaller chat.max_context."
)


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
    """Agents whose weights lie on the device at once: models of their own, or adapters on one base."""
    num_ranks: int = 1
    """Devices over which the base's weights are spread, or full weights with gradients and moments."""


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
    gathered: int
    """Weights of two layers, the embeddings and the head, whole while they are in use, and gradients of one; of one
    device alone: nothing, since they are there."""
    cache: int
    """Keys and values of all episodes at their full length, and the bfloat16 copy of full weights that plays."""

    @property
    def total(self) -> int:
        """What is taken at once at most."""
        training = self.gradients + self.moments + self.activations + self.logits + self.gathered
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
        if self.gathered:
            parts.append(f"gathered layers {_gb(self.gathered)}")
        if self.cache:
            parts.append(f"or, while playing, {_gb(self.cache)} for {demand.num_envs} episodes")
        end = "" if available is None else f"; the device has {available / GB:.0f}"
        where = "in all" if demand.num_ranks == 1 else f"on each of {demand.num_ranks} devices"
        return f"{', '.join(parts)}: {_gb(self.total)} {where}{end}"


def estimate(demand: Demand) -> Estimate:
    """Estimate what a run takes.

    Raises:
        ModelError: the model's folder is refused, or its config describes no model.
        ConfigError: `lora.targets` names what it lacks.
    """
    counts = count(demand.folder, demand.lora, demand.dtype, demand.is_autocast)
    num_agents, is_full = demand.num_agents, demand.lora.rank is None
    copies = is_full and demand.is_autocast and (demand.num_ranks == 1 or demand.num_envs > 0)
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
    num_ranks = demand.num_ranks
    if demand.is_autocast and is_full and num_ranks == 1:
        activations += 2 * trained  # the weights as bfloat16, for as long as a pass lasts
    return Estimate(
        demand=demand,
        weights=(num_agents * 4 * counts.num_base if is_full else counts.base_bytes) // num_ranks,
        adapters=0 if is_full else num_agents * 4 * trained,
        gradients=(SIDE_BY_SIDE if counts.is_small and demand.device == "cpu" else 1)
        * 4
        * (trained // num_ranks if is_full else trained),
        moments=8 * (trained // num_ranks if is_full else trained),
        activations=int(activations),
        logits=logits,
        gathered=_gathered(counts, demand) if num_ranks > 1 else 0,
        cache=demand.num_envs * demand.max_context * counts.cached_token // (2 if copies else 1)
        + (2 * counts.num_base if copies else 0),
    )


def check_fits(found: Estimate, device: torch.device) -> None:
    """Refuse what can't fit on a device, and name what would.

    Raises:
        ConfigError: it can't.
    """
    available = memory_of(device)
    if available is None or found.total <= available:
        return
    fitting = [f"{what} ({_gb(other.total)})" for what, other in islice(_fitting(found.demand, available), PROPOSALS)]
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


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gathered(counts: Counts, demand: Demand) -> int:
    """Count the bytes of weights and gradients that are whole for a while, though they are spread over ranks."""
    others = counts.num_outside
    layer = (counts.num_base - others) * counts.layer / counts.token
    width = 2 if counts.is_half else 4
    gradients = 4 * (others + layer) if demand.lora.rank is None else 0
    return int(width * (others + 2 * layer) + gradients)


def _fitting(demand: Demand, available: int) -> Iterator[tuple[str, Estimate]]:
    """Yield what would fit, by the keys that are changed, those with few changes first."""
    switches: list[dict[str, Any]] = [] if demand.recompute else [{"recompute": True}]
    rank = demand.lora.rank or LORA_RANK
    if demand.lora.rank is None:
        switches.append({"lora": LoraConfig(rank=rank)})
    if demand.device == "cuda" and demand.lora.quantize == "none":
        switches.append({"lora": replace(demand.lora, rank=rank, quantize="4bit")})
    for num in range(len(switches) + 1):
        for chosen in combinations(switches, num):
            if sum("lora" in switch for switch in chosen) > 1:
                continue
            changed = replace(demand, **{key: value for switch in chosen for key, value in switch.items()})
            found = _shrunk(changed, available)
            if found is not None:
                yield _difference(demand, found.demand), found


def _shrunk(demand: Demand, available: int) -> Estimate | None:
    """Halve envs while playing takes too much, and tokens while training does; none if that doesn't help."""
    found = estimate(demand)
    while found.total > available:
        is_playing = found.weights + found.adapters + found.cache > available
        if is_playing and demand.num_envs > 1:
            demand = replace(demand, num_envs=demand.num_envs // 2)
        elif not is_playing and demand.max_tokens_per_batch // 2 >= LEAST_TOKENS:
            demand = replace(demand, max_tokens_per_batch=demand.max_tokens_per_batch // 2)
        else:
            return None
        found = estimate(demand)
    return found


def _difference(one: Demand, other: Demand) -> str:
    """Name the keys in which another demand differs, with its values."""
    parts = {
        "lora.rank": (one.lora.rank, other.lora.rank),
        "lora.quantize": (one.lora.quantize, other.lora.quantize),
        "recompute": (one.recompute, other.recompute),
        "max_tokens_per_batch": (one.max_tokens_per_batch, other.max_tokens_per_batch),
        "env.num_envs": (one.num_envs, other.num_envs),
    }
    changes = [f"{key} = {json.dumps(new)}" for key, (old, new) in parts.items() if old != new]
    return " and ".join(changes)


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / GB:.3f} GB"
