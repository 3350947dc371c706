"""Hostile SQL stays inside, ends soon and leaves nothing behind; friendly SQL gets what MySQL would give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.envs.intercode_sql.sandbox import MAX_ROWS, Sandbox
from tests.envs.intercode_sql import attack

MOST_SECONDS = 20.0
"""CPU time of one hostile statement; about one second on a machine of today, and no more on a busy one."""

MOST_MB = 300.0
"""The heap's limit and the largest result."""

KEEPER_COLUMNS = [("ID", "int", "NO", "PRI", None, ""), ("Full Name", "text", "YES", "", None, "")]


@pytest.fixture
def sandbox(zoo: bytes) -> Iterator[Sandbox]:
    sandbox = Sandbox("zoo", zoo)
    yield sandbox
    sandbox.close()


def test_nothing_nasty_gets_through(images: dict[str, bytes], tmp_path: Path):
    """A process of its own plays them, in an empty folder: the peak of its memory is theirs."""
    image = tmp_path / "world_1.sqlite"
    image.write_bytes(images["world_1"])
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "TMPDIR": str(empty),
        "SQLITE_TMPDIR": str(empty),
    }
    played = subprocess.run(
        [sys.executable, "-m", attack.__name__, str(image), "world_1"],
        cwd=empty,
        env=env,
        capture_output=True,
        check=True,
        timeout=280,
    )
    report = json.loads(played.stdout)
    assert len(report["answers"]) >= 300
    assert not list(empty.iterdir()) and not Path("/tmp/pwned.db").exists()
    assert image.read_bytes() == images["world_1"]
    assert report["rows_after"] == [[4079, 1429559884]]
    assert report["slowest"][0] < MOST_SECONDS, report["slowest"]
    assert report["grown_mb"] < MOST_MB
    passed = {statement for statement, error, _ in report["answers"] if not error}
    assert not [s for s in passed if s.startswith(("PRAGMA", "ATTACH", "VACUUM", "CREATE VIRTUAL", "CREATE TRIGGER"))]
    assert not [s for s in passed if any(call in s for call in attack.FORBIDDEN_CALLS)]
    assert not [s for s in passed if any(f"FROM {table}" in s for table in attack.TABLES)]


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("SHOW TABLES", [("animal",), ("keeper",)]),
        ("show tables from zoo like 'k%';", [("keeper",)]),
        ("SHOW DATABASES", [("zoo",)]),
        ("DESC keeper", KEEPER_COLUMNS),
        ("describe `zoo`.`keeper` ;", KEEPER_COLUMNS),
        ("SHOW COLUMNS FROM animal LIKE 'Keep%'", [("Keeper_ID", "int", "YES", "MUL", None, "")]),
        ("SHOW FIELDS IN animal FROM zoo LIKE 'W%'", [("Weight", "float(10,2)", "NO", "", "0.00", "")]),
        ("SELECT column_name FROM information_schema.columns WHERE table_name = 'keeper'", [("ID",), ("Full Name",)]),
        ("SELECT name FROM pragma_table_info('keeper')", [("ID",), ("Full Name",)]),
        ("SELECT count(*) FROM sqlite_master WHERE type = 'table'", [(2,)]),
        ("SELECT CONCAT(Name, '!', ID), CONCAT(Name, Price) FROM animal WHERE ID < 3", None),
        ("SELECT YEAR(Born), MONTH(Born), DAY(Born) FROM animal", [(2019, 1, 2), (None,) * 3, (2020, 5, 6)]),
        ('SELECT ID FROM `animal` WHERE `Name` = "ada" LIMIT 0, 5', [(1,)]),
        ('SELECT ID FROM animal WHERE "Name" = "ada"', []),  # two texts, as in MySQL
        ("SELECT database()", [("zoo",)]),
    ],
)  # fmt: skip
def test_an_agent_that_knows_mysql_finds_its_way(sandbox: Sandbox, statement: str, rows: list | None):
    result = sandbox.run(statement)
    assert not result.error
    assert rows is None or list(result.rows or ()) == rows


def test_concat_with_null_is_null(sandbox: Sandbox):
    assert sandbox.run("SELECT CONCAT(Name, '!', Price) FROM animal WHERE ID < 3").rows == (("Ada!3.5",), (None,))


def test_errors_name_what_is_wrong(sandbox: Sandbox):
    assert sandbox.run("SELECT * FROM lions").error == "no such table: lions"
    assert sandbox.run("DESC lions").error == "no such table: lions"
    assert sandbox.run("USE lions").error == "Unknown database 'lions'"
    assert not sandbox.run("USE zoo").error
    assert "one statement" in sandbox.run("SELECT 1; SELECT 2").error


def test_writes_end_with_the_episode(zoo: bytes, sandbox: Sandbox):
    for statement in (
        "DELETE FROM animal", "DROP TABLE keeper", "CREATE TABLE lion (a)", "INSERT INTO lion VALUES (1)",
        "CREATE TEMP TABLE cub (a)", "CREATE VIEW v AS SELECT 1",
    ):  # fmt: skip
        assert not sandbox.run(statement).error
    assert sandbox.run("SHOW TABLES").rows == (("animal",), ("lion",), ("v",))
    sandbox.close()
    again = Sandbox("zoo", zoo)
    assert again.run("SHOW TABLES").rows == (("animal",), ("keeper",))
    assert again.run("SELECT count(*) FROM animal").rows == ((3,),)
    assert again.run("SELECT * FROM cub").error
    again.close()


def test_a_result_is_bounded_to_the_row(sandbox: Sandbox):
    numbers = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < {}) SELECT x FROM r"
    assert len(sandbox.run(numbers.format(MAX_ROWS)).rows or ()) == MAX_ROWS
    assert "too large" in sandbox.run(numbers.format(MAX_ROWS + 1)).error


def test_the_time_limit_counts_instructions_and_so_is_the_same_every_time(sandbox: Sandbox):
    numbers = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < {}) SELECT max(x) FROM r"
    assert sandbox.run(numbers.format(300_000)).rows == ((300_000,),)
    for _ in range(2):
        assert sandbox.run(numbers.format(3_000_000)).error == "interrupted: the statement takes too long"
    assert sandbox.run("SELECT 1").rows == ((1,),)


def test_sandboxes_serve_several_threads(zoo: bytes):
    lock, found = threading.Lock(), []

    def look() -> None:
        sandbox = Sandbox("zoo", zoo, lock=lock)
        found.extend(sandbox.run("SELECT Name FROM animal WHERE ID = 1").rows or () for _ in range(50))
        sandbox.close()

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(("Ada",),)] * 400


def test_a_closed_sandbox_answers_so(sandbox: Sandbox):
    sandbox.close()
    sandbox.close()
    assert sandbox.run("SELECT 1").error
