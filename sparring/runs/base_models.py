"""Which files the base models consisted of when a run began comes out, and a later start is compared with that.

A run may last for days, and its later phases load the base model again. A folder that was changed meanwhile would
change numbers without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.fingerprints import find_change, fingerprints, read_sealed, write_sealed

FILE = "base_models.json"
"""In the run's folder."""
SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")
"""Files that loading a model may read."""


def check_base_models(run_folder: Path, models: Mapping[str, str], *, is_new: bool) -> None:
    """Write down the fingerprints of the base models' files, or compare them with those that the run began with.

    Args:
        run_folder: the run's folder.
        models: `model.path` → its folder, or the Hub id, which counts once its files are in the local cache.
        is_new: nothing was made in the run so far, so whatever is there may be used.

    Raises:
        DataError: a file of a model has changed, is gone or is new; or the run's own record is damaged.
    """
    path = run_folder / FILE
    remedy = "Put it back as it was, or choose another --out and begin anew."
    known: dict[str, Any] = {} if is_new else read_sealed(path, remedy=remedy)
    found = dict(known)
    for model, place in models.items():
        folder = _folder(place)
        if folder is None:
            continue
        files = list(_files(folder))
        if model not in known:
            found[model] = fingerprints(folder, files)
            continue
        change = find_change(folder, known[model])
        added = next((one for one in files if one.relative_to(folder).as_posix() not in known[model]), None)
        if change or added:
            changed, what = change or (added, "is new")
            raise DataError(f"{changed}: {what}: the base model was another when the run began. {remedy}")
    if found != known or is_new:
        write_sealed(path, found)


def _folder(place: str) -> Path | None:
    """Return the folder of a model's files, none for a Hub id whose files are not here."""
    folder = Path(place)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(place, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _files(folder: Path) -> Iterable[Path]:
    candidates = (*folder.iterdir(), *folder.glob("additional_chat_templates/*"))
    return (path for path in candidates if path.suffix in SUFFIXES and path.is_file())
