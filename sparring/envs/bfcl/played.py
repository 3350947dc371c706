"""Calls in, what they returned and what they changed out: played on APIs of their own, without a conversation.

What the making of tasks needs to know about calls; pure, since every playing begins afresh.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.envs.bfcl.calls import Call
from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.scenario import Scenario

REFUSALS = ("error", "Error")
"""Keys under which APIs say why they did not do something."""


@dataclass(frozen=True, slots=True)
class Played:
    """One call and what came of it."""

    call: Call
    result: str
    has_changed: bool
    """Whether any API's state is another one than before. The working directory counts here: later calls hang on it."""

    @property
    def is_refused(self) -> bool:
        """Did the call fail?"""
        if self.result.startswith("Error during execution"):
            return True
        value = value_of(self.result)
        return isinstance(value, dict) and (
            any(key in value for key in REFUSALS) or any(value[key] is False for key in value if key.endswith("status"))
        )


def play(scenario: Scenario, calls: Sequence[Call]) -> list[Played]:
    """Play calls one after another from the scenario's start."""
    live = LiveApis(scenario)
    before, played = _with_place(live), []
    for call in calls:
        result = live.call(call)
        after = _with_place(live)
        played.append(Played(call, result, after != before))
        before = after
    return played


def final_state(scenario: Scenario, calls: Sequence[Call]) -> str:
    """Return a hash of all that the benchmark compares of the APIs' state after calls."""
    live = LiveApis(scenario)
    for call in calls:
        live.call(call)
    return state_of(live)


def state_of(live: LiveApis) -> str:
    """Return a hash of the APIs' public state, which is what the benchmark compares."""
    try:
        plain = {api: _plain(instance) for api, instance in live.instances.items()}
    except RecursionError:  # a directory inside itself
        return "endless"
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def value_of(result: str) -> Any:
    """Return what a result spells out, or its text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(result)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return result


def _with_place(live: LiveApis) -> tuple[str, int]:
    files = live.instances.get("GorillaFileSystem")
    return state_of(live), id(getattr(files, "_current_dir", None))


def _plain(value: Any) -> Any:
    """Turn a state into JSON values; of a directory what is in it, and nothing of what it is in."""
    match value:
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case set() | frozenset():
            return sorted(map(str, value))
        case None | bool() | int() | float() | str():
            return value
    if hasattr(value, "__dict__"):
        public = {name: one for name, one in vars(value).items() if not name.startswith("_") and name != "parent"}
        return _plain(public)
    return str(value)
