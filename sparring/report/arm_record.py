"""An arm's finished phases with one seed → what `results.json` says of them. An unfinished run has some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.analysis.collapse import notices
from sparring.analysis.failures import rewards_by_task, summarise_rollouts, to_json
from sparring.core.filters import counted
from sparring.core.phases import DONE, Phase
from sparring.report.curriculum import round_numbers, summarise_curriculum
from sparring.report.folder import agent_names

Measure = Callable[[Mapping[str, float]], Mapping[str, Any]]
"""Rewards by task → the world's own measures."""


def no_measures(_: Mapping[str, float]) -> Mapping[str, Any]:
    """Return none: for callers that have no world."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An arm's settings that its results depend on."""

    thresholds: Sequence[float]
    """`analysis.hard_thresholds`."""
    success_eps: float
    """`pairs.success_eps`."""
    collapse_drop: float
    """`analysis.collapse_drop`."""
    collapse_rise: float
    """`analysis.collapse_rise`."""


def arm_record(folder: Path, bounds: Bounds, measure: Measure = no_measures) -> dict[str, Any]:
    """Return the records of an arm with one seed, from its finished phases alone.

    Raises:
        DataError: a phase's file is damaged.
    """
    names = ("evaluations", "rollouts", "refreshed", "branches", "pairs", "training", "checks")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    sampled: dict[int, dict[str, list[float]]] = {}
    for number in round_numbers(folder):
        for agent in agent_names(folder):
            key = {"round": number, "agent": agent}
            evaluated = Phase(folder / f"round-{number}" / f"evaluate-{agent}")
            if evaluated.is_done:
                found["evaluations"].append({**key, **evaluation(evaluated, bounds, measure)})
            for name, part, explored in _played(folder / f"round-{number}", agent):
                trajectories = explored.trajectories()
                summary = to_json(summarise_rollouts(trajectories, bounds.thresholds, bounds.success_eps))
                found[name].append({**key, **({"part": part} if part else {}), **summary})
                if (name, agent) == ("rollouts", "target"):
                    sampled[number] = rewards_by_task(trajectories)
            trained = Phase(folder / f"round-{number}" / f"train-{agent}")
            if trained.is_done:
                result = trained.result()
                found["training"].append({**key, "steps": result["steps"], "metrics": result["metrics"]})
                if result.get("pairs"):
                    found["pairs"].append({**key, "counts": result["pairs"]})
            checked = Phase(folder / f"round-{number}" / f"accept-{agent}")
            if checked.is_done:
                found["checks"].append({**key, **checked.result()})
    found["notices"] = [
        notice
        for section, tasks in (("evaluations", "held-out tasks"), ("rollouts", "training tasks"))
        for notice in notices(found[section], tasks, drop=bounds.collapse_drop, rise=bounds.collapse_rise)
    ]
    return {**found, **summarise_curriculum(folder, sampled, bounds.success_eps)}


def evaluation(played: Phase, bounds: Bounds, measure: Measure) -> dict[str, Any]:
    """Summarise what an agent earned on held-out tasks, with the world's own measures if it has any."""
    trajectories = played.trajectories()
    rewards = {t.task.id: t.reward for t in sorted(counted(trajectories), key=lambda t: t.task.id)}
    summary = to_json(summarise_rollouts(trajectories, bounds.thresholds, bounds.success_eps))
    measures = measure(rewards)
    return {**summary, **({"measures": measures} if measures else {}), "rewards": rewards}


def _played(folder: Path, agent: str) -> Iterator[tuple[str, str, Phase]]:
    """Yield the finished phases in which an agent played training tasks in a round: section, part and phase."""
    phases = [("rollouts", "", f"rollout-{agent}"), ("refreshed", "", f"rollout-{agent}-refreshed")]
    branches = sorted(path.parent.name for path in folder.glob(f"branch-{agent}*/{DONE}"))
    phases += [("branches", name.removeprefix(f"branch-{agent}").removeprefix("-"), name) for name in branches]
    for section, part, name in phases:
        phase = Phase(folder / name)
        if phase.is_done:
            yield section, part, phase
