"""Numbers come in, SVG markup goes out: elements with everything escaped, linear scales, panels with axes.

Colours, fonts and line styles are CSS classes (`style.css`), so one drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sparring.core.text import printable

Point = tuple[float, float]


def tag(name: str, /, *children: str | Markup, **attributes: object) -> Markup:
    """Make an element. Children that are not Markup are escaped, and so is every attribute's value.

    `class_` stands for `class`, and `_` in other names for `-`; attributes that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(map(_escape, children))
    return Markup(f"<{name}{written}>{inner}</{name}>")


def group(*children: str | Markup, **attributes: object) -> Markup:
    """Make a group of elements."""
    return tag("g", *children, **attributes)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """Write text; `anchor` is `start`, `middle` or `end`."""
    return tag("text", content, x=x, y=y, class_=class_ or None, text_anchor=None if anchor == "start" else anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, *children: Markup, rx: float = 0) -> Markup:
    """Draw a rectangle."""
    return tag("rect", *children, x=x, y=y, width=max(0, width), height=max(0, height), class_=class_, rx=rx or None)


def title(content: str) -> Markup:
    """Give the element around it a tooltip, which screen readers read too."""
    return tag("title", content)


def polyline(points: Iterable[Point], class_: str) -> Markup:
    """Draw a line through points."""
    return tag("path", d=_path(points), class_=f"line {class_}")


def band(points: Sequence[tuple[float, float, float]], class_: str) -> Markup:
    """Fill between two lines; each point is x, lower y, upper y."""
    outline = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
    return tag("path", d=_path(outline) + "Z", class_=f"band {class_}")


def drawing(width: float, height: float, *children: Markup, label: str, class_: str = "") -> Markup:
    """Wrap elements into an SVG that scales with its container; `label` says what it shows."""
    return tag(
        "svg",
        *children,
        class_=f"chart {class_}".strip(),
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        role="img",
        aria_label=label,
    )


MARGINS: dict[str, float] = {"left": 34, "right": 12, "top": 26, "bottom": 24}


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, kept inside the range."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, num: int = 4) -> list[float]:
        """List about `num` round values inside the domain."""
        step = _round_step((self.high - self.low) / max(1, num))
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def domain(
    values: Iterable[float],
    *,
    include: Sequence[float] = (),
    within: tuple[float, float] = (-math.inf, math.inf),
    pad: float = 0.06,
) -> tuple[float, float]:
    """Return limits that hold the values, with some air, snapped to round numbers, and not beyond `within`."""
    kept = [value for value in [*values, *include] if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(kept), max(kept)
    air = (high - low or 0.1) * pad
    step = _round_step((high - low or 0.1) / 4)
    snapped = math.floor((low - air) / step) * step, math.ceil((high + air) / step) * step
    return max(within[0], snapped[0]), min(within[1], snapped[1])


def tick_label(value: float) -> str:
    """Write a tick: `0.4`, `−2`, `1`."""
    return f"{value:g}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot area inside a drawing, with the scales of both axes."""

    x: Scale
    y: Scale

    @staticmethod
    def within(
        width: float,
        height: float,
        x_domain: tuple[float, float],
        y_domain: tuple[float, float],
        **margins: float,
    ) -> Panel:
        """Lay a plot area out inside margins: `left`, `right`, `top` and `bottom`."""
        left, right, top, bottom = ((MARGINS | margins)[side] for side in MARGINS)
        return Panel(Scale(*x_domain, left, width - right), Scale(*y_domain, height - bottom, top))

    def y_axis(self, num: int = 4) -> Markup:
        """Draw horizontal grid lines with their values."""
        return Markup("").join(
            line(self.x.start, self.y(tick), self.x.end, self.y(tick), "gridline")
            + text(self.x.start - 6, self.y(tick) + 3.5, tick_label(tick), "tick", "end")
            for tick in self.y.ticks(num)
        )

    def x_axis(self, ticks: Sequence[tuple[float, str]]) -> Markup:
        """Draw the base line and labelled ticks."""
        base = self.y.start
        marks = Markup("").join(
            line(self.x(at), base, self.x(at), base + 4, "axis") + text(self.x(at), base + 16, label, "tick", "middle")
            for at, label in ticks
        )
        return line(self.x.start, base, self.x.end, base, "axis") + marks

    def points(self, data: Iterable[Point]) -> list[Point]:
        """Map data to pixels."""
        return [(self.x(x), self.y(y)) for x, y in data]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` away, as little as that takes, inside [low, high]."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    floor = low
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _escape(value: object) -> Markup:
    return escape(printable(value) if type(value) is str else value)


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _path(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
