"""A model and its tokenizer go to an ordinary Hugging Face folder, in the dtype in which the model came.

Saving can fail for reasons that have nothing to do with weights, so it is tried without them before training.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparring.core.errors import ModelError
from sparring.models.folders import one_line

DTYPES = {"BF16": "bfloat16", "F16": "float16"}
"""Dtypes, as safetensors spells them, in which a model is saved that came in them. Others are saved as they are."""


def check_savable(model: Any, tokenizer: Any, path: str) -> None:
    """Try to save everything but the weights.

    Raises:
        ModelError: the model's config or tokenizer can't be saved.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(model, tokenizer, Path(folder), with_weights=False)
    except OSError:
        raise
    except Exception as error:  # whatever the libraries find wrong
        raise ModelError(
            f"model.path: a trained {path!r} could not be saved: {one_line(error)}. Mend its config.json or tokenizer."
        ) from error


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` for a folder that takes its place once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    yield fresh
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_folder(model: Any, tokenizer: Any, folder: Path, *, with_weights: bool = True) -> None:
    """Write a model's folder.

    A generation config that transformers refuses to save is written as it came: it is the model's maker's, and nothing
    that training touches.
    """
    own = model.generation_config
    is_refused = own is not None and _is_refused(own)
    with _sound(model, is_refused):
        if with_weights:
            with _as_it_came(model):
                model.save_pretrained(folder)
        else:
            model.save_pretrained(folder, state_dict={})
    if own is not None and is_refused:
        own.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)


def came_in_half(model: Any) -> bool:
    """Say whether a model came in a dtype that holds less than single precision."""
    return getattr(model, "stored_dtype", None) in DTYPES


def round_weights(model: Any) -> None:
    """Round the weights to what a checkpoint of them holds, in whatever dtype they are in now."""
    for parameter, data in _rounded_as_it_came(model).items():
        parameter.data.copy_(data)


def _is_refused(generation_config: Any) -> bool:
    try:
        with tempfile.TemporaryDirectory() as folder:
            generation_config.save_pretrained(folder)
    except ValueError:
        return True
    return False


@contextmanager
def _sound(model: Any, is_refused: bool) -> Iterator[None]:
    """Give the model a generation config that can be saved, where its own can't."""
    from transformers import GenerationConfig

    own = model.generation_config
    if is_refused or own is None:
        model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _as_it_came(model: Any) -> Iterator[None]:
    """Round the float32 weights to the dtype in which the model came, for a while; where they fit into it."""
    rounded = _rounded_as_it_came(model)
    single = {parameter: parameter.data for parameter in rounded}
    for parameter, data in rounded.items():
        parameter.data = data
    try:
        yield
    finally:
        for parameter, data in single.items():
            parameter.data = data


def _rounded_as_it_came(model: Any) -> dict[Any, Any]:
    import torch

    name = DTYPES.get(getattr(model, "stored_dtype", ""))
    return {} if name is None else _rounded(model, getattr(torch, name))


def _rounded(model: Any, dtype: Any) -> dict[Any, Any]:
    """Round a model's float32 weights, but those that its kind keeps so; none of them if one becomes infinite."""
    import torch

    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    kept |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    rounded = {
        parameter: parameter.data.to(dtype)
        for name, parameter in model.named_parameters()
        if parameter.dtype == torch.float32 and not kept & set(name.split("."))
    }
    fits = all(bool(data.isfinite().all()) for data in rounded.values())
    return rounded if fits or dtype == torch.bfloat16 else {}
