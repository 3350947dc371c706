"""Which linear layers a model has, and which of them get adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import ConfigError, quote

KERNEL_LAYERS = ("out_proj", "dt_proj")
"""Layers of a Mamba mixer whose weights its kernels read past the layer's own forward: adapters there would be dead."""
SHOWN = 20
"""Most names in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The linear layers that get adapters."""

    full: tuple[str, ...]
    """Their names in the model."""
    short: tuple[str, ...]
    """Ends of names that match these layers and no other module; the names themselves where that can't be had."""
    are_transposed: bool
    """Whether their weights are input × output (GPT-2's Conv1D)."""


def find_targets(model: Any, wanted: Sequence[str]) -> Targets:
    """Choose the layers that get adapters.

    Args:
        model: a transformers model; a meta one will do.
        wanted: names or ends of names; none: all of the decoder's linear layers but those that can't be adapted, in a
            mixture of experts attention's alone.

    Raises:
        ConfigError: a name that no linear layer of the decoder has.
    """
    layers = dict(linear_layers(model))
    missing = [name for name in wanted if not any(is_named(layer, name) for layer in layers)]
    if missing or not layers:
        ends = sorted({layer.rpartition(".")[2] for layer in layers})[:SHOWN]
        told = f"It has {', '.join(ends)}." if ends else "It has none at all."
        what = f"no linear layer {quote(missing[0])}" if missing else "no linear layers"
        raise ConfigError(f"lora.targets: the decoder of {type(model).__name__} has {what}. {told}")
    if wanted:
        full = [layer for layer in layers if any(is_named(layer, name) for name in wanted)]
    else:
        full = [layer for layer in layers if _is_adapted(model, layer)]
        if not full:
            raise ConfigError(
                f"lora.targets: {type(model).__name__} is a mixture of experts in which no attention projections were "
                "found. Name the layers that get adapters."
            )
    transposed = {is_transposed(layers[layer]) for layer in full}
    return Targets(full=tuple(full), short=_shortened(model, full), are_transposed=transposed == {True})


def is_named(layer: str, name: str) -> bool:
    """Say whether `name` is a layer's name or its end, between dots."""
    return layer == name or layer.endswith(f".{name}")


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and modules of the decoder's linear layers; a layer with adapters as it is without them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    decoder, head = _decoder(model), model.get_output_embeddings()
    inside = {id(part) for part in decoder.modules()} - {id(head)}
    for name, part in model.named_modules():
        if id(part) not in inside or ".lora_" in name or name.endswith(".base_layer"):
            continue
        layer = getattr(part, "base_layer", part)
        if isinstance(layer, torch.nn.Linear | Conv1D) and not _is_router(layer):
            yield name, layer


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Return the width of input and output of each linear layer of the decoder."""
    shapes = {}
    for name, layer in linear_layers(model):
        is_plain = not is_transposed(layer)
        shapes[name] = (layer.in_features, layer.out_features) if is_plain else tuple(layer.weight.shape)
    return shapes


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return model.base_model if decoder in (None, model.get_output_embeddings()) else decoder


def is_transposed(layer: Any) -> bool:
    """Say whether a layer's weight is input × output."""
    return not hasattr(layer, "in_features")


def _is_router(layer: Any) -> bool:
    """Say whether a linear layer is a router, which returns more than its product."""
    return "router" in type(layer).__name__.lower()


def _is_adapted(model: Any, name: str) -> bool:
    place, _, end = name.rpartition(".")
    parent = model.get_submodule(place)
    if hasattr(parent, "ssm_state_size") and end in KERNEL_LAYERS:
        return False
    in_attention = "attention" in type(parent).__name__.lower() or "attn" in place.rpartition(".")[2]
    return in_attention or not has_experts(model)


def has_experts(model: Any) -> bool:
    """Say whether a model is a mixture of experts."""
    return any(
        "Experts" in type(part).__name__ or name.rpartition(".")[2] == "experts" for name, part in model.named_modules()
    )


def _shortened(model: Any, full: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of the names where they match no other module, else the names."""
    ends = {layer.rpartition(".")[2] for layer in full}
    matched = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return tuple(sorted(ends if matched == set(full) else full))
