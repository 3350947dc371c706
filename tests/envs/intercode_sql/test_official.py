"""Question files of others: read with care, split by gold query, all of them solvable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.intercode_sql import InterCodeSQL, official
from sparring.envs.intercode_sql.official import normal_form, read_questions, split_by_gold

GOOD = {"db": "zoo", "query": "How many?", "gold": "SELECT count(*) FROM animal", "hardness": "easy"}


def write(folder: Path, content: object) -> Path:
    file = folder / "questions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_both_forms_are_read(tmp_path: Path):
    spider = {"db_id": "zoo", "question": "How many?", "query": "SELECT count(*) FROM animal", "query_toks": []}
    first, second = read_questions(write(tmp_path, [GOOD, spider]), {"zoo"}, ())
    assert (first.id, first.kind, second.id, second.kind) == ("zoo/0", "easy", "zoo/1", "question")
    assert first.data == second.data == {"db": "zoo", "question": "How many?", "gold": "SELECT count(*) FROM animal"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ({"a": 1}, "must be a list"),
        ([], "must be a list"),
        ([GOOD, "text"], 'entry 2, "text", is not an object'),
        ([GOOD, {**GOOD, "query": None}], "entry 2: 'query' must be a text; it is null"),
        ([{"db_id": "zoo", "question": "a"}], "entry 1: 'query' must be a text"),
        ([{}], "entry 1: 'db_id' must be a text"),
        ([GOOD, {**GOOD, "db": "ark"}], "entry 2: there is no database 'ark'"),
        ([{**GOOD, "db": "bare"}], "without rows"),
    ],
)
def test_what_is_wrong_is_named_with_its_entry(tmp_path: Path, content: object, message: str):
    with pytest.raises(DataError, match=message) as raised:
        read_questions(write(tmp_path, content), {"zoo", "bare"}, ("bare",))
    assert "questions.json" in str(raised.value)


def test_a_missing_file_says_where_the_official_one_is(tmp_path: Path):
    with pytest.raises(DataError, match=r"ic_spider_dev\.json.*princeton-nlp/intercode"):
        read_questions(tmp_path, {"zoo"}, ())


def test_two_wordings_of_one_query_stay_together():
    def task(i: int, gold: str) -> Task:
        return Task(id=str(i), kind="q", data={"gold": gold})

    tasks = [
        task(i, f"SELECT {i // 2}  FROM t{';' * (i % 2)}".upper() if i % 3 else f"select {i // 2} from T")
        for i in range(200)
    ]
    splits = split_by_gold(tasks)
    assert sorted(task.id for split in splits.values() for task in split) == sorted(task.id for task in tasks)
    side = {}
    for split, members in splits.items():
        assert members
        for member in members:
            assert side.setdefault(normal_form(member.data["gold"]), split) == split
    assert split_by_gold(tasks[::-1]) == {split: members[::-1] for split, members in splits.items()}


def test_a_file_for_each_split_is_taken_as_it_is(tmp_path: Path, zoo_dump: Path):
    train, test = tmp_path / "train.json", tmp_path / "test.json"
    for file, num in ((train, 3), (test, 2)):
        file.write_text(json.dumps([GOOD] * num), encoding="utf-8")
    benchmark = InterCodeSQL(dump=str(zoo_dump), path={"train": str(train), "test": str(test)})
    assert [len(benchmark.tasks(split)) for split in ("train", "test")] == [3, 2]
    assert not {task.id for task in benchmark.tasks("train")} & {task.id for task in benchmark.tasks("test")}


def test_all_official_gold_queries_earn_the_full_reward(real_dump: Path, official_file: Path):
    benchmark = InterCodeSQL(dump=str(real_dump), path=str(official_file.parent))
    tasks = [task for split in ("train", "dev", "test") for task in benchmark.tasks(split)]
    assert len(tasks) == 972
    assert {task.kind for task in tasks} == {"easy", "medium", "hard", "extra"}
    env, experts = benchmark.make_env(), benchmark.expert_actions(tasks)
    for task in tasks:
        env.reset(task, 0)
        steps = [env.step(action) for action in experts[task.id]]
        assert (steps[-1].reward, steps[-1].is_done) == (1.0, True), task
        assert not [step for step in steps if step.observation.startswith("Error")], task
    env.close()


def test_official_splits_share_no_gold_query(real_dump: Path, official_file: Path):
    benchmark = InterCodeSQL(dump=str(real_dump), path=str(official_file))
    golds = [{normal_form(task.data["gold"]) for task in benchmark.tasks(split)} for split in official.SHARES]
    assert not golds[0] & golds[1] and not golds[0] & golds[2] and not golds[1] & golds[2]
    shares = [len(benchmark.tasks(split)) / 972 for split in official.SHARES]
    assert shares == pytest.approx(list(official.SHARES.values()), abs=0.02)


def test_broken_queries_earn_less(real_dump: Path, official_file: Path):
    """Each gold query of a split with its first column doubled, its rows cut to none, and not at all."""
    benchmark = InterCodeSQL(dump=str(real_dump), path=str(official_file))
    env = benchmark.make_env()
    for task in benchmark.tasks("dev"):
        for broken in (f"SELECT 'x', t.* FROM ({task.data['gold'].strip('; ')}) AS t", "SELECT 1 WHERE 0", "SELECT"):
            env.reset(task, 0)
            has_rows = env.step(task.data["gold"]).observation != "[]"
            env.step(broken)
            reward = env.step("submit").reward
            assert reward == (1.0 if not has_rows and broken != "SELECT" else 0.0), (task, broken)
    env.close()
