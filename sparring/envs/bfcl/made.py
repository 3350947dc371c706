"""Tasks of one's own: a scenario and the calls that solve it in, a task out that runs and is graded as the benchmark's.

For those who make training tasks: take `BFCL.training_scenario` or a scenario of your own, try calls on `LiveApis`,
make the task, and let `score` tell whether its reference solves it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.bfcl.functions import functions_of
from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.scenario import Scenario, reference_of
from sparring.envs.bfcl.wheel import API_FILES


def make_task(
    id: str, scenario: Scenario, reference: Sequence[Sequence[str]], *, kind: str = "made", **more: Any
) -> Task:
    """Make a task of one's own, which runs and is graded as the benchmark's do.

    Args:
        id: unique among the tasks it is used with.
        scenario: where it starts and what the user says.
        reference: for each user turn the calls that deal with it, as text; `score` tells whether they do.
        kind: its task type.
        more: JSON values to keep in the task's data, for instance where it came from.

    Raises:
        DataError: scenario and reference don't fit together, name an API or a function that is not there, or an API
            can't start from its initial state.
    """
    data = {**more, "scenario": _plain(scenario), "reference": [list(calls) for calls in reference]}
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"BFCL task {id}: its data must be JSON values ({error}).") from None
    task = Task(id=id, kind=kind, data=data)
    if len(scenario.requests) != len(reference) or not any(reference):
        raise DataError(f"BFCL task {id}: give one list of calls for each request, and calls in at least one of them.")
    if unknown := set(scenario.apis) - set(API_FILES):
        raise DataError(f"BFCL task {id}: no such API: {', '.join(sorted(unknown))}. APIs: {', '.join(API_FILES)}.")
    known = {function.name for function in functions_of(scenario.apis)}
    called = {call.name for calls in reference_of(task) for call in calls}
    held_back = {name for names in scenario.held_back.values() for name in names}
    if unknown := (called | held_back) - known:
        raise DataError(f"BFCL task {id}: its APIs have no function {', '.join(sorted(unknown))}.")
    LiveApis(scenario)
    return task


def _plain(scenario: Scenario) -> dict[str, Any]:
    fields = asdict(scenario)
    held_back = {str(turn): list(names) for turn, names in scenario.held_back.items()}
    return {**fields, "apis": list(scenario.apis), "requests": list(scenario.requests), "held_back": held_back}
