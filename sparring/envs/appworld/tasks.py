"""AppWorld tasks from what they are made of: an initial state, an instruction, tests and reference code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.appworld import checks

InitialRows = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""App → table → rows, by the engine's own names (`{"todoist": {"User": […]}}`); rows are numbered from 1 as they stand,
and tables come in an order in which each row finds the rows that it refers to."""

SUPERVISOR = ("first_name", "last_name", "email", "phone_number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a task asks and how it is judged, before it is a task."""

    instruction: str
    tests: Sequence[checks.Check]
    """Beyond these, each task tests that it is marked complete."""
    reference: Sequence[str]
    """Actions (Python code) that solve it."""


def make_task(*, id: str, kind: str, rows: InitialRows, moment: str, draft: Draft) -> Task:
    """Build a task of ours.

    Args:
        id: unique within the benchmark.
        kind: its main app.
        rows: the initial state, with one row in `supervisor.Supervisor`; `supervisor.Task` is added here.
        moment: date and time at which the world stands still, ISO 8601.
        draft: instruction, tests and reference.

    Raises:
        ConfigError: something is missing, is no JSON, or the tests say something unknown.
    """
    where = f"task {id}"
    try:
        (supervisor,) = rows["supervisor"]["Supervisor"]
    except (KeyError, ValueError):
        raise ConfigError(f"{where}: needs exactly one row in supervisor.Supervisor.") from None
    if not draft.tests:
        raise ConfigError(f"{where}: has no tests. Say what must hold in the end.")
    tests = [{"name": "the task is marked complete", "check": "status"}, *draft.tests]
    checks.validate(tests, where)
    mark = {"supervisor_id": 1, "instruction": draft.instruction}
    data = {
        "instruction": draft.instruction,
        "moment": moment,
        "supervisor": {name: supervisor[name] for name in SUPERVISOR},
        "rows": {**rows, "supervisor": {**rows["supervisor"], "Task": [mark]}},
        "tests": tests,
        "reference": list(draft.reference),
    }
    try:
        return Task(id=id, kind=kind, data=json.loads(json.dumps(data, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: holds something that is not JSON ({error}).") from None


def engine_task(task: Task) -> dict[str, Any]:
    """Return what the engine gets to see of a task: neither tests nor reference."""
    specs = {
        "instruction": task.data["instruction"],
        "datetime": task.data["moment"],
        "supervisor": task.data["supervisor"],
    }
    return {"specs": specs, "rows": task.data["rows"]}
