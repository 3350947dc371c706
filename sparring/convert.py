"""Plain values (of TOML, JSON or a command line) come in, frozen dataclasses go out, and back. Strict in both ways.

An unknown key, a value of another type or one that its dataclass refuses is a ConfigError that names the key, what was
expected, and the nearest right key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sparring.errors import ConfigError

T = TypeVar("T")

SHOWN = 24
"""Most names that a message lists."""

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    type(None): "none",
    Any: "a value",
}


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
            raise ConfigError(f"{source}: unknown key {name!r}. {suggest(key, hints, default, prefix=prefix)}")
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
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, kind, where)
    if origin is Literal and any(value == arg and type(value) is type(arg) for arg in args):
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            items = enumerate(zip(value, kinds, strict=True))
            return tuple(convert(item, one, where=f"{where}[{i}]") for i, (item, one) in items)
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: convert(item, args[1], where=f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if origin is None and type(value) is kind and kind is not float:
        return value
    raise ConfigError(f"{where}: expected {describe(kind)}, found {_found(value)}.")


def describe(kind: Any) -> str:
    """Say in words what an annotation asks for, for instance `one of 'react', 'action'`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return f"a list, each item {describe(args[0])}" if args[-1] is Ellipsis else f"a list of {len(args)}"
    if origin is dict:
        return "a table of keys"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def suggest(key: str, known: Sequence[str] | Mapping[str, Any], default: Any = None, *, prefix: str = "") -> str:
    """Say which known key was probably meant; `default` is searched, too, for the same key in another section."""
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
    """Return a dataclass's fields with their annotations as types."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _refusal(prefix: str, message: str) -> str:
    """Put the key in full before what a dataclass says: `lr: must be …` or `dpo.lr: must be …` or `lr must be …`."""
    section = prefix.rstrip(".").rpartition(".")[2]
    message = message.removeprefix(f"{section}.")
    key = message.partition(":")[0]
    return f"{prefix}{message}" if key.isidentifier() else f"{prefix.rstrip('.') or 'recipe'}: {message}"


def _convert_union(value: Any, args: tuple[Any, ...], kind: Any, where: str) -> Any:
    if type(None) in args and (value is None or (str not in args and value in ("none", "None"))):
        return None
    for arg in args:
        if arg is not type(None):
            try:
                return convert(value, arg, where=where)
            except ConfigError:
                continue
    raise ConfigError(f"{where}: expected {describe(kind)}, found {_found(value)}.")


def _found(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a table"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else f"the number {value!r}"


def _all_keys(default: Any, prefix: str) -> list[str]:
    if not dataclasses.is_dataclass(default):
        return []
    return [
        name
        for field in dataclasses.fields(default)
        for name in [f"{prefix}{field.name}", *_all_keys(getattr(default, field.name), f"{prefix}{field.name}.")]
    ]
