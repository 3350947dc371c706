"""A run's results come in; the report's sections go out, as plain values and drawings for the page's template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparring.analysis.statistics import Interval, SeedRewards, bootstrap_mean, paired_difference, summarise, to_table
from sparring.report import charts, preferences
from sparring.report.charts import RoundLine
from sparring.report.collect import Episodes
from sparring.report.folder import Costs
from sparring.report.svg import domain
from sparring.report.text import between, reward
from sparring.report.view import ArmResults, Results
from sparring.report.work import Work, mean_count

COSTS = ("Episodes", "Optimizer steps", "CPU-seconds")
"""What a method is said to have taken."""
MAX_KINDS = 40
"""Task types up to which the page has a table by type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the sections are made from."""

    results: Results
    episodes: Episodes
    thresholds: Sequence[float]
    costs: Costs
    work: Mapping[tuple[str, str], Work]
    """(seed, arm) → episodes and optimizer steps."""

    def interval(self, rewards: SeedRewards) -> Interval:
        """Average with an interval."""
        return bootstrap_mean(to_table(rewards), num_resamples=self.results.num_resamples)

    def difference(self, a: ArmResults, b: ArmResults) -> Interval:
        """Compare two arms' last rounds on the same seeds and tasks; those of other worlds are none of them."""
        if not self.results.are_alike(a, b):
            return paired_difference({}, {})
        return paired_difference(a.final(), b.final(), num_resamples=self.results.num_resamples)


# ── Result ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def headline(source: Source) -> dict[str, Any]:
    """Make the first table: mean reward and success per method, differences to SFT and ETO, with drawn intervals."""
    results = source.results
    arms = list(results.arms.values())
    sft = results.first("sft")
    others = [other for other in results.references if other is not sft] if not results.held_out else []
    means = {arm.name: source.interval(arm.final()) for arm in arms}
    starts = {arm.name: results.sft_of(arm) for arm in arms}
    gaps = {
        arm.name: source.difference(arm, own)
        for arm in arms
        if (own := starts[arm.name]) is not None and own is not arm
    }
    seeds = {arm.name: [fmean(r.values()) for r in arm.final().values() if r] for arm in arms}
    shown = [v for i in means.values() for v in (i.low, i.high)] + [v for s in seeds.values() for v in s]
    mean_domain = domain(shown, within=(0.0, 1.0))
    gap_domain = domain([v for i in gaps.values() for v in (i.low, i.high)], include=[0.0])
    rows = []
    for arm in arms:
        gap, class_ = gaps.get(arm.name), "muted" if starts[arm.name] is arm else "target"
        own_seeds = seeds[arm.name] if len(arm.seeds) > 1 else ()
        compared = [source.difference(arm, other) if results.compares(arm, other) else None for other in others]
        rows.append(
            {
                "label": arm.label,
                "when": _when(arm),
                "is_featured": arm is results.featured and bool(arm.partner),
                "summary": summarise(arm.final(), results.success_eps, num_resamples=results.num_resamples),
                "mean_drawing": charts.forest(means[arm.name], mean_domain, class_, seeds=own_seeds),
                "gap": gap,
                "gap_drawing": charts.forest(gap, gap_domain, class_, zero=True) if gap else "",
                "others": compared,
                "faults": sum(_faults(arm)),
                "spent": spent(source, arm),
            }
        )
    known = [name for name in COSTS if any(row["spent"][name][0] is not None for row in rows)]
    return {
        "rows": rows,
        "has_gap": bool(gaps),
        "sft": "its run’s SFT" if results.held_out else sft.label if sft else "",
        "others": [other.label for other in others],
        "mean_axis": charts.forest_axis(mean_domain),
        "gap_axis": charts.forest_axis(gap_domain),
        "per_seed": _per_seed(arms) if results.num_seeds > 1 else None,
        "by_kind": _by_kind(source),
        "has_faults": any(row["faults"] for row in rows),
        "spent": known,
        "partners": list(dict.fromkeys(arm.agent_name("partner") for arm in arms if arm.partner)),
    }


def _when(arm: ArmResults) -> str:
    """Say after which round an arm's last evaluation was, and of how many of its seeds."""
    rounds = arm.rounds()
    if not rounds:
        return "not evaluated yet"
    num = len(arm.final())
    seeds = f", {num} of {len(arm.seeds)} seeds" if num < len(arm.seeds) else ""
    return (f"after round {rounds[-1]}" if rounds[-1] else "at its start") + seeds


def spent(source: Source, arm: ArmResults) -> dict[str, tuple[float | None, float | None]]:
    """Return what an arm took, a mean per seed: in all, and by its partner; None where nothing is known, or is none."""
    works = [work for (_, name), work in source.work.items() if name == arm.name]
    counts = {"Episodes": [work.episodes for work in works], "Optimizer steps": [work.steps for work in works]}
    found = {
        name: (mean_count(own), mean_count(own, "partner") if arm.partner else None) for name, own in counts.items()
    }
    whole, partner = source.costs.of(arm.name), source.costs.of(arm.name, agent="partner") if arm.partner else None
    return {**found, "CPU-seconds": (whole.cpu if whole else None, partner.cpu if partner else None)}


def _faults(arm: ArmResults) -> list[int]:
    last = arm.rounds()[-1] if arm.rounds() else 0
    return [e.faults for seed in arm.seeds.values() for e in seed.evaluations if (e.agent, e.round) == ("target", last)]


def _per_seed(arms: Sequence[ArmResults]) -> dict[str, Any]:
    seeds = list(dict.fromkeys(seed for arm in arms for seed in arm.seeds))
    rows = []
    for arm in arms:
        final = arm.final()
        rows.append({"label": arm.label, "means": [fmean(final[s].values()) if final.get(s) else None for s in seeds]})
    return {"seeds": seeds, "rows": rows}


def _by_kind(source: Source) -> dict[str, Any] | None:
    arms = list(source.results.arms.values())
    kinds: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for arm in arms for rewards in arm.final().values() for task in rewards):
        if task in source.episodes.kinds:
            kinds.setdefault(source.episodes.kinds[task], []).append(task)
    if not 1 < len(kinds) <= MAX_KINDS:
        return None
    rows = []
    for kind, tasks in sorted(kinds.items()):
        values = [[r[task] for r in arm.final().values() for task in tasks if task in r] for arm in arms]
        means = [fmean(v) if v else None for v in values]
        best = max((m for m in means if m is not None), default=None)
        rows.append({"kind": kind, "num": len(tasks), "means": means, "best": best})
    return {"arms": [arm.label for arm in arms], "rows": rows}


def lede(source: Source) -> str:
    """Say the result in a sentence or two, with the interval of the difference that matters; intervals do not break."""
    return re.sub(r"\[[^\]]*\]", lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), _lede(source))


def _lede(source: Source) -> str:
    results, arm = source.results, source.results.featured
    if not results.num_tasks and (told := preferences.sentence(results, arm)):
        return told
    if not results.num_tasks:
        return "no held-out task was played yet."
    mean = source.interval(arm.final())
    text = f"{arm.label} reaches a mean reward of {reward(mean.mean)} {between(mean.low, mean.high)}"
    text += f" on {results.num_tasks} held-out tasks"
    others = [other for other in results.references if other is not arm]
    if not others:
        return text + "."
    beside = [f"{reward(source.interval(other.final()).mean)} for {other.label}" for other in others]
    text += f", against {_join(beside)}."
    gaps = [_compare(other.label, source.difference(arm, other)) for other in others]
    return f"{text} Task by task, it differs by {_join([gap for gap in gaps if gap])}." if any(gaps) else text


def _compare(other: str, gap: Interval) -> str:
    if not gap.num:
        return ""
    doubt = " (the interval includes zero)" if gap.low <= 0.0 <= gap.high else ""
    return f"{reward(gap.mean, signed=True)} {between(gap.low, gap.high, signed=True)} from {other}{doubt}"


def _join(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


# ── Rounds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rounds(source: Source) -> dict[str, Any] | None:
    """Draw Figure 3: held-out reward by round, a panel per arm that has rounds."""
    results = source.results
    lines = {arm.name: _round_lines(source, arm) for arm in results.arms.values()}
    shown = [arm for arm in results.arms.values() if len(arm.rounds()) > 1]
    if not shown:
        return None
    sft = results.first("sft")
    starts = {arm.name: results.sft_of(arm) for arm in shown}
    are_alike = all(results.are_alike(shown[0], arm) for arm in shown)
    values = [v for own in lines.values() for one in own for _, i in one.points for v in (i.low, i.high, i.mean)]
    limits = domain(values, within=(0.0, 1.0))
    last = max(arm.rounds()[-1] for arm in shown)
    panels = []
    for arm in shown:
        alike = [other for other in shown if other is not arm and results.are_alike(arm, other)]
        others = [lines[other.name][0] for other in alike if lines[other.name]]
        own = starts[arm.name]
        baseline = source.interval(own.final()).mean if own else None
        drawing = charts.rounds_panel(arm.label, lines[arm.name], others, baseline, limits, (0, last))
        panels.append({"title": arm.label, "agents": _agents(lines[arm.name]), "drawing": drawing})
    targets = [RoundLine(name=a.label, agent="target", points=lines[a.name][0].points) for a in shown if lines[a.name]]
    return {
        "overview": charts.overview_panel(targets, results.featured.label, limits, last)
        if len(targets) > 1 and are_alike
        else None,
        "panels": panels,
        "has_partner": any(one.agent == "partner" for arm in shown for one in lines[arm.name]),
        "has_sft": sft is not None,
        "num": len(shown),
        "exploring": _exploring(source),
    }


def _agents(lines: Sequence[RoundLine]) -> list[tuple[str, str]]:
    return [(one.agent, one.name) for one in lines]


def _exploring(source: Source) -> list[dict[str, Any]]:
    """Draw the reward of both agents' rollouts on the training tasks, for the arms that have two and several rounds."""
    lines = {arm.name: _rollout_lines(source, arm) for arm in source.results.arms.values() if arm.partner}
    lines = {name: own for name, own in lines.items() if len(own) == 2 and len(own[0].points) > 1}
    if not lines:
        return []
    points = [point for own in lines.values() for one in own for point in one.points]
    limits = domain([v for _, i in points for v in (i.low, i.high)], within=(0.0, 1.0))
    span = min(number for number, _ in points), max(number for number, _ in points)
    return [
        {
            "title": source.results.arms[name].label,
            "agents": _agents(own),
            "drawing": charts.rounds_panel(source.results.arms[name].label, own, [], None, limits, span),
        }
        for name, own in lines.items()
    ]


def _rollout_lines(source: Source, arm: ArmResults) -> list[RoundLine]:
    lines = []
    for agent in arm.agents:
        points = []
        for number in arm.record_rounds("rollouts", agent):
            by_seed: dict[str, dict[str, float]] = {}
            for (seed, task), values in source.episodes.rewards.get((arm.name, "rollout", agent, number), {}).items():
                by_seed.setdefault(seed, {})[task] = fmean(values)
            points.append((number, source.interval(by_seed)))
        points = [(number, interval) for number, interval in points if interval.num]
        if points:
            lines.append(RoundLine(name=arm.agent_name(agent), agent=agent, points=points))
    return lines


def _round_lines(source: Source, arm: ArmResults) -> list[RoundLine]:
    lines = []
    for agent in arm.agents:
        points = [(number, source.interval(arm.rewards(agent, number))) for number in arm.rounds(agent)]
        points = [(number, interval) for number, interval in points if interval.num]
        if points:
            lines.append(RoundLine(name=arm.agent_name(agent), agent=agent, points=points))
    return lines
