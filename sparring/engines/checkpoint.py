"""Weights, optimizer state and a few numbers go to a folder and come back bit for bit, however the writer ended.

A state is a folder `step-N` (`step-N-2` where that name is taken) with two safetensors files and `state.json`, which is
written last and holds their fingerprints. The folder is written under another name, flushed to disk, then renamed; the
older ones go last. A state counts only if it is whole. No pickle is read or written.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import DataError
from sparring.core.fingerprints import find_change, fingerprints, read_sealed, write_sealed
from sparring.core.journal import disk_errors, sync

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
SINGLE = "weight in single precision"
"""Beside a parameter's moments: the parameter itself."""
_WEIGHTS, _OPTIMIZER, _NUMBERS = "weights.safetensors", "optimizer.safetensors", "state.json"


Parameters = Mapping[str, "torch.nn.Parameter"]
"""What training changes, by name."""


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name the parameters that training changes, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A saved state that is whole."""

    path: Path
    step: int
    numbers: dict[str, Any]


def newest_state(folder: Path) -> State | None:
    """Return the newest state in `folder` that is whole, none where there is none; broken ones get a notice."""
    for path in _states(folder):
        try:
            record = read_sealed(path / _NUMBERS, remedy="")
            change = find_change(path, record["files"])
            if change is None:
                return State(path=path, step=_order(path)[0], numbers=record["numbers"])
            problem = f"{change[0]} {change[1]}"
        except DataError as error:
            problem = str(error).rstrip(". ")
        log.warning("%s is left out: %s. Training goes on from the state before it, or anew.", path, problem)
    return None


def save_state(
    folder: Path, step: int, parameters: Parameters, optimizer: torch.optim.Optimizer, numbers: dict[str, Any]
) -> None:
    """Write the state after `step`, then delete all others."""
    moments = moments_of(parameters, optimizer)
    with new_state(folder, step, numbers) as (weights_file, moments_file):
        write_tensors(weights_file, dict(parameters))
        write_tensors(moments_file, moments)


@contextmanager
def new_state(folder: Path, step: int, numbers: Mapping[str, Any]) -> Iterator[tuple[Path, Path]]:
    """Yield where weights and moments go; afterwards the state counts, and all others are deleted."""
    names = (f"step-{step}", *(f"step-{step}-{number}" for number in range(2, len(_states(folder)) + 2)))
    final = next(folder / name for name in names if not (folder / name).exists())
    temporary = folder / f"tmp-{final.name}"
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = state_files(temporary)
        yield files
        write_sealed(temporary / _NUMBERS, {"numbers": dict(numbers), "files": fingerprints(temporary, files)})
        sync(temporary)
        temporary.rename(final)
        sync(folder)
    for old in (*_states(folder), *folder.glob("tmp-step-*")):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def state_files(path: Path) -> tuple[Path, Path]:
    """Return where weights and moments lie in a state's folder."""
    return path / _WEIGHTS, path / _OPTIMIZER


def load_state(state: State, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Put a state back into parameters and optimizer.

    Raises:
        DataError: it belongs to another model.
    """
    import torch

    weights, moments = read_tensors(state.path / _WEIGHTS), read_tensors(state.path / _OPTIMIZER)
    if {n: p.shape for n, p in parameters.items()} != {n: w.shape for n, w in weights.items()}:
        raise DataError(f"{state.path}: weights of another model. Delete {state.path.parent} to train anew.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    set_moments(moments, parameters, optimizer)


def _states(folder: Path) -> list[Path]:
    """List the folders of states, whole or not, the newest first."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_order, reverse=True)


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match[1]), int(match[2] or 1)


def moments_of(parameters: Parameters, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state by parameter and key."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def save_moments(
    path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, *, with_weights: bool = False
) -> None:
    """Write an optimizer's state for a training that goes on from it.

    Args:
        with_weights: write the parameters too, where the checkpoint holds them rounded.
    """
    moments = moments_of(parameters, optimizer)
    if with_weights:
        moments |= {f"{name}/{SINGLE}": parameter.data for name, parameter in parameters.items()}
    write_tensors(path, moments)


def load_moments(path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the moments of a training before, and the parameters the weights beside them, if any.

    Raises:
        DataError: the file is unreadable or belongs to another model.
    """
    moments = read_tensors(path)
    if not {name.rsplit("/", 1)[0] for name in moments} <= parameters.keys():
        raise DataError(f"{path}: an optimizer's state for another model. Delete it to start afresh.")
    set_moments(moments, parameters, optimizer)


def load_single(path: Path, parameters: Parameters) -> None:
    """Give parameters the weights in single precision that `save_moments` wrote beside the moments, if it did.

    Raises:
        DataError: the file is unreadable.
    """
    for name, value in read_tensors(path).items():
        if name.endswith(f"/{SINGLE}"):
            parameters[name.removesuffix(f"/{SINGLE}")].data.copy_(value)


def set_moments(moments: dict[str, Tensor], parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer a state by parameter and key."""
    for full_name, value in moments.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        if key == SINGLE:
            parameter.data.copy_(value)
            continue
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


def keep_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with its fingerprint beside it, for `kept_tensors`.

    Raises:
        SparringError: the disk is full.
    """
    write_tensors(path, tensors)
    write_sealed(_record_of(path), {"files": fingerprints(path.parent, [path])})


def kept_tensors(path: Path) -> dict[str, Tensor] | None:
    """Read what `keep_tensors` wrote; none where it is not there or is not whole, and must be computed again."""
    if not path.is_file() or not _record_of(path).is_file():
        return None
    try:
        change = find_change(path.parent, read_sealed(_record_of(path), remedy="")["files"])
        problem = f"{change[0]} {change[1]}" if change else ""
    except DataError as error:
        problem = str(error).rstrip(". ")
    if problem:
        log.warning("%s is computed again: %s.", path, problem)
        return None
    return read_tensors(path)


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


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
