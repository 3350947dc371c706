"""What is in a task: the world it starts in, what its user says, and the reference that grades it.

A task of the benchmark names its entry in the wheel; one made by `make_task` carries everything in its data. Both run
in the same env. `scenario_of` gives what an agent may come to know; only `reference_of` reads the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.bfcl.calls import Call, read_calls
from sparring.envs.bfcl.wheel import VARIANTS, announcement, entries, references

Reference = tuple[tuple[Call, ...], ...]
"""For each user turn the calls that deal with it, in order; none where the right answer is to call nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A task without its reference."""

    apis: tuple[str, ...]
    """The APIs whose functions can be called, in the order in which they are shown; see `API_FILES`."""
    initial_config: Mapping[str, Any]
    """API → the state it starts in; what is left out starts as that API's default."""
    requests: tuple[str, ...]
    """What the user says, one text a user turn; empty where functions are added instead."""
    held_back: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """User turn → the functions that are shown only from there on. As in the benchmark, an agent that guesses one can
    call it before: a reference does (`miss_func/49`)."""
    is_long: bool = False
    """Whether the APIs fill their answers up with the benchmark's long context."""


def benchmark_task(variant: str, number: int) -> Task:
    """Return one of the benchmark's 800 tasks."""
    return Task(id=f"{variant}/{number}", kind=variant, data={"entry": f"multi_turn_{variant}_{number}"})


def scenario_of(task: Task) -> Scenario:
    """Return what a task starts with.

    Raises:
        DataError: the task is none of BFCL's.
    """
    match task.data:
        case {"entry": str(id)}:
            entry = _lookup(id, entries(_variant(id)))
            requests = tuple("\n".join(message["content"] for message in turn) for turn in entry["question"])
            return Scenario(
                apis=tuple(entry["involved_classes"]),
                initial_config=entry["initial_config"],
                requests=requests,
                held_back={int(turn): tuple(names) for turn, names in entry.get("missed_function", {}).items()},
                is_long="long_context" in id,
            )
        case {"scenario": {"apis": list(apis), "initial_config": dict(config), "requests": list(requests), **rest}}:
            return Scenario(
                apis=tuple(apis),
                initial_config=config,
                requests=tuple(requests),
                held_back={int(turn): tuple(names) for turn, names in rest.get("held_back", {}).items()},
                is_long=bool(rest.get("is_long")),
            )
    raise DataError(f"BFCL task {task.id}: its data has neither an entry nor a scenario. Make it with make_task.")


def reference_of(task: Task) -> Reference:
    """Return the calls that a task is graded by. For grading and demonstrations; never for making other tasks.

    Raises:
        DataError: the task is none of BFCL's, or a call can't be read.
    """
    match task.data:
        case {"entry": str(id)}:
            turns = _lookup(id, references(_variant(id)))
        case {"reference": list(turns)}:
            pass
        case _:
            raise DataError(f"BFCL task {task.id}: its data has no reference. Make it with make_task.")
    return tuple(tuple(_read_call(text, task.id) for text in turn) for turn in turns)


def request_text(scenario: Scenario, turn: int) -> str:
    """Return what the user says in a turn."""
    return scenario.requests[turn] or announcement()


def _variant(id: str) -> str:
    variant = id.removeprefix("multi_turn_").rpartition("_")[0]
    if variant not in VARIANTS:
        raise DataError(f"BFCL: no task is called {id!r}. Ids: multi_turn_VARIANT_NUMBER, {', '.join(VARIANTS)}.")
    return variant


def _lookup(id: str, table: Mapping[str, Any]) -> Any:
    if id not in table:
        raise DataError(f"BFCL: no task is called {id!r}; numbers go from 0 to {len(table) - 1}.")
    return table[id]


def _read_call(text: Any, id: str) -> Call:
    calls = read_calls(text) if isinstance(text, str) else []
    if len(calls) != 1 or calls[0].problem:
        problem = calls[0].problem if calls else "it is no call"
        raise DataError(f"BFCL task {id}: reference call {text!r} can't be read: {problem}.")
    return calls[0]
