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
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from sparring.errors import ConfigError, DataError
from sparring.journal import Journal, disk_errors, read_json, read_jsonl, write_json_atomic
from sparring.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

log = logging.getLogger(__name__)

RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scienceworld")
"""Packages whose version is saved with a run, because results may depend on it."""
TRAJECTORIES = "trajectories.jsonl"
"""What a phase played, in its folder."""


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
        task = record["task"]
        return Trajectory(
            id=record["id"],
            task=Task(id=task["id"], kind=task["kind"], data=task["data"]),
            agent=record["agent"],
            turns=tuple(
                Turn(
                    observation=turn["observation"],
                    text=turn["text"],
                    action=turn["action"],
                    reward=float(turn["reward"]),
                    token_ids=tuple(turn["token_ids"]),
                    logprobs=tuple(turn.get("logprobs", ())),
                )
                for turn in record["turns"]
            ),
            final_observation=record["final_observation"],
            reward=float(record["reward"]),
            stop=StopReason(record["stop"]),
            seed=record["seed"],
            num_retries=record["num_retries"],
            error=record["error"],
        )
    except KeyError as error:
        raise DataError(f"not a trajectory: no field {error}.") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"not a trajectory: {error}.") from None


def read_trajectories(path: Path) -> list[Trajectory]:
    """Read the trajectories of a JSONL file, without changing it.

    Raises:
        DataError: the file is missing or a line is no trajectory; the message names the line.
    """
    trajectories = []
    for number, record in enumerate(read_jsonl(path), start=1):
        try:
            trajectories.append(trajectory_from_json(record))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
    return trajectories


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

    @property
    def is_done(self) -> bool:
        """Whether the phase is finished, so that nothing of it need be done again."""
        return (self.path / "done.json").exists()

    def result(self) -> dict[str, Any]:
        """Return what `finish` was given.

        Raises:
            DataError: the phase is not finished, or its marker can't be read.
        """
        return read_json(self.path / "done.json")

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """Mark the phase as finished. Everything else that belongs to it must be on the disk already."""
        write_json_atomic(self.path / "done.json", dict(result or {}))

    def journal(self, name: str) -> Journal:
        """Return the journal `name` of this phase, for instance `trajectories.jsonl`."""
        return Journal(self.path / name)


class Run:
    """A run's folder, held by this process alone. Use as a context manager, or call `close`."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        """Use `Run.open`."""
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, config: Mapping[str, Any], versions: Mapping[str, Any]) -> Run:
        """Create the run folder, or go on with one of the same config. One in which nothing was made yet is taken over.

        Args:
            folder: the run's folder; created where it is absent.
            config: the resolved config, as JSON values; saved as `config.json`.
            versions: what `versions()` returned; saved as `versions.json`. Other versions than those that the run was
                started with are noted there and in the log, and do not stop it.

        Raises:
            ConfigError: the folder was made by another config (the message lists what differs), holds something that
                is no run, or is in use by another process.
            DataError: the folder's config can't be read.
            SparringError: the disk is full.
        """
        with disk_errors(folder):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise ConfigError(f"--out {folder}: is a file, or lies under one. Choose another --out.") from None
            except PermissionError:
                raise ConfigError(f"--out {folder}: no permission to create it. Choose another --out.") from None
            run = cls(folder, _lock(folder))
        try:
            run._check_or_write(config, versions)
        except BaseException:
            run.close()
            raise
        return run

    def phase(self, name: str) -> Phase:
        """Return the phase whose folder is `name` within the run, for instance `seed-0/eto/round-1/train-target`."""
        path = self.folder / name
        assert path.is_relative_to(self.folder) and ".." not in path.parts[len(self.folder.parts) :], name
        return Phase(path)

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

    def _check_or_write(self, config: Mapping[str, Any], versions: Mapping[str, Any]) -> None:
        config_path, versions_path = self.folder / "config.json", self.folder / "versions.json"
        contents = [path.name for path in sorted(self.folder.iterdir()) if not _is_there_from_the_start(path)]
        is_run = config_path.exists() and versions_path.exists()
        if not contents and (is_run or not config_path.exists()):
            # Nothing was made yet: a first try that failed over its config may be mended.
            write_json_atomic(versions_path, versions)
            write_json_atomic(config_path, config)
            return
        if not is_run:
            found = contents[0] if contents else "config.json"
            raise ConfigError(f"--out {self.folder}: is not a run's folder, but holds {found!r}. Choose another --out.")
        differences = list_differences(read_json(config_path), json.loads(json.dumps(config)))
        if differences:
            raise ConfigError(
                f"{self.folder}: was made by another config. Choose another --out, delete the folder, or undo what "
                "differs:\n  " + "\n  ".join(differences)
            )
        self._note_versions(versions_path, versions)

    def _note_versions(self, path: Path, versions: Mapping[str, Any]) -> None:
        saved = read_json(path) if path.exists() else {}
        history = saved.pop("resumed_with", [])
        differences = list_differences(history[-1] if history else saved, json.loads(json.dumps(versions)))
        if differences:
            log.warning(
                "%s: resumed with other versions, so numbers may differ: %s", self.folder, "; ".join(differences)
            )
            write_json_atomic(path, {**saved, "resumed_with": [*history, dict(versions)]})


def list_differences(old: Any, new: Any, *, prefix: str = "") -> list[str]:
    """List where two JSON values differ, one line per key: `dpo.lr: 1e-06 → 2e-06`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in list_differences(
                old.get(key, _ABSENT), new.get(key, _ABSENT), prefix=f"{prefix}.{key}" if prefix else key
            )
        ]
    if type(old) is type(new) and old == new:
        return []
    return [f"{prefix}: {_show(old)} → {_show(new)}"]


def versions() -> dict[str, Any]:
    """Return what results may depend on besides the config: versions, the git revision, the machine's kind."""
    found: dict[str, Any] = {"sparring": _package_version("sparring"), "python": platform.python_version()}
    found |= {name: _package_version(name) for name in RECORDED_PACKAGES}
    return found | {"revision": _git_revision(), "machine": f"{platform.system()} {platform.machine()}"}


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ABSENT = object()


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def _is_there_from_the_start(path: Path) -> bool:
    return path.name in (".lock", "config.json", "versions.json") or path.name.endswith(".tmp")


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
