"""A run's folder: append-only JSONL of trajectories and pairs, finished-phase markers, and what resuming needs.

What comes in are records and results; what goes out are files that survive a kill at any moment. The invariant: a file
is either whole, or an append-only journal whose last line alone may be torn (`journal.py`); and a phase counts as
finished only once its `done.json` is there, which is written last and appears at once or not at all.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from sparring.errors import ConfigError, DataError
from sparring.fingerprints import find_change, fingerprints, read_sealed, write_sealed
from sparring.journal import Journal, disk_errors, read_journal, read_object, write_json_atomic
from sparring.ranges import MAX_PATH, Adjustable, Text
from sparring.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scienceworld")
"""Packages whose version is saved with a run, because results may depend on it."""
ADJUSTED = "adjusted"
"""Where a run's versions say with which other settings it went on, one list of differences each time."""
ROOM = 512
"""Bytes of a path that are kept for what is written in a run's folder."""
TRAJECTORIES = "trajectories.jsonl"
"""What a phase played, in its folder."""
DONE = "done.json"
"""The marker of a finished phase."""
CHECKPOINT = "checkpoint"
"""The folder of the weights that a phase trained, in its own."""


# ── Records ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """Return the trajectory as JSON values; `trajectory_from_json` gives back an equal one."""
    return {
        "id": trajectory.id,
        "task": {"id": trajectory.task.id, "kind": trajectory.task.kind, "data": dict(trajectory.task.data)},
        "agent": trajectory.agent,
        "reward": trajectory.reward,
        "stop": trajectory.stop.value,
        "seed": trajectory.seed,
        "num_retries": trajectory.num_retries,
        "error": trajectory.error,
        "turns": [
            {
                "observation": turn.observation,
                "text": turn.text,
                "action": turn.action,
                "reward": turn.reward,
                "token_ids": list(turn.token_ids),
                **({"logprobs": list(turn.logprobs)} if turn.logprobs else {}),
            }
            for turn in trajectory.turns
        ],
        "final_observation": trajectory.final_observation,
    }


def trajectory_from_json(record: Mapping[str, Any]) -> Trajectory:
    """Build a trajectory from what `trajectory_to_json` returned.

    Raises:
        DataError: a field is missing or has another type.
    """
    try:
        task = _typed(record, "task", dict)
        return Trajectory(
            id=_typed(record, "id", str),
            task=Task(id=_typed(task, "id", str), kind=_typed(task, "kind", str), data=_typed(task, "data", dict)),
            agent=_typed(record, "agent", str),
            turns=tuple(map(_turn_from_json, _typed(record, "turns", list))),
            final_observation=_typed(record, "final_observation", str),
            reward=_reward(record),
            stop=StopReason(_typed(record, "stop", str)),
            seed=_typed(record, "seed", int),
            num_retries=_typed(record, "num_retries", int),
            error=_typed(record, "error", str),
        )
    except KeyError as error:
        raise DataError(f"not a trajectory: no field {error}.") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"not a trajectory: {error}.") from None


def _turn_from_json(turn: Mapping[str, Any]) -> Turn:
    if not isinstance(turn, dict):
        raise TypeError(f"a turn is {turn!r:.80}")
    return Turn(
        observation=_typed(turn, "observation", str),
        text=_typed(turn, "text", str),
        action=_typed(turn, "action", str),
        reward=_reward(turn),
        token_ids=_numbers(turn["token_ids"], int),
        logprobs=_numbers(turn.get("logprobs", []), (int, float)),
    )


def _typed(record: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = record[key]
    if type(value) is not kind:
        raise TypeError(f"{key} is {value!r:.80}, not of type {kind.__name__}")
    return value


def _reward(record: Mapping[str, Any]) -> float:
    value = record["reward"]
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"reward is {value!r:.80}, not a number from 0 to 1")
    return float(value)


def _numbers(values: Any, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    if not isinstance(values, list) or not all(isinstance(value, kind) and math.isfinite(value) for value in values):
        raise TypeError(f"expected a list of numbers, found {values!r:.80}")
    return tuple(values)


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read the trajectories of a JSONL file, without changing it.

    Raises:
        DataError: the file is missing, a line is no trajectory, or two have one id; the message names the line.
    """
    return _trajectories(path, read_journal(path))


def journaled(journal: Journal) -> list[Trajectory]:
    """Read the trajectories of a phase that may be unfinished; a torn last line is dropped.

    Raises:
        DataError: as for `read_trajectories`.
    """
    records = journal.read()
    try:
        return _trajectories(journal.path, records)
    except DataError as error:
        raise DataError(f"{error} Delete the line and run the same command again.") from None


def _trajectories(path: Path, records: Iterable[Mapping[str, Any]]) -> list[Trajectory]:
    found: list[Trajectory] = []
    lines: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        try:
            found.append(trajectory_from_json(record))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        if (first := lines.setdefault(found[-1].id, number)) != number:
            raise DataError(f"{path}:{number}: {found[-1].id!r} stands in line {first}, too.")
    return found


def pair_to_json(pair: PreferencePair) -> dict[str, Any]:
    """Return the pair as JSON values; the two trajectories are named by their ids."""
    return {
        "kind": pair.kind.value,
        "chosen": pair.chosen.id,
        "rejected": pair.rejected.id,
        "chosen_turns": pair.chosen_turns,
        "rejected_turns": pair.rejected_turns,
    }


def pairs_from_json(records: Sequence[Mapping[str, Any]], by_id: Mapping[str, Trajectory]) -> list[PreferencePair]:
    """Build pairs from what `pair_to_json` returned; `by_id` holds the trajectories that they name.

    Raises:
        DataError: a field is missing or wrong, or no such trajectory is known; the message names the record's line.
    """
    pairs = []
    for number, record in enumerate(records, start=1):
        try:
            pair = PreferencePair(
                kind=PairKind(record["kind"]),
                chosen=by_id[record["chosen"]],
                rejected=by_id[record["rejected"]],
                chosen_turns=record["chosen_turns"],
                rejected_turns=record["rejected_turns"],
            )
        except KeyError as error:
            raise DataError(f"line {number}: not a pair: no field or trajectory {error}.") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"line {number}: not a pair: {error}.") from None
        pairs.append(pair)
    return pairs


# ── The run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


class Run:
    """A run's folder, held by this process alone. Use as a context manager, or call `close`."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        """Use `Run.open`."""
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
    ) -> Run:
        """Create the run folder, or go on with one of the same config. One in which nothing was made yet is taken over.

        Args:
            folder: the run's folder; created where it is absent.
            config: the resolved config, as JSON values; saved as `config.json`.
            versions: what `versions()` returned; saved as `versions.json`. Other versions than those that the run was
                started with are noted there and in the log, and do not stop it.
            adjustable: the keys of an arm's config that may differ from those that the run was started with, for
                instance `env.max_retries`. They are saved in the place of the old ones; where numbers may depend on
                them, that is noted as for versions.

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
            run._check_or_write(config, versions, adjustable or {})
        except BaseException:
            run.close()
            raise
        return run

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
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_or_write(
        self, config: Mapping[str, Any], versions: Mapping[str, Any], adjustable: Mapping[str, Adjustable]
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
        differences = _differences(_read_object(config_path), json.loads(json.dumps(config)))
        how = {keys: adjustable.get(".".join(keys[2:])) for keys in differences}  # arms, an arm's name, section, key
        if fixed := [line for keys, line in differences.items() if how[keys] is None]:
            raise ConfigError(
                f"{self.folder}: was made by another config. Choose another --out, delete the folder, or undo what "
                "differs:\n  " + "\n  ".join(fixed)
            )
        self._note_versions(versions_path, versions)
        if noted := [line for keys, line in differences.items() if (rule := how[keys]) and not rule.is_exact]:
            log.warning("%s: goes on with other settings, so numbers may differ: %s", self.folder, "; ".join(noted))
            saved = _read_object(versions_path)
            write_json_atomic(versions_path, {**saved, ADJUSTED: [*saved.get(ADJUSTED, []), noted]})
        if differences:
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
