"""Weights, optimizer state and a few numbers go to a folder and come back bit for bit, however the writer ended.

A state is a folder `step-N` with two safetensors files and one JSON file. It is written under another name, flushed to
disk, then renamed, so a folder of that name is whole; older ones go last. No pickle is read or written.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.errors import DataError
from sparring.journal import disk_errors, read_json, sync, write_json_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PREFIX = "step-"
_WEIGHTS, _OPTIMIZER, _NUMBERS = "weights.safetensors", "optimizer.safetensors", "state.json"


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name the parameters that training changes, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def latest_step(folder: Path) -> int | None:
    """Return the step of the newest state in `folder`, none where there is none."""
    steps = [int(p.name.removeprefix(_PREFIX)) for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit()]
    return max(steps, default=None)


def save_state(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: dict[str, Any]
) -> None:
    """Write the state after `step`, then delete the older ones."""
    parameters = trainable(model)
    moments = {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    final, temporary = folder / f"{_PREFIX}{step}", folder / f"tmp-{_PREFIX}{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_tensors(temporary / _WEIGHTS, dict(parameters))
    write_tensors(temporary / _OPTIMIZER, moments)
    write_json_atomic(temporary / _NUMBERS, numbers)
    sync(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(folder)
    for old in folder.glob(f"{_PREFIX}*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]] | None:
    """Put the newest state back into model and optimizer.

    Returns:
        Its step and numbers; none where there is no state.

    Raises:
        DataError: a file of it is unreadable or belongs to another model.
    """
    import torch

    step = latest_step(folder)
    if step is None:
        return None
    source = folder / f"{_PREFIX}{step}"
    weights, moments = read_tensors(source / _WEIGHTS), read_tensors(source / _OPTIMIZER)
    parameters = trainable(model)
    if {n: p.shape for n, p in parameters.items()} != {n: w.shape for n, w in weights.items()}:
        raise DataError(f"{source}: weights of another model. Delete {folder} to train anew.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _set_moments(moments, parameters, optimizer)
    return step, read_json(source / _NUMBERS)


def moments_path(folder: Path) -> Path:
    """Return the newest state's file of the optimizer's moments, which may start another training.

    Raises:
        AssertionError: there is no state.
    """
    step = latest_step(folder)
    assert step is not None, f"{folder} holds no state"
    return folder / f"{_PREFIX}{step}" / _OPTIMIZER


def load_moments(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the moments of a training before.

    Raises:
        DataError: the file is unreadable or belongs to another model.
    """
    moments, parameters = read_tensors(path), trainable(model)
    if not {name.rsplit("/", 1)[0] for name in moments} <= parameters.keys():
        raise DataError(f"{path}: an optimizer's state for another model. Delete it to start afresh.")
    _set_moments(moments, parameters, optimizer)


def _set_moments(
    moments: dict[str, Tensor], parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    for full_name, value in moments.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW keeps its step count on the CPU unless it is fused or capturable, and then beside the parameter.
        beside = key != "step" or optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
        optimizer.state[parameter][key] = value.to(parameter.device) if beside else value


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file and flush it; whole under `path` or not there.

    Raises:
        SparringError: the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(path.name + ".tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary)
        except SafetensorError as error:
            # The library's error hides the operating system's; its text names the code.
            code = re.search(r"(?:code: |os error )(\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        DataError: it is missing or torn.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: unreadable ({error}). Delete {path.parent.parent} to train anew.") from None
