"""A training task in, tasks of the same requests with other values out: numbers, names of files, stocks, airports.

A value is varied where the user spells it out: it changes in what the user says, in the calls, and, where it names a
file or a directory, in the state that the task starts in. What a call took from an earlier result (an order's number, a
price that was looked up) is taken from the new result. The new calls are then played, and have to go as the old ones
did: the same ones refused, the same ones changing something. Where it is unclear what a value hangs on, no task comes
of it.

Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sparring.envs.bfcl.calls import Call
from sparring.envs.bfcl.played import Played, play, value_of
from sparring.envs.bfcl.scenario import Reference, Scenario
from sparring.envs.bfcl.wording import named_arguments

FILES = "GorillaFileSystem"
NAMES = ("dir_name", "file_name", "file_name1", "file_name2", "source", "destination", "folder")
NUMBERS = ("amount", "price", "fuelAmount", "gallon", "liter", "distance", "budget_limit", "value", "insurance_cost")
SYMBOLS = ("symbol", "stock")
AIRPORTS = ("travel_from", "travel_to")
CLASSES = ("economy", "business", "first")

FACTORS = (0.4, 0.5, 0.6, 0.8, 1.2, 1.5, 1.6, 2.0)
"""By which numbers are varied; only results as round as the number they stand for are taken."""

LEAST_NUMBER = 10
"""Smaller numbers may count anything in what a user says."""

COMPANIES = (
    *("Apple", "Google", "Tesla", "Microsoft", "Nvidia", "Zeta", "Alpha", "Omega", "Quasar", "Neptune", "Synex"),
    *("Amazon", "Gorilla"),
)
"""Who stands behind symbols: a user who names one would contradict another symbol."""

NUMBER = re.compile(r"(?<![\w.,:/#-])\d[\d,]*(?:\.\d+)?(?![\w:/%-])")
PLAIN_NAME = re.compile(r"[A-Za-z]\w{3,}(\.\w+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slot:
    """A value that the user spells out."""

    value: Any
    kind: str
    """`name`, `number`, `symbol`, `airport`, `class`."""
    spelling: str
    """How the user spells it."""


Swap = Mapping[str, str]
"""Old spelling → new spelling."""


@dataclass(frozen=True, slots=True)
class Source:
    """What new values are drawn from."""

    names: Sequence[str]
    """Names of files and directories in training scenarios."""
    airports: Sequence[str]


def vary(
    scenario: Scenario, reference: Reference, source: Source, draw: Random
) -> tuple[Scenario, list[list[str]]] | None:
    """Give all slots other values; return scenario and calls, or None where that makes no sound task."""
    slots = find_slots(scenario, reference)
    swap = draw_swap(slots, scenario, source, draw)
    if not swap:
        return None
    varied = replace(
        scenario,
        requests=tuple(exchange(text, swap) for text in scenario.requests),
        initial_config=_rename(scenario.initial_config, {old: swap[old] for old in _of(slots, "name") if old in swap}),
    )
    calls = _follow(scenario, varied, reference, slots, swap)
    return None if calls is None else (varied, calls)


def find_slots(scenario: Scenario, reference: Reference) -> list[Slot]:
    """List the values that can be varied, in the order of the calls."""
    said = "\n".join(scenario.requests)
    given = [
        (name, value)
        for turn in reference
        for call in turn
        for name, value in named_arguments(call, scenario.apis).items()
    ]
    fixed = [value for name, value in given if name not in NUMBERS and _is_number(value)]
    found: dict[str, Slot] = {}
    for name, value in given:
        slot = _slot(name, value, said, fixed)
        if slot is not None:
            found.setdefault(slot.spelling, slot)
    return list(found.values())


def draw_swap(slots: Sequence[Slot], scenario: Scenario, source: Source, draw: Random) -> dict[str, str]:
    """Draw a new spelling for each slot, all different, none that the scenario has already."""
    taken = {*map(str.lower, re.findall(r"[\w.]+", f"{scenario.requests} {scenario.initial_config}"))}
    stocks = [*scenario.initial_config.get("TradingBot", {}).get("stocks", {})]
    offers: Mapping[str, Callable[[Slot], list[str]]] = {
        "name": lambda slot: [one for one in _names(slot.spelling, source.names) if one.lower() not in taken],
        "number": lambda slot: list(_numbers(slot)),
        "symbol": lambda slot: [one for one in stocks if one.isupper()],
        "airport": lambda slot: list(source.airports),
        "class": lambda slot: [one for one in CLASSES if one.lower() not in taken],
    }
    swap: dict[str, str] = {}
    used = {slot.spelling for slot in slots}
    for slot in slots:
        if offered := [one for one in offers[slot.kind](slot) if one not in used]:
            swap[slot.spelling] = draw.choice(offered)
            used.add(swap[slot.spelling])
    return swap


def exchange(text: str, swap: Swap) -> str:
    """Exchange spellings in a text, all at once and as whole words."""
    if not swap:
        return text
    olds = sorted(swap, key=len, reverse=True)
    return re.sub("|".join(map(_word, olds)), lambda match: swap[match[0]], text)


def names_in(config: Mapping[str, Any]) -> Iterator[str]:
    """List the plain names of files and directories in an initial state."""
    for name, item in config.get("root", config).items():
        if isinstance(item, dict) and "type" in item:
            if PLAIN_NAME.fullmatch(name):
                yield name
            if isinstance(item.get("contents"), dict):
                yield from names_in(item["contents"])


def _slot(name: str, value: Any, said: str, fixed: Sequence[Any]) -> Slot | None:
    if _is_number(value):
        spelling = _spelling(value, said) if name in NUMBERS and value >= LEAST_NUMBER else ""
        return Slot(value, "number", spelling) if spelling and value not in fixed else None
    if not isinstance(value, str):
        return None
    if name in NAMES and PLAIN_NAME.fullmatch(value) and _is_named(value, said):
        return Slot(value, "name", value)
    if name in SYMBOLS and value.isupper() and _is_said(value, said) and not _companies(said):
        return Slot(value, "symbol", value)
    if name in AIRPORTS and value.isupper() and _is_said(value, said):
        return Slot(value, "airport", value)
    if name == "travel_class" and len(re.findall(value, said, re.I)) == len(re.findall(rf"\b{value}[ -]class", said)):
        return Slot(value, "class", value) if _is_said(value, said) else None
    return None


def _is_said(value: str, said: str) -> bool:
    """Whether a text says a value, and nothing like it in other letters."""
    exact = len(re.findall(_word(value), said))
    return exact > 0 and exact == len(re.findall(_word(value), said, re.IGNORECASE))


def _is_named(value: str, said: str) -> bool:
    """Whether a text says a name, and always as a name: a bare word stands in quotes, or by what it names; of
    `final_report.pdf`, nothing is said of "the final report", which another name would leave without sense."""
    if not _is_said(value, said):
        return False
    if not value.isalpha():
        stem = "[ _-]".join(map(re.escape, re.split(r"[_-]+", value.partition(".")[0])))
        return not re.search(rf"\b{stem}\b(?!\.\w)", said.replace(value, ""), re.IGNORECASE)
    named = rf"['\"‘“`]{value}['\"’”`]|\b{value} (?:directory|folder)|(?:directory|folder)(?: named| called)? {value}\b"
    return len(re.findall(named, said)) == len(re.findall(_word(value), said))


def _companies(said: str) -> list[str]:
    return [one for one in COMPANIES if re.search(rf"\b{one}\b", said, re.IGNORECASE)]


def _spelling(value: float, said: str) -> str:
    """Return how a text spells a number, where it does so in one way; empty: it does not."""
    found = {
        text for text in re.findall(r"(?<![\w.,:/#-])\d[\d,]*(?:\.\d+)?(?![\w:/%-])", said) if _read(text) == value
    }
    found = {text.rstrip(",") for text in found}
    return found.pop() if len(found) == 1 else ""


def _read(text: str) -> float:
    return float(text.replace(",", "")) if text.replace(",", "") else 0.0


def _numbers(slot: Slot) -> Iterator[str]:
    """List other numbers, spelled in the same way and as round: for 150 180 and 300, not 225."""
    decimals = len(slot.spelling.partition(".")[2])
    digits = re.sub(r"\D", "", slot.spelling).lstrip("0")
    least = 10 ** (len(digits) - max(1, len(digits.rstrip("0"))))
    for factor in FACTORS:
        scaled = round(float(slot.value) * factor * 10**decimals)
        if scaled % least == 0:
            comma = "," if "," in slot.spelling else ""
            yield f"{scaled / 10**decimals:{comma}.{decimals}f}"


def _follow(
    scenario: Scenario, varied: Scenario, reference: Reference, slots: Sequence[Slot], swap: Swap
) -> list[list[str]] | None:
    """Write the calls of the varied task, playing them as they are written; None where they go another way."""
    old = play(scenario, [call for turn in reference for call in turn])
    said = "\n".join(scenario.requests)
    values = {slot.value: _like(slot.value, swap[slot.spelling]) for slot in slots if slot.spelling in swap}
    has_other_effects = any(slot.kind != "name" for slot in slots if slot.spelling in swap)
    new: list[Played] = []
    for step in old:
        arguments = {}
        for name, value in named_arguments(step.call, scenario.apis).items():
            taken = _carry(value, old[: len(new)], new, values, said)
            if taken is None and has_other_effects and _is_number(value) and not _spelling(value, said) and value >= 10:
                return None  # nobody knows what it was computed from
            arguments[name] = _exchanged(value, values, swap) if taken is None else taken[0]
        new = play(varied, [*(one.call for one in new), Call(step.call.name, (), arguments)])
        if _manner(new[-1]) != _manner(step):
            return None
    written = iter(str(one.call) for one in new)
    return [[next(written) for _ in turn] for turn in reference]


def _manner(step: Played) -> tuple[bool, bool, int]:
    """Return how a call went: whether it was refused, changed something, and how much it found."""
    return step.is_refused, step.has_changed, len(list(_leaves(value_of(step.result))))


def _carry(
    value: Any, old: Sequence[Played], new: Sequence[Played], values: Mapping[Any, Any], said: str
) -> tuple[Any] | None:
    """Return what an earlier result has now where it had `value` before, if the user does not say it."""
    if isinstance(value, bool | list | dict | None) or value in values or _is_spelled(value, said):
        return None
    for before, after in zip(reversed(old), reversed(new), strict=True):
        for path, one in _leaves(value_of(before.result)):
            if type(one) in (int, float, str) and (one == value or str(one) == str(value)):
                now = dict(_leaves(value_of(after.result))).get(path)
                return (_like(value, str(now)),) if type(now) is type(one) else None
    return None


def _is_spelled(value: Any, said: str) -> bool:
    return bool(_spelling(value, said)) if _is_number(value) else str(value) in said


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, (*path, key))
    else:
        yield path, value


def _exchanged(value: Any, values: Mapping[Any, Any], swap: Swap) -> Any:
    match value:
        case bool() | None:
            return value
        case int() | float():
            return values.get(value, value)
        case str():
            return exchange(value, swap)
        case list() | tuple():
            return [_exchanged(one, values, swap) for one in value]
        case dict():
            return {key: _exchanged(one, values, swap) for key, one in value.items()}
    return value


def _like(value: Any, text: str) -> Any:
    """Read a spelling as the type that a value has."""
    if isinstance(value, int):
        return int(_read(text))
    return _read(text) if isinstance(value, float) else text


def _rename(config: Mapping[str, Any], swap: Swap) -> dict[str, Any]:
    """Rename files and directories in an initial state."""
    files = config.get(FILES)
    return {**config, FILES: _renamed(files, swap)} if files and swap else dict(config)


def _renamed(items: Any, swap: Swap) -> Any:
    if not isinstance(items, dict):
        return items
    return {swap.get(key, key): _renamed(one, swap) for key, one in items.items()}


def _of(slots: Sequence[Slot], kind: str) -> list[str]:
    return [slot.spelling for slot in slots if slot.kind == kind]


def _names(old: str, known: Sequence[str]) -> list[str]:
    """List other names: of directories for a directory, of files for a file, which keeps its suffix."""
    suffix = "".join(old.partition(".")[1:])
    stems = (name.partition(".") for name in known)
    return list(dict.fromkeys(stem + suffix for stem, dot, _ in stems if bool(dot) == bool(suffix)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word(text: str) -> str:
    return (
        rf"(?<![\w.,:/#-])(?<!\w/){re.escape(text)}(?![\w:%]|[.,-]\w)"
        if text[0].isdigit()
        else (rf"(?<![\w.]){re.escape(text)}(?![\w]|\.\w)")
    )
