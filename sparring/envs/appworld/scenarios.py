"""Which AppWorld tasks are variants of one scenario, and what of both is solved: task and scenario goal completion.

AppWorld's own scenarios have three tasks, called `SCENARIO_1` to `SCENARIO_3`, that ask for the same with other
details. Ours are grouped likewise: three draws of a template in a row are variants of one scenario.

Source: arXiv 2407.18901 (TGC and SGC).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sparring.core.errors import DataError, quote
from sparring.core.types import Task
from sparring.envs.appworld.official import OFFICIAL_KIND
from sparring.envs.measures import Measures, Rewards, scenario_points, solved_points

NUM_VARIANTS = 3

_OFFICIAL = re.compile(r"(?P<scenario>[^\s_/]+)_[1-9]\d*")
_OURS = re.compile(r"(?P<template>[^/+]+/[^/+]+)/(?P<drawn>(?:[^/+]*-)?)(?P<number>\d+)")


def scenario_of(task: Task) -> str:
    """Return the scenario that a task is a variant of: `82e2fac` of `82e2fac_1`; of ours, `todoist/close-task/0`.

    Raises:
        DataError: the task's id names none.
    """
    if task.kind == OFFICIAL_KIND:
        if found := _OFFICIAL.fullmatch(task.id):
            return found["scenario"]
        raise DataError(f"task {quote(task.id)} names no scenario; official ids are SCENARIO_NUMBER")
    if found := _OURS.fullmatch(task.id):
        return f"{found['template']}/{found['drawn']}{int(found['number']) // NUM_VARIANTS}"
    raise DataError(f"task {quote(task.id)} names no scenario; ids of ours are APP/TEMPLATE/NUMBER")


def variants(tasks: Iterable[Task]) -> dict[str, list[str]]:
    """Return scenario → the ids of its tasks: of an official one all that AppWorld has, whether they are listed or not.

    Raises:
        DataError: a task's id names no scenario.
    """
    found: dict[str, list[str]] = {}
    for task in tasks:
        scenario = scenario_of(task)
        ids = found.setdefault(scenario, _official_ids(scenario) if task.kind == OFFICIAL_KIND else [])
        if task.id not in ids:
            ids.append(task.id)
    return found


def goal_completion(known: Iterable[Task], tasks: Sequence[Task], rewards: Rewards) -> Measures:
    """Return TGC, the share of tasks that are solved, and SGC, that of scenarios all of whose variants are.

    Args:
        known: all tasks there are, by which a scenario is known to be whole.
        tasks: all that were to be played.
        rewards: of those that were played.
    """
    try:
        scenario = scenario_points(variants([*known, *tasks]), tasks, rewards)
    except DataError as error:
        scenario = str(error)
    return {"TGC": solved_points(rewards.values()), "SGC": scenario}


def _official_ids(scenario: str) -> list[str]:
    return [f"{scenario}_{number}" for number in range(1, NUM_VARIANTS + 1)]
