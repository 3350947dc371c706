"""How MySQL reads and compares values, for the functions that SQLite lacks."""

from __future__ import annotations

import re
from typing import Any

Value = Any
"""What SQLite hands over: text, int, float, bytes or None."""

MAX_CHARS = 4096
"""Most characters of a value that a function may make: checked before it is made."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)")


class Refused(Exception):
    """A statement is stopped, with the reason as the database's message."""


def bounded(value: Value) -> Value:
    """Return the value unless it is too long, or too large for SQLite.

    Raises:
        Refused: it is.
    """
    if isinstance(value, str | bytes):
        check_size(len(value))
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Refused("BIGINT value is out of range")
    return value


def check_size(num_chars: int) -> None:
    """Refuse a text that is not made yet and would be too long."""
    if num_chars > MAX_CHARS:
        raise Refused("string or blob too big")


def text(value: Value) -> str:
    """Write a value as MySQL does: 3.0 is 3."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def number(value: Value) -> int | float:
    """Read a number; of a text, what stands at its beginning, else 0."""
    if isinstance(value, int | float):
        return value
    match = _NUMBER.match(text(value))
    if match is None:
        return 0
    return int(match[1]) if match[1].lstrip("+-").isdigit() else float(match[1])


def compare_key(value: Value) -> tuple[int, Any]:
    """Return what sorts as MySQL sorts: NULL, numbers, then text without regard to case and to spaces at its end."""
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value)
    return (2, text(value).casefold().rstrip(" "))
