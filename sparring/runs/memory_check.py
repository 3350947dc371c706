"""What a recipe's arms will take of their device's memory: told, and refused where it can't fit, before any loading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError
from sparring.methods.table import find_method
from sparring.runs.ranks import ranks_here
from sparring.runs.side_by_side import gpus_of

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.models.memory import Estimate
    from sparring.policies.vllm.config import VllmConfig
    from sparring.runs.config import Arm, Recipe

TOLD_FROM = 30_000_000
"""Parameters from which a model is worth a line."""


def check_memory(recipe: Recipe, progress: Progress, num_jobs: int = 1) -> None:
    """Tell what each arm takes, where that differs, and refuse what can't fit.

    Args:
        recipe: whose arms.
        progress: is told.
        num_jobs: arms that are at work at once.

    Raises:
        ConfigError: an arm can't fit on its device; the message names what would.
        ModelError: the model's folder is refused.
    """
    from sparring.models.loading import resolve_device
    from sparring.models.memory import check_fits, memory_of

    told: set[str] = set()
    totals: list[int] = []
    available: int | None = None
    for name, arm in recipe.arms.items():
        device = resolve_device(arm.config.model.device)
        num_ranks = ranks_here() if arm.config.engine.kind == "fsdp" else 1
        # On a CPU ranks share one memory: nothing is known of what each may take.
        if (num_ranks > 1 and device.type == "cpu") or (found := estimate_of(arm, num_ranks)) is None:
            continue
        check_fits(found, device)
        available = memory_of(device)
        totals += [found.total] * len(recipe.seeds)
        line = found.describe(available)
        if device.type == "cuda" and arm.config.sampler.kind == "vllm" and arm.config.vllm.launch:
            import torch

            _, whole = torch.cuda.mem_get_info(device)
            line += f". {check_share(found, arm.config.vllm, whole)}"
        if line not in told:
            told.add(line)
            progress.note(f"{name}: {line}.")
    if num_jobs > 1 and totals:
        check_jobs(totals, num_jobs, available, max(1, len(gpus_of(num_jobs))))


def estimate_of(arm: Arm, num_ranks: int = 1) -> Estimate | None:
    """Estimate what an arm takes; none for a small model, one that runs code of its own, or one that is not trained.

    Args:
        arm: of a recipe.
        num_ranks: over which weights are spread.

    Raises:
        ModelError: the model's folder is refused.
    """
    from sparring.engines.starts import base_of
    from sparring.models.folders import check_folder, fetch_folder
    from sparring.models.loading import is_bfloat16, resolve_device, resolve_model
    from sparring.models.memory import Demand, estimate

    config, method = arm.config, find_method(arm.method)
    model = base_of(config.model)
    if not method.trains or model.trust_remote_code or config.engine.kind == "tinker":
        return None
    place = resolve_model(model.path)
    folder = Path(place) if Path(place).is_dir() else fetch_folder(place, trusts_code=False)
    num_parameters = check_folder(folder, trusts_code=False).num_elements
    if num_parameters < TOLD_FROM:
        return None
    from sparring.engines.recomputation import is_recomputed  # what loads a model is loaded with it
    from sparring.engines.scoring import autocast_dtype

    device = resolve_device(model.device)
    # On a GPU an agent whose weights are trained in full lies in the computer's own memory while another is at work.
    others_rest = config.lora.rank is None and device.type != "cpu" and num_ranks == 1
    trainings = [config.sft, *((config.rl,) if method.is_on_policy else (config.dpo,))]
    largest = max(trainings, key=lambda train: train.max_tokens_per_batch)
    demand = Demand(
        folder=folder,
        lora=config.lora,
        device=device.type,
        dtype="bfloat16" if is_bfloat16(model, device) else "float32",
        is_autocast=autocast_dtype(device, largest.autocast) is not None,
        max_tokens_per_batch=largest.max_tokens_per_batch,
        recompute=is_recomputed(largest.recompute, num_parameters),
        num_envs=0 if config.sampler.kind == "vllm" else config.env.num_envs,
        max_context=config.chat.max_context,
        num_agents=1 if others_rest else method.num_agents,
        num_ranks=num_ranks,
    )
    return estimate(demand)


def check_jobs(totals: Sequence[int], num_jobs: int, available: int | None, num_devices: int) -> None:
    """Refuse more jobs at a time than fit.

    Args:
        totals: bytes that each job takes.
        num_jobs: how many are done at a time.
        available: bytes that a device has; none: that can't be told.
        num_devices: devices that the jobs are spread over.

    Raises:
        ConfigError: they don't fit; the message says how many would.
    """
    from sparring.models.memory import GB

    largest = sorted(totals, reverse=True)
    taken = sum(largest[: math.ceil(num_jobs / num_devices)])
    if available is None or taken <= available:
        return
    fitting = next(num for num in range(len(largest), 0, -1) if sum(largest[:num]) <= available)
    raise ConfigError(
        f"memory: {num_jobs} jobs at a time take {taken / GB:.1f} GB, and a device has {available / GB:.1f}. It would "
        f"fit with --jobs {fitting * num_devices}."
    )


def check_share(found: Estimate, vllm: VllmConfig, whole: int) -> str:
    """Say what a server takes of the learner's GPU, and refuse what can't fit beside it.

    Args:
        found: what the learner takes.
        vllm: how large the server's share is, and whether it sleeps while agents train.
        whole: bytes that the GPU has.

    Raises:
        ConfigError: the two don't fit; the message names what would.
    """
    from sparring.models.memory import GB

    share = vllm.gpu_memory_utilization * whole
    beside = found.weights + found.adapters if vllm.sleep else found.total
    when = "while agents play" if vllm.sleep else "all the time"
    line = f"a vLLM server takes {share / GB:.1f} GB of its {whole / GB:.0f} besides, {when}"
    if beside + share <= whole:
        return line
    largest = max(0.0, math.floor(100 * (1 - beside / whole)) / 100)
    asleep = "" if vllm.sleep else ", or set vllm.sleep = true"
    raise ConfigError(
        f"memory: {line}, and the learner {beside / GB:.1f}. Set vllm.gpu_memory_utilization to {largest:g} or less"
        f"{asleep}; or take servers on other GPUs (vllm.base_urls)."
    )
