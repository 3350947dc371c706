"""Activations that the backward pass computes again: a model's layers keep their inputs alone.

transformers' own switch works in training mode alone, which also switches on whatever noise a model has: dropout that
is called as a function, a router's jitter. Here the model stays in evaluation mode, and its layers are wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.engines.packing import recomputed

if TYPE_CHECKING:
    import torch


RECOMPUTE_FROM = 1_000_000_000
"""Parameters from which activations are recomputed, where a config leaves that open."""


def is_recomputed(setting: bool | None, num_parameters: int) -> bool:
    """Say whether activations are recomputed: as a config says, or if the model is large where it leaves that open."""
    return num_parameters >= RECOMPUTE_FROM if setting is None else setting


def recompute_layers(model: torch.nn.Module) -> None:
    """Let the backward pass compute the activations within each of a model's layers again.

    Raises:
        ConfigError: the model has no layers that can be told apart.
    """
    layers = layers_of(model)
    if not layers:
        raise ConfigError(f"recompute: {type(model).__name__} has no list of layers. Set it to false.")
    for layer in layers:
        if not is_wrapped(layer):
            layer.forward = partial(_checkpointed, layer.forward)


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return a model's layers; none where they can't be told apart."""
    return list(_outermost(model)) or _longest_list(model)


def restore_layers(model: torch.nn.Module) -> None:
    """Take back what `recompute_layers` did."""
    for layer in model.modules():
        if is_wrapped(layer):
            del layer.forward  # the instance's own, which hides the class's


def is_wrapped(layer: torch.nn.Module) -> bool:
    """Say whether the backward pass computes what is within a layer again."""
    return getattr(vars(layer).get("forward"), "func", None) is _checkpointed


def recomputes(model: torch.nn.Module) -> bool:
    """Say whether any of a model's layers is wrapped."""
    return any(map(is_wrapped, model.modules()))


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=recomputed, **kwargs)


def _outermost(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the layers that transformers would recompute; of one within another, the outer."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for part in module.children():
        if isinstance(part, GradientCheckpointingLayer):
            yield part
        else:
            yield from _outermost(part)


def _longest_list(model: torch.nn.Module) -> list[torch.nn.Module]:
    import torch

    lists = [list(part) for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])
