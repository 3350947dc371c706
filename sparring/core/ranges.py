"""What a config's values may be, said on the fields themselves: ranges of numbers, rules of text, marks for resuming.

    lr: Annotated[float, Range(above=0, at_most=10)] = 2e-5
    save_every_s: Annotated[float, Range(at_least=0), ADJUSTABLE] = 30.0

`convert.py` checks them by key wherever a value comes from, and `--help` shows them. Every number has a range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

LARGEST = 10**9
"""Most of anything that is only counted or compared."""
MAX_NAME, MAX_PATH, MAX_TEXT = 200, 4096, 1_000_000
"""Most characters of a name, bytes of a path, and characters of any other text."""
MAX_DEPTH, MAX_INTEGER = 64, 2**63 - 1
"""How deep a table may be nested, and the largest whole number in it: what JSON readers take."""
MAX_COMPONENT = 255
"""Most bytes between two slashes of a path, as file systems have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds of a number; those that are not given do not bind."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Say whether a number lies within."""
        return not (
            (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        """Return for instance `from 0 to 1`, `above 0`, `from 0 on, below 1`."""
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least:,} to {self.at_most:,}"
        low = f"from {self.at_least:,} on" if self.at_least is not None else ""
        low = f"above {self.above:,}" if self.above is not None else low
        high = f"at most {self.at_most:,}" if self.at_most is not None else ""
        high = f"below {self.below:,}" if self.below is not None else high
        return ", ".join(filter(None, (low, high)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Bounds of a text. Characters that no file can hold (NUL, lone surrogates) are refused in every text."""

    at_most: int = MAX_TEXT
    """Characters; of a path, bytes."""
    is_path: bool = False
    is_reference: bool = False
    """It is `package.module:name`."""

    def problem(self, text: str) -> str:
        """Say what is wrong with a text, without showing it: `with a NUL character`; empty: nothing."""
        if "\0" in text:
            return "with a NUL character"
        if any("\ud800" <= character <= "\udfff" for character in text):
            return "with a lone surrogate, which is no character"
        if self.is_reference and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
            return "that is not package.module:name"
        unit, size = ("bytes", len(text.encode())) if self.is_path else ("characters", len(text))
        if size > self.at_most:
            return f"of {size} {unit}, where at most {self.at_most} are taken"
        if self.is_path and any(len(part.encode()) > MAX_COMPONENT for part in text.split("/")):
            return f"with a name of more than {MAX_COMPONENT} bytes"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustable:
    """Marks a key that may differ when a run goes on: what is finished stays as it is."""

    is_exact: bool
    """Whether the numbers are those of a run in one piece; else it is noted that they may differ."""


ADJUSTABLE = Adjustable(is_exact=True)
ADJUSTABLE_WITH_NOTE = Adjustable(is_exact=False)

Count = Annotated[int, Range(at_least=1, at_most=LARGEST)]
CountOrZero = Annotated[int, Range(at_least=0, at_most=LARGEST)]
Repeats = Annotated[int, Range(at_least=1, at_most=10_000)]
"""How often something is played, asked or gone over: each time costs."""
Retries = Annotated[int, Range(at_least=0, at_most=1000)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
PositiveShare = Annotated[float, Range(above=0, at_most=1)]
ShareBelowOne = Annotated[float, Range(at_least=0, below=1)]
Weight = Annotated[float, Range(at_least=0, at_most=1_000_000)]
PositiveWeight = Annotated[float, Range(above=0, at_most=1_000_000)]
LearningRate = Annotated[float, Range(above=0, at_most=10)]
Reward = Annotated[float, Range(at_least=-LARGEST, at_most=LARGEST)]
"""As a world gives it."""
Temperature = Annotated[float, Range(at_least=0, at_most=100)]
Deadline = Annotated[float, Range(above=0, at_most=1_000_000)]
"""Seconds; eleven days at most, which every clock and socket takes."""
Seed = Annotated[int, Range(at_least=0, at_most=MAX_INTEGER)]

Name = Annotated[str, Text(at_most=MAX_NAME)]
Place = Annotated[str, Text(at_most=MAX_PATH, is_path=True)]
"""A path."""
