"""D_0 from exploration: sound tasks, made without a look at the benchmark's own, and none of those."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from textwrap import dedent
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.bfcl import BFCL, benchmark_task, reference_of, scenario, scenario_of, score, wheel
from sparring.envs.bfcl.env import DONE
from sparring.envs.bfcl.exploration import GO_ON, NO_WISH, NUM_TURNS, explored_tasks
from sparring.envs.bfcl.functions import functions_of
from sparring.envs.bfcl.offers import OFFERS
from sparring.envs.bfcl.synthesis import BFCLSynthesis
from sparring.envs.bfcl.wheel import API_FILES
from sparring.envs.bfcl.wording import CHANGING, LOOKING
from sparring.envs.synthesis import Draft, exploration_of, synthesis_of
from sparring.synthesis.novelty import EvaluationGate
from tests.envs.proposing import judge, play, refusals

NUM = 60
LOOK = Turn(observation="", text="", action="", reward=0.0)


@pytest.fixture(scope="module")
def parity(world: BFCL) -> BFCL:
    """`world` tells whether the wheel is there."""
    return BFCL(parity=True, num_explored=NUM)


def test_parity_evaluates_on_all_800_tasks_and_trains_on_none_of_them(parity: BFCL, world: BFCL):
    assert parity.tasks("test") == parity.tasks("all") == world.tasks("all")
    train, dev = parity.tasks("train"), parity.tasks("dev")
    assert (len(train), len(dev)) == (NUM, NUM / 5)
    assert all("entry" not in task.data and task.kind == "base" for task in (*train, *dev))
    for one in (json.dumps, lambda data: tuple(data["scenario"]["requests"]), lambda data: str(data["scenario"])):
        assert len({one(dict(task.data)) for task in (*train, *dev)}) == len(train) + len(dev)
    assert len({task.id for task in (*train, *dev, *parity.tasks("all"))}) == NUM * 6 // 5 + 800


def test_references_solve_explored_tasks_and_silence_earns_nothing(parity: BFCL):
    tasks = parity.tasks("train")
    experts = parity.expert_actions(tasks)
    assert [task.id for task in tasks if not score(task, experts[task.id]).is_success] == []
    assert {score(task, [DONE] * NUM_TURNS[1]).reward for task in tasks} == {0.0}
    assert all(len(experts[task.id]) <= parity.turn_limit(task) for task in tasks)


def test_exploration_gives_the_same_tasks_twice_and_others_with_another_seed(parity: BFCL):
    again = explored_tasks.__wrapped__("train", NUM, 0)
    assert again == tuple(parity.tasks("train"))
    other = explored_tasks("train", NUM, 1)
    requests = [{scenario_of(task).requests for task in tasks} for tasks in (again, other)]
    assert not requests[0] & requests[1]
    assert explored_tasks("train", 10, 0) == again[:10]


def test_exploration_comes_to_all_apis_and_most_functions_that_there_are_words_for(parity: BFCL):
    tasks = explored_tasks("train", 400)
    assert {api for task in tasks for api in scenario_of(task).apis} == set(API_FILES)
    called = Counter(call.name for task in tasks for turn in reference_of(task) for call in turn)
    offered = {name for functions in OFFERS.values() for name in functions}
    assert offered == called.keys() and offered <= CHANGING.keys() | LOOKING.keys()
    assert all({*OFFERS[api]} <= {one.name for one in functions_of([api])} for api in OFFERS)
    assert len(called) > 0.75 * len({**CHANGING, **LOOKING})
    assert called.most_common(1)[0][1] < 0.1 * called.total()


def test_no_explored_task_overlaps_one_of_the_800(parity: BFCL):
    gate = EvaluationGate(synthesis_of(parity), parity.tasks("test"))
    report = gate.audit([*parity.tasks("train"), *parity.tasks("dev")])
    assert report.overlaps == () and report.num_evaluation == 800
    assert {"text", "scenario", "answer"} <= set(report.aspects)
    assert len(gate.audit(parity.tasks("all")[:5]).overlaps) == 5


ALONE = """
    import sys

    def watch(event, given):
        if event == "open" and ("possible_answer" in str(given[0]) or "BFCL_v4_multi_turn" in str(given[0])):
            raise PermissionError(f"opened {given[0]}")

    from sparring.envs.bfcl import BFCL, reference_of, benchmark_task
    from sparring.core.errors import DataError
    sys.addaudithook(watch)
    world = BFCL(parity=True, num_explored=20)
    tasks = [*world.tasks("train"), *world.tasks("dev")]
    made = [one for task in tasks for one in world.synthesis.variations(task)]
    try:
        reference_of(benchmark_task("base", 0))
    except DataError:
        print(len(tasks), len(made))
"""


def test_no_task_or_reference_of_the_benchmark_is_opened_on_the_way(parity: BFCL):
    done = subprocess.run(
        [sys.executable, "-c", dedent(ALONE)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    num, num_made = map(int, done.stdout.split())
    assert num == 24 and num_made > 0


def test_explored_tasks_grow_and_benchmark_tasks_do_not(parity: BFCL):
    offered, env = synthesis_of(parity), parity.make_env()
    made = []
    for task in parity.tasks("train")[:8]:
        way = tuple(parity.expert_actions([task])[task.id])
        made += [
            Draft(task=one, actions=tuple(parity.expert_actions([one])[one.id])) for one in offered.variations(task)
        ]
        if restarted := offered.restart(task, way[:2]):
            made.append(Draft(task=restarted, actions=way[2:]))
        half = play(env, task, way[:2])
        if relabelled := offered.relabel(half):
            made.append(Draft(task=relabelled, actions=way[:2]))
    judged = judge(made, parity, "sparring.envs.bfcl:BFCL", {"parity": True, "num_explored": NUM})
    accepted = [one for one in judged if one.is_accepted]
    assert len(accepted) >= 10, refusals(judged)
    known = benchmark_task("base", 0)
    assert offered.variations(known) == [] and offered.restart(known, ["[ls()]"]) is None
    with pytest.raises(ConfigError, match="kept for evaluation"):
        parity.training_scenario(known)


@pytest.mark.parametrize(
    "options",
    [{"parity": "yes"}, {"parity": True, "num_explored": 0}, {"num_explored": 9}, {"parity": True, "seed": "x"}],
)
def test_parity_options_that_make_no_sense_are_refused(world: BFCL, options: dict):
    with pytest.raises(ConfigError, match=r"env\.options: (parity|num_explored)"):
        BFCL(**options)


# ── Places, where training tasks begin ────────────────────────────────────────────────────────────────────────────────


def wander(world: BFCL, place: Task, seed: int) -> Trajectory:
    """Let the world's explorer play a place."""
    explorer, actions = exploration_of(world), []
    while (action := explorer.explore(place, [LOOK] * len(actions), "", seed)) is not None:
        actions.append(action)
    assert actions == [explorer.explore(place, [LOOK] * number, "", seed) for number in range(len(actions))]
    return play(world.make_env(), place, actions)


def test_a_place_has_the_state_of_a_task_and_none_of_its_wishes(world: BFCL):
    explorer = exploration_of(world)
    for task in world.tasks("train")[::40]:
        place = explorer.place(task)
        assert place is not None
        whole, room = scenario_of(task), scenario_of(place)
        assert (room.apis, room.initial_config) == (whole.apis, whole.initial_config)
        told = world.make_env().reset(place, 0)
        assert not [text for text in whole.requests if text and text in json.dumps(dict(place.data))]
        assert NO_WISH in told and room.requests[1:] == (GO_ON,) * (len(room.requests) - 1)
        assert score(place, ["ls()", DONE]).reward == 0.0
    assert all(explorer.place(task) is None for split in ("dev", "test") for task in world.tasks(split))


def test_what_happens_in_a_place_becomes_a_sound_task(world: BFCL):
    """The benchmark's own states are hand-written, and lack fields that invented ones have: no walk breaks on them."""
    explorer, offered = exploration_of(world), synthesis_of(world)
    drafts, num = [], 0
    for number, task in enumerate(world.tasks("train")[::12]):
        place = explorer.place(task)
        assert place is not None
        walked, num = wander(world, place, number), num + 1
        made = offered.relabel(walked)
        if made is not None:
            assert NO_WISH not in json.dumps(dict(made.data))
            drafts.append(Draft(task=made, actions=tuple(world.expert_actions([made])[made.id])))
            assert score(made, [turn.action for turn in walked.turns]).is_success
    assert len(drafts) > 0.7 * num
    verdicts = judge(drafts, world, "bfcl", {}, vocabulary=["ls()", DONE])
    assert sum(one.is_accepted for one in verdicts) > 0.8 * len(drafts), refusals(verdicts)


def test_nothing_that_is_made_here_has_read_an_evaluation_task(world: BFCL, monkeypatch: pytest.MonkeyPatch):
    """A canary stands in all that evaluation entries say, hold and are solved by; the wheel's other entries stay."""
    canary, held = (
        "KANARIENVOGEL-4711",
        {task.data["entry"] for split in ("dev", "test") for task in world.tasks(split)},
    )
    for table in (wheel.entries, wheel.references):
        planted = {name: plant(table(name), held, canary) for name in wheel.VARIANTS}
        monkeypatch.setattr(scenario, table.__name__, planted.__getitem__)
    assert canary in json.dumps(asdict(scenario_of(world.tasks("test")[0])))
    offered, explorer = BFCLSynthesis(world.tasks("train")), exploration_of(world)
    made: list[Task] = []
    for number, task in enumerate(world.tasks("train")[::16]):
        place = explorer.place(task)
        assert place is not None
        walked = offered.relabel(wander(world, place, number))
        expert = play(world.make_env(), task, world.expert_actions([task])[task.id])
        made += [place, *offered.variations(task), *filter(None, [walked, offered.relabel(expert)])]
        made += filter(None, [offered.restart(task, [turn.action for turn in expert.turns[:1]])])
    assert len(made) > 80
    assert not [one.id for one in made if canary in json.dumps([one.id, dict(one.data)])]


def plant(entries: Mapping[str, Any], held: Collection[str], canary: str) -> dict[str, Any]:
    """Put a word into every text of some entries, but for names that the benchmark's code looks up."""

    def mark(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            is_folder = key in ("root", "contents")
            return {f"{name} {canary}" if is_folder else name: mark(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [mark(one, key) for one in value]
        return f"{value} {canary}" if isinstance(value, str) and key not in ("id", "involved_classes") else value

    return {name: mark(entry) if name in held else entry for name, entry in entries.items()}
