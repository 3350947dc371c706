"""A run's results come in; the report's sections go out, as plain values and drawings for the page's template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparring.analysis import FailureComparison, compare_failures, histogram, is_hard, outcomes
from sparring.evaluate import (
    Interval,
    SeedRewards,
    bootstrap_mean,
    is_success,
    paired_difference,
    summarise,
    to_table,
)
from sparring.report import charts
from sparring.report.charts import RoundLine
from sparring.report.collect import Episodes
from sparring.report.svg import domain
from sparring.report.text import between, reward
from sparring.report.view import ArmResults, Results

NUM_BINS = 20
MAX_KINDS = 40
"""Task types up to which the page has a table by type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the sections are made from."""

    results: Results
    episodes: Episodes
    thresholds: Sequence[float]

    def interval(self, rewards: SeedRewards) -> Interval:
        """Average with an interval."""
        return bootstrap_mean(to_table(rewards), num_resamples=self.results.num_resamples)

    def difference(self, a: ArmResults, b: ArmResults) -> Interval:
        """Compare two arms' last rounds on the same seeds and tasks."""
        return paired_difference(a.final(), b.final(), num_resamples=self.results.num_resamples)


# ── Result ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def headline(source: Source) -> dict[str, Any]:
    """Make the first table: mean reward and success per method, differences to SFT and ETO, with drawn intervals."""
    results = source.results
    arms = list(results.arms.values())
    sft = results.first("sft")
    others = [other for other in results.references if other is not sft]
    means = {arm.name: source.interval(arm.final()) for arm in arms}
    gaps = {arm.name: source.difference(arm, sft) for arm in arms if sft is not None and arm is not sft}
    seeds = {arm.name: [fmean(r.values()) for r in arm.final().values() if r] for arm in arms}
    shown = [v for i in means.values() for v in (i.low, i.high)] + [v for s in seeds.values() for v in s]
    mean_domain = domain(shown, within=(0.0, 1.0))
    gap_domain = domain([v for i in gaps.values() for v in (i.low, i.high)], include=[0.0])
    rows = []
    for arm in arms:
        gap, class_ = gaps.get(arm.name), "muted" if arm is sft else "target"
        own_seeds = seeds[arm.name] if len(arm.seeds) > 1 else ()
        compared = [source.difference(arm, other) if results.compares(arm, other) else None for other in others]
        rows.append(
            {
                "label": arm.label,
                "is_featured": arm is results.featured and bool(arm.partner),
                "summary": summarise(arm.final(), results.success_eps, num_resamples=results.num_resamples),
                "mean_drawing": charts.forest(means[arm.name], mean_domain, class_, seeds=own_seeds),
                "gap": gap,
                "gap_drawing": charts.forest(gap, gap_domain, class_, zero=True) if gap else "",
                "others": compared,
                "faults": sum(_faults(arm)),
            }
        )
    return {
        "rows": rows,
        "has_gap": bool(gaps),
        "others": [other.label for other in others],
        "mean_axis": charts.forest_axis(mean_domain),
        "gap_axis": charts.forest_axis(gap_domain),
        "per_seed": _per_seed(arms) if results.num_seeds > 1 else None,
        "by_kind": _by_kind(source),
        "has_faults": any(row["faults"] for row in rows),
    }


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
    baseline = source.interval(sft.final()).mean if sft else None
    values = [v for own in lines.values() for one in own for _, i in one.points for v in (i.low, i.high, i.mean)]
    limits = domain(values, within=(0.0, 1.0))
    last = max(arm.rounds()[-1] for arm in shown)
    panels = []
    for arm in shown:
        others = [lines[other.name][0] for other in shown if other is not arm and lines[other.name]]
        drawing = charts.rounds_panel(arm.label, lines[arm.name], others, baseline, limits, last)
        panels.append({"title": arm.label, "agents": [(a, arm.agent_name(a)) for a in arm.agents], "drawing": drawing})
    targets = [RoundLine(name=a.label, agent="target", points=lines[a.name][0].points) for a in shown if lines[a.name]]
    return {
        "overview": charts.overview_panel(targets, results.featured.label, limits, last) if len(targets) > 1 else None,
        "panels": panels,
        "has_partner": any(arm.partner for arm in shown),
        "has_sft": sft is not None,
        "num": len(shown),
    }


def _round_lines(source: Source, arm: ArmResults) -> list[RoundLine]:
    lines = []
    for agent in arm.agents:
        points = [(number, source.interval(arm.rewards(agent, number))) for number in arm.rounds(agent)]
        points = [(number, interval) for number, interval in points if interval.num]
        if points:
            lines.append(RoundLine(name=arm.agent_name(agent), agent=agent, points=points))
    return lines


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def landscape(source: Source) -> list[dict[str, Any]]:
    """Draw the failures of each arm's training rollouts: per agent and round a histogram and hard-negative shares."""
    sections = []
    for arm in source.results.arms.values():
        sets = [
            (agent, number, source.episodes.pooled((arm.name, "rollout", agent, number)))
            for agent in arm.agents
            for number in arm.record_rounds("rollouts", agent)
        ]
        sets = [entry for entry in sets if entry[2]]
        if not sets:
            continue
        eps = source.results.success_eps
        counts = {(agent, number): histogram(r, num_bins=NUM_BINS, success_eps=eps) for agent, number, r in sets}
        top = max(max(bins) for bins in counts.values())
        panels = [
            _landscape_panel(source, arm, agent, number, values, counts[agent, number], top)
            for agent, number, values in sets
        ]
        sections.append(
            {
                "title": arm.label,
                "rows": [_with_trend(arm, agent, [p for p in panels if p["agent"] == agent]) for agent in arm.agents],
                "is_open": arm is source.results.featured or arm is source.results.first("eto"),
            }
        )
    return sorted(sections, key=lambda section: not section["is_open"])


def _with_trend(arm: ArmResults, agent: str, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """Add to an agent's histograms how its shares of hard negatives went on, where there are rounds to compare."""
    shares: dict[float, list[tuple[int, float]]] = {}
    for panel in panels:
        for at, share in panel["hard"]:
            if share is not None:
                shares.setdefault(at, []).append((panel["round"], share))
    title = f"{arm.agent_name(agent)}, hard negatives"
    has_trend = len(panels) > 1 and any(len(points) > 1 for points in shares.values())
    drawing = charts.trend_panel(shares, agent, label=f"{arm.label}, {title}") if has_trend else None
    return {"agent": agent, "panels": panels, "trend": drawing, "trend_title": title}


def _landscape_panel(
    source: Source,
    arm: ArmResults,
    agent: str,
    number: int,
    values: Sequence[float],
    counts: Sequence[int],
    top: int,
) -> dict[str, Any]:
    eps = source.results.success_eps
    failed = [value for value in values if not is_success(value, eps)]
    mean = fmean(failed) if failed else None
    name = f"{arm.agent_name(agent)}, round {number}"
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


def shares(source: Source) -> list[dict[str, Any]]:
    """Split the episodes of each agent and round into success, hard negative and other failure."""
    rows = []
    for arm in source.results.arms.values():
        sets = [("rollout", agent, n) for agent in arm.agents for n in arm.record_rounds("rollouts", agent)]
        sets += [("evaluate", agent, arm.rounds(agent)[-1]) for agent in arm.agents if arm.rounds(agent)]
        own = []
        for act, agent, number in sets:
            split = outcomes(
                source.episodes.pooled((arm.name, act, agent, number)),
                threshold=source.thresholds[0],
                success_eps=source.results.success_eps,
            )
            if split is not None:
                where = f"training tasks, round {number}" if act == "rollout" else "held-out tasks, last round"
                drawing = charts.outcome_bar(split, agent)
                own.append(
                    {"agent": agent, "name": arm.agent_name(agent), "where": where, "drawing": drawing, "split": split}
                )
        if own:
            rows.append({"title": arm.label, "rows": own})
    return rows


def behaviour(source: Source) -> list[dict[str, Any]]:
    """Tabulate what the rollouts look like besides their rewards: variety, length, repetition, retries and faults."""
    rows = []
    for arm in source.results.arms.values():
        for agent in arm.agents:
            for number in arm.record_rounds("rollouts", agent):
                pick = _picker(arm, agent, number)
                num = pick("num")
                rows.append(
                    {
                        "arm": arm.label,
                        "agent": agent,
                        "name": arm.agent_name(agent),
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


def _picker(arm: ArmResults, agent: str, number: int) -> Callable[[str], float | None]:
    return lambda key: arm.mean_of("rollouts", agent, number, key)


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


# ── Figure 2 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def figure_two(source: Source) -> list[dict[str, Any]]:
    """Rebuild Figure 2 of the paper: ETO against each arm with a partner, on held-out and on training tasks."""
    results = source.results
    eto, sft = results.first("eto"), results.first("sft")
    rows = []
    for arm in results.arms.values():
        if eto is None or not arm.partner:
            continue
        names = {eto.label: eto, arm.label: arm}
        if sft is not None:
            solved = _solved(_keyed(sft.final()), results.success_eps)
            compared = compare_failures({n: _keyed(a.final()) for n, a in names.items()}, solved, results.success_eps)
            rows.append(_figure_row("held-out tasks, last round", compared, names))
        last = max(arm.record_rounds("rollouts", "target"), default=0)
        episodes = source.episodes.rewards
        start = episodes.get((arm.name, "rollout", "target", 1))
        methods = {n: episodes.get((a.name, "rollout", "target", last), {}) for n, a in names.items()}
        methods[f"its {arm.agent_name('partner')}"] = episodes.get((arm.name, "rollout", "partner", last), {})
        if start and all(methods.values()):
            compared = compare_failures(methods, _solved(start, results.success_eps), results.success_eps)
            rows.append(_figure_row(f"training tasks, rollouts of round {last}", compared, names))
    return rows


def _figure_row(where: str, compared: FailureComparison, names: Mapping[str, ArmResults]) -> dict[str, Any]:
    entries = [
        {
            "label": label,
            "agent": "target" if label in names else "partner",
            "failures": row.num_failures,
            "rate": row.num_failures / row.num_episodes if row.num_episodes else None,
            "mean": row.shared_mean,
        }
        for label, row in compared.methods.items()
    ]
    return {"where": where, "num_tasks": compared.num_tasks, "num_shared": compared.num_shared, "entries": entries}


def _keyed(rewards: SeedRewards) -> dict[Any, list[float]]:
    return {(seed, task): [value] for seed, by_task in rewards.items() for task, value in by_task.items()}


def _solved(rewards: Mapping[Any, Sequence[float]], success_eps: float) -> set[Any]:
    """Return the keys of which every episode succeeded."""
    return {key for key, values in rewards.items() if all(is_success(value, success_eps) for value in values)}
