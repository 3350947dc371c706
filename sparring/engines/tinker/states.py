"""What is kept of states that lie on a Tinker server: small records of where they are, and adapters fetched from there.

A published agent is a folder with `tinker.json`; where the service gives its adapters out, it is a PEFT folder too, and
plays anywhere. An unfinished training has `tinker-state.json`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.fingerprints import read_sealed, write_sealed
from sparring.models.adapter_folders import CONFIG, WEIGHTS

PUBLISHED, UNFINISHED = "tinker.json", "tinker-state.json"
MAX_ADAPTER = 8 << 30
"""Most bytes of an adapter that is fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Where an adapter's state lies."""

    path: str
    """What the server calls it."""
    server: str
    """The server's address."""
    base: str
    """What the server calls the base model."""
    rank: int
    with_optimizer: bool
    """Whether the next training goes on with the optimizer's state."""


def write_published(folder: Path, saved: Saved) -> None:
    """Write where an agent's state lies into its folder."""
    write_sealed(folder / PUBLISHED, asdict(saved))


def read_published(folder: Path) -> Saved:
    """Read where an agent's state lies.

    Raises:
        DataError: the folder is no agent of a Tinker server, or its record is damaged.
    """
    if not (folder / PUBLISHED).is_file():
        raise DataError(f"{folder}: has no {PUBLISHED}, so no Tinker server has this agent. Begin a new run for it.")
    record = read_sealed(folder / PUBLISHED, remedy=f"Delete {folder.parent} to train anew.")
    try:
        return Saved(**{name: record[name] for name in Saved.__dataclass_fields__})
    except KeyError as error:
        raise DataError(f"{folder / PUBLISHED}: lacks {error}. Delete {folder.parent} to train anew.") from None


def write_unfinished(folder: Path, path: str, step: int, numbers: Mapping[str, Any]) -> None:
    """Write where the state after a step lies, in the place of the one before."""
    write_sealed(folder / UNFINISHED, {"path": path, "step": step, "numbers": dict(numbers)})


def read_unfinished(folder: Path) -> tuple[str, int, dict[str, Any]] | None:
    """Read where the state of an unfinished training lies, and its step and numbers; none where there is none.

    Raises:
        DataError: the record is damaged.
    """
    if not (folder / UNFINISHED).is_file():
        return None
    record = read_sealed(folder / UNFINISHED, remedy=f"Delete {folder} to train anew.")
    return record["path"], record["step"], record["numbers"]


def unpack_adapter(archive: bytes, folder: Path, base: str) -> None:
    """Write a fetched adapter's two files, and no others, as a PEFT folder that names our base model.

    Raises:
        DataError: the archive holds no adapter.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            found = {Path(one.name).name: one for one in packed.getmembers() if one.isreg() and one.size < MAX_ADAPTER}
            files = {name: packed.extractfile(found[name]) for name in (CONFIG, WEIGHTS)}
            config = json.loads(files[CONFIG].read())  # pyright: ignore[reportOptionalMemberAccess]
            weights = files[WEIGHTS].read()  # pyright: ignore[reportOptionalMemberAccess]
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DataError(
            f"{folder}: the server's archive holds no adapter ({error}). Set tinker.download = false."
        ) from None
    (folder / WEIGHTS).write_bytes(weights)
    config["base_model_name_or_path"] = base
    config["target_modules"] = config.get("target_modules") or _targets(folder / WEIGHTS)  # SkyRL names none
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))


def _targets(weights: Path) -> list[str]:
    """Return the ends of the names of the layers that have adapters, read off the tensors."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        return sorted({name.split(".lora_")[0].rpartition(".")[2] for name in file.keys()})  # noqa: SIM118
