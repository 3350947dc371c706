"""Plain values (of TOML, JSON or a command line) come in, frozen dataclasses go out, and back. Strict in both ways.

An unknown key, a value of another type, one outside of its range (`ranges.py`) or one that its dataclass refuses is a
ConfigError that names the key, what was expected, and the nearest right key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

from sparring.core.errors import ConfigError, quote
from sparring.core.other_words import meant_by
from sparring.core.ranges import MAX_DEPTH, MAX_INTEGER, MAX_PATH, Adjustable, Range, Text

T = TypeVar("T")

SHOWN = 24
"""Most names that a message lists."""

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    type(None): "none",
    Any: "a value that JSON has",
}
_PLAIN = {str: Text(), Path: Text(at_most=MAX_PATH, is_path=True)}
"""Rules of texts whose annotation has none."""


def from_dict(default: T, values: Mapping[str, Any], *, source: str, prefix: str = "") -> T:
    """Return `default` with `values` in the place of what they name.

    Nested dataclasses take nested mappings, key by key; any other value, a mapping too, is replaced as a whole.

    Args:
        default: a dataclass instance; its fields' annotations say which types are right.
        values: plain values by key.
        source: where the values come from, for messages: a file's name, or `command line`.
        prefix: put before each key in messages, for instance `arms.eto.`.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or is refused by its dataclass.
    """
    hints = type_hints(type(default))
    changes = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError(f"{source}: unknown key {quote(name)}. {suggest(key, hints, default, prefix=prefix)}")
        old = getattr(default, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {name}: expected a table of keys, found {_found(value)}.")
            changes[key] = from_dict(old, value, source=source, prefix=f"{name}.")
        else:
            changes[key] = convert(value, hints[key], where=f"{source}: {name}")
    try:
        return dataclasses.replace(default, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(f"{source}: {_refusal(prefix, str(error).rstrip('.'))}.") from None


def check_values(config: Any) -> None:
    """Check every field of a dataclass against its annotation; for `__post_init__`.

    Raises:
        ConfigError: a value has the wrong type or lies outside of its range; the message names the field.
    """
    for name, kind in type_hints(type(config)).items():
        convert(getattr(config, name), kind, where=f"{type(config).__name__}.{name}")


def to_dict(value: Any) -> Any:
    """Return dataclasses as dicts and tuples as lists, all the way down: what `from_dict` reads, and JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return value


def convert(value: Any, kind: Any, *, where: str) -> Any:
    """Return `value` as an instance of the annotation `kind`.

    A whole number is a number; nothing else is converted into another type, except that a list becomes a tuple and the
    word `none` becomes None where None is allowed and text is not (TOML has no null).

    Raises:
        ConfigError: the value has another type; the message starts with `where`.
    """
    kind, rules = _unwrap(kind)
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return _checked_json(value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, kind, where)
    if origin is Literal and any(value == arg and type(value) is type(arg) for arg in args):
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            items = enumerate(zip(value, kinds, strict=True))
            return tuple(convert(item, one, where=f"{where}[{i}]") for i, (item, one) in items)
    if origin is dict and args == (str, Any) and isinstance(value, Mapping):
        return _checked_json(value, where)
    if kind in _PLAIN and isinstance(value, kind):
        _check_text(str(value), next((one for one in rules if isinstance(one, Text)), _PLAIN[kind]), where)
        return value
    if _is_number(value, kind) and all(one.holds(value) for one in rules if isinstance(one, Range)):
        return kind(value)
    if origin is None and kind not in (int, float) and type(value) is kind:
        return value
    raise ConfigError(f"{where}: expected {describe(kind, rules)}, found {_found(value)}.")


def describe(kind: Any, rules: Sequence[Any] = ()) -> str:
    """Say in words what an annotation asks for, for instance `one of 'react', 'action'`, or `a finite number above 0`.

    Args:
        kind: the annotation.
        rules: what was annotated, where it was taken off before.
    """
    kind, more = _unwrap(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return f"a list, each item {describe(args[0])}" if args[-1] is Ellipsis else f"a list of {len(args)}"
    if origin is dict:
        return "a table of keys"
    if any(isinstance(rule, Text) and rule.is_reference for rule in (*rules, *more)):
        return "package.module:name"
    bounds = [f" {rule}" for rule in (*rules, *more) if isinstance(rule, Range)]
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind))) + ",".join(bounds)


def ranges_of(kind: Any) -> list[Range]:
    """Return the ranges that an annotation holds, wherever in it."""
    inner, rules = _unwrap(kind)
    return [rule for rule in rules if isinstance(rule, Range)] + [
        found for arg in get_args(inner) if get_origin(inner) is not Literal for found in ranges_of(arg)
    ]


@functools.cache
def adjustable_keys(cls: type) -> dict[str, Adjustable]:
    """Return the keys of a config that may differ when a run goes on: `dpo.save_every_s` → how.

    Args:
        cls: a dataclass; the keys of the dataclasses in it follow a dot.
    """
    found: dict[str, Adjustable] = {}
    for name, kind in type_hints(cls).items():
        inner, rules = _unwrap(kind)
        for rule in rules:
            if isinstance(rule, Adjustable):
                found[name] = rule
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found |= {f"{name}.{key}": how for key, how in adjustable_keys(inner).items()}
    return found


def decisive(config: Any) -> dict[str, Any]:
    """Return what a dataclass's numbers depend on: what is at its default is left out, so that a key which a later
    version adds changes nothing, and so is what may differ when a run goes on."""
    adjustable, found = adjustable_keys(type(config)), {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), _default_of(field)
        if field.name in adjustable or (type(value) is type(default) and value == default):
            continue
        if not dataclasses.is_dataclass(value):
            found[field.name] = value
        elif inner := decisive(value):
            found[field.name] = inner
    return found


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def suggest(key: str, known: Sequence[str] | Mapping[str, Any], default: Any = None, *, prefix: str = "") -> str:
    """Say which known key was probably meant.

    Words of other trainers have an answer of their own; `default` is searched for the same key in another section.
    """
    if answer := meant_by(key, prefix.rstrip(".").rpartition(".")[2]):
        return answer
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    if close:
        return f"Did you mean {prefix + close[0]!r}?"
    elsewhere = [name for name in _all_keys(default, prefix) if name.rpartition(".")[2] == key]
    if elsewhere:
        return "Did you mean " + " or ".join(repr(name) for name in elsewhere) + "?"
    names = sorted(known)
    return f"Known here: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else '.'}"


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return a dataclass's fields with their annotations as types, with what is annotated."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _refusal(prefix: str, message: str) -> str:
    """Put the key in full before what a dataclass says: `lr: must be …` or `dpo.lr: must be …` or `lr must be …`."""
    section = prefix.rstrip(".").rpartition(".")[2]
    message = message.removeprefix(f"{section}.")
    key = message.partition(":")[0]
    return f"{prefix}{message}" if key.isidentifier() else f"{prefix.rstrip('.') or 'recipe'}: {message}"


def _unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split `Annotated[int, rule]` into the type and the rules."""
    return (kind.__origin__, kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())


def _is_number(value: Any, kind: Any) -> TypeGuard[float]:
    if kind is int:
        return type(value) is int
    return kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max


def _check_text(text: str, rule: Text, where: str) -> None:
    if problem := rule.problem(text):
        raise ConfigError(f"{where}: expected {'a path' if rule.is_path else 'text'}, found one {problem}.")


def _checked_json(value: Any, where: str, depth: int = 0) -> Any:
    """Return what stands in a table of no fixed keys, if JSON can hold it."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: expected keys that are text, found {_found(key)}.")
            _check_text(key, _PLAIN[str], where)
        return {key: _checked_json(item, f"{where}.{quote(key, bare=True)}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_checked_json(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, str):
        _check_text(value, _PLAIN[str], where)
    elif not (value is None or isinstance(value, bool) or _is_number(value, float)) or (
        type(value) is int and abs(value) > MAX_INTEGER
    ):
        raise ConfigError(f"{where}: expected {_NAMES[Any]}, found {_found(value)}.")
    return value


def _convert_union(value: Any, args: tuple[Any, ...], kind: Any, where: str) -> Any:
    if type(None) in args and (value is None or (str not in map(_type, args) and value in ("none", "None"))):
        return None
    others = [arg for arg in args if arg is not type(None)]
    if len(others) == 1 and _type(others[0]) in _PLAIN and isinstance(value, _type(others[0])):
        return convert(value, others[0], where=where)  # its message says what is wrong with the text
    for arg in others:
        try:
            return convert(value, arg, where=where)
        except ConfigError:
            continue
    raise ConfigError(f"{where}: expected {describe(kind)}, found {_found(value)}.")


def _type(kind: Any) -> Any:
    return _unwrap(kind)[0]


def _found(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"the number {quote(value)}" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _all_keys(default: Any, prefix: str) -> list[str]:
    if not dataclasses.is_dataclass(default):
        return []
    return [
        name
        for field in dataclasses.fields(default)
        for name in [f"{prefix}{field.name}", *_all_keys(getattr(default, field.name), f"{prefix}{field.name}.")]
    ]
