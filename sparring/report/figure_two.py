"""Rewards come in, Figure 2 of the paper goes out, in both of its readings, for the page and for `docs/results.md`.

The figure leaves out what SFT solves, counts the failures of ETO and of "our method", and takes the failures' mean
reward on the tasks that both fail. "Our method" can be read as the target agent alone, on held-out tasks; or, since the
paper concludes from the figure that the failure agent works, as both agents together, while they explore the training
tasks.

Source: arXiv 2511.22254, Figure 2. Deviates: both readings are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.analysis.failures import MethodFailures, compare_failures, failures_on
from sparring.analysis.statistics import SeedRewards
from sparring.core.filters import is_success
from sparring.report import charts
from sparring.report.collect import WATCHED, Episodes
from sparring.report.view import ArmResults, Results

HELD_OUT, EXPLORING = "held_out", "exploring"
"""The two readings: the target agent alone, and all rollouts of both agents."""
ETO, BOTH = "eto", "both"
"""Rows besides those of single agents."""

Rewards = Mapping[Any, Sequence[float]]
"""What an episode is compared by (seed, round and task) → rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One comparison of ETO with another arm."""

    num_tasks: int
    """Tasks that are left, each counted once a seed (and a round, of training tasks)."""
    num_shared: int
    """Those among them that both methods fail."""
    rows: Mapping[str, MethodFailures]
    """`eto`, `target`; or `eto`, `both`, `target`, `partner`."""


def held_out(results: Results, arm: ArmResults) -> Reading | None:
    """Compare the target agents alone, after their last rounds; None without an ETO or an SFT arm."""
    eto, sft = results.first("eto"), results.first("sft")
    if eto is None or sft is None:
        return None
    solved = _solved(_keyed(sft.final()), results.success_eps)
    return _compare({ETO: _keyed(eto.final()), "target": _keyed(arm.final())}, {}, solved, results.success_eps)


def exploring(results: Results, arm: ArmResults, episodes: Episodes, seeds: Iterable[str]) -> Reading | None:
    """Compare all training rollouts of both agents with all of ETO's; None where there are none, or no ETO arm.

    Left out are tasks that the arm's target agent solved at its start, in round 1. What the start would have done on
    tasks that are drawn in later rounds only, nobody has seen: they stay.

    Args:
        results: of the run.
        arm: with a partner.
        episodes: of the run.
        seeds: those that are compared.
    """
    eto, of = results.first("eto"), set(seeds)
    if eto is None:
        return None
    own = {agent: _rollouts(arm, agent, episodes, of) for agent in ("target", "partner")}
    start = {(seed, task): rewards for (seed, number, task), rewards in own["target"].items() if number == 1}
    known = _solved(start, results.success_eps)
    theirs = _rollouts(eto, "target", episodes, of)
    both = _pool(own.values())
    solved = {key for key in both if (key[0], key[2]) in known}
    if not theirs or not both:
        return None
    return _compare({ETO: theirs, BOTH: both}, own, solved, results.success_eps)


def _compare(
    methods: Mapping[str, Rewards], parts: Mapping[str, Rewards], solved: set[Any], success_eps: float
) -> Reading:
    """Compare methods, and count for parts of them on the same tasks."""
    compared = compare_failures(methods, solved, success_eps)
    rows = dict(compared.methods)
    rows |= {name: failures_on(own, compared.left, compared.shared, success_eps) for name, own in parts.items() if own}
    return Reading(num_tasks=compared.num_tasks, num_shared=compared.num_shared, rows=rows)


def _rollouts(
    arm: ArmResults, agent: str, episodes: Episodes, seeds: set[str]
) -> dict[tuple[str, int, str], list[float]]:
    """Return (seed, round, task) → rewards of all that an agent played on training tasks from their beginning on."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for (name, kind, who, number), rewards in episodes.rewards.items():
        if (name, who) == (arm.name, agent) and kind in WATCHED:
            for (seed, task), values in rewards.items():
                if seed in seeds:
                    found.setdefault((seed, number, task), []).extend(values)
    return found


def _pool(parts: Iterable[Rewards]) -> dict[Any, list[float]]:
    pooled: dict[Any, list[float]] = {}
    for part in parts:
        for key, values in part.items():
            pooled.setdefault(key, []).extend(values)
    return pooled


def _keyed(rewards: SeedRewards) -> dict[Any, list[float]]:
    return {(seed, task): [value] for seed, by_task in rewards.items() for task, value in by_task.items()}


def _solved(rewards: Rewards, success_eps: float) -> set[Any]:
    """Return the keys of which every episode succeeded."""
    return {key for key, values in rewards.items() if all(is_success(value, success_eps) for value in values)}


# ── Compact results ───────────────────────────────────────────────────────────────────────────────────────────────────


def to_json(reading: Reading) -> dict[str, Any]:
    """Return a reading of one seed as JSON values."""
    return {
        "tasks": reading.num_tasks,
        "shared": reading.num_shared,
        "rows": {
            name: {
                "failures": row.num_failures,
                "episodes": row.num_episodes,
                "shared_failures": row.num_shared,
                "shared_mean": row.shared_mean,
            }
            for name, row in reading.rows.items()
        },
    }


def merge(records: Sequence[Mapping[str, Any]]) -> Reading | None:
    """Put seeds together again, from what `to_json` returned; None where there are none."""
    if not records:
        return None
    rows: dict[str, MethodFailures] = {}
    for name in dict.fromkeys(name for record in records for name in record["rows"]):
        own = [record["rows"][name] for record in records if name in record["rows"]]
        num = sum(row["shared_failures"] for row in own)
        total = sum(row["shared_failures"] * (row["shared_mean"] or 0.0) for row in own)
        rows[name] = MethodFailures(
            num_failures=sum(row["failures"] for row in own),
            num_episodes=sum(row["episodes"] for row in own),
            num_shared=num,
            shared_mean=total / num if num else None,
        )
    tasks, shared = (sum(record[key] for record in records) for key in ("tasks", "shared"))
    return Reading(num_tasks=tasks, num_shared=shared, rows=rows)


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def row_names(results: Results, arm: ArmResults, reading: Reading) -> dict[str, str]:
    """Return what readers call a reading's rows."""
    eto, own = results.first("eto"), arm.agent_name("target")
    names = {ETO: eto.label if eto else "", BOTH: f"{arm.label}, both agents", "partner": arm.agent_name("partner")}
    is_part = BOTH in reading.rows
    names["target"] = f"of these, the {own}" if is_part else f"{arm.label}, {own}"
    names["partner"] = f"of these, the {names['partner']}"
    return {name: names[name] for name in reading.rows}


def sections(results: Results, episodes: Episodes) -> list[dict[str, Any]]:
    """Return a section per arm with a partner, of a drawing and a table for each reading; the featured one first."""
    found = []
    for arm in results.arms.values():
        if not arm.partner:
            continue
        readings = (
            ("Target agents alone, on held-out tasks", held_out(results, arm)),
            ("All training rollouts of both agents", exploring(results, arm, episodes, arm.seeds)),
        )
        shown = [_shown(results, arm, title, reading) for title, reading in readings if reading is not None]
        if shown:
            found.append({"title": arm.label, "is_open": arm is results.featured, "readings": shown})
    return sorted(found, key=lambda section: not section["is_open"])


def _shown(results: Results, arm: ArmResults, title: str, reading: Reading) -> dict[str, Any]:
    names = row_names(results, arm, reading)
    rows = [
        {
            "name": names[key],
            "agent": "partner" if key == "partner" else "both" if key == BOTH else "target",
            "failures": row.num_failures,
            "episodes": row.num_episodes,
            "rate": row.num_failures / row.num_episodes if row.num_episodes else None,
            "mean": row.shared_mean,
        }
        for key, row in reading.rows.items()
    ]
    return {
        "title": title,
        "num_tasks": reading.num_tasks,
        "num_shared": reading.num_shared,
        "rows": rows,
        "drawing": charts.compared_panel(f"{arm.label}: {title}", rows),
    }
