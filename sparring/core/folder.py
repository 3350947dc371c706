"""A run's folder: its config, its versions, its lock, and the phases within it.

The invariant: a file is either whole, or an append-only journal whose last line alone may be torn (`journal`); a run
that was killed at any moment goes on with the same command.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Self

from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import Journal, disk_errors, read_object, write_json_atomic
from sparring.core.phases import Phase
from sparring.core.ranges import MAX_PATH, Adjustable, Text

log = logging.getLogger(__name__)

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scienceworld")
"""Packages whose version is saved with a run, because results may depend on it."""
ADJUSTED = "adjusted"
"""Where a run's versions say with which other settings it went on, one list of differences each time."""
CLAIM = ".{}.claim"
"""Name of the file that keeps a shared phase from other processes, from the phase's own."""
ROOM = 512
"""Bytes of a path that are kept for what is written in a run's folder."""


class Run:
    """A run's folder, held by this process alone or by the one that it works for. Use as a context manager, or call
    `close`."""

    def __init__(self, folder: Path, lock: IO[bytes] | None) -> None:
        """Use `Run.open` or `Run.join`."""
        self.folder = folder
        self._lock = lock
        self.is_new = False
        """Whether nothing was made in it before it was opened."""
        self._checked: set[str] = set()

    @classmethod
    def open(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        versions: Mapping[str, Any],
        adjustable: Mapping[str, Adjustable] | None = None,
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> Run:
        """Create the run folder, or go on with one of the same config. One in which nothing was made yet is taken over.

        Arms and seeds may be added: what was made stays, and they are made beside it.

        Args:
            folder: the run's folder; created where it is absent.
            config: the resolved config, as JSON values; saved as `config.json`.
            versions: what `versions()` returned; saved as `versions.json`. Other versions than those that the run was
                started with are noted there and in the log, and do not stop it.
            adjustable: the keys of an arm's config that may differ from those that the run was started with, for
                instance `env.max_retries`. They are saved in the place of the old ones; where numbers may depend on
                them, that is noted as for versions.
            completed: gives a config that an earlier version saved the keys that have come since, at their defaults.

        Raises:
            ConfigError: the folder was made by another config (the message lists what differs), holds something that
                is no run, or is in use by another process.
            DataError: the folder's config can't be read.
            SparringError: the disk is full.
        """
        with disk_errors(folder):
            check_place(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise ConfigError(f"--out {folder}: is a file, or lies under one. Choose another --out.") from None
            except PermissionError:
                raise ConfigError(f"--out {folder}: no permission to create it. Choose another --out.") from None
            run = cls(folder, _lock(folder))
        try:
            run._check_or_write(config, versions, adjustable or {}, completed)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def join(cls, folder: Path, add_timing: Callable[..., None]) -> Run:
        """Take part in a run that another process has opened, and holds.

        Args:
            folder: the run's folder.
            add_timing: in place of `Run.add_timing`.
        """
        run = cls(folder, None)
        run.add_timing = add_timing
        return run

    @contextmanager
    def claim(self, phases: Iterable[Phase], waiting: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
        """Keep phases from other processes that take part in the run, once those that are at one have finished.

        Args:
            phases: which several may want to do; whoever comes second finds them done.
            waiting: entered while there is something to wait for.
        """
        with ExitStack() as stack:
            for path in sorted({phase.path for phase in phases}) if self._lock is None else ():
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((path.parent / CLAIM.format(path.name)).open("ab"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    with waiting():
                        fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def drop_claims(self) -> None:
        """Delete what is left of claims; no other process takes part any more."""
        for path in self.folder.glob(f"seed-*/shared/{CLAIM.format('*')}"):
            path.unlink(missing_ok=True)

    def phase(self, name: str) -> Phase:
        """Return the phase whose folder is `name` within the run, for instance `seed-0/eto/round-1/train-target`."""
        path = self.folder / name
        assert path.is_relative_to(self.folder) and ".." not in path.parts[len(self.folder.parts) :], name
        return Phase(path, self._checked)

    def add_timing(self, **timing: Any) -> None:
        """Append a record to `timings.jsonl`: times are kept out of every other file, which are the same each time."""
        Journal(self.folder / "timings.jsonl").append([timing])

    def close(self) -> None:
        """Let other processes open the folder."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_or_write(
        self,
        config: Mapping[str, Any],
        versions: Mapping[str, Any],
        adjustable: Mapping[str, Adjustable],
        completed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        config_path, versions_path = self.folder / "config.json", self.folder / "versions.json"
        contents = [path.name for path in sorted(self.folder.iterdir()) if not _is_there_from_the_start(path)]
        is_run = config_path.exists() and versions_path.exists()
        if not contents and (is_run or not config_path.exists()):
            # Nothing was made yet: a first try that failed over its config may be mended.
            self.is_new = True
            write_json_atomic(versions_path, versions)
            write_json_atomic(config_path, config)
            return
        if not is_run:
            found = contents[0] if contents else "config.json"
            lacks = "versions.json" if config_path.exists() else "config.json"
            raise ConfigError(
                f"--out {self.folder}: is not a run's folder (it has no {lacks}), but holds {found!r}. Choose another "
                "--out."
            )
        saved, now = _read_object(config_path), json.loads(json.dumps(config))
        before = json.loads(json.dumps(completed(saved)))
        differences = _differences(before, now)
        grown = [keys for keys in differences if _is_growth(keys, before, now)]
        how = {keys: adjustable.get(".".join(keys[2:])) for keys in differences}  # arms, an arm's name, section, key
        if fixed := [line for keys, line in differences.items() if how[keys] is None and keys not in grown]:
            raise ConfigError(
                f"{self.folder}: was made by another config. Choose another --out, delete the folder, or undo what "
                "differs:\n  " + "\n  ".join(fixed)
            )
        self._note_versions(versions_path, versions)
        if noted := [line for keys, line in differences.items() if (rule := how[keys]) and not rule.is_exact]:
            log.warning("%s: goes on with other settings, so numbers may differ: %s", self.folder, "; ".join(noted))
            known = _read_object(versions_path)
            write_json_atomic(versions_path, {**known, ADJUSTED: [*known.get(ADJUSTED, []), noted]})
        if saved != now:
            write_json_atomic(config_path, config)

    def _note_versions(self, path: Path, versions: Mapping[str, Any]) -> None:
        saved = _read_object(path)
        history = saved.pop("resumed_with", [])
        if not isinstance(history, list):
            raise DataError(f"{path}: resumed_with: expected a list. Put the file back as it was, or delete that key.")
        adjusted = {key: saved.pop(key) for key in (ADJUSTED,) if key in saved}
        differences = list_differences(history[-1] if history else saved, json.loads(json.dumps(versions)))
        if differences:
            log.warning(
                "%s: resumed with other versions, so numbers may differ: %s", self.folder, "; ".join(differences)
            )
            write_json_atomic(path, {**saved, **adjusted, "resumed_with": [*history, dict(versions)]})


def check_place(folder: Path) -> None:
    """Refuse a folder in which nothing can be written.

    Raises:
        ConfigError: its path is no text that a file system takes, leaves no room for what is written in the folder,
            lies under a file, or may not be written to, as on a read-only disk.
    """
    text = str(folder.absolute())
    problem = Text(at_most=MAX_PATH - ROOM, is_path=True).problem(text)
    if problem:
        raise ConfigError(f"--out: expected a path, found one {problem}.")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: is a file, or lies under one. Choose another --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: no permission to write there. Choose another --out.")


def list_differences(old: Any, new: Any) -> list[str]:
    """List where two JSON values differ, one line per key: `dpo.lr: 1e-06 → 2e-06`."""
    return list(_differences(old, new).values())


def versions() -> dict[str, Any]:
    """Return what results may depend on besides the config: versions, the git revision, the machine's kind."""
    found: dict[str, Any] = {"sparring": _package_version("sparring"), "python": platform.python_version()}
    found |= {name: _package_version(name) for name in RECORDED_PACKAGES}
    return found | {"revision": _git_revision(), "machine": f"{platform.system()} {platform.machine()}"}


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ABSENT = object()


def _differences(old: Any, new: Any, keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return {
            path: line
            for key in dict.fromkeys((*old, *new))
            for path, line in _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*keys, key)).items()
        }
    if type(old) is type(new) and old == new:
        return {}
    return {keys: f"{'.'.join(keys)}: {_show(old)} → {_show(new)}"}


def _is_growth(keys: tuple[str, ...], before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Say whether a difference between two recipes adds to a run, and changes nothing that was made in it."""
    match keys:
        case ("seeds",):
            old, new = before.get("seeds"), now.get("seeds")
            return isinstance(old, list) and isinstance(new, list) and all(seed in new for seed in old)
        case ("arms", name):
            return name not in before.get("arms", {})
        case _:
            return False


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def _is_there_from_the_start(path: Path) -> bool:
    return path.name in (".lock", "config.json", "versions.json", "base_models.json") or path.name.endswith(".tmp")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError as error:
        raise DataError(f"{error} Put it back as it was, or choose another --out.") from None


def _lock(folder: Path) -> IO[bytes]:
    try:
        lock = (folder / ".lock").open("ab")
    except PermissionError:
        raise ConfigError(f"--out {folder}: no permission to write there. Choose another --out.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"{folder}: another process is at work on this run. Wait for it, or choose another --out."
        ) from None
    return lock


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the revision of the checkout that this file is tracked in, `-dirty` added, or None where there is none."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
