"""The invented part of the base model's corpus: walks that arrive, names and values that can be read."""

from __future__ import annotations

import re
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from sparring.envs.intercode_sql.grammar import Scope
from sparring.envs.intercode_sql.lexicon import LEXICON
from sparring.envs.intercode_sql.sandbox import Sandbox

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain"
SQL = "SELECT DISTINCT FROM WHERE AND OR NOT IN LIKE BETWEEN JOIN ON AS GROUP ORDER BY HAVING DESC LIMIT COUNT"
SQL += " INTERSECT EXCEPT UNION AVG MIN MAX SUM T1 T2 T3"
TEXT = re.compile(r"'((?:[^']|'')*)'")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    return import_module("invented_databases")


@pytest.fixture
def walks(recipe: ModuleType) -> list[dict[str, Any]]:
    return list(recipe.invented_walks(0, 60, 6))


def test_walks_end_with_an_answer_and_its_submission(walks: list[dict[str, Any]]):
    assert len(walks) > 180
    assert len({walk["task"] for walk in walks}) == len(walks)
    for walk in walks:
        *before, answered, ended = walk["turns"]
        assert len(before) + 1 <= 10
        assert before[-1]["action"].startswith("SELECT") and answered["action"] == "submit", walk
        assert answered["observation"].startswith("[(") and answered["observation"] not in ("[(0,)]", "[(None,)]")
        assert ended == {"observation": "Submitted.", "action": ""}


def test_what_a_query_names_was_shown_and_its_values_were_asked_for(walks: list[dict[str, Any]]):
    for walk in walks:
        first, *looks, asked, _, _ = walk["turns"]
        gold, question = asked["action"], first["observation"].partition("Question: ")[2]
        shown = " ".join(turn["observation"] for turn in [*looks, asked])
        values = TEXT.findall(gold) + re.findall(r"(?<![\w.])(?!1\b)\d+(?:\.\d+)?", TEXT.sub("", gold))
        assert all(value.strip("%").replace("''", "'") in question for value in values), walk
        names = set(re.findall(r"[A-Za-z_]\w*", TEXT.sub("", gold))) - set(SQL.split())
        assert names and all(f"'{name}'" in shown for name in names), walk


def test_databases_are_small_and_unlike_the_benchmarks(recipe: ModuleType):
    made = [recipe.invent(Random(i)) for i in range(60)]
    assert not {database.name for database in made} & LEXICON.keys()
    assert len({table for database in made for table in database.entities}) > 90
    num_keys = 0
    for database in made:
        scope = Scope(database.name, database.image, database.entities)
        num_keys += len(scope.foreign_keys)
        sandbox = Sandbox(database.name, database.image)
        for table in scope.tables:
            assert 5 <= scope.rows(f"SELECT count(*) FROM {table.sql}")[0][0] <= 25
            described = sandbox.run(f"DESC {table.sql}").rows or ()
            assert 3 <= len(described) <= 7
            assert [row[3] for row in described].count("PRI") == 1
            assert table.label is not None
            assert len({column.phrase for column in table.columns}) == len(table.columns)
        assert not scope.rows("PRAGMA foreign_key_check")
        sandbox.close()
        scope.close()
    assert num_keys > 30


def test_a_seed_makes_the_same_walks_again(recipe: ModuleType):
    def first(seed: int) -> list[dict[str, Any]]:
        return list(islice(recipe.invented_walks(seed, 5, 6), 12))

    assert first(0) == first(0)
    assert [walk["turns"] for walk in first(0)] != [walk["turns"] for walk in first(1)]


def test_no_pool_has_a_word_twice_or_one_that_sql_reserves(recipe: ModuleType):
    columns: Any = import_module("invented_columns")
    sandbox = Sandbox("words", recipe.invent(Random(0)).image)
    for name, words in columns.pools().items():
        assert len(words) == len(set(words)), name
        if name in ("things", "people", "animals", "dealings", "qualities", "numbers", "totals", "years", "flags"):
            for word in words:
                plain = "_".join(columns.split_words(word))
                result = sandbox.run(f"SELECT T1.{plain} FROM (SELECT 1 AS {plain}) AS T1 WHERE {plain} = 1")
                assert result.rows == ((1,),), (name, word, result.error)
    sandbox.close()
