"""Every key of every config refuses what it can't mean: bad values are made from its annotation, new keys included.

Below and above the range, NaN, infinity, huge whole numbers, other types, a list in place of text, characters that no
file holds, paths and names that are too long. A file, the command line and Python refuse alike, and name the key.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import math
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from sparring.cli.main import COMMANDS
from sparring.core.convert import convert, from_dict, type_hints
from sparring.core.errors import ConfigError, quote
from sparring.core.ranges import MAX_TEXT, Range, Text
from sparring.runs.config import Config, PlayConfig
from sparring.runs.recipe_files import load_recipe, recipe_from_dict

HUGE = 10**5000
MOST = 700
"""Characters that no message exceeds."""
KEYS = [
    (section, key, kind)
    for section in type_hints(Config)
    for key, kind in type_hints(type(getattr(Config(), section))).items()
]
DEEP: dict[str, Any] = {}
for _ in range(1000):
    DEEP = {"a": DEEP}


def leaves(kind: Any, rules: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the types without parts that an annotation is made of, each with its rules."""
    if get_origin(kind) is Annotated:
        yield from leaves(kind.__origin__, (*rules, *kind.__metadata__))
    elif get_origin(kind) in (Union, types.UnionType, tuple):
        for part in get_args(kind):
            yield from leaves(part) if part is not Ellipsis else ()
    else:
        yield kind, rules


def outside(bounds: Range, kind: type) -> Iterator[float]:
    if kind is int:
        yield from (bound - 1 for bound in (bounds.at_least,) if bound is not None)
        yield from (bound + 1 for bound in (bounds.at_most,) if bound is not None)
    else:
        yield from (math.nextafter(bound, -math.inf) for bound in (bounds.at_least,) if bound is not None)
        yield from (math.nextafter(bound, math.inf) for bound in (bounds.at_most,) if bound is not None)
    yield from (bound for bound in (bounds.above, bounds.below) if bound is not None)


def bad_values(kind: Any, rules: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield values that an annotation must not take."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from bad_values(kind.__origin__, (*rules, *kind.__metadata__))
    elif origin in (Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        yield from (value for arg in others for value in bad_values(arg) if value is not None)
    elif origin is tuple:
        yield from ("text", 3, {}, None)
        size = 1 if args[-1] is Ellipsis else len(args)
        yield from ([value] * size for value in bad_values(args[0]))
    elif origin is dict:
        odd = (math.nan, -math.inf, HUGE, "a\0b", "\ud800", DEEP, datetime.date(2026, 1, 1), {1: 2})
        yield from ("text", 3, [], None, {3: 3}, {"a\0": 1}, *({"some": [value]} for value in odd))
    elif origin is Literal:
        yield from ("nonsense" * 100_000, 3, ["a"], {}, None)
    elif kind is bool:
        yield from (1, 0, "true", [], None)
    elif kind in (int, float):
        yield from (math.nan, math.inf, -math.inf, HUGE, -HUGE, "1", "x" * MAX_TEXT, True, [1], {}, None)
        yield from (value for rule in rules if isinstance(rule, Range) for value in outside(rule, kind))
        if kind is int:
            yield 2.5
    else:
        assert kind is str, f"no bad values are known for {kind}"
        rule = next((rule for rule in rules if isinstance(rule, Text)), Text())
        yield from (3, ["text"], {}, "a\0b", "\ud800", "x" * (rule.at_most + 1), None)
        if rule.is_path:
            yield from ("x" * 256, "ü" * 128, "a/" * 2049)


def options_of(command: str) -> type:
    """Return what a subcommand takes."""
    return importlib.import_module(f"sparring.cli.{command.replace('-', '_')}").Options


def refusal(make: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        make()
    message = str(refused.value)
    assert len(message) < MOST, message[:2000]
    assert message.isprintable() or "\n" in message
    message.encode()
    return message


@pytest.mark.parametrize(("section", "key", "kind"), KEYS, ids=[f"{section}.{key}" for section, key, _ in KEYS])
def test_a_key_refuses_what_it_cannot_mean(section: str, key: str, kind: Any) -> None:
    default = getattr(Config(), section)
    for value in bad_values(kind):
        nested = {section: {key: value}}
        assert refusal(lambda: from_dict(Config(), nested, source="file")).startswith(f"file: {section}.{key}")  # noqa: B023
        assert f"{type(default).__name__}.{key}" in refusal(lambda: dataclasses.replace(default, **{key: value}))  # noqa: B023


@pytest.mark.parametrize("cls", [*map(options_of, COMMANDS), Config, PlayConfig])
def test_every_number_has_a_range(cls: type) -> None:
    for name, kind in type_hints(cls).items():
        for leaf, rules in leaves(kind):
            if dataclasses.is_dataclass(leaf) and isinstance(leaf, type):
                test_every_number_has_a_range(leaf)
            assert leaf not in (int, float) or any(isinstance(rule, Range) for rule in rules), f"{cls.__name__}.{name}"


def test_bounds_are_taken_where_they_are_said_to_be() -> None:
    """A key takes its own bounds, `from 0 to 1`, and refuses those that it says are not, `above 0`."""
    assert [convert(value, Annotated[float, Range(at_least=0, at_most=1)], where="") for value in (0, 1.0)] == [0, 1]
    for bounds, text in (
        (Range(above=0, at_most=10), "above 0, at most 10"),
        (Range(at_least=0, below=1), "from 0 on, below 1"),
        (Range(at_least=1, at_most=10**9), "from 1 to 1,000,000,000"),
    ):
        assert str(bounds) == text
        assert not any(bounds.holds(value) for value in outside(bounds, float))
        assert all(bounds.holds(bound) for bound in (bounds.at_least, bounds.at_most) if bound is not None)


def test_the_command_line_refuses_as_a_file_does() -> None:
    values = {"method": "eto"}
    assert refusal(lambda: recipe_from_dict(values, {"env.num_envs": 10**9})) == (
        "command line: env.num_envs: expected a whole number from 1 to 4,096, found the number 1000000000."
    )
    assert refusal(lambda: recipe_from_dict({**values, "loop": {"later_lr": -1}}, source="r.toml")) == (
        "r.toml: loop.later_lr: expected a finite number above 0, at most 10 or none, found the number -1."
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": ["eto"]}, "method: expected text, found a list of 1"),
        ({"method": {}}, "method: expected text, found a table"),
        ({"method": "x" * 10**6}, "method: expected text, found one of 1000000 characters"),
        ({"method": "eto", "label": "a\0"}, "label: expected text"),
        ({"method": "eto", "seeds": [HUGE]}, "seeds[0]: expected a whole number"),
        ({"method": "eto", "seeds": [-1]}, "seeds[0]: expected a whole number"),
        ({"method": "eto", "name": ".."}, "name: becomes a folder's name"),
        ({"method": "eto", "name": "x" * 101}, "name: becomes a folder's name"),
        ({"arms": {"..": {"method": "sft"}}}, "arms...: becomes a folder's name"),
        ({"arms": {".": {"method": "sft"}}}, "arms..: becomes a folder's name"),
        ({"arms": {"a/b": {"method": "sft"}}}, "arms.a/b: becomes a folder's name"),
        ({"arms": {"ä" * 51: {"method": "sft"}}}, "becomes a folder's name"),
        ({"arms": {"x" * 10**6: {"method": "sft"}}}, "becomes a folder's name"),
        ({"arms": ["sft"]}, "arms: expected a table of keys"),
        ({"x" * 10**6: 1}, "unknown key 'xxx"),
        ({"method": "eto", "dpo": {"y" * 10**6: 1}}, "unknown key 'dpo.yyy"),
        (["method"], "holds no recipe"),
        (
            {"method": "eto", "rollout": {"max_new_tokens": 4096}},
            "rollout.max_new_tokens: is 4096, and chat.max_context 4096",
        ),
        ({"method": "grpo", "rollout": {"temperature": 0}}, "rollout.temperature: grpo samples, so it must be above 0"),
        ({"method": "eto", "rollout": {"temperature": 1e-30}}, "rollout.temperature: 1e-30 is too low"),
        (
            {
                "engine": {"kind": "fsdp"},
                "arms": {"a": {"method": "sft"}, "b": {"method": "coevolve", "synthesis": {"kind": "language-model"}}},
            },
            "arms.b.synthesis.kind: a language model is asked, and none is named",
        ),
        ({"method": "coevolve", "pool": {"hopeless_below": 0.9, "solved_above": 0.5}}, "pool.hopeless_below: 0.9"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_recipe_refuses_what_it_cannot_mean(changes: Any, named: str) -> None:
    assert named in refusal(lambda: recipe_from_dict(changes, source="r.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 1000 + "]" * 1000, "nested too deep"),
        ("x = " + "{a = " * 1000 + "1" + "}" * 1000, "nested too deep"),
        ("seeds = [" + "9" * 5000 + "]", "a whole number of thousands of digits"),
        ("name = '" + "n" * 11_000_000 + "'", "more than 10000000 bytes"),
        ('method = "eto"\nenv.options.' + ".".join("a" * 900) + " = 1", "nested deeper than 64 levels"),
        ('method = "eto"\nenv.options.when = 2026-01-01', "env.options.when: expected a value that JSON has"),
    ],
    ids=["lists", "tables", "digits", "bytes", "dotted", "date"],
)
def test_a_file_that_is_no_recipe_is_one_message(tmp_path: Any, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    assert message in refusal(lambda: load_recipe(path))


@pytest.mark.parametrize("path", ["a\0b.toml", "\ud800.toml", "x" * 300 + ".toml", "a/" * 3000])
def test_a_recipes_path_that_no_file_has_is_refused(path: str) -> None:
    assert "recipe: expected a path, found one" in refusal(lambda: load_recipe(path))


def test_quotes_are_bounded() -> None:
    for value in ("x" * 10**7, "\0" * 10**6, [list(range(10**5))], HUGE, -HUGE, 1e-300):
        assert len(quote(value)) < 200
    assert quote("ab'c") == '"ab\'c"'
    assert quote("key", bare=True) == "key"
