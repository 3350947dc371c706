"""Episodes: turns, wrappings, cuts, and what is rewarded when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.intercode_sql import InterCodeSQL
from sparring.envs.intercode_sql.benchmark import MAX_OBSERVATION, Images
from sparring.envs.intercode_sql.env import InterCodeSQLEnv, statement_of
from sparring.envs.intercode_sql.reward import SEEN_SHARE

GOLD = "SELECT Name FROM animal ORDER BY ID"
TASK = Task(id="zoo/0", kind="easy", data={"db": "zoo", "question": "Who lives here?", "gold": GOLD})


@pytest.fixture
def env(zoo: bytes) -> Iterator[InterCodeSQLEnv]:
    env = InterCodeSQLEnv(Images({"zoo": zoo}), max_observation=MAX_OBSERVATION, is_graded=lambda _: False)
    yield env
    env.close()


def test_an_episode_from_question_to_reward(env: InterCodeSQLEnv):
    assert env.reset(TASK, 0) == "Database: zoo\nQuestion: Who lives here?"
    assert env.step("SHOW TABLES").observation == "[('animal',), ('keeper',)]"
    step = env.step(GOLD)
    assert (step.observation, step.reward, step.is_done) == (
        "[('Ada',), (\"O'Hara; \\\\ (x),(\",), ('Cy',)]", 0.0, False
    )  # fmt: skip
    step = env.step("submit")
    assert (step.reward, step.is_done) == (1.0, True)
    assert env.step(GOLD).observation == "The episode is over."


def test_the_last_statement_is_the_answer(env: InterCodeSQLEnv):
    for statement, expected in (("SELECT 1", 0.0), ("SELECT nothing", 0.0), ("DELETE FROM animal WHERE ID > 9", 0.0)):
        env.reset(TASK, 0)
        env.step(GOLD)
        env.step(statement)
        step = env.step("submit")
        assert (step.reward, step.is_done) == (expected, True)
    env.reset(TASK, 0)
    step = env.step("submit")
    assert step.reward == 0.0 and "without an answer" in step.observation


def test_what_an_agent_writes_changes_nothing_about_the_gold_answer(env: InterCodeSQLEnv):
    env.reset(TASK, 0)
    env.step("DELETE FROM animal")
    assert env.step(GOLD).observation == "[]"
    assert env.step("submit").reward == 0.0
    env.reset(TASK, 0)
    env.step(GOLD)
    assert env.step("submit").reward == 1.0


def test_graded_episodes_reward_what_came_near_but_only_submission_succeeds(zoo: bytes):
    env = InterCodeSQLEnv(Images({"zoo": zoo}), max_observation=MAX_OBSERVATION, is_graded=lambda _: True)
    env.reset(TASK, 0)
    assert env.step("SELECT Name FROM animal WHERE ID = 1").reward == pytest.approx(SEEN_SHARE / 3)
    assert env.step(GOLD).reward == SEEN_SHARE
    assert env.step("SELECT 1").reward == SEEN_SHARE  # the best so far
    assert env.step("submit").reward == SEEN_SHARE
    env.reset(TASK, 0)
    env.step(GOLD)
    assert env.step("submit").reward == 1.0
    env.close()


def test_held_out_tasks_are_never_graded(real_dump: Path):
    world = InterCodeSQL(dump=str(real_dump), graded=True)
    env = world.make_env()
    for split, expected in (("train", SEEN_SHARE), ("dev", 0.0), ("test", 0.0)):
        task = world.tasks(split)[0]
        env.reset(task, 0)
        assert env.step(task.data["gold"]).reward == expected
        assert env.step("submit").reward == 1.0
    env.close()


@pytest.mark.parametrize(
    ("action", "statement"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  SELECT 1;\n", "SELECT 1;"),
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("```SELECT 1```", "SELECT 1"),
        ("execute[SELECT a[1]]", "SELECT a[1]"),
        ("Execute [ SELECT 1 ]", "SELECT 1"),
        ("I think ```SELECT 1```", "I think ```SELECT 1```"),
    ],
)
def test_wrappings_come_off_and_nothing_else(action: str, statement: str):
    assert statement_of(action).split() == statement.split()


@pytest.mark.parametrize("action", ["submit", " Submit.", "SUBMIT;", "submit[]", "```submit```", "execute[submit]"])
def test_submit_is_understood(env: InterCodeSQLEnv, action: str):
    env.reset(TASK, 0)
    env.step(GOLD)
    assert env.step(action).reward == 1.0


def test_a_table_called_submitted_is_no_submission(env: InterCodeSQLEnv):
    env.reset(TASK, 0)
    assert not env.step("submitted").is_done


def test_long_observations_are_cut_and_say_so(env: InterCodeSQLEnv):
    env.reset(TASK, 0)
    many = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 2000) SELECT x FROM r"
    observation = env.step(many).observation
    full = str([(i,) for i in range(1, 2001)])
    assert observation == f"{full[:350]}… (cut; {len(full):,} characters, 2,000 rows)"
    error = env.step(f"SELECT {'x' * 1000}").observation
    assert error.startswith("Error executing query: no such column: xxx") and error.endswith(
        "… (cut; 1,039 characters)"
    )


def test_a_broken_gold_query_is_the_datas_fault_not_a_reward(env: InterCodeSQLEnv):
    env.reset(Task(id="zoo/1", kind="easy", data={**TASK.data, "gold": "SELECT x FROM y"}), 0)
    env.step("SELECT 1")
    with pytest.raises(DataError, match=r"zoo/1: its gold query fails \(no such table: y\)"):
        env.step("submit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "QUESTIONS", "backend": "oracle"}, "sqlite or mysql"),
        ({"path": "QUESTIONS", "mysql": {"port": 1}}, r"env\.options\.mysql"),
        ({"path": "QUESTIONS", "backend": "mysql", "mysql": {"password": "x"}}, "unknown password"),
        ({"databases": "somewhere"}, "dump or databases, not both"),
        ({"path": 3}, "split → file"),
        ({}, "no questions of ours"),
    ],
)
def test_options_that_make_no_sense_are_refused(zoo_dump: Path, options: dict, message: str):
    if options.get("path") == "QUESTIONS":
        file = zoo_dump.with_name("questions.json")
        file.write_text(json.dumps([{"db": "zoo", "query": "Who?", "gold": GOLD}]), encoding="utf-8")
        options = {**options, "path": str(file)}
    with pytest.raises(ConfigError, match=message):
        InterCodeSQL(dump=str(zoo_dump), **options)
