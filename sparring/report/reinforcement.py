"""Training phases of policy-gradient methods come in; their curves go out, as drawings for the page's template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import svg
from sparring.report.charts import Curve, training_panel
from sparring.report.folder import PhaseFolder
from sparring.report.learning import Metric, steps_by_round
from sparring.report.sections import Source
from sparring.report.series import Series, lines_panel, mean_by_round
from sparring.report.view import ArmResults

METRICS = (
    Metric(title="Importance ratio, mean", key="pg/ratio", reference=1.0),
    Metric(title="Share of tokens clipped", key="pg/clipped", reference=0.0),
    Metric(title="KL to the reference, nats a token", key="pg/kl", reference=0.0),
    Metric(title="Entropy of what was sampled, nats a token", key="pg/entropy", reference=0.0),
    Metric(title="Value error, mean square", key="value/error", reference=0.0),
)
"""A metric that no step has (the KL without its term, values without a critic) has no panel."""

EXACT_GAP = 1e-4
"""Largest gap, in nats, that one process shows in single precision: no panel is drawn of it."""
MAX_DIVIDED = 6
"""Rounds up to which the panels are divided by round."""


def gradient(source: Source, phases: Sequence[PhaseFolder]) -> dict[str, Any] | None:
    """Draw reward, importance ratio, clipped share, KL, entropy, value error and a server's gap; a section per arm.

    Steps are averaged over seeds, and neighbouring ones with each other.
    """
    sections = []
    for arm in source.results.arms.values():
        logs = steps_by_round(arm, "target", phases, _is_wanted)
        if logs:
            panels = [
                _reward_panel(arm),
                *(_panel(metric, logs, arm.label) for metric in METRICS),
                _gap_panel(logs, arm.label),
            ]
            sections.append(
                {
                    "title": arm.label,
                    "panels": [panel for panel in panels if panel],
                    "largest": max(
                        (s["pg/ratio_max"] for steps in logs.values() for s in steps if "pg/ratio_max" in s),
                        default=None,
                    ),
                    "is_open": arm is source.results.featured,
                }
            )
    if not sections:
        return None
    return {"sections": sorted(sections, key=lambda section: not section["is_open"])}


def _is_wanted(key: str) -> bool:
    return key.startswith(("pg/", "value/"))


def _reward_panel(arm: ArmResults) -> dict[str, Any] | None:
    """Draw the reward of the rollouts, and of the held-out tasks where they were played."""
    sampled = {n: arm.mean_of("rollouts", "target", n, "mean") for n in arm.record_rounds("rollouts", "target")}
    held_out = {n: _mean([v for by in arm.rewards("target", n).values() for v in by.values()]) for n in arm.rounds()}
    lines = [
        Series(name="sampled, training tasks", class_="muted", points=mean_by_round(sampled)),
        Series(name="greedy, held-out tasks", class_="target", points=mean_by_round(held_out)),
    ]
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    limits = svg.domain([value for _, value in points], within=(0.0, 1.0))
    span = min(number for number, _ in points), max(number for number, _ in points)
    title = "Mean reward by round"
    drawing = lines_panel(f"{arm.label}: {title}", lines, limits, span)
    return {"title": title, "drawing": drawing, "legend": [(line.class_, line.name) for line in lines if line.points]}


def _panel(metric: Metric, logs: Mapping[int, Sequence[Mapping[str, float]]], label: str) -> dict[str, Any] | None:
    points, starts, first = [], [], 0
    for number, steps in logs.items():
        starts.append((float(first), number))
        points += [(float(first + place), step[metric.key]) for place, step in enumerate(steps) if metric.key in step]
        first += len(steps)
    if not points:
        return None
    drawing = training_panel(
        f"{label}: {metric.title}",
        [Curve(name=metric.title, class_="target solid", points=points)],
        starts=starts if len(starts) <= MAX_DIVIDED else [],
        last=float(first),
        reference=metric.reference,
        limits=svg.domain([y for _, y in points], include=[metric.reference or 0.0], within=(0.0, math.inf)),
    )
    return {"title": metric.title, "drawing": drawing, "legend": []}


def _gap_panel(logs: Mapping[int, Sequence[Mapping[str, float]]], label: str) -> dict[str, Any] | None:
    """Draw how far a server's log-probabilities are from the learner's, by round; none where no server sampled."""
    mean, largest = [], []
    for number, steps in logs.items():
        if not steps:
            continue
        prefix = "pg/server_gap" if "pg/server_gap" in steps[0] else "pg/log_ratio"
        mean.append((float(number), steps[0].get(prefix, 0.0)))
        largest.append((float(number), steps[0].get(f"{prefix}_max", 0.0)))
    if not mean or max(value for _, value in largest) < EXACT_GAP:
        return None
    lines = [
        Series(name="mean over tokens", class_="target", points=mean),
        Series(name="largest", class_="muted", points=largest),
    ]
    title = "Gap between sampling and training, nats a token"
    limits = svg.domain([value for _, value in [*mean, *largest]], include=[0.0], within=(0.0, math.inf))
    drawing = lines_panel(f"{label}: {title}", lines, limits, (int(mean[0][0]), int(mean[-1][0])))
    return {"title": title, "drawing": drawing, "legend": [(line.class_, line.name) for line in lines]}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
