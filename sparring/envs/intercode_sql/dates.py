"""MySQL's functions over dates. SQLite has no dates: they are texts, `2019-01-02` or `2019-01-02 03:04:05`."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from sparring.envs.intercode_sql.values import Value, number, text

_DATE = re.compile(r"\s*(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2}))?(?:\.\d*)?)?\s*$")
_TIME = re.compile(r"\s*(\d{1,3}):(\d{1,2})(?::(\d{1,2}))?")
_YEAR_ZERO = "0000-01-01"
"""Where MySQL's days begin; `TO_DAYS` counts from it, and Python has no such year."""
_EPOCH = datetime(1970, 1, 1)
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 7 * 86400}


def _read(value: Value) -> datetime:
    """Read a date. Raises ValueError where it is none."""
    match = _DATE.match(text(value))
    if match is None:
        raise ValueError(f"no date: {value}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    return datetime(year, month, day, hour, minute, second)


def _has_time(value: Value) -> bool:
    return ":" in text(value)


def _write(moment: datetime, has_time: bool) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S") if has_time else moment.strftime("%Y-%m-%d")


def _clock(value: Value) -> tuple[int, int, int]:
    """Read hours, minutes and seconds, of a date or of a time."""
    match = _DATE.match(text(value))
    if match is not None:
        return int(match[4] or 0), int(match[5] or 0), int(match[6] or 0)
    match = _TIME.match(text(value))
    if match is None:
        raise ValueError(f"no time: {value}")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _added(value: Value, amount: Value, unit: Value) -> Value:
    """Return `value + INTERVAL amount unit`; a day that a month lacks becomes its last."""
    moment, num = _read(value), int(number(amount))
    if unit in _MONTHS:
        months = moment.year * 12 + moment.month - 1 + num * _MONTHS[unit]
        year, month = divmod(months, 12)
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        return _write(moment.replace(year=year, month=month + 1, day=day), _has_time(value))
    seconds = num * _SECONDS[str(unit)] if unit in _SECONDS else None
    if seconds is None:
        raise ValueError(f"no unit: {unit}")
    return _write(moment + timedelta(seconds=seconds), _has_time(value) or unit in ("SECOND", "MINUTE", "HOUR"))


def _difference(unit: Value, start: Value, end: Value) -> Value:
    """Return how many whole units lie between two moments (`TIMESTAMPDIFF`)."""
    first, last = _read(start), _read(end)
    if unit in _MONTHS:
        sign = 1 if first <= last else -1
        early, late = sorted((first, last))
        months = (late.year - early.year) * 12 + late.month - early.month
        months -= (late.day, late.time()) < (early.day, early.time())
        return sign * (months // _MONTHS[unit])
    seconds = (last - first).days * 86400 + (last - first).seconds
    size = _SECONDS[str(unit)] if unit in _SECONDS else None
    if size is None:
        raise ValueError(f"no unit: {unit}")
    return abs(seconds) // size * (1 if seconds >= 0 else -1)


def _days_between(left: Value, right: Value) -> Value:
    return _ordinal(left) - _ordinal(right)


def _ordinal(value: Value) -> int:
    return -364 if text(value) == _YEAR_ZERO else _read(value).toordinal()


def _week(value: Value, mode: Value = 0) -> Value:
    moment, num = _read(value), int(number(mode))
    if num == 3:
        return moment.isocalendar()[1]
    if num == 0:
        return int(moment.strftime("%U"))
    raise ValueError(f"no mode of weeks: {mode}")


def _with_ending(day: int) -> str:
    ending = "th" if day % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


_SHOWN: Mapping[str, Callable[[datetime], str]] = {
    "a": lambda d: calendar.day_abbr[d.weekday()],
    "b": lambda d: calendar.month_abbr[d.month],
    "c": lambda d: str(d.month),
    "D": lambda d: _with_ending(d.day),
    "d": lambda d: f"{d.day:02}",
    "e": lambda d: str(d.day),
    "f": lambda d: f"{d.microsecond:06}",
    "H": lambda d: f"{d.hour:02}",
    "h": lambda d: f"{d.hour % 12 or 12:02}",
    "I": lambda d: f"{d.hour % 12 or 12:02}",
    "i": lambda d: f"{d.minute:02}",
    "j": lambda d: f"{d.timetuple().tm_yday:03}",
    "k": lambda d: str(d.hour),
    "l": lambda d: str(d.hour % 12 or 12),
    "M": lambda d: calendar.month_name[d.month],
    "m": lambda d: f"{d.month:02}",
    "p": lambda d: "AM" if d.hour < 12 else "PM",
    "r": lambda d: f"{d.hour % 12 or 12:02}:{d.minute:02}:{d.second:02} {'AM' if d.hour < 12 else 'PM'}",
    "S": lambda d: f"{d.second:02}",
    "s": lambda d: f"{d.second:02}",
    "T": lambda d: f"{d.hour:02}:{d.minute:02}:{d.second:02}",
    "U": lambda d: f"{int(d.strftime('%U')):02}",
    "v": lambda d: f"{d.isocalendar()[1]:02}",
    "W": lambda d: calendar.day_name[d.weekday()],
    "w": lambda d: str((d.weekday() + 1) % 7),
    "x": lambda d: f"{d.isocalendar()[0]:04}",
    "Y": lambda d: f"{d.year:04}",
    "y": lambda d: f"{d.year % 100:02}",
}
_PYTHONS = dict(zip("YymcdeHhIkliSsMbWapT", "YymmddHIIHIMSSBbAapT", strict=True))
"""MySQL's letters for `STR_TO_DATE` → Python's for `strptime`."""


def _shown(value: Value, form: Value) -> Value:
    moment = _read(value)
    return re.sub(r"%(.)", lambda m: _SHOWN[m[1]](moment) if m[1] in _SHOWN else m[1], text(form))


MAX_FORM = 100
"""Most characters of a form for `STR_TO_DATE`."""


def _parsed(value: Value, form: Value) -> Value:
    letters = re.findall(r"%(.)", text(form))
    is_plain = set(letters) <= set(_PYTHONS) and len(set(letters)) == len(letters)
    if not is_plain or len(text(form)) > MAX_FORM:
        raise ValueError(f"a form that is not understood: {form}")
    python = re.sub(r"%(.)", lambda m: "%" + _PYTHONS.get(m[1], m[1]), text(form))
    moment = datetime.strptime(text(value).strip(), python.strip())
    has_date, has_time = bool(set(letters) & set("YymcdeMba")), bool(set(letters) & set("HhIkliSsT"))
    return _write(moment, has_time) if has_date else moment.strftime("%H:%M:%S")


def cast(value: Value, kind: str) -> Value:
    """Convert as `CAST(value AS kind)`: DATE, DATETIME, TIME or YEAR."""
    if kind == "TIME":
        return "{:02}:{:02}:{:02}".format(*_clock(value))
    if kind == "YEAR":
        return int(text(value)[:4])
    return _write(_read(value), kind == "DATETIME")


def _extract(unit: Value, value: Value) -> Value:
    if unit in ("HOUR", "MINUTE", "SECOND"):
        return _clock(value)[("HOUR", "MINUTE", "SECOND").index(unit)]
    moment = _read(value)
    parts = {"YEAR": moment.year, "QUARTER": (moment.month + 2) // 3, "MONTH": moment.month, "DAY": moment.day,
             "YEAR_MONTH": moment.year * 100 + moment.month, "WEEK": int(moment.strftime("%U"))}  # fmt: skip
    return parts.get(str(unit))


def _last_day(value: Value) -> Value:
    moment = _read(value)
    return _write(moment.replace(day=calendar.monthrange(moment.year, moment.month)[1]), False)


def _plain_added(sign: int) -> Callable[[Value, Value], Value]:
    return lambda value, days: _added(value, sign * int(number(days)), "DAY")


def _unix(*value: Value) -> Value:
    return int(((_read(value[0]) if value else _now()) - _EPOCH).total_seconds())


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "mysql_date_add": _added,
    "mysql_extract": _extract,
    "mysql_timestampdiff": _difference,
    "now": lambda: _write(_now(), True),
    "sysdate": lambda: _write(_now(), True),
    "curdate": lambda: _write(_now(), False),
    "curtime": lambda: _now().strftime("%H:%M:%S"),
    "unix_timestamp": _unix,
    "from_unixtime": lambda seconds: _write(_EPOCH + timedelta(seconds=number(seconds)), True),
    "adddate": _plain_added(1),
    "subdate": _plain_added(-1),
    "date_format": _shown,
    "str_to_date": _parsed,
    "datediff": _days_between,
    "to_days": lambda value: _read(value).toordinal() + 365,
    "last_day": _last_day,
    "quarter": lambda value: (_read(value).month + 2) // 3,
    "week": _week,
    "weekofyear": lambda value: _read(value).isocalendar()[1],
    "weekday": lambda value: _read(value).weekday(),
    "dayofweek": lambda value: _read(value).isoweekday() % 7 + 1,
    "dayofmonth": lambda value: _read(value).day,
    "dayofyear": lambda value: _read(value).timetuple().tm_yday,
    "dayname": lambda value: calendar.day_name[_read(value).weekday()],
    "monthname": lambda value: calendar.month_name[_read(value).month],
    "hour": lambda value: _clock(value)[0],
    "minute": lambda value: _clock(value)[1],
    "second": lambda value: _clock(value)[2],
}
CLOCK = frozenset({"now", "sysdate", "curdate", "curtime", "unix_timestamp"})
"""Those that tell the time, in UTC: two runs of them may differ."""
