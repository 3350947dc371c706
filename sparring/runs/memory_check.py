"""What a recipe's arms will take of their device's memory: told, and refused where it can't fit, before any loading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparring.methods.table import METHODS

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.models.memory import Estimate
    from sparring.runs.config import Arm, Recipe

TOLD_FROM = 30_000_000
"""Parameters from which a model is worth a line."""


def check_memory(recipe: Recipe, progress: Progress) -> None:
    """Tell what each arm takes, where that differs, and refuse what can't fit.

    Raises:
        ConfigError: an arm can't fit on its device; the message names what would.
        ModelError: the model's folder is refused.
    """
    from sparring.models.loading import resolve_device
    from sparring.models.memory import check_fits, memory_of

    told: set[str] = set()
    for name, arm in recipe.arms.items():
        if (found := estimate_of(arm)) is None:
            continue
        device = resolve_device(arm.config.model.device)
        check_fits(found, device)
        line = found.describe(memory_of(device))
        if line not in told:
            told.add(line)
            progress.note(f"{name}: {line}.")


def estimate_of(arm: Arm) -> Estimate | None:
    """Estimate what an arm takes; none for a small model, one that runs code of its own, or one that is not trained.

    Raises:
        ModelError: the model's folder is refused.
    """
    from sparring.engines.local import base_of
    from sparring.engines.recomputation import is_recomputed
    from sparring.engines.scoring import autocast_dtype
    from sparring.models.folders import check_folder, fetch_folder
    from sparring.models.loading import is_bfloat16, resolve_device, resolve_model
    from sparring.models.memory import Demand, estimate

    config, method = arm.config, METHODS[arm.method]
    model = base_of(config.model)
    if not method.trains or model.trust_remote_code:
        return None
    place = resolve_model(model.path)
    folder = Path(place) if Path(place).is_dir() else fetch_folder(place, trusts_code=False)
    num_parameters = check_folder(folder, trusts_code=False).num_elements
    if num_parameters < TOLD_FROM:
        return None
    device = resolve_device(model.device)
    # On a GPU an agent whose weights are trained in full lies in the computer's own memory while another is at work.
    others_rest = config.lora.rank is None and device.type != "cpu"
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
        num_envs=config.env.num_envs,
        max_context=config.chat.max_context,
        num_agents=1 if others_rest else method.num_agents,
    )
    return estimate(demand)
