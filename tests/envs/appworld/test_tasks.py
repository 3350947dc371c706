"""Our own tasks: how many, how different, how well made. Needs no engine."""

from __future__ import annotations

import ast
import json
from collections import Counter

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.envs.appworld import Draft, checks, make_task
from sparring.envs.appworld.drafting import DONE, only, there
from sparring.envs.appworld.generate import TEMPLATES, find_template, own_tasks
from sparring.envs.appworld.official import official_instruction, official_tasks
from sparring.envs.appworld.scene import APPS, NAMES
from sparring.envs.appworld.tasks import engine_task

SPLITS = own_tasks(0, 6)
PERSON = {"first_name": "A", "last_name": "B", "email": "a@b.example", "phone_number": "1", "birthday": "1990-01-01"}
ROWS = {"supervisor": {"Supervisor": [PERSON]}}
DRAFT = Draft(instruction="Do it.", tests=[there("x", "simple_note.Note"), only()], reference=[DONE])


def test_there_are_enough_of_every_app():
    assert len(SPLITS["train"]) >= 100 and len(SPLITS["dev"]) >= 30 and len(SPLITS["test"]) >= 30
    for tasks in SPLITS.values():
        kinds = Counter(task.kind for task in tasks)
        assert set(kinds) == set(APPS) and min(kinds.values()) >= 6


def test_the_same_seed_gives_the_same_tasks_and_another_one_others():
    assert own_tasks(0, 6) == SPLITS
    assert not {task.id for task in own_tasks(1, 1)["train"]} & {task.id for task in SPLITS["train"]}
    assert len({json.dumps(dict(task.data)) for tasks in SPLITS.values() for task in tasks}) == 228


def test_splits_share_no_template_and_no_names():
    templates = [{template for group in by_app.values() for template in group} for by_app in TEMPLATES.values()]
    assert not templates[0] & templates[1] and not templates[0] & templates[2] and not templates[1] & templates[2]
    pools = ("first", "last", "things", "chores", "projects", "tags", "artists", "genres", "playlists", "folders")
    for pool in (*pools, "relations", "alarms"):
        words = [set(getattr(names, pool)) for names in NAMES.values()]
        assert sum(map(len, words)) == len(set.union(*words)), pool
    titles = [{f"{a} {b}" for a in n.song_words[0] for b in n.song_words[1]} for n in NAMES.values()]
    assert sum(map(len, titles)) == len(set.union(*titles))
    assert len({names.domain for names in NAMES.values()}) == len(NAMES)


def test_shared_templates_are_drawn_over_each_splits_own_names():
    shared = own_tasks(0, 2, shared_templates=True)
    assert shared["train"] == own_tasks(0, 2)["train"]
    ids = [task.id for tasks in shared.values() for task in tasks]
    assert len(ids) == len(set(ids)) == 3 * 44
    for split in ("dev", "test"):
        assert {find_template(task.id) for task in shared[split]} == {find_template(t.id) for t in shared["train"]}
        for task in shared[split]:
            (person,) = task.data["rows"]["supervisor"]["Supervisor"]
            assert person["email"].endswith(NAMES[split].domain), task.id


def test_an_instruction_reads_like_one():
    for task in (task for tasks in SPLITS.values() for task in tasks):
        text = task.data["instruction"]
        assert text[0].isupper() and text[-1] in '.?"' and "  " not in text and "{" not in text, text
        assert len(text) < 400


def test_the_engine_sees_neither_tests_nor_reference():
    task = SPLITS["train"][0]
    seen = json.dumps(engine_task(task))
    assert engine_task(task)["specs"]["instruction"] == task.data["instruction"]
    assert "reference" not in engine_task(task)["specs"] and set(engine_task(task)) == {"specs", "rows"}
    assert task.data["tests"][1]["name"] not in seen


def test_references_are_python_and_end_the_task():
    for task in (task for tasks in SPLITS.values() for task in tasks):
        *steps, last = task.data["reference"]
        assert steps and "complete_task" in last
        assert all(ast.parse(code) and "complete_task" not in code for code in steps)


def test_no_task_is_won_by_doing_nothing():
    for task in (task for tasks in SPLITS.values() for task in tasks):
        counted = [check for check in task.data["tests"] if check["check"] in ("answer", "count")]
        assert counted, task.id


def test_make_task_refuses_what_can_not_be_judged():
    good = make_task(id="x", kind="todoist", rows=ROWS, moment="2025-01-01T10:00:00", draft=DRAFT)
    assert [check["check"] for check in good.data["tests"]] == ["status", "count", "changes"]
    assert good.data["rows"]["supervisor"]["Task"] == [{"supervisor_id": 1, "instruction": "Do it."}]

    def refused(message: str, rows=ROWS, **fields):
        draft = Draft(**{"instruction": "Do it.", "tests": DRAFT.tests, "reference": [], **fields})
        with pytest.raises(ConfigError, match=message):
            make_task(id="x", kind="todoist", rows=rows, moment="2025-01-01T10:00:00", draft=draft)

    refused("task x: has no tests", tests=[])
    refused("exactly one row", rows={})
    refused("not JSON", rows={**ROWS, "venmo": {"User": [{"venmo_balance": float("nan")}]}})
    refused("no known `check`", tests=[{"name": "a", "check": "exec"}])
    with pytest.raises(ConfigError, match="num_per_template"):
        own_tasks(0, 0)


def test_a_folder_without_official_data_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no AppWorld data"):
        official_tasks(tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "train.txt").write_text("abc_1\n")
    with pytest.raises(DataError, match=r"train\.txt: lists abc_1"):
        official_tasks(tmp_path)


def test_what_an_official_task_asks_for_is_read_or_its_file_named(tmp_path):
    folder = tmp_path / "tasks" / "abc_1"
    folder.mkdir(parents=True)
    (folder / "specs.json").write_text('{"instruction": "Pay Ida.", "datetime": "2023-05-18T12:00:00"}')
    assert official_instruction(tmp_path, "abc_1") == "Pay Ida."
    for broken in ("{}", "[]", "{"):
        (folder / "specs.json").write_text(broken)
        with pytest.raises(DataError, match=r"abc_1/specs\.json: holds no instruction"):
            official_instruction(tmp_path, "abc_1")


def test_the_idle_end_marks_the_task_alone():
    before = {"supervisor.Task": [{"id": 1, "status": None, "answer": "x"}], "venmo.User": [{"id": 1}]}
    assert list(checks.changes(before, checks.idle_end(before))) == []
