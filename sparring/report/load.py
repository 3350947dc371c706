"""Runs' folders → one view of them: a run as it is, or several runs with their arms side by side.

Of several runs each arm has the run's name before its own, so that all that is made of results and phases serves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import read_object
from sparring.core.types import Trajectory
from sparring.report.collect import read_experts
from sparring.report.damage import content_of
from sparring.report.folder import Costs, PhaseFolder, list_phases, read_costs
from sparring.report.unfinished import State, partial_results, read_state
from sparring.report.view import Results, read_results, results_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """One run."""

    name: str
    """Its folder's; unique among those that are compared."""
    folder: Path
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    results: Results
    """With the arms' own names."""
    phases: Sequence[PhaseFolder]
    """With the arms' names as they are in `Loaded.results`."""
    experts: Sequence[Trajectory]
    state: State | None = None
    """How far it is; none: it is finished."""

    @property
    def world(self) -> str:
        """The world's id."""
        return str(self._setting("env", "id"))

    @property
    def model(self) -> str:
        """The base model."""
        return str(self._setting("model", "path"))

    @property
    def seeds(self) -> list[str]:
        """The seeds of all arms."""
        return list(dict.fromkeys(seed for arm in self.results.arms.values() for seed in arm.seeds))

    @property
    def tasks(self) -> set[str]:
        """The held-out tasks that any arm played last."""
        return {t for arm in self.results.arms.values() for rewards in arm.final().values() for t in rewards}

    def _setting(self, section: str, key: str) -> Any:
        first = next(iter(self.config.get("arms", {}).values()), {})
        return first.get(section, {}).get(key) or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a page is made of."""

    runs: Sequence[LoadedRun]
    results: Results
    """Of all runs; where there are several, arms are named `run/arm`."""
    config: Mapping[str, Any]
    """The arms' resolved configs, by the same names."""
    phases: Sequence[PhaseFolder]
    costs: Costs

    @property
    def is_comparison(self) -> bool:
        """Are there several runs?"""
        return len(self.runs) > 1

    def run_of(self, arm: str) -> LoadedRun:
        """Return the run that an arm is of."""
        return next((run for run in self.runs if arm.startswith(f"{run.name}/")), self.runs[0])


def load(folders: Sequence[Path]) -> Loaded:
    """Read runs, unfinished ones as far as they are.

    Raises:
        ConfigError: a folder is named twice.
        DataError: one is no run's folder, or a file of it is damaged.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("report: a run is named twice. Name each run once.")
    names = run_names(folders)
    runs = [_load(folder, name, len(folders) > 1) for folder, name in zip(folders, names, strict=True)]
    known = [_costs(run) for run in runs]
    first = runs[0]
    if len(runs) == 1:
        return Loaded(runs=runs, results=first.results, config=first.config, phases=first.phases, costs=known[0])
    return Loaded(
        runs=runs,
        results=_merged(runs),
        config={"arms": {f"{run.name}/{arm}": own for run in runs for arm, own in run.config["arms"].items()}},
        phases=[phase for run in runs for phase in run.phases],
        costs=_added(known),
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """Name runs by their folders, with as many of the folders above as it takes to tell them apart.

    a/x and b/y are x and y; a/x and b/x are a-x and b-x.
    """
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [re.sub(r"[^\w.-]", "-", "-".join(one[-depth:])) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"run-{place}" for place in range(len(folders))]


def _load(folder: Path, name: str, is_one_of_several: bool) -> LoadedRun:
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder}: is no run's folder (it has no config.json).")
    config, state = read_object(path), None
    if (folder / "results.json").exists():
        results = read_results(folder)
    else:
        with content_of(path):
            results = results_from_json(partial_results(folder, config), config)
            state = read_state(folder, config)
    seeds = list(dict.fromkeys(seed for arm in results.arms.values() for seed in arm.seeds))
    phases = list_phases(folder, seeds, list(results.arms))
    if is_one_of_several:
        phases = [replace(phase, arm=f"{name}/{phase.arm}") for phase in phases]
    versions = folder / "versions.json"
    return LoadedRun(
        name=name,
        folder=folder,
        config=config,
        versions=read_object(versions) if versions.exists() else {},
        results=results,
        phases=phases,
        experts=read_experts(folder),
        state=state,
    )


def _merged(runs: Sequence[LoadedRun]) -> Results:
    first = runs[0].results
    arms = {
        f"{run.name}/{arm.name}": replace(arm, name=f"{run.name}/{arm.name}", label=f"{run.name}: {arm.label}")
        for run in runs
        for arm in run.results.arms.values()
    }
    return replace(
        first,
        name=" against ".join(run.name for run in runs) if len(runs) == 2 else ", ".join(run.name for run in runs),
        arms=arms,
        broken=_sum_broken(runs),
        held_out={f"{run.name}/{arm}": f"{run.world}, {run.results.split}" for run in runs for arm in run.results.arms},
        num_demonstrations=None,
    )


def _sum_broken(runs: Sequence[LoadedRun]) -> dict[str, Any]:
    known = [run.results.broken for run in runs if run.results.broken]
    num, episodes = (sum(one.get(key, 0) for one in known) for key in ("num", "episodes"))
    phases = {
        f"{run.name}/{name}": count for run in runs for name, count in (run.results.broken.get("phases") or {}).items()
    }
    return {"num": num, "episodes": episodes, "share": num / episodes if episodes else 0.0, "phases": phases}


def _costs(run: LoadedRun) -> Costs:
    return read_costs(run.folder, run.phases)


def _added(known: Sequence[Costs]) -> Costs:
    by_phase = dict(known[0].by_phase)
    for costs in known[1:]:
        for key, cost in costs.by_phase.items():
            by_phase[key] = by_phase[key] + cost if key in by_phase else cost
    return Costs(by_phase=by_phase, by_arm={key: own for costs in known for key, own in costs.by_arm.items()})
