"""Rotary embeddings whose angles depend on the longest row of a pass, made to depend on a run's longest allowed row.

LongRoPE changes its factors, and dynamic NTK its base, by the largest position that comes in. A row's logits then
depend on the rows beside it, and change once it has grown: keys that are cached were turned by other angles. So each
such embedding is shown one more position, the last of the longest row that a run allows, in every pass. It behaves as
if that row were in the batch, in play and in training alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

STATIC = ("default", "linear", "llama3", "yarn", "proportional", "ntk_alpha")
"""Kinds of rotary embeddings whose angles depend on the position alone."""
TRIAL_POSITIONS = 3


def fix_rope(model: Any, max_context: int) -> None:
    """Have a model's rotary embeddings behave in every pass as if it held a row of `max_context` tokens."""
    for module in model.modules():
        if not _is_rotary(module):
            continue
        _release(module)
        if _varies(model, module, max_context):
            before = module.register_forward_pre_hook(_Longer(max_context - 1), with_kwargs=True)
            module.fixed_rope = before, module.register_forward_hook(_without_last)
    model.rope_is_fixed = True


def has_static_rope(model: Any) -> bool:
    """Say whether a row's angles are independent of the rows beside it, by a model's nature or because it was fixed."""
    config = getattr(model, "config", None)
    return config is None or getattr(model, "rope_is_fixed", False) or all(kind in STATIC for kind in _kinds(config))


def most_positions(config: Any) -> int | None:
    """Return how many positions a model was made for, where its configuration says so; dynamic NTK stretches them."""
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    return int(limit * rope.get("factor", 1.0)) if limit and rope.get("rope_type") == "dynamic" else limit


def _kinds(config: Any) -> Iterator[str]:
    """Yield the kinds of rotary embeddings that a configuration names: one, or one a type of layer."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    for one in (rope, *rope.values()):
        if isinstance(one, dict):
            yield one.get("rope_type") or "default"


def _is_rotary(module: Any) -> bool:
    name = type(module).__name__.lower()
    return ("rotary" in name or "rope" in name) and "position_ids" in inspect.signature(module.forward).parameters


def _release(module: Any) -> None:
    for hook in vars(module).pop("fixed_rope", ()):
        hook.remove()


def _varies(model: Any, module: Any, max_context: int) -> bool:
    """Say whether the angles of the first positions change when the last one of a long row is there too."""
    kinds = getattr(module, "rope_type", None)
    layer_types = list(kinds) if isinstance(kinds, dict) else [None]
    return any(_varies_by(model, module, max_context, layer_type) for layer_type in layer_types)


@torch.no_grad()
def _varies_by(model: Any, module: Any, max_context: int, layer_type: str | None) -> bool:
    weight = model.get_input_embeddings().weight[:1, None]
    more = {} if layer_type is None else {"layer_type": layer_type}
    longer_1T = torch.tensor([[*range(TRIAL_POSITIONS), max_context - 1]], device=weight.device)
    try:
        short, longer = (_tensors(module(weight, position_ids=ids, **more)) for ids in (longer_1T[:, :-1], longer_1T))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False  # it is called in another way, and by whoever wrote it so
    return any(not torch.allclose(a, b.narrow(-2, 0, a.shape[-2])) for a, b in zip(short, longer, strict=True))


def _tensors(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


class _Longer:
    """Adds a position to those that a rotary embedding is asked for."""

    def __init__(self, last: int) -> None:
        self._last = last

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": self._with_last(kwargs["position_ids"])}
        place = list(inspect.signature(module.forward).parameters).index("position_ids")
        return (*args[:place], self._with_last(args[place]), *args[place + 1 :]), kwargs

    def _with_last(self, position_ids: Tensor) -> Tensor:
        last = position_ids.new_full((*position_ids.shape[:-1], 1), self._last)
        return torch.cat([position_ids, last], -1)


def _without_last(module: Any, args: Any, out: Any) -> Any:
    """Take what belongs to the added position out of cosines and sines, whose positions come second to last."""
    cut = tuple(tensor.narrow(-2, 0, tensor.shape[-2] - 1) for tensor in _tensors(out))
    return cut if isinstance(out, tuple) else cut[0]
