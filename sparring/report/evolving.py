"""A run's results come in; the pool of tasks over time goes out, as drawings and tables for the page's template."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sparring.report import svg
from sparring.report.curriculum import ACCEPTED, INITIAL, outcome_of
from sparring.report.series import Series, lines_panel, mean_by_round, stacked_panel
from sparring.report.text import total
from sparring.report.view import ArmResults, Results

STRATEGIES: Mapping[str, str] = {
    INITIAL: "initial",
    "restart": "restart",
    "variation": "variation",
    "relabel": "relabel",
    "chain": "chain",
    "reflect-explore-abstract": "explored",
    "explore": "explored",
    "explore-abstract": "explored",
}
"""How a task was made → its CSS class (`made-…`); any other has a class of its own."""

SIGNALS: Mapping[str, str] = {
    "boundary": "restart",
    "forgetting": "variation",
    "rare": "relabel",
    "near-miss": "chain",
    "unguided": "initial",
}
"""Why a task was made → its CSS class (`made-…`), of the same few colours."""

OUTCOMES = ((ACCEPTED, "made-explored"), ("quarantined", "made-relabel"), ("refused", "made-initial"))
"""What becomes of proposals, and its class."""

PURPOSES = (
    ("explore", "made-variation"),
    ("replay", "made-restart"),
    ("empty", "made-initial"),
    ("random", "made-relabel"),
    ("query", "made-explored"),
    ("probe", "made-chain"),
)
"""What synthesis plays episodes for, and its class."""


def pools(results: Results) -> list[dict[str, Any]]:
    """Draw and tabulate the pool of each arm that has one, or initial tasks that were made; means over seeds. The
    featured arm comes first."""
    sections = [
        {
            "title": arm.label,
            "panels": [panel for panel in _panels(arm) if panel],
            "syntheses": _syntheses(arm),
            "kinds": _kinds(arm),
            "is_open": arm is results.featured,
        }
        for arm in results.arms.values()
        if arm.has_pool or arm.record_rounds("synthesis", "target")
    ]
    return sorted(sections, key=lambda section: not section["is_open"])


def _panels(arm: ArmResults) -> list[dict[str, Any] | None]:
    if not arm.has_pool:  # GRPO on tasks that exploration made
        return [_by_outcome(arm), _by_purpose(arm)]
    return [_by_origin(arm), _by_signal(arm), _gone(arm), *_old_and_new(arm), _by_outcome(arm), _by_purpose(arm)]


def _names(arm: ArmResults, section: str, key: str) -> list[str]:
    """List what the tables under a key name, in any round and seed, in alphabetical order."""
    return sorted({name for seed in arm.seeds.values() for one in getattr(seed, section) for name in one[key]})


# ── The pool ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_origin(arm: ArmResults) -> dict[str, Any]:
    """Stack the active tasks by how they were made."""
    names = sorted({_strategy(origin) for origin in _names(arm, "pool", "active")}, key=_place)
    title = "Tasks in the pool, by how they were made"
    return _stack_of_active(arm, title, [(name, _made(name)) for name in names], _strategy)


def _by_signal(arm: ArmResults) -> dict[str, Any] | None:
    """Stack the active synthetic tasks by the signal that called for them."""
    names = sorted({_split(origin)[1] for origin in _names(arm, "pool", "active") if origin != INITIAL})
    title = "Synthetic ones among them, by signal"
    signals = [(name, f"made-{SIGNALS.get(name, 'otherwise')}") for name in names if name]
    return _stack_of_active(arm, title, signals, lambda origin: _split(origin)[1]) if signals else None


def _stack_of_active(
    arm: ArmResults, title: str, names: Sequence[tuple[str, str]], name_of: Callable[[str], str]
) -> dict[str, Any]:
    """Stack the active tasks by a part of their origin; `names`: with their classes, from the bottom."""
    numbers, origins = arm.record_rounds("pool", "target"), _names(arm, "pool", "active")
    stack = [
        Series(
            name=name,
            class_=class_,
            points=[
                (n, sum(total(arm, "pool", n, "active", o) for o in origins if name_of(o) == name)) for n in numbers
            ],
        )
        for name, class_ in names
    ]
    top = max(sum(dict(series.points)[number] for series in stack) for number in numbers)
    return _figure(arm, title, stack, lambda label: stacked_panel(label, stack, numbers, top))


def _gone(arm: ArmResults) -> dict[str, Any] | None:
    numbers = arm.record_rounds("pool", "target")
    wanted = (
        ("retired: solved", "made-explored", ("retired", "solved")),
        ("retired: hopeless", "made-variation", ("retired", "hopeless")),
        ("waiting in quarantine", "made-relabel", ("quarantined",)),
        ("over the synthetic share", "muted", ("over_share",)),
    )
    lines = [
        Series(name=name, class_=class_, points=[(n, total(arm, "pool", n, *path)) for n in numbers])
        for name, class_, path in wanted
    ]
    lines = [line for line in lines if any(value for _, value in line.points)]
    return _lines(arm, "Retired so far, and waiting", lines)


def _old_and_new(arm: ArmResults) -> list[dict[str, Any] | None]:
    """Draw the reward and the solved share of initial and of synthetic tasks, from the rollouts."""
    panels = []
    numbers = arm.record_rounds("pool", "target")
    for key, title in (("mean", "Mean reward of the rollouts"), ("success", "Share of the rollouts that succeed")):
        lines = [
            Series(
                name=name,
                class_=class_,
                points=mean_by_round({n: arm.mean_of("pool", "target", n, half, key) for n in numbers}),
            )
            for half, name, class_ in (("old", "initial tasks", "muted"), ("new", "synthetic tasks", "made-chain"))
        ]
        panels.append(_lines(arm, title, [line for line in lines if line.points], top=1.0))
    return panels


# ── Syntheses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_outcome(arm: ArmResults) -> dict[str, Any] | None:
    numbers, reasons = arm.record_rounds("synthesis", "target"), _names(arm, "synthesis", "outcomes")
    stack = [
        Series(
            name=outcome,
            class_=class_,
            points=[
                (n, sum(total(arm, "synthesis", n, "outcomes", r) for r in reasons if _outcome(r) == outcome))
                for n in numbers
            ],
        )
        for outcome, class_ in OUTCOMES
    ]
    return _columns(arm, "Proposals, by what became of them", stack, numbers)


def _by_purpose(arm: ArmResults) -> dict[str, Any] | None:
    numbers = arm.record_rounds("synthesis", "target")
    stack = [
        Series(
            name=purpose,
            class_=class_,
            points=[(n, total(arm, "synthesis", n, "episodes", purpose)) for n in numbers],
        )
        for purpose, class_ in PURPOSES
    ]
    return _columns(arm, "Episodes that synthesis played, by purpose", stack, numbers)


def _syntheses(arm: ArmResults) -> dict[str, Any] | None:
    """Tabulate each synthesis: proposals by what became of them and why, then episodes beside training rollouts."""
    numbers = arm.record_rounds("synthesis", "target")
    if not numbers:
        return None

    def row(name: str, *path: str) -> dict[str, Any]:
        values = [total(arm, "synthesis", number, *path) for number in numbers]
        return {"name": name, "values": values, "total": sum(values), "is_share": False}

    reasons = [name for name in _names(arm, "synthesis", "outcomes") if name != ACCEPTED]
    refusals = sorted((row(name, "outcomes", name) for name in reasons), key=lambda one: -one["total"])
    proposed, accepted = row("proposed", "proposed"), row("accepted", "outcomes", ACCEPTED)
    purposes = [row(name, "episodes", name) for name in _names(arm, "synthesis", "episodes")]
    played, rollouts = _sum("all of them", purposes, len(numbers)), row("training rollouts before it", "rollouts")
    # How many of each strategy there were is said already.
    counts = [row(name, "counts", name) for name in _names(arm, "synthesis", "counts") if name not in STRATEGIES]
    groups = [
        ("Proposals", [proposed, accepted, _over("validation yield", accepted, proposed)]),
        ("Why the others did not enter", refusals),
        ("Quarantined earlier, and let in now", [row("released", "released")]),
        ("Episodes played", [*purposes, played, rollouts, _over("on top of them", played, rollouts)]),
        ("The synthesiser’s own count", counts),
    ]
    kept = [(title, [one for one in rows if one["total"]]) for title, rows in groups]
    shown = [(title, rows) for title, rows in kept if rows]
    return {"rounds": numbers, "groups": shown, "cost": (played["total"], rollouts["total"])}


def _sum(name: str, rows: Sequence[Mapping[str, Any]], width: int) -> dict[str, Any]:
    values = [sum(row["values"][place] for row in rows) for place in range(width)]
    return {"name": name, "values": values, "total": sum(values), "is_share": False}


def _over(name: str, part: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    values = [share(a, b) for a, b in zip(part["values"], whole["values"], strict=True)]
    return {"name": name, "values": values, "total": share(part["total"], whole["total"]), "is_share": True}


def share(part: float, whole: float) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return part / whole if whole else None


def _kinds(arm: ArmResults) -> list[dict[str, Any]]:
    """Tabulate proposals by how and why they were made, over the whole run."""
    numbers = arm.record_rounds("synthesis", "target")
    rows = []
    for name in _names(arm, "synthesis", "kinds"):
        keys = ("proposed", ACCEPTED, "quarantined", "refused")
        counts = {key: sum(total(arm, "synthesis", n, "kinds", name, key) for n in numbers) for key in keys}
        strategy, signal = _split(name)
        rows.append(
            {
                "strategy": strategy,
                "signal": signal,
                "class": _made(strategy),
                **counts,
                "yield": share(counts[ACCEPTED], counts["proposed"]),
            }
        )
    return rows


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _split(origin: str) -> tuple[str, str]:
    """Return strategy and signal."""
    strategy, slash, signal = origin.rpartition("/")
    return (strategy, signal) if slash else (origin, "")


def _strategy(origin: str) -> str:
    return _split(origin)[0]


def _made(strategy: str) -> str:
    return f"made-{STRATEGIES.get(strategy, 'otherwise')}"


def _place(strategy: str) -> tuple[int, str]:
    order = list(STRATEGIES)
    return (order.index(strategy) if strategy in order else len(order), strategy)


def _outcome(reason: str) -> str:
    return outcome_of(None if reason == ACCEPTED else reason)


def _lines(arm: ArmResults, title: str, lines: Sequence[Series], *, top: float = math.inf) -> dict[str, Any] | None:
    """Draw lines from 0 on; the axis does not go beyond `top`."""
    if not lines:
        return None
    limits = svg.domain([value for line in lines for _, value in line.points], include=[0.0], within=(0.0, top))
    rounds = arm.record_rounds("pool", "target")
    return _figure(arm, title, lines, lambda label: lines_panel(label, lines, limits, (rounds[0], rounds[-1])))


def _columns(arm: ArmResults, title: str, stack: Sequence[Series], numbers: Sequence[int]) -> dict[str, Any] | None:
    kept = [series for series in stack if any(value for _, value in series.points)]
    if not kept:
        return None
    top = max(sum(dict(series.points)[number] for series in kept) for number in numbers)
    return _figure(arm, title, kept, lambda label: stacked_panel(label, kept, numbers, top))


def _figure(arm: ArmResults, title: str, series: Sequence[Series], draw: Callable[[str], Markup]) -> dict[str, Any]:
    return {
        "title": title,
        "drawing": draw(f"{arm.label}: {title}"),
        "legend": [(one.class_, one.name) for one in series],
    }
