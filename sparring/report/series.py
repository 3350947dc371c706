"""Numbers by round come in, drawings go out: stacked columns, and lines with their names at the end.

A run by policy gradient may have hundreds of rounds: columns grow thin, markers go, and ticks keep their distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sparring.report import svg
from sparring.report.svg import Panel

WIDTH, HEIGHT = 350.0, 180.0
MAX_MARKED = 16
"""Points up to which each is marked."""
MAX_TICKS = 7
"""Labelled rounds on an axis, about."""
MAX_ROUNDS = 6
"""Rounds of an arm up to which each has a drawing or a row of its own; of more, some, evenly spaced."""
MAX_COLUMN = 44.0
"""Width of a column at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One quantity by round."""

    name: str
    class_: str
    points: Sequence[tuple[int, float]]


def stacked_panel(label: str, stack: Sequence[Series], numbers: Sequence[int], top: float) -> Markup:
    """Draw a column for each round, the first series at the bottom; `top` fills the height."""
    panel = Panel.within(WIDTH, HEIGHT, (0, len(numbers)), (0, max(1.0, top)), left=38, top=12)
    slot = (panel.x.end - panel.x.start) / max(1, len(numbers))
    width = min(MAX_COLUMN, slot - (min(3.0, slot * 0.18) if slot > 4 else 0.0))
    values = [dict(series.points) for series in stack]
    parts = [panel.y_axis(4)]
    for place, number in enumerate(numbers):
        base = 0.0
        for series, by_round in zip(stack, values, strict=True):
            value = by_round.get(number, 0.0)
            if value:
                y, bottom = panel.y(base + value), panel.y(base)
                tip = svg.title(f"round {number}: {_count(value)} {series.name}")
                class_ = f"bar {series.class_}"
                parts.append(svg.rect(panel.x(place + 0.5) - width / 2, y, width, bottom - y, class_, tip))
                base += value
    places = {number: place + 0.5 for place, number in enumerate(numbers)}
    parts.append(panel.x_axis([(places[number], str(number)) for number in thin(numbers, MAX_TICKS)]))
    return svg.drawing(WIDTH, HEIGHT, *parts, label=label)


def lines_panel(label: str, lines: Sequence[Series], y_domain: tuple[float, float], span: tuple[int, int]) -> Markup:
    """Draw lines by round, the last value beside each end; `span`: first and last round of the axis."""
    panel = Panel.within(WIDTH, HEIGHT, (span[0], max(span[0] + 1, span[1])), y_domain, left=38, right=48, top=12)
    parts, ends = [panel.y_axis(4)], []
    for line in (line for line in lines if line.points):
        drawn = panel.points(line.points)
        parts.append(svg.group(svg.polyline(drawn, line.class_), svg.title(line.name)))
        if len(drawn) <= MAX_MARKED:
            for (x, y), (number, value) in zip(drawn, line.points, strict=True):
                tip = svg.title(f"{line.name}, round {number}: {_short(value)}")
                parts.append(svg.tag("circle", tip, cx=x, cy=y, r=3.0, class_=f"dot {line.class_}"))
        ends.append((*drawn[-1], _short(line.points[-1][1]), line.class_))
    places = svg.spread([y for _, y, _, _ in ends], 13, panel.y.end, panel.y.start)
    for place, (_, _, content, class_) in zip(places, ends, strict=True):
        parts.append(svg.text(panel.x.end + 7, place + 4, content, f"value {class_}"))
    numbers = range(span[0], span[1] + 1)
    parts.append(panel.x_axis([(float(number), str(number)) for number in thin(numbers, MAX_TICKS)]))
    return svg.drawing(WIDTH, HEIGHT, *parts, label=label)


def thin(numbers: Sequence[int], num: int) -> list[int]:
    """Return at most about `num` of some rounds, evenly spaced, at round distances.

    0 … 120 with 7 gives 0, 20, 40, …, 120; 1 … 8 gives 2, 4, 6, 8; 1, 2, 3 stays, and so does 10, 20, 30.
    """
    if len(numbers) <= num:
        return list(numbers)
    gap = numbers[1] - numbers[0]
    step = gap * next(n * 10**power for power in range(9) for n in (1, 2, 5) if n * 10**power * num >= len(numbers))
    origin = 0 if numbers[0] % gap == 0 else numbers[0]
    return [number for number in numbers if (number - origin) % step == 0]


def shown_rounds(numbers: Sequence[int]) -> list[int]:
    """Return the rounds that are shown, the first and the last among them."""
    if len(numbers) <= MAX_ROUNDS:
        return list(numbers)
    last = len(numbers) - 1
    return [numbers[round(place * last / (MAX_ROUNDS - 1))] for place in range(MAX_ROUNDS)]


def mean_by_round(values: Mapping[int, float | None]) -> list[tuple[int, float]]:
    """Leave out the rounds that have no value."""
    return [(number, value) for number, value in sorted(values.items()) if value is not None]


def _count(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _short(value: float) -> str:
    return svg.tick_label(round(value, 3)) if abs(value) < 10 else _count(value)
