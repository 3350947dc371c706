"""Numbers come in, the report's drawings go out.

Colour always says which agent (or which kind of pair), never which method: methods have panels and rows of their own.
Solid ink is what matters in a drawing, a tint of it what is there for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sparring.analysis.failures import Outcomes
from sparring.analysis.statistics import Interval
from sparring.report import svg
from sparring.report.series import MAX_MARKED, MAX_TICKS, thin
from sparring.report.svg import Panel, Scale
from sparring.report.text import NOTHING, between, percent, reward

FOREST_WIDTH, FOREST_HEIGHT = 140.0, 26.0
PANEL_WIDTH, PANEL_HEIGHT = 350.0, 230.0
SMALL_WIDTH, SMALL_HEIGHT = 350.0, 138.0
BAR_WIDTH = 200.0
"""Width of a bar that stands for 1, where its number stands beside it."""
MAX_ROUND_TICKS = 12
"""Rounds up to which each is a tick."""
FOREST_TICKS = 3
"""Values on the axis below a column of intervals, about."""
MIN_LABELLED = 46.0
"""Width from which a part of a bar has its number written in it; on narrow screens the number is larger."""
MAX_POINTS = 30
"""Points of a training curve that are drawn in each round, about."""


# ── Intervals in a table ──────────────────────────────────────────────────────────────────────────────────────────────


def forest(
    interval: Interval, domain: tuple[float, float], class_: str, *, seeds: Sequence[float] = (), zero: bool = False
) -> Markup:
    """Draw one interval of a table's column: whisker, mean, and a small tick for each seed's mean."""
    x, middle = Scale(*domain, 8, FOREST_WIDTH - 8), FOREST_HEIGHT / 2
    if interval.num == 0:
        return Markup("")
    grid = [svg.line(x(tick), 0, x(tick), FOREST_HEIGHT, "gridline") for tick in x.ticks(FOREST_TICKS)]
    if zero:
        grid.append(svg.line(x(0.0), 0, x(0.0), FOREST_HEIGHT, "zero"))
    marks = [svg.line(x(mean), middle - 7, x(mean), middle + 7, f"seed {class_}") for mean in seeds]
    marks.append(svg.line(x(interval.low), middle, x(interval.high), middle, f"whisker {class_}"))
    marks.append(svg.tag("circle", cx=x(interval.mean), cy=middle, r=4.5, class_=f"dot {class_}"))
    label = f"{reward(interval.mean, signed=zero)} {between(interval.low, interval.high, signed=zero)}"
    return svg.drawing(FOREST_WIDTH, FOREST_HEIGHT, *grid, *marks, label=label, class_="forest")


def forest_axis(domain: tuple[float, float]) -> Markup:
    """Draw the axis that stands below a column of intervals."""
    x = Scale(*domain, 8, FOREST_WIDTH - 8)
    labels = [svg.text(x(tick), 14, svg.tick_label(tick), "tick", "middle") for tick in x.ticks(FOREST_TICKS)]
    return svg.drawing(FOREST_WIDTH, 20, *labels, label="axis", class_="forest")


# ── Reward over rounds ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLine:
    """Held-out reward of one agent by round."""

    name: str
    agent: str
    points: Sequence[tuple[int, Interval]]


def rounds_panel(
    label: str,
    lines: Sequence[RoundLine],
    others: Sequence[RoundLine],
    baseline: float | None,
    y_domain: tuple[float, float],
    span: tuple[int, int],
) -> Markup:
    """Draw an arm's agents over rounds, with bands, on top of the other arms' targets in grey; `span`: rounds shown."""
    panel = Panel.within(PANEL_WIDTH, PANEL_HEIGHT, (span[0], max(span[0] + 1, span[1])), y_domain, right=52, top=12)
    parts = [panel.y_axis(5), panel.x_axis(_round_ticks(*span))]
    if baseline is not None:
        y = panel.y(baseline)
        parts.append(svg.line(panel.x.start, y, panel.x.end, y, "baseline"))
    for other in others:
        middle = panel.points((number, interval.mean) for number, interval in other.points)
        parts.append(svg.group(svg.polyline(middle, "other"), svg.title(other.name)))
    ends: list[tuple[float, str, str]] = [] if baseline is None else [(panel.y(baseline), "SFT", "muted")]
    for one in lines:
        edges = [
            (panel.x(number), panel.y(interval.low), panel.y(interval.high))
            for number, interval in one.points
            if interval.low == interval.low
        ]
        middle = panel.points((number, interval.mean) for number, interval in one.points)
        parts += [svg.band(edges, one.agent)] if len(edges) > 1 else []
        parts.append(svg.polyline(middle, one.agent))
        for (x, y), (number, interval) in zip(middle, one.points, strict=True):
            tip = f"{one.name}, round {number}: {reward(interval.mean)} {between(interval.low, interval.high)}"
            parts.append(_marker(x, y, one.agent, tip))
        ends.append((middle[-1][1], reward(one.points[-1][1].mean), one.agent))
    places = svg.spread([y for y, _, _ in ends], 13, panel.y.end, panel.y.start)
    for place, (_, content, class_) in zip(places, ends, strict=True):
        parts.append(svg.text(panel.x.end + 8, place + 4, content, f"value {class_}"))
    return svg.drawing(PANEL_WIDTH, PANEL_HEIGHT, *parts, label=f"{label}: reward by round")


def overview_panel(lines: Sequence[RoundLine], featured: str, y_domain: tuple[float, float], last_round: int) -> Markup:
    """Draw all arms' targets in one panel, each named at its end; the featured one in colour."""
    panel = Panel.within(PANEL_WIDTH, PANEL_HEIGHT, (0, max(1, last_round)), y_domain, right=112, top=12)
    parts = [panel.y_axis(5), panel.x_axis(_round_ticks(0, last_round))]
    ends = []
    for one in sorted(lines, key=lambda one: one.name == featured):
        class_ = "target" if one.name == featured else "muted"
        middle = panel.points((number, interval.mean) for number, interval in one.points)
        tip = svg.title(f"{one.name}: {reward(one.points[-1][1].mean)}")
        parts.append(svg.group(svg.polyline(middle, class_), tip))
        ends.append((*middle[-1], one.name, class_))
    places = svg.spread([y for _, y, _, _ in ends], 13, panel.y.end, panel.y.start)
    for place, (x, y, name, class_) in zip(places, ends, strict=True):
        parts.append(svg.tag("circle", cx=x, cy=y, r=3.0, class_=f"dot {class_}"))
        if x < panel.x.end - 1:
            parts.append(svg.line(x + 5, y, panel.x.end + 4, place, "leader"))
        shown = name if len(name) <= 19 else name[:18] + "…"
        parts.append(svg.text(panel.x.end + 7, place + 4, shown, f"value {class_}"))
    return svg.drawing(PANEL_WIDTH, PANEL_HEIGHT, *parts, label="all methods: held-out reward by round")


def _round_ticks(first: int, last: int) -> list[tuple[float, str]]:
    numbers = range(first, last + 1)
    shown = numbers if len(numbers) <= MAX_ROUND_TICKS else thin(numbers, MAX_TICKS)
    return [(float(i), "start" if i == 0 else f"round {i}" if last <= 4 else str(i)) for i in shown]


def _marker(x: float, y: float, agent: str, tip: str) -> Markup:
    """A circle for the target, a square for the partner: the two differ in shape as well as in colour."""
    if agent == "partner":
        return svg.rect(x - 3.5, y - 3.5, 7, 7, "dot partner", svg.title(tip))
    return svg.tag("circle", svg.title(tip), cx=x, cy=y, r=4.0, class_=f"dot {agent}")


# ── Failures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def histogram_panel(
    counts: Sequence[int], agent: str, *, threshold: float, mean: float | None, top: int, label: str
) -> Markup:
    """Draw how many failures got which reward; those from the threshold on are hard negatives, in solid ink."""
    panel = Panel.within(SMALL_WIDTH, SMALL_HEIGHT, (0, 1), (0, max(1, top)), top=14, right=10)
    width = (panel.x.end - panel.x.start) / len(counts)
    edge = panel.x(threshold)
    parts = [
        svg.rect(edge, panel.y.end, panel.x.end - edge, panel.y.start - panel.y.end, "zone"),
        panel.y_axis(3),
    ]
    for i, count in enumerate(counts):
        low = i / len(counts)
        is_hard = low >= threshold - 1e-9
        y = panel.y(count)
        tip = svg.title(f"{count} failures with reward {low:.2f} to {low + 1 / len(counts):.2f}")
        class_ = f"bar {agent}" if is_hard else f"bar {agent} pale"
        if count:
            parts.append(svg.rect(panel.x(low) + 0.8, y, width - 1.6, panel.y.start - y, class_, tip))
    parts.append(svg.line(edge, panel.y.end, edge, panel.y.start, "threshold"))
    if mean is not None:
        x, base = panel.x(mean), panel.y.end
        mark = svg.tag("path", d=f"M{x - 5:.1f},{base - 9:.1f}h10l-5,8z", class_=f"mark {agent}")
        parts.append(svg.group(mark, svg.title(f"mean reward of the failures: {reward(mean)}")))
    parts.append(panel.x_axis([(tick, svg.tick_label(tick)) for tick in (0, 0.2, 0.4, threshold, 0.8, 1)]))
    return svg.drawing(SMALL_WIDTH, SMALL_HEIGHT, *parts, label=label)


def trend_panel(shares: Mapping[float, Sequence[tuple[int, float]]], agent: str, *, label: str) -> Markup:
    """Draw the share of hard negatives among the failures by round, a line per threshold."""
    numbers = sorted({number for points in shares.values() for number, _ in points})
    panel = Panel.within(SMALL_WIDTH, SMALL_HEIGHT, (numbers[0], numbers[-1]), (0, 1), top=14, right=44, left=44)
    parts = [
        svg.line(panel.x.start, panel.y(tick), panel.x.end, panel.y(tick), "gridline")
        + svg.text(panel.x.start - 8, panel.y(tick) + 3.5, percent(tick), "tick", "end")
        for tick in (0.0, 0.5, 1.0)
    ]
    drawn = [(threshold, panel.points(points)) for threshold, points in shares.items() if points]
    places = svg.spread([points[-1][1] for _, points in drawn], 12, panel.y.end, panel.y.start)
    for i, ((threshold, points), place) in enumerate(zip(drawn, places, strict=True)):
        weight = ("full", "half", "pale")[min(i, 2)]
        parts.append(svg.polyline(points, f"{agent} solid trend {weight}"))
        marked = points if len(points) <= MAX_MARKED else []
        parts += [svg.tag("circle", cx=x, cy=y, r=3.0, class_=f"dot {agent}") for x, y in marked]
        parts.append(svg.text(panel.x.end + 8, place + 4, f"≥ {threshold:g}", f"value {agent}"))
    ticks = [(float(n), f"round {n}" if len(numbers) <= MAX_TICKS else str(n)) for n in thin(numbers, MAX_TICKS)]
    parts.append(panel.x_axis(ticks))
    return svg.drawing(SMALL_WIDTH, SMALL_HEIGHT, *parts, label=label)


def outcome_bar(shares: Outcomes, agent: str) -> Markup:
    """Draw the shares of success, hard negative and other failure as one bar of full width."""
    width, height, x = 460.0, 22.0, 0.0
    parts = []
    for name, share, class_ in (
        ("success", shares.success, "full"),
        ("hard negative", shares.hard, "half"),
        ("other failure", shares.failure, "pale"),
    ):
        extent = share * width
        tip = svg.title(f"{name}: {percent(share)} of {shares.num}")
        parts.append(svg.rect(x, 0, extent - (1 if extent > 2 else 0), height, f"bar {agent} {class_}", tip))
        if extent > MIN_LABELLED:
            parts.append(svg.text(x + 6, 15, percent(share), f"inside {class_}"))
        x += extent
    label = (
        f"success {percent(shares.success)}, hard negative {percent(shares.hard)}, "
        f"other failure {percent(shares.failure)}"
    )
    return svg.drawing(width, height, *parts, label=label, class_="share")


def compared_panel(label: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the share of episodes that fail, and the failures' mean reward: two groups of bars from 0 to 1.

    Args:
        label: says what it shows.
        rows: each a `name`, an `agent` for its colour, `failures`, `episodes`, `rate` and `mean`.
    """
    y, parts = 0.0, []
    titles = (("rate", "Episodes that fail"), ("mean", "Mean reward of the failures where both fail"))
    for key, title in titles:
        parts.append(svg.text(0, y + 12, title, "tick"))
        y += 20
        for row in rows:
            value = row[key]
            shown = NOTHING if value is None else reward(value) if key == "mean" else percent(value)
            tip = svg.title(f"{row['name']}: {shown}")
            parts.append(svg.text(0, y + 12, clipped(row["name"]), ""))
            parts.append(svg.rect(0, y + 17, BAR_WIDTH, 12, "track"))
            parts.append(svg.rect(0, y + 17, BAR_WIDTH * (value or 0.0), 12, f"bar {row['agent']}", tip))
            count = f" ({row['failures']} of {row['episodes']})" if key == "rate" else ""
            parts.append(svg.text(BAR_WIDTH + 7, y + 27, shown + count, f"value {row['agent']}"))
            y += 36
        y += 8
    return svg.drawing(PANEL_WIDTH, y, *parts, label=label)


def clipped(text: str, limit: int = 50) -> str:
    """Cut a name that would stick out of a panel."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# ── Pairs and training ────────────────────────────────────────────────────────────────────────────────────────────────


def pairs_bar(counts: Mapping[str, float], top: float) -> Markup:
    """Draw the number of pairs by kind as one bar; `top` is the number that fills it."""
    width, height, x = 460.0, 22.0, 0.0
    parts = []
    for kind, count in counts.items():
        extent = count / top * width if top else 0.0
        parts.append(
            svg.rect(x, 0, extent - 1, height, f"bar {kind_class(kind)}", svg.title(f"{count:.0f} {kind_name(kind)}"))
        )
        if extent > MIN_LABELLED:
            parts.append(svg.text(x + 6, 15, f"{count:.0f}", "inside full"))
        x += extent
    label = ", ".join(f"{count:.0f} {kind_name(kind)}" for kind, count in counts.items())
    return svg.drawing(width, height, *parts, label=label or "no pairs", class_="share")


def kind_class(kind: str) -> str:
    """Return the CSS class of a pair kind."""
    return "kind-" + kind.replace(">", "-")


def kind_name(kind: str) -> str:
    """Return what readers call a pair kind: `expert ≻ target`, `pivot`."""
    return kind.replace(">", " ≻ ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric (of one pair kind) over an agent's optimizer steps, rounds one after the other."""

    name: str
    class_: str
    points: Sequence[tuple[float, float]]
    is_secondary: bool = False
    """Drawn dotted: the rejected side beside the chosen one."""


def training_panel(
    label: str,
    curves: Sequence[Curve],
    *,
    starts: Sequence[tuple[float, int]],
    last: float,
    reference: float | None,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Draw curves over steps; `starts`: first step and number of each round; `reference`: a line to compare with."""
    include = [] if reference is None else [reference]
    y_domain = limits or svg.domain((y for curve in curves for _, y in curve.points), include=include)
    panel = Panel.within(PANEL_WIDTH, 180, (0, max(1.0, last)), y_domain, left=38, top=12)
    parts = [panel.y_axis()]
    for at, number in starts:
        if at > 0:
            parts.append(svg.line(panel.x(at), panel.y.end, panel.x(at), panel.y.start, "divider"))
        if len(starts) > 1:
            parts.append(svg.text(panel.x(at) + 4, panel.y.end + 9, f"round {number}", "tick"))
    if reference is not None:
        parts.append(svg.line(panel.x.start, panel.y(reference), panel.x.end, panel.y(reference), "zero"))
    breaks = [at for at, _ in starts[1:]]
    for curve in curves:
        dotted = " secondary" if curve.is_secondary else ""
        for part in _split(curve.points, breaks):
            drawn = panel.points(smooth(part))
            tip = svg.title(curve.name + (" (rejected side)" if dotted else ""))
            parts.append(svg.group(svg.polyline(drawn, curve.class_ + dotted), tip))
    ticks = [(tick, f"{tick:.0f}") for tick in panel.x.ticks(4)]
    return svg.drawing(PANEL_WIDTH, 180, *parts, panel.x_axis(ticks), label=label)


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average runs of neighbouring steps, so that about `MAX_POINTS` are left and noise is less than signal.

    Up to 24 points are left alone; of 25 each two make one, of 120 each four.
    """
    run = 1 if len(points) <= MAX_POINTS * 4 // 5 else max(2, len(points) // MAX_POINTS)
    chunks = [points[i : i + run] for i in range(0, len(points), run)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _split(points: Sequence[tuple[float, float]], breaks: Sequence[float]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[] for _ in range(len(breaks) + 1)]
    for x, y in points:
        parts[sum(x >= at for at in breaks)].append((x, y))
    return [part for part in parts if part]


# ── Rewards along one episode ─────────────────────────────────────────────────────────────────────────────────────────


def staircase(rewards: Sequence[float], agent: str, num_turns: int, parts_at: int = 0) -> Markup:
    """Draw the best reward so far, turn by turn; `num_turns` fills the width, a line after turn `parts_at` divides."""
    panel = Panel.within(350, 64, (0, max(1, num_turns)), (0, 1), left=26, right=30, top=8, bottom=8)
    parts = [panel.y_axis(1)]
    if parts_at:
        parts.append(svg.line(panel.x(parts_at), panel.y.end, panel.x(parts_at), panel.y.start, "threshold"))
    points, last = [(0.0, 0.0)], 0.0
    for i, now in enumerate(rewards):
        points += [(i + 1.0, last), (i + 1.0, now)]
        last = now
    area = [*panel.points(points), (panel.x(len(rewards)), panel.y.start), (panel.x.start, panel.y.start)]
    outline = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in area) + "Z"
    parts.append(svg.tag("path", d=outline, class_=f"band {agent}"))
    parts.append(svg.polyline(panel.points(points), f"{agent} solid"))
    parts.append(svg.text(panel.x(len(rewards)) + 5, panel.y(last) + 4, f"{last:.2f}", f"value {agent}"))
    return svg.drawing(350, 64, *parts, label="best reward so far by turn: " + ", ".join(f"{r:.2f}" for r in rewards))
