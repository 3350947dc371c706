"""Training tasks from exploration alone: a seed in, conversations out whose goals are what chance calls brought about.

An explorer that knows how functions are called and what is in the world, and nothing of anybody's wishes, calls some of
them by chance; what it brought about, user turn by user turn, becomes what the user asks for. It explores

- states of our own (`inventing.py`), for the parity mode's tasks. Its own calls are the reference, and the benchmark's
  tasks and references are not read: this is D_0 for whoever evaluates on all of them;
- *places*, where training tasks begin, without their wishes, for a run that explores by itself.

Source: arXiv 2604.15840 (D_0 from unguided exploration); how it explores is ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random

from sparring.core.types import Task
from sparring.envs.bfcl.calls import Call, write_calls
from sparring.envs.bfcl.env import DONE, score
from sparring.envs.bfcl.hindsight import achieved
from sparring.envs.bfcl.inventing import INVENTORS, invent
from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.made import make_task
from sparring.envs.bfcl.offers import OFFERS, Arguments
from sparring.envs.bfcl.scenario import Scenario, scenario_of
from sparring.envs.synthesis import synthetic_id

KIND = "base"
"""What is explored is of the benchmark's plain variant: nothing is held back, no answer is filled up."""
NUM_TURNS = (2, 5)
"""Fewest and most user turns of a conversation."""
NUM_CALLS = (2, 6)
"""Fewest and most calls that the explorer tries in a user turn; not all do something."""
MAX_WALKS = 40
"""How often a task's exploration begins anew until a sound task comes of it."""

NO_WISH = "I have no wish. Find out what can be done here, and end your turn when you have done something."
GO_ON = "Go on."
"""What the user of a place says: in the first user turn, and in each later one."""


@cache
def explored_tasks(split: str, num: int, seed: int = 0) -> tuple[Task, ...]:
    """Explore until there are that many tasks, no two with the same requests. Equal arguments, equal tasks."""
    found: dict[tuple[str, ...], Task] = {}
    number = 0
    while len(found) < num:
        task = explored_task(f"explored/{split}-{number}", seed)
        found.setdefault(tuple(task.data["scenario"]["requests"]), task)
        number += 1
    return tuple(found.values())


def explored_task(id: str, seed: int) -> Task:
    """Make one task that its reference solves and silence does not."""
    for number in range(MAX_WALKS):
        draw = Random(f"{seed}/{id}/{number}")
        apis = _draw_apis(draw)
        scenario = Scenario(apis=apis, initial_config=invent(apis, draw), requests=())
        task = _hindsight(id, scenario, walk(scenario, draw))
        if task is not None:
            return task
    raise AssertionError(f"{id}: no walk of {MAX_WALKS} brought anything about")


def walk(scenario: Scenario, draw: Random) -> list[list[Call]]:
    """Explore: user turn by user turn, the calls that were tried."""
    live = LiveApis(scenario)
    turns = []
    for _ in range(draw.randint(*NUM_TURNS)):
        turn = []
        for _ in range(draw.randint(*NUM_CALLS)):
            api = draw.choice(scenario.apis)
            name = draw.choice(sorted(OFFERS[api]))
            arguments = _offer(api, name, live, draw)
            if arguments is not None:
                turn.append(Call(name, (), arguments))
                live.call(turn[-1])
        turns.append(turn)
    return turns


def _offer(api: str, name: str, live: LiveApis, draw: Random) -> Arguments:
    try:
        return OFFERS[api][name](live.instances[api], draw)
    except (LookupError, AttributeError, TypeError, ValueError):  # the benchmark's own states leave fields out
        return None


def place_of(task: Task) -> Task:
    """Return where a training task begins, without its requests, its reference and what it holds back."""
    whole = scenario_of(task)
    requests = (NO_WISH, *[GO_ON] * (NUM_TURNS[1] - 1))
    room = {"apis": list(whole.apis), "initial_config": whole.initial_config, "requests": list(requests)}
    data = {"scenario": room, "reference": [[] for _ in requests]}
    return Task(id=synthetic_id(task.id, "place", data), kind=KIND, data=data)


def explored_action(place: Task, num_done: int, seed: int) -> str | None:
    """Return the explorer's next answer after so many; None: it has walked enough."""
    way = _way(json.dumps(dict(place.data), sort_keys=True), seed)
    return way[num_done] if num_done < len(way) else None


@cache
def _way(data: str, seed: int) -> tuple[str, ...]:
    room = scenario_of(Task(id="place", kind=KIND, data=json.loads(data)))
    return tuple(_answers(walk(room, Random(f"{seed}/walk"))))


def _answers(turns: Sequence[Sequence[Call]]) -> list[str]:
    """Write user turns as answers: the calls on one line, then the one that ends the turn."""
    return [action for turn in turns for action in ([write_calls(list(turn))] if turn else []) + [DONE]]


def _hindsight(id: str, scenario: Scenario, turns: Sequence[Sequence[Call]]) -> Task | None:
    room = Scenario(apis=scenario.apis, initial_config=scenario.initial_config, requests=("",) * len(turns))
    deeds = achieved(room, _answers(turns))
    if len(deeds) < NUM_TURNS[0] or not any(deed.is_change for deed in deeds):
        return None
    told = Scenario(
        apis=scenario.apis, initial_config=scenario.initial_config, requests=tuple(deed.request for deed in deeds)
    )
    reference = [list(map(str, deed.calls)) for deed in deeds]
    task = make_task(id, told, reference, kind=KIND)
    way = _answers([deed.calls for deed in deeds])
    is_sound = score(task, way).is_success and score(task, [DONE] * len(deeds)).reward == 0.0
    return task if is_sound else None


def _draw_apis(draw: Random) -> tuple[str, ...]:
    """Draw one API that keeps a state, or two of which one does."""
    first = draw.choice(sorted(INVENTORS))
    others = [None, *(api for api in sorted(OFFERS) if api != first)]
    second = draw.choice(others)
    return (first,) if second is None else (first, second)
