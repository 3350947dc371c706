"""An unfinished run's folder → results of its finished phases, what is at work, and what is missing."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.analysis.failures import AnalysisConfig
from sparring.core.errors import DataError
from sparring.core.filters import SUCCESS_EPS
from sparring.core.journal import read_journal
from sparring.core.phases import DONE, TRAJECTORIES
from sparring.report.arm_record import Bounds, arm_record

NO_ROUNDS = ("sft", "zero_shot", "prefer")
"""Methods that end at their start."""
ROUNDS_KEYS: Mapping[str, tuple[str, str]] = {
    "grpo": ("grpo", "rounds"),
    "coevolve": ("grpo", "rounds"),
    "ppo": ("ppo", "rounds"),
}
"""Method → section and key of its number of rounds; others have `loop.rounds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPhase:
    """A phase that was begun and is not finished."""

    seed: str
    arm: str
    """Empty where arms share it."""
    name: str
    num_episodes: int
    num_steps: int
    idle_s: float
    """Seconds since something was written there."""

    @property
    def words(self) -> str:
        """Say how far it is: `34 episodes so far`."""
        counts = ((self.num_episodes, "episode"), (self.num_steps, "optimizer step"))
        told = [f"{num} {what}{'' if num == 1 else 's'} so far" for num, what in counts if num]
        return ", ".join(told) or "begun"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmState:
    """How far one arm is with one seed."""

    seed: str
    arm: str
    num_phases: int
    """Finished ones."""
    round: int | None
    """The last round after which its target agent was evaluated; None: not even its start."""
    num_rounds: int | None
    """Rounds that it is to have; None where that is not known."""

    @property
    def is_finished(self) -> bool:
        """Whether its last evaluation is there."""
        return self.round is not None and self.round == self.num_rounds

    @property
    def words(self) -> str:
        """Say how far it is: `round 2 of 3 evaluated`."""
        of = "" if self.num_rounds is None else f" of {self.num_rounds}"
        if self.round is None:
            return "begun, nothing evaluated" if self.num_phases else "not begun"
        if self.is_finished:
            return "finished"
        return f"round {self.round}{of} evaluated" if self.round else f"start evaluated, round 1{of} to come"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far an unfinished run is."""

    is_running: bool
    """Whether a process holds the run's lock."""
    arms: Sequence[ArmState]
    at_work: Sequence[OpenPhase]

    @property
    def num_finished(self) -> int:
        """Arms and seeds that are finished."""
        return sum(arm.is_finished for arm in self.arms)

    @property
    def words(self) -> str:
        """Say it in a sentence."""
        how = f"{self.num_finished} of {len(self.arms)} arms and seeds are finished"
        if self.is_running:
            return f"The run is in progress: {how}."
        return f"The run is not finished, and no process is at work on it: {how}. The same command goes on."


def read_state(run_dir: Path, config: Mapping[str, Any]) -> State:
    """Say how far a run is; only its own files are read."""
    arms = config.get("arms", {})
    seeds = [str(seed) for seed in config.get("seeds", ())]
    states = [
        ArmState(
            seed=seed,
            arm=name,
            num_phases=sum(1 for _ in _markers(run_dir / f"seed-{seed}" / name)),
            round=_last_evaluated(run_dir / f"seed-{seed}" / name),
            num_rounds=_num_rounds(own),
        )
        for seed in seeds
        for name, own in arms.items()
    ]
    opened = sorted(_open_phases(run_dir, seeds, [*arms, "shared"]), key=lambda one: one.idle_s)
    return State(is_running=is_locked(run_dir), arms=states, at_work=opened)


def partial_results(run_dir: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `results.json` would hold, from the phases that are finished; measures of the world's are left out.

    Arms that were not evaluated yet are left out as long as another was.

    Raises:
        DataError: a finished phase is damaged, or the config has no arm.
    """
    arms = config.get("arms", {})
    if not arms:
        raise DataError(f"{run_dir / 'config.json'}: has no arm. Run the recipe again into another folder.")
    first = next(iter(arms.values()))
    experts = run_dir / "experts.jsonl"
    solved = {record["task"]["id"] for record in read_journal(experts)} if experts.exists() else set()
    records = {
        name: {
            "method": own.get("method", name),
            "label": own.get("label") or name,
            "config": own,
            "seeds": {
                str(seed): arm_record(run_dir / f"seed-{seed}" / name, _bounds(own)) for seed in config.get("seeds", ())
            },
        }
        for name, own in arms.items()
    }
    evaluated = {name: one for name, one in records.items() if any(s["evaluations"] for s in one["seeds"].values())}
    return {
        "name": config.get("name", run_dir.name),
        "split": _get(first, "eval", "split", "test"),
        "success_eps": _get(first, "pairs", "success_eps", SUCCESS_EPS),
        "num_demonstrations": len(solved),
        "arms": evaluated or records,
    }


def is_locked(run_dir: Path) -> bool:
    """Say whether a process of this machine holds a run's folder."""
    try:
        lock = (run_dir / ".lock").open("rb")
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _bounds(own: Mapping[str, Any]) -> Bounds:
    return Bounds(
        thresholds=_get(own, "analysis", "hard_thresholds", AnalysisConfig.hard_thresholds),
        success_eps=_get(own, "pairs", "success_eps", SUCCESS_EPS),
        collapse_drop=_get(own, "analysis", "collapse_drop", AnalysisConfig.collapse_drop),
        collapse_rise=_get(own, "analysis", "collapse_rise", AnalysisConfig.collapse_rise),
    )


def _get(own: Mapping[str, Any], section: str, key: str, default: Any) -> Any:
    return own.get(section, {}).get(key, default)


def _num_rounds(own: Mapping[str, Any]) -> int | None:
    method = own.get("method")
    if method in NO_ROUNDS:
        return 0
    if method == "rft":
        return 1
    return _get(own, *ROUNDS_KEYS.get(str(method), ("loop", "rounds")), None)


def _markers(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f"*/{DONE}")
    yield from folder.glob(f"round-*/*/{DONE}")


def _last_evaluated(folder: Path) -> int | None:
    rounds = [path.parent.parent.name for path in folder.glob(f"round-*/evaluate-target/{DONE}")]
    return max((int(name.removeprefix("round-")) for name in rounds), default=None)


def _open_phases(run_dir: Path, seeds: Sequence[str], arms: Sequence[str]) -> Iterator[OpenPhase]:
    for seed in seeds:
        for arm in arms:
            folder = run_dir / f"seed-{seed}" / arm
            for path in (*folder.glob("*"), *folder.glob("round-*/*")):
                is_phase = path.is_dir() and not path.is_symlink() and not path.name.startswith(("round-", "."))
                if (is_phase or path.parent.name == "shared") and path.is_dir() and not (path / DONE).exists():
                    yield _opened(seed, "" if arm == "shared" else arm, path, folder)


def _opened(seed: str, arm: str, path: Path, folder: Path) -> OpenPhase:
    written = [_last_change(one) for one in (path, *path.glob("*"))]
    name = path.relative_to(folder).as_posix()
    return OpenPhase(
        seed=seed,
        arm=arm,
        name=name if arm else name.rpartition("-")[0],
        num_episodes=_num_lines(path / TRAJECTORIES),
        num_steps=_num_lines(path / "log.jsonl"),
        idle_s=max(0.0, time.time() - max(written)),
    )


def _last_change(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # the run has replaced it since
        return 0.0


def _num_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
