"""A phase of a run: a folder, a marker that says when it is finished, and fingerprints of what it wrote.

A phase counts as finished only once its `done.json` is there, which is written last and appears at once or not at all.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.fingerprints import find_change, fingerprints, read_sealed, write_sealed
from sparring.core.journal import Journal
from sparring.core.records import read_trajectories
from sparring.core.types import Trajectory

log = logging.getLogger(__name__)

TRAJECTORIES = "trajectories.jsonl"
"""What a phase played, in its folder."""
DONE = "done.json"
"""The marker of a finished phase."""
ALSO = "also"
"""Begins the names of phases in which an agent plays a further held-out split: `also-target-test_challenge`."""
CHECKPOINT = "checkpoint"
"""The folder of the weights that a phase trained, in its own."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A resumable part of a run: a folder, and a marker that appears once the phase is finished."""

    path: Path
    """The phase's own folder; it may be absent until something is written."""

    checked: set[str] = field(default_factory=set, compare=False, repr=False)
    """Files whose fingerprints were compared already, so that each is hashed once."""

    @property
    def is_done(self) -> bool:
        """Whether the phase is finished, so that nothing of it need be done again."""
        return (self.path / DONE).exists()

    def result(self) -> dict[str, Any]:
        """Return what `finish` was given.

        Raises:
            DataError: the phase is not finished, or its marker is damaged.
        """
        return {key: value for key, value in self._record().items() if key != "files"}

    def finish(self, result: Mapping[str, Any] | None = None, *, others: Iterable[Path] = ()) -> None:
        """Mark the phase as finished, with the fingerprints of what it wrote.

        Args:
            result: what is to be known of it.
            others: files outside its folder that belong to it. All that belongs to it must be on the disk already.
        """
        files = fingerprints(self.path, [*self._files(), *others])
        write_sealed(self.path / DONE, {**(result or {}), "files": files})
        self.checked.update(str(self.path / name) for name in files)

    def has(self, name: str) -> bool:
        """Say whether the finished phase wrote a file of this name, be it there still or not.

        Raises:
            DataError: as for `result`.
        """
        return name in self._record()["files"]

    def check(self, name: str) -> None:
        """Compare a file of the finished phase, or all in a folder, with what was written; each once per process.

        Raises:
            DataError: one is missing or has changed; or as for `result`.
        """
        files = self._record()["files"]
        wanted = {n: known for n, known in files.items() if n == name or n.startswith(f"{name}/")}
        fresh = {n: known for n, known in wanted.items() if str(self.path / n) not in self.checked}
        change = find_change(self.path, fresh) if wanted else (self.path / name, "is not among what the phase wrote")
        if change:
            path = Path(os.path.normpath(change[0]))
            raise DataError(f"{path}: {change[1]}. {self.remedy}")
        self.checked.update(str(self.path / n) for n in fresh)

    def journal(self, name: str) -> Journal:
        """Return the journal `name` of this phase, for instance `trajectories.jsonl`."""
        return Journal(self.path / name, is_checked=True)

    def trajectories(self) -> list[Trajectory]:
        """Read what the finished phase played.

        Raises:
            DataError: the file is missing or is not what was written; the message names the line where it can.
        """
        path = self.path / TRAJECTORIES
        try:
            found = read_trajectories(path)
        except DataError as error:
            raise DataError(f"{error} {self.remedy}") from None
        self.check(TRAJECTORIES)
        return found

    @property
    def remedy(self) -> str:
        """What to do about a phase of which something is damaged."""
        return f"Delete {self.path} and run the same command again: this phase is then done anew."

    def _record(self) -> dict[str, Any]:
        return read_sealed(self.path / DONE, remedy=self.remedy)

    def _files(self) -> Iterable[Path]:
        """List what the phase wrote and keeps."""
        for path in self.path.rglob("*"):
            is_kept = path.relative_to(self.path).parts[0] != "state" and path.name != DONE
            if is_kept and path.suffix != ".tmp" and path.is_file():
                yield path


def check_checkpoint(model: str) -> None:
    """Compare a model's files with what a run saved, if it is the checkpoint of a finished phase.

    Raises:
        DataError: one is missing or has changed.
    """
    path = Path(model).expanduser()
    phase = Phase(path.parent)
    if path.name == CHECKPOINT and phase.is_done:
        phase.check(CHECKPOINT)


def shared_phase(own: Path, shared: Path) -> Path:
    """Return the folder of a phase that several users share: `shared`, to which `own` becomes a link.

    Links save work and space, and nothing depends on them. A folder that stands in a link's place, as a copy leaves it
    that follows links, is used or, where both are alike, made a link again. Where no link can be made, nothing is
    shared.
    """
    link = own.with_name(f".{own.name}.link")
    if own.is_symlink() and own.resolve() == shared.resolve():
        return shared
    if own.is_dir() and not own.is_symlink():
        is_copy = not (own / DONE).exists() or _same_bytes(own / DONE, shared / DONE)
        if not shared.exists() or not is_copy:
            return own
    own.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(shared, own.parent), target_is_directory=True)
    except OSError as error:
        log.warning("%s: can't be a link here (%s), so its phase is not shared.", own, error.strerror)
        return own
    if own.is_dir() and not own.is_symlink():
        shutil.rmtree(own)
    link.replace(own)
    return shared


def _same_bytes(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()
