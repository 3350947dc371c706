"""Words of a command line come in; a subcommand's options, and the values of those config keys that were typed, go out.

The options' values are checked here. A config's are only read: whoever puts them over a recipe checks them, by key, as
those of a file. `--help` shows each key's range.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import json
import sys
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeVar, Union, get_args

import tyro

from sparring.core.convert import convert, ranges_of, type_hints
from sparring.core.errors import ConfigError, quote
from sparring.core.other_words import meant_by

MAX_WORD = 131_072
"""Most characters of a word, as Linux has it."""
MAX_LINES = 40
"""Most lines of what is said about words that can't be parsed."""

T = TypeVar("T")


def parse(options_class: type[T], prog: str, words: Sequence[str]) -> tuple[T, dict[str, Any]]:
    """Read a subcommand's words.

    Args:
        options_class: a dataclass; a field `config` holds a config, whose keys are options of their own.
        prog: the program's name, for `--help`.
        words: what was typed.

    Returns:
        The options (with `config` as nested dicts) and the config's values that were typed, by dotted key.

    Raises:
        ConfigError: an unknown key, or an option's value that is out of its range.
        SystemExit: after `--help`, or with code 2 where a word can't be parsed.
    """
    for word in words:
        if len(word) > MAX_WORD:
            raise ConfigError(f"command line: {quote(word)} has {len(word)} characters; put it into a recipe.")
    hints = type_hints(options_class)
    _check_plain(words, hints)
    config_class = hints["config"].__origin__ if "config" in hints else None
    typed = _typed_keys(words, config_class()) if config_class else []
    said = io.StringIO()
    try:
        with value_rules(options_class), contextlib.redirect_stderr(said):
            options = tyro.cli(options_class, prog=prog, args=list(words), use_underscores=True)
    finally:
        print(_bounded(said.getvalue()), end="", file=sys.stderr)
    for name, kind in hints.items():
        if name != "config":
            convert(getattr(options, name), kind, where=f"command line: --{name}")
    return options, {key: _value_at(options, key) for key in typed}


def value_rules(options_class: type) -> tyro.constructors.ConstructorRegistry:
    """Return how words become values where tyro has no rule, or one that differs from TOML's."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def boolean(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type is not bool:
            return None
        return _one_word("{true,false}", _to_bool, lambda value: isinstance(value, bool), lambda v: str(v).lower())

    @registry.primitive_rule
    def number(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type not in (int, float):
            return None
        kind, said = info.type, "a whole number" if info.type is int else "a number"
        read = functools.partial(_to_number, kind, said)
        return _one_word(kind.__name__.upper(), read, lambda value: isinstance(value, kind), str)

    @registry.primitive_rule
    def optional(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
        if info.type_origin not in (Union, types.UnionType) or len(kinds) != 1 or type(None) not in get_args(info.type):
            return None
        return _or_none(tyro.constructors.PrimitiveTypeInfo.make(kinds[0], info.markers))

    @registry.primitive_rule
    def table(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type_origin is not dict:
            return None
        return _one_word("TABLE", _to_table, lambda value: isinstance(value, dict), json.dumps)

    @registry.struct_rule
    def keys(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type):
            return None
        is_config = info.type is not options_class
        fields = tuple(_field(info.type, field, info.default) for field in dataclasses.fields(info.type))
        return tyro.constructors.StructConstructorSpec(instantiate=_as_dict if is_config else info.type, fields=fields)

    return registry


def _check_plain(words: Sequence[str], known: Mapping[str, Any]) -> None:
    """Answer options without a section that other trainers have and this command has not.

    Raises:
        ConfigError: there is such an option.
    """
    for word in words:
        option = word.partition("=")[0]
        name = option[2:].replace("-", "_")
        if option.startswith("--") and name not in known and (answer := meant_by(name, dashes="--")):
            raise ConfigError(f"command line: unknown option {quote(option)}. {answer}")


def _typed_keys(words: Sequence[str], config: Any) -> list[str]:
    """Return the config keys that were typed, in order: `--dpo.batch-size=3` is `dpo.batch_size`.

    Raises:
        ConfigError: there is no such key; the message suggests the right one.
    """
    known = [f"{name}.{key}" for name in type_hints(type(config)) for key in type_hints(type(getattr(config, name)))]
    typed = []
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and "." in option:
            key = option[2:].replace("-", "_")
            if key not in known:
                raise ConfigError(f"command line: unknown option {quote(option)}. {_nearest(key, known)}")
            typed.append(key)
    return typed


def _nearest(key: str, known: Sequence[str]) -> str:
    """Suggest the key that was probably meant: nearest in its section, else of that name in others, else nearest."""
    section, _, name = key.partition(".")
    if answer := meant_by(name, section, dashes="--"):
        return answer
    own = [other for other in known if other.startswith(f"{section}.")]
    elsewhere = [other for other in known if own and other.endswith(f".{name}")]
    found = difflib.get_close_matches(key, own, n=1) or elsewhere or difflib.get_close_matches(key, known, n=1)
    return f"Did you mean --{' or --'.join(found)}?" if found else "Add --help to see all."


def _value_at(options: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return options.config[section][name]


def _as_dict(**values: Any) -> dict[str, Any]:
    return values


def _field(cls: type, field: dataclasses.Field[Any], default: Any) -> tyro.constructors.StructFieldSpec:
    if dataclasses.is_dataclass(default):
        value = getattr(default, field.name)
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = tyro.MISSING if field.default is dataclasses.MISSING else field.default
    kind: Any = type_hints(cls)[field.name]
    bounds = "".join(f"; {one}" for one in dict.fromkeys(map(str, ranges_of(kind))))
    if bounds or value == ():
        kind = Annotated[kind, tyro.conf.arg(help_behavior_hint=lambda shown: f"(default: {shown or 'none'}{bounds})")]
    helptext = functools.partial(_doc, cls, field.name)
    return tyro.constructors.StructFieldSpec(name=field.name, type=kind, default=value, helptext=helptext)


def _doc(cls: type, name: str) -> str | None:
    """Return the docstring beneath a field, in the class itself or in one that it inherits from."""
    return next((docs[name] for base in cls.__mro__ if base is not object and name in (docs := _docs(base))), None)


@functools.cache
def _docs(cls: type) -> dict[str, str]:
    """Return the docstrings beneath a dataclass's own fields."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)]
    docs = {}
    for field, after in pairwise(body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs


def _one_word(
    metavar: str, read: Callable[[str], Any], is_mine: Callable[[Any], bool], show: Callable[[Any], str]
) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=is_mine,
        str_from_instance=lambda value: [show(value)],
    )


def _to_bool(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError(f"expected true or false, found {quote(word)}")
    return word.lower() == "true"


def _or_none(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Let a kind of value be left out by the word `none`, as the help texts have it."""
    inner = tyro.constructors.ConstructorRegistry.get_primitive_spec(info)
    if not isinstance(inner, tyro.constructors.PrimitiveConstructorSpec) or inner.nargs != 1:
        return None
    spec, choices = inner, inner.choices

    def read(word: str) -> Any:
        if word.lower() == "none":
            return None
        if choices and word not in choices:
            raise ValueError(f"expected none or one of {', '.join(choices)}, found {quote(word)}")
        return spec.instance_from_str([word])

    def show(value: Any) -> str:
        return "none" if value is None else spec.str_from_instance(value)[0]

    shown = f"{{{','.join(choices)}}}" if choices else spec.metavar
    return _one_word(f"none|{shown}", read, lambda value: value is None or spec.is_instance(value) is True, show)


def _to_number(kind: type[int] | type[float], said: str, word: str) -> float:
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"expected {said}, found {quote(word)}") from None


def _to_table(word: str) -> dict[str, Any]:
    """Read `{"a": 1}` (JSON) or `{a = 1}` (TOML)."""
    for read in (json.loads, lambda text: tomllib.loads(f"value = {text}")["value"]):
        try:
            value = read(word)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise ValueError(f"expected a table like {{key = 1}}, found {quote(word)}")


def _bounded(text: str) -> str:
    lines = text.splitlines(keepends=True)
    rest = len(lines) - MAX_LINES
    return text if rest <= 0 else "".join([*lines[: MAX_LINES // 2], "…\n", *lines[-MAX_LINES // 2 :]])
