"""What transformers reports of a load comes in; a config and weights that disagree are one line that names where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REMEDY = "config.json and the weights are not of the same model."
SHOWN = 3
"""Most names in a message."""


def check_agreement(model: PreTrainedModel, report: Mapping[str, Any], path: str) -> None:
    """Refuse weights that the config's model does not fill exactly.

    Args:
        model: as loaded.
        report: transformers' loading report, of a load that lets shapes differ.
        path: the model's, for messages.

    Raises:
        ModelError: weights are missing, have another shape, or lie unused in the model's layers.
    """
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, expected = wrong[0]
        raise ModelError(
            f"model.path: {path!r}: {name} has the shape {list(stored)} in the weights, {list(expected)} by the config"
            f"{f', and {len(wrong) - 1} more differ' if wrong[1:] else ''}. {REMEDY}"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"model.path: {path!r} lacks {len(missing)} weights: {_listed(missing)}. {REMEDY}")
    if unused := _unused_in_layers(model, report["unexpected_keys"]):
        raise ModelError(
            f"model.path: {path!r} has {len(unused)} weights that its config leaves unused: {_listed(unused)}. {REMEDY}"
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(list(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _unused_in_layers(model: PreTrainedModel, unexpected: Collection[str]) -> list[str]:
    """Return the unused weights of the decoder's layers. Those of other parts (a vision tower) are no fault.

    Neither are the layers that predict further tokens, which follow the others and have parts that those lack.
    """
    import torch

    lists = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    by_layer: dict[tuple[str, str], list[str]] = {}
    for key in sorted(unexpected):
        owner = max((name for name in lists if key.startswith(f"{name}.")), key=len, default=None)
        if owner is not None:
            by_layer.setdefault((owner, key.removeprefix(f"{owner}.").partition(".")[0]), []).append(key)
    unused: list[str] = []
    for (owner, index), keys in by_layer.items():
        is_there = index.isdecimal() and int(index) < len(lists[owner])
        known = {name for name, _ in lists[owner][0].named_parameters()} if len(lists[owner]) else set()
        if is_there or {key.removeprefix(f"{owner}.{index}.") for key in keys} <= known:
            unused += keys
    return unused
