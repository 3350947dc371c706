"""MySQL's functions that SQLite lacks, in Python: values in, MySQL's value out, within bounds.

They are given to a connection when a statement first asks for one. None of them has the name of a function of SQLite's
with another meaning: what a statement means does not depend on what ran before. Those whose names start with `mysql_`
stand for syntax (`LEFT(…)`, `CAST(… AS SIGNED)`), and `translator` writes them.

NULL in gives NULL out where nothing else is said, and so does what MySQL would warn about, such as an impossible date.
"""

from __future__ import annotations

import functools
import math
import sqlite3
from collections.abc import Callable, Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

from sparring.envs.intercode_sql import dates, patterns
from sparring.envs.intercode_sql.values import Refused, Value, bounded, check_size, compare_key, number, text

GROUP_CONCAT_MAX_LEN = 1024
"""Bytes after which MySQL cuts a `GROUP_CONCAT`, by default."""

MAX_GATHERED = 250_000
"""Most characters that one aggregate keeps at a time."""


def _whole(value: Value) -> int:
    """Round as MySQL does where it wants an integer."""
    found = number(value)
    return found if isinstance(found, int) else int(Decimal(repr(found)).to_integral_value(ROUND_HALF_UP))


def _left(value: Value, length: Value) -> Value:
    return text(value)[: max(0, _whole(length))]


def _right(value: Value, length: Value) -> Value:
    size = _whole(length)
    return text(value)[-size:] if size > 0 else ""


def _mid(value: Value, start: Value, *length: Value) -> Value:
    whole, first = text(value), _whole(start)
    first = first - 1 if first > 0 else len(whole) + first
    if first < 0 or _whole(start) == 0:
        return ""
    return whole[first : first + max(0, _whole(length[0]))] if length else whole[first:]


def _pad(value: Value, length: Value, filling: Value, *, left: bool) -> Value:
    whole, size, pad = text(value), _whole(length), text(filling)
    if size < 0 or (not pad and size > len(whole)):
        return None
    check_size(size)
    missing = (pad * (size // max(1, len(pad)) + 1))[: max(0, size - len(whole))]
    return (missing + whole if left else whole + missing)[:size]


def _repeat(value: Value, times: Value) -> Value:
    num = max(0, _whole(times))
    check_size(len(text(value)) * num)
    return text(value) * num


def _locate(part: Value, whole: Value, *start: Value) -> Value:
    first = _whole(start[0]) if start else 1
    return text(whole).casefold().find(text(part).casefold(), first - 1) + 1 if first > 0 else 0


def _field(wanted: Value, *values: Value) -> Value:
    if wanted is None:
        return 0
    return next((i for i, value in enumerate(values, 1) if compare_key(value) == compare_key(wanted)), 0)


def _substring_index(value: Value, mark: Value, count: Value) -> Value:
    num, by = _whole(count), text(mark)
    if not by or not num:
        return ""
    parts = text(value).split(by)
    return by.join(parts[:num] if num > 0 else parts[num:])


def _concat_ws(mark: Value, *values: Value) -> Value:
    return None if mark is None else text(mark).join(text(value) for value in values if value is not None)


def _trim(where: Value, chars: Value, value: Value) -> Value:
    whole, part = text(value), text(chars)
    while part and where != "TRAILING" and whole.startswith(part):
        whole = whole[len(part) :]
    while part and where != "LEADING" and whole.endswith(part):
        whole = whole[: -len(part)]
    return whole


def _extreme(choose: Callable[..., Value]) -> Callable[..., Value]:
    return lambda *values: choose(values, key=compare_key)


def _div(left: Value, right: Value) -> Value:
    over, under = Decimal(str(number(left))), Decimal(str(number(right)))
    return int((over / under).to_integral_value(ROUND_DOWN)) if under else None


def _divide(left: Value, right: Value) -> Value:
    under = number(right)
    return number(left) / under if under else None


def mod(left: Value, right: Value) -> Value:
    """Return the remainder with the sign of the left side: an integer of integers."""
    if left is None or right is None:
        return None
    over, under = number(left), number(right)
    if not under:
        return None
    if isinstance(over, int) and isinstance(under, int):
        return int(math.copysign(1, over)) * (abs(over) % abs(under))
    return math.fmod(over, under)


def _xor(left: Value, right: Value) -> Value:
    return int(bool(number(left)) != bool(number(right)))


def _truncate(value: Value, places: Value) -> Value:
    found, num = number(value), max(-30, min(30, _whole(places)))
    cut = Decimal(str(found)).quantize(Decimal(1).scaleb(-num), ROUND_DOWN)
    return int(cut) if isinstance(found, int) else float(cut)


def _format(value: Value, places: Value) -> Value:
    num = max(0, min(30, _whole(places)))
    return f"{Decimal(str(number(value))).quantize(Decimal(1).scaleb(-num), ROUND_HALF_UP):,}"


def _cast(value: Value, kind: Value, *size: Value) -> Value:
    """Convert as `CAST(value AS kind(size))`: SIGNED, UNSIGNED, DECIMAL, CHAR, DATE, DATETIME, TIME, YEAR."""
    if kind in ("SIGNED", "UNSIGNED"):
        whole = _whole(int(number(value)) if isinstance(value, str) else value)
        return whole + 2**64 if kind == "UNSIGNED" and whole < 0 else whole
    if kind == "DECIMAL":
        places = _whole(size[1]) if len(size) > 1 else 0
        found = Decimal(str(number(value))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
        return float(found) if places else int(found)
    if kind == "CHAR":
        return text(value)[: _whole(size[0])] if size else text(value)
    return dates.cast(value, str(kind))


def _key(*values: Value) -> Value:
    """Return a text that two lists of values share where MySQL finds them equal; NULL where one of them is."""
    return None if None in values else repr([compare_key(value) for value in values])


def _ascii(value: Value) -> Value:
    return text(value).encode()[0] if text(value) else 0


def _find_in_set(wanted: Value, values: Value) -> Value:
    return _field(text(wanted), *text(values).split(","))


def _elt(place: Value, *values: Value) -> Value:
    return values[_whole(place) - 1] if place is not None and 0 < _whole(place) <= len(values) else None


def _strcmp(left: Value, right: Value) -> Value:
    a, b = text(left).casefold(), text(right).casefold()
    return (a > b) - (a < b)


class GroupConcat:
    """`mysql_group_concat(is_distinct, separator, directions, value, key…)`, cut where MySQL cuts it."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, tuple[Value, ...]]] = []
        self._seen: set[str] = set()
        self._num_chars, self._order, self._separator = 0, "", ","

    def step(self, is_distinct: Value, separator: Value, order: Value, value: Value, *keys: Value) -> None:
        if value is None:
            return
        shown, self._order, self._separator = text(value), text(order), text(separator)
        if is_distinct:
            if shown.casefold() in self._seen:
                return
            self._seen.add(shown.casefold())
        self._num_chars += len(shown) + len(self._separator) + sum(len(text(key)) for key in keys if key is not None)
        if not self._order and self._num_chars > 2 * GROUP_CONCAT_MAX_LEN + len(shown):
            return  # what follows is cut
        if self._num_chars > MAX_GATHERED:
            raise Refused("GROUP_CONCAT() has too many values")
        self._rows.append((shown, keys))

    def finalize(self) -> Value:
        if not self._rows:
            return None
        for place in reversed(range(len(self._order))):
            self._rows.sort(key=lambda row: compare_key(row[1][place]), reverse=self._order[place] == "d")
        whole = self._separator.join(shown for shown, _ in self._rows)
        return whole.encode()[:GROUP_CONCAT_MAX_LEN].decode("utf-8", "ignore")


class Single:
    """The one value of a subquery in a value's place; more than one is refused."""

    def __init__(self) -> None:
        self._value: Value = None
        self._num = 0

    def step(self, value: Value) -> None:
        self._value, self._num = value, self._num + 1
        if self._num > 1:
            raise Refused("Subquery returns more than 1 row")

    def finalize(self) -> Value:
        return self._value


class AnyValue:
    """The first value of a group."""

    def __init__(self) -> None:
        self._values: list[Value] = []

    def step(self, value: Value) -> None:
        if not self._values:
            self._values.append(value)

    def finalize(self) -> Value:
        return self._values[0] if self._values else None


class Spread:
    """Variance or standard deviation, by Welford's recurrence."""

    def __init__(self, *, is_sample: bool, is_root: bool) -> None:
        self._is_sample, self._is_root = is_sample, is_root
        self._num, self._mean, self._squares = 0, 0.0, 0.0

    def step(self, value: Value) -> None:
        if value is None:
            return
        self._num += 1
        difference = number(value) - self._mean
        self._mean += difference / self._num
        self._squares += difference * (number(value) - self._mean)

    def finalize(self) -> Value:
        under = self._num - self._is_sample
        if under < 1:
            return None
        return math.sqrt(self._squares / under) if self._is_root else self._squares / under


_NULL_IN_NULL_OUT: Mapping[str, Callable[..., Value]] = {
    "mysql_left": _left,
    "mysql_right": _right,
    "mysql_trim": _trim,
    "mysql_div": _div,
    "mysql_divide": _divide,
    "mysql_xor": _xor,
    "mysql_cast": _cast,
    "mysql_format": _format,
    "mid": _mid,
    "lpad": functools.partial(_pad, left=True),
    "rpad": functools.partial(_pad, left=False),
    "repeat": _repeat,
    "reverse": lambda value: text(value)[::-1],
    "space": lambda times: _repeat(" ", times),
    "ucase": lambda value: text(value).upper(),
    "lcase": lambda value: text(value).lower(),
    "char_length": lambda value: len(text(value)),
    "character_length": lambda value: len(text(value)),
    "octet_length": lambda value: len(text(value).encode()),
    "locate": _locate,
    "find_in_set": _find_in_set,
    "strcmp": _strcmp,
    "ascii": _ascii,
    "substring_index": _substring_index,
    "greatest": _extreme(max),
    "least": _extreme(min),
    "truncate": _truncate,
    **dates.FUNCTIONS,
}
_NULL_TAKING: Mapping[str, Callable[..., Value]] = {
    "mysql_key": _key,
    "concat_ws": _concat_ws,
    "field": _field,
    "elt": _elt,
    "isnull": lambda value: int(value is None),
}
AGGREGATES: Mapping[str, Callable[[], Any]] = {
    "mysql_group_concat": GroupConcat,
    "mysql_single": Single,
    "any_value": AnyValue,
    **{name: functools.partial(Spread, is_sample=False, is_root=True) for name in ("std", "stddev", "stddev_pop")},
    **{name: functools.partial(Spread, is_sample=False, is_root=False) for name in ("variance", "var_pop")},
    "stddev_samp": functools.partial(Spread, is_sample=True, is_root=True),
    "var_samp": functools.partial(Spread, is_sample=True, is_root=False),
}
_PATTERNS = frozenset({"regexp_like", "regexp"})
NAMES = frozenset({*_NULL_IN_NULL_OUT, *_NULL_TAKING, *_PATTERNS, *AGGREGATES})
"""All functions that `install` makes."""


def install(connection: sqlite3.Connection, refuse: Callable[[str], None], deadline: Callable[[], float]) -> None:
    """Give a connection the functions; `refuse` is told why one of them stops a statement, `deadline` says when."""

    def regexp_like(value: Value, pattern: Value, flags: Value = "") -> Value:
        is_case_sensitive = "c" in text(flags)
        found = patterns.matches(text(pattern), text(value), is_case_sensitive=is_case_sensitive, deadline=deadline())
        return int(found)

    def regexp(pattern: Value, value: Value) -> Value:  # SQLite's operator turns them round
        return regexp_like(value, pattern)

    for function in (regexp_like, regexp):
        guarded = _guarded(function.__name__, function, refuse, takes_null=False)
        connection.create_function(function.__name__, -1, guarded, deterministic=True)
    for table, takes_null in ((_NULL_IN_NULL_OUT, False), (_NULL_TAKING, True)):
        for name, function in table.items():
            guarded = _guarded(name, function, refuse, takes_null=takes_null)
            connection.create_function(name, -1, guarded, deterministic=name not in dates.CLOCK)
    for name, make in AGGREGATES.items():
        connection.create_aggregate(name, -1, _guarded_aggregate(make, refuse))  # pyright: ignore[reportArgumentType]


def _guarded(
    name: str, function: Callable[..., Value], refuse: Callable[[str], None], *, takes_null: bool
) -> Callable[..., Value]:
    def call(*values: Value) -> Value:
        if None in values and not takes_null:
            return None
        try:
            return bounded(function(*values))
        except Refused as error:
            refuse(str(error))
            raise
        except TypeError:
            refuse(f"Incorrect parameter count in the call to native function '{name}'")
            raise
        except (ValueError, ArithmeticError):
            return None

    return call


def _guarded_aggregate(make: Callable[[], Any], refuse: Callable[[str], None]) -> type:
    class Aggregate:
        def __init__(self) -> None:
            self._inner = make()

        def step(self, *values: Value) -> None:
            try:
                self._inner.step(*values)
            except Refused as error:
                refuse(str(error))
                raise

        def finalize(self) -> Value:
            return self._inner.finalize()

    return Aggregate
