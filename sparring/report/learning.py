"""Training phases come in; pair counts and training curves go out, as drawings for the page's template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparring.core.types import PairKind
from sparring.report import charts
from sparring.report.charts import Curve
from sparring.report.folder import PhaseFolder, training_log
from sparring.report.view import ArmResults, Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What one panel of training curves shows."""

    title: str
    key: str
    secondary: str = ""
    reference: float | None = None
    limits: tuple[float, float] | None = None


METRICS = (
    Metric(title="Accuracy: pairs ranked right", key="accuracy", reference=0.5, limits=(0.0, 1.0)),
    Metric(title="Margin, nats", key="margin", reference=0.0),
    Metric(title="Δ log π of the chosen side, nats", key="delta_chosen", secondary="delta_rejected", reference=0.0),
)


def pairs(results: Results) -> dict[str, Any] | None:
    """Draw the number of preference pairs by kind, for each arm, agent and round; a mean over seeds."""
    sections, kinds, top = [], [], 0.0
    for arm in results.arms.values():
        rows = []
        for agent in reversed(arm.agents):
            for number in arm.record_rounds("pairs", agent):
                counts = _counts(arm, agent, number)
                kinds += counts
                top = max(top, sum(counts.values()))
                rows.append({"agent": agent, "name": arm.agent_name(agent), "round": number, "counts": counts})
        if rows:
            sections.append({"title": arm.label, "rows": rows})
    if not sections:
        return None
    for section in sections:
        for row in section["rows"]:
            row["drawing"] = charts.pairs_bar(row["counts"], top)
            row["total"] = sum(row["counts"].values())
    return {"sections": sections, "kinds": _legend(kinds)}


def _counts(arm: ArmResults, agent: str, number: int) -> dict[str, float]:
    kinds = dict.fromkeys(kind for record in arm.records("pairs", agent, number) for kind in record["counts"])
    means = {kind: arm.mean_of("pairs", agent, number, "counts", kind) or 0.0 for kind in kinds}
    return {kind: mean for kind, mean in means.items() if mean}


def _legend(kinds: Sequence[str]) -> list[tuple[str, str]]:
    return [(charts.kind_class(kind), charts.kind_name(kind)) for kind in dict.fromkeys(kinds)]


def curves(results: Results, phases: Sequence[PhaseFolder]) -> dict[str, Any] | None:
    """Draw accuracy, margin and Δ log π by pair kind over steps, for each arm and agent; a mean over seeds."""
    sections, kinds = [], []
    for arm in results.arms.values():
        for agent in arm.agents:
            logs = steps_by_round(arm, agent, phases, is_of_pairs)
            if not logs:
                continue
            names = dict.fromkeys(
                key.partition("/")[0] for log in logs.values() for line in log for key in line if is_of_pairs(key)
            )
            kinds += names
            sections.append(
                {
                    "title": arm.label,
                    "agent": agent,
                    "name": arm.agent_name(agent),
                    "panels": [_panel(metric, list(names), logs, f"{arm.label}, {agent}") for metric in METRICS],
                    "is_open": arm is results.featured,
                    "lowest": _lowest(logs, list(names)),
                }
            )
    if not sections:
        return None
    return {"sections": sorted(sections, key=lambda section: not section["is_open"]), "kinds": _legend(kinds)}


def is_of_pairs(key: str) -> bool:
    """Say whether a metric is of a kind of pair: `expert>target/accuracy`, `pivot/margin`."""
    kind, slash, _ = key.partition("/")
    return bool(slash) and kind in set(PairKind)


def steps_by_round(
    arm: ArmResults, agent: str, phases: Sequence[PhaseFolder], is_wanted: Callable[[str], bool]
) -> dict[int, list[dict[str, float]]]:
    """Return round → steps, each step averaged over the seeds that got that far (all, up to the shortest).

    Args:
        arm: whose training.
        agent: whose training.
        phases: of the run.
        is_wanted: says by its name whether a metric is read.
    """
    found: dict[int, list[list[Mapping[str, Any]]]] = {}
    for phase in phases:
        if (phase.arm, phase.act, phase.agent) == (arm.name, "train", agent):
            log = training_log(phase, is_wanted)
            if log:
                found.setdefault(phase.round, []).append(log)
    return {number: _average(logs, is_wanted) for number, logs in sorted(found.items())}


def _average(logs: Sequence[Sequence[Mapping[str, Any]]], is_wanted: Callable[[str], bool]) -> list[dict[str, float]]:
    steps = []
    for lines in zip(*logs, strict=False):
        keys = dict.fromkeys(key for line in lines for key in line if is_wanted(key))
        values = {key: [line[key] for line in lines if isinstance(line.get(key), int | float)] for key in keys}
        steps.append({key: fmean(found) for key, found in values.items() if found})
    return steps


def _panel(
    metric: Metric, kinds: Sequence[str], logs: Mapping[int, Sequence[Mapping[str, float]]], label: str
) -> dict[str, Any]:
    drawn, starts, first = [], [], 0.0
    points: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for number, steps in logs.items():
        starts.append((first, number))
        for kind in kinds:
            for key, is_secondary in ((metric.key, False), (metric.secondary, True)):
                own = points.setdefault((kind, is_secondary), [])
                own += [(first + i, s[f"{kind}/{key}"]) for i, s in enumerate(steps) if key and f"{kind}/{key}" in s]
        first += len(steps)
    for (kind, is_secondary), found in points.items():
        if found:
            name, class_ = charts.kind_name(kind), charts.kind_class(kind)
            drawn.append(Curve(name=name, class_=class_, points=found, is_secondary=is_secondary))
    drawing = charts.training_panel(
        f"{label}: {metric.title}",
        sorted(drawn, key=lambda curve: not curve.is_secondary),
        starts=starts,
        last=first,
        reference=metric.reference,
        limits=metric.limits,
    )
    return {"title": metric.title, "drawing": drawing, "has_secondary": bool(metric.secondary)}


def _lowest(logs: Mapping[int, Sequence[Mapping[str, float]]], kinds: Sequence[str]) -> tuple[float, str] | None:
    """Return the lowest Δ log π(chosen), smoothed, and its pair kind: the sign of likelihood displacement."""
    found = []
    for kind in kinds:
        for steps in logs.values():
            key = f"{kind}/delta_chosen"
            found += [(y, charts.kind_name(kind)) for _, y in charts.smooth([(0.0, s[key]) for s in steps if key in s])]
    return min(found) if found else None
