"""Our own questions: split without leaks, answered by their gold queries, the same every time, and readable."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from sparring.core.types import Task
from sparring.envs.intercode_sql import InterCodeSQL, lexicon, questions
from sparring.envs.intercode_sql.benchmark import TURN_LIMIT
from sparring.envs.intercode_sql.dump import EMPTY_DATABASES
from sparring.envs.intercode_sql.official import normal_form
from sparring.envs.intercode_sql.questions import FAMILIES, MAX_ROWS, MOST_ALIKE, skeleton

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def tasks(ours: InterCodeSQL) -> list[Task]:
    return [task for split in SPLITS for task in ours.tasks(split)]


def test_there_are_a_few_thousand_of_every_kind_in_every_split(ours: InterCodeSQL):
    sizes = {split: len(ours.tasks(split)) for split in SPLITS}
    assert sizes["train"] > 2000 and sizes["dev"] > 200 and sizes["test"] > 400
    for split in SPLITS:
        assert {task.kind for task in ours.tasks(split)} == set(FAMILIES)


def test_every_database_with_rows_is_asked_about(ours: InterCodeSQL, images: dict[str, bytes]):
    asked = {task.data["db"] for task in ours.tasks("train")}
    assert asked == set(lexicon.LEXICON) == set(images) - set(EMPTY_DATABASES)


def test_no_query_and_no_pair_of_skeleton_and_database_is_on_two_sides(ours: InterCodeSQL):
    for known, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        left, right = ours.tasks(known), ours.tasks(other)
        for of in (
            lambda task: normal_form(task.data["gold"]),
            lambda task: (skeleton(task.data["gold"]), task.data["db"]),
            lambda task: (task.data["question"], task.data["db"]),
            lambda task: task.id,
        ):
            assert not {of(task) for task in left} & {of(task) for task in right}


def test_questions_are_not_repeated(tasks: list[Task]):
    assert len({normal_form(task.data["gold"]) for task in tasks}) == len(tasks)
    assert len({(task.data["db"], task.data["question"]) for task in tasks}) == len(tasks)
    alike = Counter((skeleton(task.data["gold"]), task.data["db"]) for task in tasks)
    assert max(alike.values()) <= MOST_ALIKE


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_every_answer_says_something_and_earns_the_full_reward(ours: InterCodeSQL, tasks: list[Task], every: int):
    some = tasks[::every]
    env, experts = ours.make_env(), ours.expert_actions(some)
    for task in some:
        env.reset(task, 0)
        *looks, gold, submit = experts[task.id]
        assert len(experts[task.id]) <= TURN_LIMIT and (gold, submit) == (task.data["gold"], "submit")
        for action in looks:
            assert not env.step(action).observation.startswith("Error"), action
        session = ours.backend.open(task.data["db"])
        rows = session.run(gold).rows
        session.close()
        assert rows and len(rows) <= MAX_ROWS and (len(set(rows)) > 1 or any(rows[0])), task
        env.step(gold)
        step = env.step(submit)
        assert (step.reward, step.is_done) == (1.0, True), task
    env.close()


def test_they_are_the_same_when_made_again(images: dict[str, bytes]):
    some = {name: images[name] for name in ("singer", "concert_singer")}
    assert questions.make_questions(some) == questions.make_questions(dict(reversed(some.items())))


def test_they_read_as_sentences(tasks: list[Task]):
    for task in tasks:
        question = task.data["question"]
        assert re.fullmatch(r"[A-Z].*[.?]", question), question
        assert "  " not in question and "None" not in question and len(question) < 300
        quoted = re.findall(r'"([^"]*)"', question)
        assert all(value in task.data["gold"].replace("''", "'") for value in quoted), question


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a, b FROM t WHERE c >= 3", "SELECT _ , _ FROM _ WHERE _ <> _"),
        ("SELECT a FROM t WHERE c = 'x, (y)'", "SELECT _ FROM _ WHERE _ = _"),
        ("SELECT T1.a, AVG(T2.`b c`) FROM `show` AS T1 ORDER BY 1 DESC", "SELECT _ , AGG ( _ ) FROM _ AS _ ORDER BY _"),
    ],
)
def test_skeletons_keep_the_form_alone(query: str, expected: str):
    assert skeleton(query) == expected


def test_nouns_have_plurals():
    for noun, many in (("city", "cities"), ("person|people", "people"), ("address", "addresses"), ("key", "keys")):
        assert lexicon.plural(lexicon.Entity(noun=noun, label="x")) == many


def test_the_lexicon_names_tables_and_columns_that_are_there(images: dict[str, bytes]):
    for name, entities in lexicon.LEXICON.items():
        scope = questions.Scope(name, images[name], entities)  # raises where a column is not there
        columns = {(name, key.child.name, key.column) for key in scope.foreign_keys}
        assert {link for link in lexicon.LINKS if link[0] == name} <= columns
        scope.close()
