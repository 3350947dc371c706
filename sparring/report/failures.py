"""Episodes come in, what the failures look like goes out, for the template: histograms, shares, behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from sparring.analysis.failures import histogram, is_hard, outcomes
from sparring.core.filters import is_success
from sparring.report import charts
from sparring.report.played import Played
from sparring.report.sections import Source
from sparring.report.series import MAX_ROUNDS, shown_rounds
from sparring.report.view import ArmResults

NUM_BINS = 20
"""Bins of a histogram over rewards from 0 to 1."""


def is_thinned(source: Source) -> bool:
    """Say whether there is an arm with more rounds than are shown."""
    return any(len(arm.record_rounds("rollouts", "target")) > MAX_ROUNDS for arm in source.results.arms.values())


def landscape(source: Source) -> list[dict[str, Any]]:
    """Draw the failures on training tasks: per arm, agent, purpose and round a histogram and shares."""
    sections = []
    for arm in source.results.arms.values():
        sets = {
            (played.kind, played.agent, number): values
            for played in arm.played
            for number in played.rounds
            if (values := source.episodes.pooled((arm.name, played.kind, played.agent, number)))
        }
        if not sets:
            continue
        eps = source.results.success_eps
        counts = {key: histogram(r, num_bins=NUM_BINS, success_eps=eps) for key, r in sets.items()}
        top = max(max(bins) for bins in counts.values())
        rows = []
        for played in arm.played:
            own = [key for key in sets if key[:2] == (played.kind, played.agent)]
            panels = [_landscape_panel(source, arm, played, key[2], sets[key], counts[key], top) for key in own]
            rows.append(_with_trend(arm, played, panels))
        is_open = arm is source.results.featured or arm is source.results.first("eto")
        sections.append({"title": arm.label, "rows": rows, "is_open": is_open})
    return sorted(sections, key=lambda section: not section["is_open"])


def _with_trend(arm: ArmResults, played: Played, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """Add to an agent's histograms how its shares of hard negatives went on, where there are rounds to compare."""
    shares: dict[float, list[tuple[int, float]]] = {}
    for panel in panels:
        for at, share in panel["hard"]:
            if share is not None:
                shares.setdefault(at, []).append((panel["round"], share))
    title = f"{played.name}, hard negatives"
    shown = shown_rounds([panel["round"] for panel in panels])
    has_trend = len(panels) > 1 and any(len(points) > 1 for points in shares.values())
    drawing = charts.trend_panel(shares, played.agent, label=f"{arm.label}, {title}") if has_trend else None
    return {
        "agent": played.agent,
        "panels": [p for p in panels if p["round"] in shown],
        "trend": drawing,
        "trend_title": title,
    }


def _landscape_panel(
    source: Source,
    arm: ArmResults,
    played: Played,
    number: int,
    values: Sequence[float],
    counts: Sequence[int],
    top: int,
) -> dict[str, Any]:
    eps, agent = source.results.success_eps, played.agent
    failed = [value for value in values if not is_success(value, eps)]
    mean = fmean(failed) if failed else None
    name = f"{played.name}, round {number}"
    return {
        "agent": agent,
        "round": number,
        "title": name,
        "drawing": charts.histogram_panel(
            counts, agent, threshold=source.thresholds[0], mean=mean, top=top, label=f"{arm.label}, {name}: failures"
        ),
        "num_failures": len(failed),
        "mean": mean,
        "success": 1 - len(failed) / len(values),
        "hard": [
            (at, sum(is_hard(value, at, eps) for value in failed) / len(failed) if failed else None)
            for at in source.thresholds
        ],
    }


def hard_negatives(source: Source) -> dict[str, Any] | None:
    """Tabulate the share of hard negatives among the failures, by agent, purpose and round; means over seeds.

    The numbers are those of `results.json`, so they are there still where the trajectories were deleted.
    """
    arms = list(source.results.arms.values())
    records = [record for arm in arms for played in arm.played for own in played.records.values() for record in own]
    thresholds = list(dict.fromkeys(at for record in records for at in record.get("hard_share", {})))
    sections = [
        {
            "title": arm.label,
            "rows": [
                {
                    "agent": played.agent,
                    "name": played.name,
                    "round": number,
                    "num": played.mean_of(number, "num"),
                    "failures": played.mean_of(number, "failures"),
                    "mean": played.mean_of(number, "failure_mean"),
                    "shares": [played.mean_of(number, "hard_share", at) for at in thresholds],
                }
                for played in arm.played
                for number in shown_rounds(played.rounds)
            ],
        }
        for arm in arms
        if arm.played
    ]
    return {"sections": sections, "thresholds": thresholds} if sections and thresholds else None


def shares(source: Source) -> list[dict[str, Any]]:
    """Split the episodes of each agent and round into success, hard negative and other failure."""
    rows = []
    for arm in source.results.arms.values():
        sets = [
            (played.kind, played.agent, played.name, number, f"training tasks, round {number}")
            for played in arm.played
            for number in shown_rounds(played.rounds)
        ]
        sets += [
            ("evaluate", agent, arm.agent_name(agent), arm.rounds(agent)[-1], "held-out tasks, last round")
            for agent in arm.agents
            if arm.rounds(agent)
        ]
        own = []
        for kind, agent, name, number, where in sets:
            split = outcomes(
                source.episodes.pooled((arm.name, kind, agent, number)),
                threshold=source.thresholds[0],
                success_eps=source.results.success_eps,
            )
            if split is not None:
                drawing = charts.outcome_bar(split, agent)
                own.append({"agent": agent, "name": name, "where": where, "drawing": drawing, "split": split})
        if own:
            rows.append({"title": arm.label, "rows": own})
    return rows


def behaviour(source: Source) -> list[dict[str, Any]]:
    """Tabulate what the rollouts look like besides their rewards: variety, length, repetition, retries and faults."""
    rows = []
    for arm in source.results.arms.values():
        for played in arm.played:
            for number in shown_rounds(played.rounds):
                pick = partial(played.mean_of, number)
                num = pick("num")
                rows.append(
                    {
                        "arm": arm.label,
                        "agent": played.agent,
                        "name": played.name,
                        "round": number,
                        "num": num,
                        "distinct": _over(pick("distinct"), num),
                        "turns": pick("turns"),
                        "loops": _over(pick("loops"), num),
                        "looping": _over(pick("looping"), num),
                        "retries": pick("retries"),
                        "faults": pick("faults"),
                    }
                )
    return rows


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
