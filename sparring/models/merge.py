"""An adapter's weights are added to its base's: what comes out is an ordinary model folder, which needs no PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError, ModelError
from sparring.models.adapter_folders import PREFIX, AdapterFolder, base_folder, check_adapter, read_tensors
from sparring.models.folders import read_json
from sparring.models.linear_layers import is_transposed, linear_layers
from sparring.models.loading import ModelConfig, load_model, own_tokenizer, save_model

if TYPE_CHECKING:
    from torch import Tensor

BESIDE = ("value_head.safetensors",)
"""Files of an adapter's folder that go along."""


def merge(folder: Path, out: Path, base: str | None = None) -> None:
    """Write the base model with the adapter's weights added, in the dtype in which the base is stored.

    Args:
        folder: the adapter's.
        out: where to; it must not exist.
        base: the base model's folder, bundled name or Hub id; none: the one that the adapter names.

    Raises:
        ModelError: the adapter or its base is refused, or the sum is not finite.
        ConfigError: `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already. Choose another folder, or delete it.")
    adapter = check_adapter(folder, base)
    place, weights = base_folder(adapter)
    if "quantization_config" in read_json(place / "config.json", place):
        raise ModelError(
            f"adapter: its base {str(place)!r} holds quantised weights, to which nothing can be added. Name the model "
            "that they were made from with --base."
        )
    dtype = "bfloat16" if weights.dtype == "BF16" else "float32"
    model, tokenizer = load_model(ModelConfig(path=str(place), dtype=dtype, device="cpu"))
    add(model, adapter, read_tensors(adapter))
    save_model(model, own_tokenizer(adapter.folder) or tokenizer, out)
    for name in BESIDE:
        if (adapter.folder / name).is_file():
            shutil.copyfile(adapter.folder / name, out / name)


def add(model: Any, adapter: AdapterFolder, tensors: dict[str, Tensor]) -> None:
    """Add an adapter's weights to those of a loaded base model, in float32, and round to the base's dtype.

    Raises:
        ModelError: the sum is not finite.
    """
    import torch

    layers = dict(linear_layers(model))
    with torch.no_grad():
        for name in adapter.widths:
            a, b = (tensors[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
            delta, weight = (b @ a) * adapter.scale, layers[name].weight
            merged = (weight.float() + (delta.T if is_transposed(layers[name]) else delta)).to(weight.dtype)
            if not merged.isfinite().all():
                raise ModelError(f"adapter: {name} of {str(adapter.folder)!r} is not finite once it is merged.")
            weight.copy_(merged)
