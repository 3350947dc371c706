"""AppWorld's synthetic tasks: of the training side, solved on the real engine by what is said to solve them.

What needs the engine skips where it is not installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.appworld import AppWorld, Draft, checks, make_task
from sparring.envs.appworld.benchmark import MAX_SO_FAR, SO_FAR, AppWorldEnv
from sparring.envs.appworld.drafting import DONE, answered, only
from sparring.envs.appworld.exploration import DEEDS, NO_WISH, Household
from sparring.envs.appworld.generate import TEMPLATES, own_task, own_tasks
from sparring.envs.appworld.hindsight import MAX_DEEDS, SAYINGS, put_into_words
from sparring.envs.appworld.process import EngineProcess
from sparring.envs.appworld.replays import Replays, are_rows
from sparring.envs.appworld.scene import NAMES
from sparring.envs.appworld.synthesis import NUM_VARIATIONS, AppWorldSynthesis, without_completion
from sparring.envs.appworld.tasks import engine_task
from sparring.envs.synthesis import Draft as Proposed
from sparring.envs.synthesis import Synthesis, synthesis_of
from sparring.synthesis.novelty import EvaluationGate
from tests.envs.appworld.conftest import QUICK
from tests.envs.appworld.hostile import ENDED, SURVIVED
from tests.envs.proposing import judge, play, refusals

SPLITS = own_tasks(0, 2)
EVALUATED = [task for split in ("dev", "test") for task in SPLITS[split]]
ENV = "sparring.envs.appworld:AppWorld"
SAID = Turn(observation="", text="", action="", reward=0.0)


def no_engine() -> EngineProcess:
    raise AssertionError("nothing here needs the engine")


ON_PAPER = AppWorldSynthesis(
    SPLITS, 0, {"todoist.show_tasks", "todoist.update_task", "venmo.login"}, Replays(no_engine)
)


def find(id: str) -> Task:
    return next(task for tasks in SPLITS.values() for task in tasks if task.id == id)


def solved(task: Task) -> Proposed:
    return Proposed(task=task, actions=tuple(task.data["reference"]))


@pytest.fixture(scope="module")
def offered(world: AppWorld) -> Synthesis:
    return synthesis_of(world)


# ── Variations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_training_task_has_variations_that_no_split_has():
    ids, contents = {task.id for tasks in SPLITS.values() for task in tasks}, set()
    for task in SPLITS["train"]:
        found = ON_PAPER.variations(task)
        assert len(found) == NUM_VARIATIONS and found == ON_PAPER.variations(task)
        assert {one.kind for one in found} == {task.kind} and not {one.id for one in found} & ids
        contents |= {json.dumps(dict(one.data), sort_keys=True) for one in found}
    assert len(contents) == NUM_VARIATIONS * len({task.id.split("/")[1] for task in SPLITS["train"]})
    assert not contents & {json.dumps(dict(task.data), sort_keys=True) for task in SPLITS["train"]}


def test_a_variation_varies_to_the_others_and_survives_json():
    first, *others = ON_PAPER.variations(find("venmo/pay-relation/0"))
    assert ON_PAPER.variations(first) == others
    assert json.loads(json.dumps(dict(first.data))) == dict(first.data)


def test_nothing_is_made_of_what_is_kept_for_evaluation():
    other_seed = own_task("test", "phone", TEMPLATES["test"]["phone"][0], 7, 0)
    for task in (*EVALUATED, other_seed, replace(EVALUATED[0], id=f"{EVALUATED[0].id}+restart-12345678")):
        train = solved(find("phone/text-message/0"))
        assert ON_PAPER.variations(task) == [] and ON_PAPER.restart(task, ["x = 1"]) is None
        assert ON_PAPER.chain(train, solved(task)) is None and ON_PAPER.chain(solved(task), train) is None


def test_nothing_is_made_of_an_evaluation_task_that_shares_its_template():
    shared = own_tasks(0, 1, shared_templates=True)
    offered = AppWorldSynthesis(shared, 0, (), Replays(no_engine))
    gate = EvaluationGate(offered, [*shared["dev"], *shared["test"]])
    for split, is_training in (("train", True), ("dev", False), ("test", False)):
        made = [offered.variations(task) for task in shared[split]]
        assert all(bool(one) == is_training for one in made)
        overlaps = gate.audit([one for ones in made for one in ones]).overlaps
        assert {one.aspect for one in overlaps} <= {"text"}, "an instruction may name nothing, over another state"


def test_nothing_that_is_made_on_paper_overlaps_an_evaluation_task():
    gate = EvaluationGate(ON_PAPER, EVALUATED)
    made = [one for task in SPLITS["train"] for one in ON_PAPER.variations(task)]
    chained = [
        draft.task
        for first in SPLITS["train"][::3]
        for second in SPLITS["train"][::5]
        if (draft := ON_PAPER.chain(solved(first), solved(second)))
    ]
    assert len(chained) > 20
    report = gate.audit([*made, *chained])
    assert report.overlaps == () and set(report.aspects) == {"id", "content", "text", "scenario", "answer"}
    assert len(gate.audit(EVALUATED).overlaps) == len(EVALUATED)


# ── Exploration ───────────────────────────────────────────────────────────────────────────────────────────────────────


def walked(place: Task, seed: int) -> list[str]:
    """What the explorer does there, turn by turn."""
    code: list[str] = []
    while (more := ON_PAPER.explore(place, [SAID] * len(code), "", seed)) is not None:
        code.append(more)
    return code


def test_a_place_has_the_state_of_a_training_task_and_asks_for_nothing():
    for task in SPLITS["train"]:
        place = ON_PAPER.place(task)
        assert place is not None and place.id.startswith(f"{task.id}+place-")
        shown = json.dumps(dict(place.data))
        assert task.data["instruction"] not in shown and place.data["reference"] == []
        apps = {app: rows for app, rows in task.data["rows"].items() if app != "supervisor"}
        assert apps == {app: rows for app, rows in place.data["rows"].items() if app != "supervisor"}
        assert engine_task(place)["rows"]["supervisor"]["Task"] == [{"supervisor_id": 1, "instruction": NO_WISH}]
    assert all(ON_PAPER.place(task) is None for task in EVALUATED)


def test_an_explorer_does_one_or_two_things_and_ends_the_episode():
    names = {name for split in ("dev", "test") for name in (*NAMES[split].first, *NAMES[split].chores)}
    seen: set[str] = set()
    for number, task in enumerate(SPLITS["train"]):
        place = ON_PAPER.place(task)
        assert place is not None
        code = walked(place, number)
        assert code == walked(place, number) and code[-1] == DONE and len(code) > 2
        for one in code:
            compile(one, "explored", "exec")
        assert not [name for name in names if name in "\n".join(code)]
        seen |= {found for one in code for found in re.findall(r"apis\.(?!supervisor)\w+\.(?!login)\w+", one)}
    assert {"apis.todoist.update_task", "apis.gmail.send_email", "apis.spotify.like_song"} <= seen
    assert len(seen) > 20


def test_every_deed_has_a_household_to_be_done_in():
    for _, deed in DEEDS:
        houses = (Household(task.data["rows"], Random(0)) for task in SPLITS["train"])
        assert any(deed(house) for house in houses), deed.__name__


def test_what_an_explorer_did_becomes_a_task_that_it_solves(offered: Synthesis, env: AppWorldEnv):
    for number, id in enumerate(("todoist/complete-urgent/0", "spotify/like-playlist-songs/0", "phone/alarms-off/0")):
        place = ON_PAPER.place(find(id))
        assert place is not None
        code = walked(place, number)
        made = offered.relabel(play(env, place, code))
        assert made is not None and NO_WISH not in json.dumps(dict(made.data))
        assert play(env, made, code).reward == 1.0
        assert play(env, made, [DONE]).reward == 0.0


# ── Chains ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chain_keeps_the_first_task_and_draws_the_second_into_its_scene():
    first, second = find("todoist/complete-urgent/0"), find("todoist/open-tasks/1")
    draft = ON_PAPER.chain(solved(first), solved(second))
    assert draft is not None
    data = draft.task.data
    assert first.data["instruction"] in data["instruction"] and "are not completed yet?" in data["instruction"]
    tests = {test["name"]: test["check"] for test in data["tests"]}
    assert {test["name"] for test in first.data["tests"]} - tests.keys() <= {"nothing else has changed"}
    assert list(tests.values()).count("answer") == list(tests.values()).count("changes") == 1
    old = [row["name"] for row in first.data["rows"]["todoist"]["Project"]]
    new = [row["name"] for row in data["rows"]["todoist"]["Project"]]
    assert new[: len(old)] == old and len(new) == len({*new}) == len(old) + 2
    assert [*draft.actions] == data["reference"] and sum("complete_task" in code for code in draft.actions) == 1
    assert draft.task.id.startswith("todoist/complete-urgent/0+chain-")
    assert draft == ON_PAPER.chain(solved(first), solved(second))


def test_what_can_not_be_chained_makes_no_task():
    deed, question = solved(find("todoist/complete-urgent/0")), solved(find("todoist/open-tasks/0"))
    assert ON_PAPER.chain(question, deed) is None  # its answer would end the task
    assert ON_PAPER.chain(deed, deed) is None
    assert ON_PAPER.chain(replace(deed, actions=deed.actions[:-1]), question) is None  # where does it end?
    begun = replace(deed.task, data={**deed.task.data, "prefix": ["x = 1"]})
    assert ON_PAPER.chain(replace(deed, task=begun), question) is None
    alarms = [solved(find(f"phone/alarms-off/{i}")) for i in range(2)]
    assert ON_PAPER.chain(*alarms) is None  # any alarm may be before the other's time


def test_the_line_that_ends_a_task_is_cut_off():
    assert without_completion(["x = 1", DONE]) == ["x = 1"]
    assert without_completion([f"x = 1\n{DONE}\n"]) == ["x = 1"]
    assert without_completion(["x = 1", "apis.supervisor.complete_task(status='success')"]) == ["x = 1"]
    for code in ("apis.supervisor.complete_task(answer=1)", "apis.supervisor.complete_task(status='fail')", "x = 1"):
        assert without_completion([code]) is None
    assert without_completion([f"if x:\n    {DONE}", DONE]) is None and without_completion([]) is None


# ── Hindsight ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def kinds_of_change(split: str) -> set[tuple[str, str, str]]:
    rules = [rule for task in SPLITS[split] for test in task.data["tests"] for rule in test.get("allowed", ())]
    return {(rule["table"], rule["change"], field) for rule in rules for field in rule.get("fields", [""])}


def test_there_are_words_for_what_training_asks_for_and_for_nothing_that_only_evaluation_does():
    train, held_out = kinds_of_change("train"), kinds_of_change("dev") | kinds_of_change("test")
    assert SAYINGS.keys() <= train and not SAYINGS.keys() & (held_out - train)
    assert ("simple_note.Note", "updated", "pinned") in held_out - train


def todo(id: int, title: str, **fields: Any) -> dict[str, Any]:
    plain = {"description": "", "due_date": None, "duration": None, "section_id": None, "assignee_id": None}
    how = {"project_id": 1, "priority": "low", "is_completed": False}
    return {"id": id, "title": title, **plain, **how, **fields}


def test_deeds_are_put_into_words_with_tests_that_they_pass_and_silence_does_not():
    mark = {checks.TASK_TABLE: [{"id": 1, "status": None, "answer": None}]}
    start = {**mark, "todoist.Project": [{"id": 1, "name": "Allotment"}], "todoist.Task": [todo(1, "Dig")]}
    end = {**checks.idle_end(start), "todoist.Task": [todo(1, "Dig", is_completed=True), todo(2, "Water it")]}
    draft = put_into_words(start, start, end)
    assert draft is not None
    assert draft.instruction == (
        'Please do 2 things: (1) add a task "Water it" with low priority to my Todoist project "Allotment"; (2) mark '
        'the task "Dig" in my Todoist project "Allotment" as completed.'
    )
    assert all(checks.passed(draft.tests, start, end))
    assert checks.reward(draft.tests, start, checks.idle_end(start)) == 0.0

    def words(*tasks: dict[str, Any], **tables: Any) -> Draft | None:
        return put_into_words(start, start, {**start, "todoist.Task": list(tasks), **tables})

    assert words(todo(1, "Dig")) is None  # nothing was done
    assert words(todo(1, "Dig", priority="high")) is None  # what only an evaluation template asks for
    assert words(todo(1, "Dig"), todo(2, 'Say "hi"')) is None  # a quote would end too early
    assert words(todo(1, "Dig"), todo(2, "Twice"), todo(3, "Twice")) is None
    assert words(todo(1, "Dig"), *(todo(i, f"No. {i}") for i in range(2, 3 + MAX_DEEDS))) is None
    assert words(todo(1, "Dig"), todo(2, "Due", due_date="2025-01-01")) is None
    other = {"todoist.Project": [*start["todoist.Project"], {"id": 2, "name": "New"}]}
    assert words(todo(1, "Dig"), todo(2, "Water it"), **other) is None  # there are no words for the project
    twin = {**start, "todoist.Task": [todo(1, "Dig"), todo(2, "Dig")]}
    done = {**start, "todoist.Task": [todo(1, "Dig", is_completed=True), todo(2, "Dig")]}
    assert put_into_words(twin, twin, done) is None  # which of the two?


def test_forged_rows_are_told_from_real_ones_and_make_no_task():
    mark = {"id": 1, "status": None, "answer": "x"}
    assert are_rows({checks.TASK_TABLE: [mark], "a.B": []})
    forged = ([], {"a.B": 1}, {"a.B": [1]}, {"a.B": [{}]}, {"a.B": [{"id": []}]})
    for rows in (*forged, {checks.TASK_TABLE: [{"id": 1}]}, {checks.TASK_TABLE: [{**mark, "answer": None}]}):
        assert not are_rows(rows), rows
    start: dict[str, list[dict[str, Any]]] = {"simple_note.Note": [{"id": 1, "title": "A", "content": "x"}]}
    for odd in ({"content": 7}, {"content": ["x"]}, {"content": "y", "title": {}}, {"content": None}):
        assert put_into_words(start, start, {"simple_note.Note": [{**start["simple_note.Note"][0], **odd}]}) is None


def test_the_pattern_of_code_is_the_apis_that_it_calls():
    code = "x = apis.todoist.update_task(id=1)\nfor t in apis.todoist.show_tasks(project_id=1): apis.todoist.invented()"
    assert ON_PAPER.pattern(code) == "todoist.show_tasks todoist.update_task"
    assert ON_PAPER.pattern("I will now call the API.") == ON_PAPER.pattern("print(1)") == ""


# ── On the real engine ────────────────────────────────────────────────────────────────────────────────────────────────


def cut(reference: Sequence[str]) -> list[str]:
    """A reference that ends the task before it is done."""
    return [*reference[:-2], DONE]


@pytest.mark.data
def test_what_is_made_passes_validation_and_what_is_faulty_does_not(
    world: AppWorld, env: AppWorldEnv, offered: Synthesis
):
    sound, faulty = [], []
    for id in ("todoist/complete-urgent/0", "file_system/count-files/0"):
        task = find(id)
        way = list(task.data["reference"])
        varied = offered.variations(task)[0]
        sound.append(solved(varied))
        faulty.append(Proposed(task=offered.variations(task)[1], actions=tuple(cut(way))))
        restarted = offered.restart(task, way[:2])
        assert restarted is not None
        sound.append(Proposed(task=restarted, actions=tuple(way[2:])))
        faulty.append(Proposed(task=offered.restart(task, way[:1]) or task, actions=tuple(cut(way))))
    strayed = way_of(find("todoist/new-task/0"), ("priority=", "priority='medium' or "))
    relabelled = offered.relabel(play(env, strayed.task, strayed.actions))
    assert relabelled is not None and "with medium priority" in relabelled.data["instruction"]
    sound.append(replace(strayed, task=relabelled))
    for pair in (("note-line", "delete-notes"), ("delete-notes", "note-line")):
        first, second = (solved(find(f"simple_note/{name}/0")) for name in pair)
        chained = offered.chain(first, second)
        assert chained is not None
        sound.append(chained)
        faulty.append(replace(chained, actions=(*first.actions,)))  # only half of what is asked for
    judged = judge([*sound, *faulty], world, ENV, {"limits": QUICK}, [DONE, "print(1)"])
    assert [one.is_accepted for one in judged] == [True] * len(sound) + [False] * len(faulty), refusals(judged)


def way_of(task: Task, swap: tuple[str, str]) -> Proposed:
    """A solution with another text in its place."""
    actions = tuple(code.replace(*swap) for code in task.data["reference"])
    assert actions != tuple(task.data["reference"])
    return Proposed(task=task, actions=actions)


@pytest.mark.data
def test_a_restart_goes_on_in_the_state_and_with_the_variables_of_its_prefix(env: AppWorldEnv, offered: Synthesis):
    task = next(t for t in own_tasks(0, 6)["train"] if "complete-urgent" in t.id and len(t.data["tests"]) == 4)
    login, look, act, done = task.data["reference"]
    once = f"{act}\n        break\nprint('x' * 2000)"
    made = offered.restart(task, [login, look, once])
    assert made is not None and made.id.startswith(f"{task.id}+restart-") and made.data["reference"] == []
    first = env.reset(made, 0)
    assert f"\n\n{SO_FAR}\n" in first and login in first and "x" * (MAX_SO_FAR // 2) in first and len(first) < 4000
    assert env.step("print(len(tasks), project_id)").observation == "5 1"
    assert play(env, made, [act, done]).reward == 1.0  # from half of the goal's tests on
    assert play(env, made, [done]).reward == 0.0
    again = offered.restart(made, ["y = 1"])
    assert again is not None and again.data["prefix"] == [login, look, once, "y = 1"] and again.id != made.id
    assert play(env, again, [act, "print(y)", done]).reward == 1.0
    assert offered.restart(task, []) is None
    assert offered.restart(task, [login, look, act, done]) is None  # it is over
    assert offered.restart(task, [login, look, act]) is None  # nothing is left but to say so
    assert offered.restart(task, [ENDED["one endless call"]]) is None


@pytest.mark.data
def test_hindsight_asks_for_what_the_code_has_changed(env: AppWorldEnv, offered: Synthesis):
    task = find("phone/text-message/0")
    actions = list(task.data["reference"])

    def relabelled(actions: Sequence[str], query: str = "") -> Task | None:
        return offered.relabel(play(env, task, actions), query)

    made = relabelled(actions, "Write to a friend.")
    assert made is not None and made.data["instruction"].startswith("Write to a friend.\nPlease send ")
    assert [test["check"] for test in made.data["tests"]] == ["status", "count", "changes"]
    assert play(env, made, actions).reward == 1.0 and play(env, made, [DONE]).reward == 0.0
    begun = offered.restart(task, actions[:2])
    assert begun is not None
    rest = offered.relabel(play(env, begun, actions[2:]))
    assert rest is not None and rest.data["prefix"] == actions[:2]
    assert play(env, rest, actions[2:]).reward == 1.0 and play(env, rest, [DONE]).reward == 0.0
    assert relabelled(actions[:-1]) is None  # never ended
    assert relabelled([actions[0], DONE]) is None  # only looked
    assert relabelled([*actions[:-1], "apis.supervisor.complete_task(status='fail')"]) is None
    named = [code.replace("Could you lend me", f"Greet {NAMES['test'].first[0]} from me;") for code in actions]
    assert named != actions and relabelled(named) is None  # a name that belongs to the test split


@pytest.mark.data
def test_looking_is_no_change_and_an_answer_is_one(env: AppWorldEnv, offered: Synthesis):
    deed, question = find("todoist/complete-urgent/0"), find("todoist/open-tasks/0")
    way, ask = list(deed.data["reference"]), list(question.data["reference"])
    assert offered.has_changed(play(env, deed, way)) and offered.has_changed(play(env, question, ask))
    assert not offered.has_changed(play(env, deed, [*way[:2], DONE]))
    assert not offered.has_changed(play(env, question, ask[:-1]))


@pytest.mark.data
def test_hostile_code_tells_nothing_and_harms_nothing(world: AppWorld, env: AppWorldEnv):
    engine = EngineProcess(world.engine, world.data, world.limits)
    replays = Replays(lambda: engine)
    offered = AppWorldSynthesis(SPLITS, 0, set(), replays)
    task = find("phone/text-message/0")
    way = play(env, task, task.data["reference"])

    def spoilt(code: str) -> Trajectory:
        return replace(way, turns=(replace(way.turns[0], action=code), *way.turns[1:]))

    for code in (ENDED["one endless call"], SURVIVED["a loop that catches everything"], SURVIVED["memory, at once"]):
        offered.has_changed(spoilt(code))
        assert offered.has_changed(way), code
    assert offered.relabel(spoilt(ENDED["one endless call"])) is None
    impatient = Replays(lambda: engine, deadline_s=0.05)
    assert impatient.play(task, ["while True: pass"]) is None
    impatient.close()


@pytest.mark.data
def test_official_tasks_are_not_varied(world: AppWorld, tmp_path: Path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "train.txt").write_text("abc1234_1\n")
    (tmp_path / "tasks" / "abc1234_1").mkdir(parents=True)
    (tmp_path / "tasks" / "abc1234_1" / "specs.json").write_text("{}")
    with pytest.raises(ConfigError, match="official tasks are not ours to vary"):
        synthesis_of(AppWorld(path=str(tmp_path)))


@pytest.mark.data
def test_a_task_of_ones_own_can_be_grown_too(env: AppWorldEnv, offered: Synthesis):
    base = find("simple_note/note-line/0")
    draft = Draft(instruction="What is 1 + 1?", tests=[answered(2), only()], reference=[])
    rows = {**base.data["rows"]}
    task = make_task(id="mine/1", kind="simple_note", rows=rows, moment=base.data["moment"], draft=draft)
    assert offered.variations(task) == []
    made = offered.restart(task, ["n = 1"])
    assert made is not None
    assert play(env, made, ["apis.supervisor.complete_task(answer=n + 1)"]).reward == 1.0
