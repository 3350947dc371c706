"""The real engine: references, graded failures, hostile code, crashes. Skips where the engine is not installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.appworld import AppWorld, Draft, make_task
from sparring.envs.appworld.benchmark import BROKEN, AppWorldEnv
from sparring.envs.appworld.drafting import DONE, answered, only
from sparring.envs.appworld.install import COMMAND, engine_folder, find_engine
from sparring.envs.base import Env, EnvStep
from sparring.envs.pool import EnvPool
from sparring.synthesis.novelty import EvaluationGate
from tests.envs.appworld.conftest import QUICK
from tests.envs.appworld.hostile import ENDED, REFUSED, SURVIVED
from tests.envs.pooled import on_cluster
from tests.strangers import NOBODY, below, is_private, listening, secrets_of, try_as

pytestmark = pytest.mark.data


def find(world: AppWorld, id: str) -> Task:
    return next(task for split in ("train", "dev", "test") for task in world.tasks(split) if task.id == id)


@pytest.fixture(params=["here", pytest.param("ray", marks=pytest.mark.ray)])
def each_env(request: pytest.FixtureRequest, world: AppWorld) -> Iterator[Env]:
    """The env in this process, and one on a Ray cluster."""
    if request.param == "here":
        yield request.getfixturevalue("env")
        return
    request.getfixturevalue("ray_cluster")
    with on_cluster("sparring.envs.appworld:AppWorld", {"limits": QUICK}) as env:
        yield env


def play(env: Env, task: Task, actions: list[str]) -> EnvStep:
    env.reset(task, 0)
    answers = [env.step(action) for action in actions]
    assert all(answer.reward == 0.0 and not answer.is_done for answer in answers[:-1])
    return answers[-1]


def check_references(world: AppWorld, env: AppWorldEnv, tasks: list[Task]) -> None:
    references = world.expert_actions(tasks)
    for task in tasks:
        end = play(env, task, references[task.id])
        assert (end.reward, end.is_done) == (1.0, True), task.id
        end = play(env, task, [DONE])
        assert (end.reward, end.is_done) == (0.0, True), f"{task.id}: a silent agent"


def test_references_solve_and_silence_does_not(world: AppWorld, env: AppWorldEnv):
    """One task of each app; all 228 under the mark `slow`."""
    tasks = {task.kind: task for task in world.tasks("test")}
    check_references(world, env, list(tasks.values()))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_all_references_solve_and_silence_never_does(world: AppWorld, env: AppWorldEnv, split: str):
    check_references(world, env, list(world.tasks(split)))


def test_the_first_observation_says_what_is_needed(world: AppWorld, env: AppWorldEnv):
    task = find(world, "venmo/pay-relation/0")
    first = env.reset(task, 0)
    supervisor = task.data["supervisor"]
    assert all(value in first for value in (task.data["instruction"], *supervisor.values()))
    assert "show_api_doc" in first and len(first) < 1200


def test_half_of_it_is_worth_half(world: AppWorld, env: AppWorldEnv):
    task = next(t for t in world.tasks("train") if "complete-urgent" in t.id and len(t.data["tests"]) == 4)
    login, look, act, done = world.expert_actions([task])[task.id]
    once = act + "\n        break"
    assert play(env, task, [login, look, once, done]).reward == 0.5
    stray = "apis.todoist.create_project(name='Stray', access_token=token)"
    assert play(env, task, [login, look, once, stray, done]).reward == 0.0
    assert play(env, task, [login, look, act, stray, done]).reward == 0.5
    assert play(env, task, [login, look, act, "apis.supervisor.complete_task(status='fail')"]).reward == 0.5


def test_the_last_turn_is_graded_too(world: AppWorld, env: AppWorldEnv):
    task = find(world, "todoist/complete-urgent/0")
    *solve, _ = world.expert_actions([task])[task.id]
    env.reset(task, 0)
    rewards = [env.step(code).reward for code in [*solve, *["1"] * (world.turn_limit(task) - len(solve))]]
    assert set(rewards[:-1]) == {0.0} and 0.0 < rewards[-1] < 1.0


def test_time_stands_still_and_tokens_repeat(world: AppWorld, env: AppWorldEnv):
    task = find(world, "phone/text-message/0")
    login = world.expert_actions([task])[task.id][0]
    seen = []
    for _ in range(2):
        env.reset(task, 0)
        env.step(login)
        seen.append(env.step("print(token, DateTime.now(), datetime.datetime.now(), random.random(), hash('a'))"))
    assert seen[0] == seen[1]
    assert task.data["moment"][:10] in seen[0].observation


CHANCE = """
import random, time, uuid
thing = object()
print(uuid.uuid4(), uuid.uuid1(), random.SystemRandom().random(), random.Random().random(), random.random())
random.seed()
print(random.random(), id(thing) == id(thing) != id([]), id(apis), f"{id(thing):x}", hash(None), hash(int), hash("a"))
print(time.process_time(), time.thread_time_ns(), [time.clock_gettime(i) for i in range(4)])
print(time.ctime(), time.asctime())
"""
"""Asks for everything that would differ between two runs of a program."""


def test_chance_clocks_and_ids_repeat_whatever_was_played_before(world: AppWorld, env: AppWorldEnv):
    task = find(world, "phone/text-message/0")
    seen = []
    for before in ("pass", "left = [object() for _ in range(10_000)]"):
        env.reset(find(world, "venmo/pay-relation/0"), 0)
        env.step(before)
        env.reset(task, 0)
        seen.append([env.step(CHANCE).observation for _ in range(2)])
    assert seen[0] == seen[1] and "Traceback" not in seen[0][0]
    first, second = (text.split() for text in seen[0])
    assert len({*first[:5], *second[:5]}) >= 9  # drawn anew each time (but for uuid1, which goes by the clock)
    assert " True " in seen[0][0] and "2025" in seen[0][0]


def test_output_is_cut_with_a_word_about_it(env: AppWorldEnv, world: AppWorld):
    env.reset(find(world, "phone/text-message/0"), 0)
    observation = env.step("print('x' * 10_000)").observation
    assert observation.startswith("x" * 3000) and observation.endswith("[… 7000 more characters; print less]")


def test_hostile_code_is_refused_or_survived(world: AppWorld, each_env: Env):
    task, env = find(world, "phone/text-message/0"), each_env
    env.reset(task, 0)
    for what, code in REFUSED.items():
        answer = env.step(code)
        assert (
            "Not allowed here" in answer.observation
            or "characters" in answer.observation
            or ("nested" in answer.observation)
        ), f"{what}: {answer.observation[:200]}"
        assert not answer.is_done
    for what, code in SURVIVED.items():
        env.reset(task, 0)
        answer = env.step(code)
        assert answer.observation.strip() and answer.reward == 0.0, what
        if not answer.is_done:
            assert env.step("pass").observation.strip(), what
    reference = world.expert_actions([task])[task.id]
    assert play(env, task, reference).reward == 1.0


@pytest.mark.parametrize("what", ENDED)
def test_code_that_never_gives_the_processor_back_ends_its_episode(world: AppWorld, each_env: Env, what: str):
    task, env = find(world, "phone/text-message/0"), each_env
    env.reset(task, 0)
    assert env.step(ENDED[what]) == EnvStep(observation=BROKEN, reward=0.0, is_done=True)
    assert env.step("print(1)").is_done
    assert play(env, task, world.expert_actions([task])[task.id]).reward == 1.0


def test_an_episode_leaves_nothing_behind_for_the_next(world: AppWorld, env: AppWorldEnv):
    task = find(world, "phone/text-message/0")
    env.reset(task, 0)
    env.step("json.dumps = None\nrandom.seed(5)\ncalendar.marked = 1\nleft = 2")
    left = Path(env.engine._folder.name) / "root" / "left.txt"
    left.write_text("x")
    env.reset(task, 0)
    assert not left.exists()
    assert env.step("print(hasattr(calendar, 'marked'), json.dumps({}))").observation == "False {}"
    assert "NameError" in env.step("print(left)").observation


def test_rows_that_the_engine_refuses_are_named(env: AppWorldEnv, world: AppWorld):
    rows = {**find(world, "phone/text-message/0").data["rows"]}
    rows["todoist"] = {**rows["todoist"], "Task": [{"project_id": 99, "user_id": 1, "title": "x"}]}
    draft = Draft(instruction="Do it.", tests=[answered("x"), only()], reference=[])
    task = make_task(id="bad", kind="todoist", rows=rows, moment="2025-01-01T10:00:00", draft=draft)
    with pytest.raises(ConfigError, match=r"todoist\.Task\[0\]"):
        env.reset(task, 0)
    assert env.reset(find(world, "phone/text-message/0"), 0)


@pytest.mark.slow
def test_an_engine_that_is_killed_costs_a_retry(world: AppWorld):
    task = find(world, "phone/text-message/0")
    *steps, done = world.expert_actions([task])[task.id]
    with EnvPool("sparring.envs.appworld:AppWorld", {"limits": QUICK}, num_envs=1, reset_deadline_s=120) as pool:
        first = pool.reset(0, task, 0).result()
        for step in (*steps, CHANCE):
            pool.step(0, step).result()
        killer = threading.Thread(target=_kill_group_soon, args=(pool._slots[0].env.transport.process.pid,))  # pyright: ignore
        killer.start()
        end = pool.step(0, "for _ in range(10**9): pass").result()
        killer.join()
        assert "Stopped" in end.observation and pool.retries(0) == 1
        assert pool.step(0, done).result().reward == 1.0
        assert pool.reset(0, task, 0).result() == first


def _kill_group_soon(pid: int) -> None:
    time.sleep(0.5)
    os.killpg(pid, signal.SIGKILL)


def test_a_missing_engine_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=COMMAND):
        find_engine()


@pytest.mark.parametrize("part", ["", "venv", "venv/bin"])
def test_an_engine_that_others_can_change_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = engine_folder()
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "installed.json").touch()
    assert find_engine().python == folder / "venv" / "bin" / "python"
    (folder / part).chmod(0o777)
    with pytest.raises(ConfigError, match=r"written to by all.*XDG_CACHE_HOME"):
        find_engine()


def test_a_stranger_gets_at_nothing_of_an_engine(world: AppWorld, env: AppWorldEnv):
    env.reset(find(world, "phone/text-message/0"), 0)
    scratch, pids = Path(env.engine._folder.name), [env.engine._process.pid, env.engine.pid]
    assert env.engine.pid is not None and not listening(pids)
    assert scratch.parent == Path(tempfile.gettempdir()) and is_private(scratch)
    assert not try_as(NOBODY, paths=[*below(scratch), *secrets_of(pids)])


EVALUATION = """
def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    with test("the answer is right"):
        test.answer(models.end.supervisor.Task.all()[0].to_dict(humanize=True)["answer"], ground_truth_answer)
    with test("nothing has changed"):
        test.case(models.changed_model_names(), "==", set())
"""


@pytest.fixture(scope="module")
def official_folder(world: AppWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in AppWorld's layout with one task, all of it ours."""
    data = tmp_path_factory.mktemp("official") / "data"
    task = data / "tasks" / "abc1234_1"
    truth = task / "ground_truth"
    truth.mkdir(parents=True)
    (data / "datasets").mkdir()
    (data / "datasets" / "train.txt").write_text("abc1234_1\n")
    (data / "api_docs").symlink_to(world.engine.data / "api_docs")
    shutil.copytree(world.engine.data / "tasks" / "own_1" / "dbs", data / "base_dbs")
    (task / "dbs").mkdir()
    for database in (data / "base_dbs").iterdir():
        (task / "dbs" / f"{database.stem}.jsonl").touch()  # a task's databases are changes to the base
    person = {"first_name": "Ida", "last_name": "Moss", "email": "ida@mail.example", "phone_number": "5550001111"}
    with contextlib.closing(sqlite3.connect(data / "base_dbs" / "supervisor.db")) as database, database:
        row = (*person.values(), "1990-01-01", "h1")
        columns = ", ".join([*person, "birthday", "record_hash"])
        database.execute(f"INSERT INTO supervisors ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
        columns = "supervisor_id, instruction, answer, record_hash"
        database.execute(f"INSERT INTO tasks ({columns}) VALUES (1, 'What is it?', '\"<<NOT_GIVEN>>\"', 'h2')")
    specs = {
        "instruction": "What is it?",
        "supervisor": person,
        "datetime": "2023-05-18T12:00:00",
        "db_version": "0.1.0",
    }
    (task / "specs.json").write_text(json.dumps(specs))
    (truth / "evaluation.py").write_text(EVALUATION)
    labels = {"the answer is right": "no_op_fail", "nothing has changed": "no_op_pass"}
    tests = [{"requirement": name, "label": label} for name, label in labels.items()]
    metadata = {"difficulty": 1, "num_apps": 0, "num_apis": 0, "num_solution_code_lines": 1}
    contents = {"answer": 42, "public_data": {}, "private_data": {}, "test_data": tests, "metadata": metadata}
    for name, content in contents.items():
        (truth / f"{name}.json").write_text(json.dumps(content))
    return data


def test_official_data_are_played_and_graded_by_the_engine(official_folder: Path):
    world = AppWorld(path=str(official_folder), limits=QUICK)
    (task,) = world.tasks("train")
    assert dict(task.data) == {} and world.expert_actions([task]) == {}
    env = world.make_env()
    try:
        first = env.reset(task, 0)
        assert "What is it?" in first and "ida@mail.example" in first
        assert env.step("print(apis.supervisor.show_profile()['first_name'])").observation == "Ida"
        right = env.step("apis.supervisor.complete_task(answer=42)")
        assert (right.reward, right.is_done) == (1.0, True)
        assert play(env, task, ["apis.supervisor.complete_task(answer=41)"]).reward == 0.0
        assert play(env, task, ["apis.supervisor.complete_task()"]).reward == 0.0
        scratch = Path(env.engine._folder.name)
        assert scratch.is_dir()
    finally:
        env.close()
    assert not scratch.exists()


def test_parity_evaluates_on_official_tasks_and_trains_on_ours(world: AppWorld, official_folder: Path):
    with pytest.raises(DataError, match=r"no datasets/test_normal\.txt"):
        AppWorld(path=str(official_folder), parity=True)
    with pytest.raises(ConfigError, match=r"env\.path"):
        AppWorld(parity=True)
    data = official_folder.parent / "parity"
    shutil.copytree(official_folder, data, symlinks=True)
    (data / "datasets" / "train.txt").rename(data / "datasets" / "test_normal.txt")
    mixed = AppWorld(path=str(data), parity=True, turn_limit=2, limits=QUICK)
    (task,) = mixed.tasks("test")
    assert mixed.tasks("train") == world.tasks("train") and mixed.turn_limit(task) == 2
    gate = EvaluationGate(mixed.synthesis, [task])
    copied = replace(mixed.tasks("train")[0], data={**mixed.tasks("train")[0].data, "instruction": "What  is it?"})
    assert gate.check(mixed.tasks("train")[0]) is None
    assert (found := gate.check(copied)) is not None and (found.evaluation_id, found.aspect) == ("abc1234_1", "text")
    env = mixed.make_env()
    try:  # one engine plays both
        own = mixed.tasks("train")[0]
        assert own.data["instruction"] in env.reset(own, 0)
        assert "What is it?" in env.reset(task, 0)
        assert [env.step("print(1)").reward, env.step("apis.supervisor.complete_task(answer=42)").reward] == [0.0, 1.0]
        (measured, short) = (mixed.measures([task], {task.id: 1.0}), "scenario abc1234 lacks its task abc1234_2")
        assert measured["TGC"] == 100.0 and str(measured["SGC"]).startswith(short)
    finally:
        env.close()


@pytest.mark.parametrize("wrong", [0, 1001, 2.0, "30", True])
def test_a_turn_limit_that_is_none_is_refused(world: AppWorld, wrong: Any):
    with pytest.raises(ConfigError, match=r"turn_limit is .*\. Give a whole number from 1 to 1000"):
        AppWorld(turn_limit=wrong)
