"""Several runs → what they share, and paired differences between their arms, for the page's template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from sparring.analysis.statistics import Interval
from sparring.report.load import Loaded, LoadedRun
from sparring.report.sections import Source
from sparring.report.text import between, reward
from sparring.report.view import ArmResults

MAX_MATRIX = 16
"""Arms up to which each is compared with each."""


def section(loaded: Loaded, source: Source) -> dict[str, Any] | None:
    """Say what the runs are, what they share, and how their arms differ; None where there is one run."""
    if not loaded.is_comparison:
        return None
    return {
        "runs": [_about(run) for run in loaded.runs],
        "words": [line for one, other in combinations(loaded.runs, 2) for line in shared_lines(one, other)],
        "methods": _same_methods(loaded, source),
        "matrix": matrix(source),
    }


def lede(loaded: Loaded, source: Source) -> str:
    """Say in a sentence which arm reaches most in each world and split that was played."""
    groups: dict[str, list[ArmResults]] = {}
    for arm in source.results.arms.values():
        groups.setdefault(source.results.held_out.get(arm.name, ""), []).append(arm)
    told = []
    for played, arms in groups.items():
        means = [(source.interval(arm.final()), arm.label) for arm in arms]
        there = [(one.mean, one, label) for one, label in means if one.num]
        if there:
            _, best, label = max(there, key=lambda found: found[0])
            where = f" on {played}" if len(groups) > 1 else ""
            told.append(
                f"{label} has the highest mean reward{where}, {reward(best.mean)} {between(best.low, best.high)}"
            )
    runs = f"{sum(map(len, groups.values()))} arms of {len(loaded.runs)} runs"
    return f"{runs}. {'; '.join(told)}." if told else f"{runs}, none evaluated yet."


def shared_lines(one: LoadedRun, other: LoadedRun) -> list[str]:
    """Say in plain words what two runs share, and what makes their numbers hard to compare."""
    who, lines = f"{one.name} and {other.name}", []
    if one.world != other.world:
        return [f"{who} are of different worlds ({one.world} and {other.world}): no difference is computed."]
    if one.results.split != other.results.split:
        splits = f"“{one.results.split}” and “{other.results.split}”"
        return [f"{who} are measured on different splits ({splits}): no difference is computed."]
    tasks = len(one.tasks & other.tasks)
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if not one.tasks or not other.tasks:
        nothing = one if not one.tasks else other
        lines.append(f"{nothing.name} has no held-out rewards yet, so {who} can’t be compared.")
    elif not tasks:
        lines.append(f"{who} share no held-out task: no difference is computed.")
    elif not seeds:
        told = f"{', '.join(one.seeds)} and {', '.join(other.seeds)}"
        lines.append(f"{who} share {tasks} held-out tasks and no seed ({told}): no difference is computed.")
    else:
        total = len(one.tasks | other.tasks)
        among = f"{tasks} of {total} held-out tasks" if tasks < total else f"all {tasks} held-out tasks"
        lines.append(f"{who} share {among} and {_seeds(seeds)}: differences are paired on these.")
    if one.model != other.model:
        lines.append(
            f"{who} start from different base models ({one.model} and {other.model}): differences are of the "
            "models and of the methods together."
        )
    return lines


def matrix(source: Source) -> dict[str, Any] | None:
    """Compare each arm with each: the one of the row minus that of the column."""
    arms = list(source.results.arms.values())
    if not 2 < len(arms) <= MAX_MATRIX:
        return None
    rows = [
        {"label": arm.label, "cells": [None if arm is other else _cell(source, arm, other) for other in arms]}
        for arm in arms
    ]
    return {"labels": [arm.label for arm in arms], "rows": rows}


def _same_methods(loaded: Loaded, source: Source) -> dict[str, Any] | None:
    """Compare arms of one name across the runs: each later run minus the first that has it."""
    by_name: dict[str, list[tuple[LoadedRun, ArmResults]]] = {}
    for run in loaded.runs:
        for name, arm in run.results.arms.items():
            by_name.setdefault(name, []).append((run, source.results.arms[f"{run.name}/{arm.name}"]))
    rows = []
    for found in by_name.values():
        for run, arm in found[1:]:
            base_run, base = found[0]
            label = base_run.results.arms[base.name.removeprefix(f"{base_run.name}/")].label
            cell = _cell(source, arm, base)
            if cell["gap"].num:
                rows.append({"label": label, "what": f"{run.name} − {base_run.name}", **cell})
    return {"rows": rows} if rows else None


def _cell(source: Source, arm: ArmResults, other: ArmResults) -> Mapping[str, Any]:
    gap: Interval = source.difference(arm, other)
    return {"gap": gap, "is_clear": bool(gap.num) and (gap.low > 0 or gap.high < 0)}


def _about(run: LoadedRun) -> dict[str, Any]:
    rounds = max((number for arm in run.results.arms.values() for number in arm.rounds()), default=0)
    return {
        "name": run.name,
        "recipe": run.results.name,
        "world": run.world,
        "split": run.results.split,
        "model": run.model,
        "tasks": len(run.tasks),
        "seeds": ", ".join(run.seeds),
        "rounds": rounds,
        "state": "finished" if run.state is None else "in progress" if run.state.is_running else "not finished",
    }


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
