"""A language model's text comes in, checked values go out, or a `Malformed` that says what is wrong with it.

Strict: the whole text is one JSON object with exactly the wanted keys, of the wanted types, within the wanted lengths.
Nothing is guessed or mended: what is dropped is counted, and the share of it is a figure of the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sparring.data.control_tokens import break_known_controls

MAX_WORDS = 2000
"""Most characters of a text in an answer."""
MAX_ACTION = 500
"""Most characters of an action in an answer."""
MAX_CODE = 2000
"""The same where actions are code."""


class Malformed(Exception):
    """An answer that is not what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflection:
    """What went wrong in a trajectory, and where and how to explore."""

    diagnosis: str
    from_turn: int
    """Turns of the trajectory to keep before exploring."""
    guidance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """A task that was abstracted from exploration: the paper's intent, query and solution."""

    intent: str
    query: str
    actions: tuple[str, ...]


def parse_reflection(text: str, num_turns: int) -> Reflection:
    """Read `{"diagnosis": …, "from_turn": …, "guidance": …}`; the turn is one of the trajectory's.

    Raises:
        Malformed: it is something else.
    """
    fields = _object(text, {"diagnosis": str, "from_turn": int, "guidance": str})
    if not 0 <= fields["from_turn"] <= num_turns:
        raise Malformed(f"from_turn: {fields['from_turn']} is none of the {num_turns} turns")
    return Reflection(
        diagnosis=_words(fields["diagnosis"], "diagnosis"),
        from_turn=fields["from_turn"],
        guidance=_words(fields["guidance"], "guidance"),
    )


def parse_sentence(text: str) -> str:
    """Read an answer that is one line of text, without the space around it.

    Raises:
        Malformed: it is empty, too long, or more than a line.
    """
    return _line(_words(text, "answer"), "answer")


def parse_action(text: str, *, is_code: bool = False) -> str:
    """Read `{"action": …}`; code may have several lines.

    Raises:
        Malformed: it is something else, or the action is not one line of text.
    """
    return _action(_object(text, {"action": str})["action"], "action", is_code)


def parse_ideas(text: str, most: int, max_actions: int, *, is_code: bool = False) -> list[Idea]:
    """Read `{"tasks": [{"intent": …, "query": …, "actions": […]}, …]}`, at most `most` of them; none is an answer, too.

    Raises:
        Malformed: it is something else; one wrong task spoils them all.
    """
    items = _object(text, {"tasks": list})["tasks"]
    if len(items) > most:
        raise Malformed(f"tasks: {len(items)}, more than {most}")
    ideas = []
    for number, item in enumerate(items):
        where = f"tasks[{number}]"
        fields = _checked(item, {"intent": str, "query": str, "actions": list}, where)
        if not 1 <= len(fields["actions"]) <= max_actions:
            raise Malformed(f"{where}.actions: must be 1 to {max_actions}")
        ideas.append(
            Idea(
                intent=_words(fields["intent"], f"{where}.intent"),
                query=_line(_words(fields["query"], f"{where}.query"), f"{where}.query"),
                actions=tuple(_action(action, f"{where}.actions", is_code) for action in fields["actions"]),
            )
        )
    return ideas


def _object(text: str, keys: Mapping[str, type]) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {type(error).__name__}") from None
    return _checked(value, keys, "answer")


def _checked(value: Any, keys: Mapping[str, type], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys.keys():
        raise Malformed(f"{where}: must be an object with the keys {', '.join(keys)}")
    for key, kind in keys.items():
        if type(value[key]) is not kind:
            raise Malformed(f"{where}.{key}: must be {kind.__name__}")
    return value


def _words(text: str, where: str) -> str:
    text = text.strip()
    if not text or len(text) > MAX_WORDS:
        raise Malformed(f"{where}: must have 1 to {MAX_WORDS} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{where}: is no text") from None
    return text


def _line(text: str, where: str) -> str:
    if not text.isprintable():
        raise Malformed(f"{where}: must be one line")
    if break_known_controls(text) != text:  # it would be broken up wherever a model reads it, but no task needs it
        raise Malformed(f"{where}: holds control tokens of a chat template")
    return text


def _action(value: Any, where: str, is_code: bool) -> str:
    most = MAX_CODE if is_code else MAX_ACTION
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise Malformed(f"{where}: must be text of 1 to {most} characters")
    if is_code:
        _line(value.strip().replace("\n", " ").replace("\t", " "), where)
        return value.strip()
    return _line(value.strip(), where)  # a lone surrogate is not printable either


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
