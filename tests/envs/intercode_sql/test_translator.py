"""MySQL's words over SQLite: each form gives MySQL's rows; what MySQL refuses is refused where asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.intercode_sql import expert, translator
from sparring.envs.intercode_sql.benchmark import Images
from sparring.envs.intercode_sql.env import InterCodeSQLEnv
from sparring.envs.intercode_sql.sandbox import Sandbox
from tests.envs.intercode_sql.forms import DETERMINED, FORMS, REFUSED


@pytest.fixture(scope="module")
def world(images: dict[str, bytes]) -> Iterator[Sandbox]:
    sandbox = Sandbox("world_1", images["world_1"])
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def strict_world(images: dict[str, bytes]) -> Iterator[Sandbox]:
    sandbox = Sandbox("world_1", images["world_1"], is_strict=True)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("statement", FORMS)
def test_what_mysql_says_is_understood(world: Sandbox, strict_world: Sandbox, statement: str):
    for sandbox in (world, strict_world):
        result = sandbox.run(statement)
        assert (list(result.rows or ()), result.error) == (FORMS[statement], "")


@pytest.mark.parametrize("statement", REFUSED)
def test_what_mysql_refuses_is_refused_where_asked_for(world: Sandbox, strict_world: Sandbox, statement: str):
    assert strict_world.run(statement).error == REFUSED[statement]
    assert not world.run(statement).error


@pytest.mark.parametrize("statement", DETERMINED)
def test_what_mysql_takes_is_not_refused(world: Sandbox, strict_world: Sandbox, statement: str):
    result = strict_world.run(statement)
    assert not result.error and result.rows == world.run(statement).rows


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SHOW TABLES FROM nosuchdb", "Unknown database 'nosuchdb'"),
        ("SHOW COLUMNS FROM country FROM pets_1", "Unknown database 'pets_1'"),
        ("SHOW COLUMNS FROM pets_1.country", "Unknown database 'pets_1'"),
        ("DESC nosuchdb.country", "Unknown database 'nosuchdb'"),
        ("SHOW CREATE TABLE nosuchdb.country", "Unknown database 'nosuchdb'"),
        ("SHOW INDEX FROM country FROM nosuchdb", "Unknown database 'nosuchdb'"),
        ("SHOW KEYS FROM lions", "no such table: lions"),
        ("SELECT LEFT(Name, 1) FROM nosuchdb.city", "Unknown database 'nosuchdb'"),
        ("SELECT * FROM nosuchdb.city", "no such table: nosuchdb.city"),
        ("SELECT lpad('a')", "Incorrect parameter count in the call to native function 'lpad'"),
        # clauses that the parser would put into order
        ("SELECT Name FROM city LIMIT 1 HAVING ID DIV 1 > 2", 'near "HAVING": syntax error'),
        ("SELECT DISTINCT Region FROM country WHERE Code = 'NLD' JOIN city ON LEFT(1, 1)", 'near "JOIN": syntax error'),
        # no counterpart, so that SQLite's refusal stands
        ("SELECT Name INTO @x FROM city", 'near "INTO": syntax error'),
        ("SELECT Continent, count(*) FROM country GROUP BY 1 WITH ROLLUP", 'near "WITH": syntax error'),
    ],
)
def test_errors(world: Sandbox, statement: str, error: str):
    assert world.run(statement).error == error


def test_aggregates_in_the_order_of_a_plain_query_are_refused(strict_world: Sandbox):
    assert strict_world.run("SELECT Name FROM city ORDER BY count(*)").error == (
        "Expression #1 of ORDER BY contains aggregate function and applies to the result of a non-aggregated query"
    )


def test_looks_of_other_kinds(world: Sandbox):
    assert world.run("SHOW INDEX FROM countrylanguage").rows == (
        ("countrylanguage", 0, "PRIMARY", 1, "CountryCode", "A"),
        ("countrylanguage", 0, "PRIMARY", 2, "Language", "A"),
    )
    assert world.run("SHOW FULL TABLES FROM world_1 LIKE 'ci%'").rows == (("city", "BASE TABLE"),)
    assert world.run("SHOW DATABASES LIKE 'x%'").rows == ()
    assert world.run("SHOW COLUMNS FROM city LIKE 'zz%'").rows == ()  # there is a table, and no such column


def test_a_table_may_have_its_databases_name(images: dict[str, bytes]):
    sandbox = Sandbox("orchestra", images["orchestra"])
    rows = sandbox.run("SELECT Orchestra FROM orchestra WHERE Orchestra_ID = 1").rows
    assert rows
    assert sandbox.run("SELECT orchestra.Orchestra FROM orchestra.orchestra WHERE Orchestra_ID = 1").rows == rows
    assert sandbox.run("SELECT orchestra.orchestra.Orchestra FROM orchestra WHERE Orchestra_ID = 1").rows == rows
    sandbox.close()


def test_what_ran_before_changes_no_meaning(zoo: bytes):
    """Functions are made when they are first asked for, so that none may hide one of SQLite's."""
    plain = "SELECT length('é'), upper('a'), replace('a', 'a', 'b'), mod(7, 2), date('2019-01-02'), instr('Ab', 'b')"
    fresh = Sandbox("zoo", zoo)
    before = fresh.run(plain)
    assert not before.error and fresh.run("SELECT LEFT('a', 1), REVERSE('ab')").rows == (("a", "ba"),)
    assert fresh.run(plain) == before
    fresh.close()


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("IF(", ", 1, 2)"), ("(SELECT ", ")"), ("[", "]")])
def test_translation_of_nested_text_ends_soon(opening: str, closing: str):
    for depth in (20, 200, 1300):
        start = time.process_time()
        translator.translate(f"SELECT {opening * depth}1{closing * depth}"[:4000], "zoo")
        assert time.process_time() - start < 2


def test_gold_queries_run_whatever_mysql_says_to_them(images: dict[str, bytes]):
    gold = "SELECT Name, count(*) FROM city GROUP BY CountryCode"
    task = Task(id="w/0", kind="easy", data={"db": "world_1", "question": "?", "gold": gold})
    env = InterCodeSQLEnv(
        Images({"world_1": images["world_1"]}, is_strict=True), max_observation=350, is_graded=lambda _: False
    )
    env.reset(task, 0)
    assert "only_full_group_by" in env.step(gold).observation
    assert env.step("submit").reward == 0.0
    env.reset(task, 0)
    env.step("SELECT any_value(Name), count(*) FROM city GROUP BY CountryCode")
    assert env.step("submit").reward > 0.4  # gold's rows were compared, not gold's refusal
    env.close()


def test_the_bound_on_length_is_on_what_the_agent_wrote(world: Sandbox):
    longest = "SELECT " + "Name, " * 50 + "1 / 2 FROM city WHERE ID = 1 AND '" + "x" * 3600 + "' <> ''"
    assert 3900 < len(longest) < 4000
    assert world.run(longest).rows == ((*["Kabul"] * 50, 0.5),)
    assert world.run(longest + " " * 100).error == "the statement is too long"


def test_experts_look_at_the_tables_of_gold_queries_in_mysqls_words(images: dict[str, bytes]):
    gold = "(SELECT LEFT(Name, 1) FROM city) UNION (SELECT \"x\" FROM country WHERE Name REGEXP '^a')"
    assert sorted(expert.tables_read(images["world_1"], gold)) == ["city", "country"]


def test_without_sqlglot_the_world_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(translator, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sqlglot: pip install 'sparring\[sql\]'"):
        translator.require()
