"""BFCL's part in making tasks: other values, requests in hindsight, conversations begun in the middle or going on.

A synthetic task is one of `make_task`'s, or one of the benchmark's, with more `data`:

    prefix   answers that are played at the reset, so that the conversation begins in the state they lead to

With a prefix, reward counts from what silence would earn from there on. Calls are tried on APIs of their own, which
start afresh each time, so that nothing here depends on what was asked before. Tasks are made from the split `train`
alone; of others only the footprint is taken.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.bfcl.calls import Call, read_calls
from sparring.envs.bfcl.env import DONE, score, silent_score
from sparring.envs.bfcl.exploration import explored_action, place_of
from sparring.envs.bfcl.functions import functions_of
from sparring.envs.bfcl.hindsight import achieved
from sparring.envs.bfcl.made import make_task
from sparring.envs.bfcl.played import Played, final_state, play, value_of
from sparring.envs.bfcl.scenario import Scenario, reference_of, scenario_of
from sparring.envs.bfcl.variation import FILES, Source, names_in, vary
from sparring.envs.bfcl.wheel import API_FILES
from sparring.envs.synthesis import Draft, synthetic_id

NUM_VARIATIONS = 4
"""Most variations of a task."""
MAX_DRAWS = 24
"""How often values are drawn for them."""
MAX_REQUESTS = 10
"""Most user turns of a chain; the benchmark's longest conversation has eight."""


class BFCLSynthesis:
    """What BFCL offers (`Synthesis`)."""

    def __init__(self, train: Sequence[Task]) -> None:
        """`train`: the training split."""
        self._train = {task.data["entry"] for task in train if "entry" in task.data}
        self._scenarios = [scenario_of(task) for task in train if task.kind == "base"]
        self._source: Source | None = None

    def variations(self, task: Task) -> list[Task]:
        """Give what the user spells out other values: numbers, names of files, stocks, airports."""
        if not self._is_training(task):
            return []
        scenario, reference = scenario_of(task), reference_of(task)
        made: dict[str, Task] = {}
        for number in range(MAX_DRAWS):
            found = vary(scenario, reference, self._values(), Random(f"{task.id}/{number}"))
            if found is not None:
                one = _make(task, "variation", *found)
                made.setdefault(one.id, one)
            if len(made) == NUM_VARIATIONS or (found is None and not made and number >= MAX_DRAWS // 2):
                break
        return list(made.values())

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Begin after a prefix of answers, which follows the task's own; none from where all is lost or won."""
        if not prefix or not self._is_training(task):
            return None
        data = {**task.data, "prefix": [*task.data.get("prefix", ()), *prefix]}
        whole = replace(task, data={key: value for key, value in task.data.items() if key != "prefix"})
        if score(whole, data["prefix"]).failed_turn is not None or silent_score(whole, data["prefix"]).is_success:
            return None
        return Task(id=synthetic_id(task.id, "restart", data), kind=task.kind, data=data)

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Ask, user turn by user turn, for what the trajectory's calls changed; where they only looked, for that.

        The calls of the user turns that it ended are the reference. A user turn in which nothing was done ends it.
        """
        task = trajectory.task
        if not self._is_training(task):
            return None
        prefix = list(task.data.get("prefix", ()))
        scenario = scenario_of(task)
        turns = achieved(scenario, [*prefix, *(turn.action for turn in trajectory.turns)])
        if not any(turn.is_change for turn in turns):
            return None
        requests = [turn.request for turn in turns]
        if query:
            requests[0] = f"{query}\n{requests[0]}"
        held_back = {turn: names for turn, names in scenario.held_back.items() if turn < len(requests)}
        told = replace(scenario, requests=tuple(requests), held_back=held_back)
        more = {"prefix": prefix} if prefix else {}
        return _make(task, "relabel", told, [list(map(str, turn.calls)) for turn in turns], **more)

    def place(self, task: Task) -> Task | None:
        """Return the state that a training task begins in, with a user who has no wishes."""
        return place_of(task) if self._is_training(task) else None

    def explore(self, place: Task, turns: Sequence[Turn], observation: str, seed: int) -> str | None:
        """Call some functions by chance, with what is there to call them with."""
        return explored_action(place, len(turns), seed)

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Let the user of the second task go on where the first ends; both begin in one state.

        The second's calls have to do after the first what they did by themselves.
        """
        if not (self._is_training(first.task) and self._is_training(second.task)):
            return None
        ours, theirs = scenario_of(first.task), scenario_of(second.task)
        if "prefix" in first.task.data or "prefix" in second.task.data or theirs.held_back:
            return None
        if (ours.apis, ours.initial_config, ours.is_long) != (theirs.apis, theirs.initial_config, theirs.is_long):
            return None
        if len(ours.requests) + len(theirs.requests) > MAX_REQUESTS or {*ours.requests} & {*theirs.requests}:
            return None
        before, after = reference_of(first.task), reference_of(second.task)
        calls, more = [call for turn in before for call in turn], [call for turn in after for call in turn]
        if _deeds(play(ours, [*calls, *more])[len(calls) :]) != _deeds(play(theirs, more)):
            return None
        told = replace(ours, requests=(*ours.requests, *theirs.requests))
        task = _make(first.task, "chain", told, [list(map(str, turn)) for turn in (*before, *after)])
        return Draft(task=task, actions=(*_until(first.actions, len(ours.requests)), *second.actions))

    def footprint(self, task: Task) -> dict[str, str]:
        """Return what the user says, the state it starts in, and the state that the reference leaves behind."""
        return _footprint(task.data.get("entry", ""), json.dumps([task.id, task.kind, dict(task.data)], sort_keys=True))

    def pattern(self, action: str) -> str:
        """Return the name of the first function that is called; `done` for what experts end a user's turn with."""
        calls = read_calls(action)
        if calls:
            return calls[0].name if calls[0].name in _function_names() else ""
        return DONE if action.strip().casefold() == DONE else ""

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether the calls left another state behind than the one they began in."""
        scenario, prefix = scenario_of(trajectory.task), trajectory.task.data.get("prefix", ())
        before = [call for action in prefix for call in read_calls(action)]
        calls = [call for turn in trajectory.turns for call in read_calls(turn.action)]
        played = play(scenario, [*before, *calls])[len(before) :]
        return any(one.has_changed and one.call.name != "cd" for one in played)

    def _is_training(self, task: Task) -> bool:
        return "entry" not in task.data or task.data["entry"] in self._train

    def _values(self) -> Source:
        if self._source is None:
            names = {name for one in self._scenarios for name in names_in(one.initial_config.get(FILES, {}))}
            shop = Scenario(apis=("TravelAPI",), initial_config={}, requests=())
            airports = value_of(play(shop, [Call("list_all_airports")])[0].result)
            self._source = Source(names=sorted(names), airports=airports)
        return self._source


def _until(actions: Sequence[str], num: int) -> list[str]:
    """Return the answers up to the one that ends the `num`-th user turn."""
    ends = [place for place, action in enumerate(actions, start=1) if not read_calls(action)]
    return list(actions[: ends[num - 1]] if num <= len(ends) else actions)


def _deeds(played: Sequence[Played]) -> list[tuple[bool, bool]]:
    return [(one.is_refused, one.has_changed) for one in played]


def _make(base: Task, made_by: str, scenario: Scenario, reference: Sequence[Sequence[str]], **more: Any) -> Task:
    draft = make_task(base.id, scenario, reference, kind=base.kind, **more)
    return replace(draft, id=synthetic_id(base.id, made_by, draft.data))


@cache
def _footprint(entry: str, text: str) -> dict[str, str]:
    id, kind, data = json.loads(text)
    task = Task(id=id, kind=kind, data=data)
    scenario = scenario_of(task)
    calls = [call for turn in reference_of(task) for call in turn]
    start = _hash([scenario.initial_config[api] for api in sorted(scenario.initial_config)])
    return {
        "text": "\n".join(scenario.requests),
        "scenario": start,
        "answer": _hash([start, final_state(scenario, calls)]),
    }


@cache
def _function_names() -> frozenset[str]:
    return frozenset(function.name for function in functions_of(API_FILES))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
