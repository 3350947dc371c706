"""Dumps become SQLite databases that say what MySQL would."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.envs.intercode_sql import dump
from tests.envs.intercode_sql.conftest import ZOO


def rows(image: bytes, query: str) -> list[tuple]:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(image)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_values_come_over_as_they_are(zoo: bytes):
    assert rows(zoo, "SELECT ID, Name, Weight, Price, Born FROM animal") == [
        (1, "Ada", 12.5, 3.5, "2019-01-02"),
        (2, "O'Hara; \\ (x),(", -1.5, None, None),
        (3, "Cy", 1000.0, 20, "2020-05-06"),  # spaces at the end don't count under MySQL
    ]
    assert rows(zoo, "SELECT * FROM keeper") == [(1, "Zoë\nB"), (2, "it's")]


def test_types_keys_and_defaults_stay(zoo: bytes):
    columns = rows(zoo, "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('animal')")
    assert columns[:3] == [
        ("ID", "INT", 1, None, 1),
        ("Name", "varchar(20)", 0, None, 0),
        ("Weight", "float(10,2)", 1, "'0.00'", 0),
    ]
    assert rows(zoo, 'SELECT "from", "table", "to" FROM pragma_foreign_key_list(\'animal\')') == [
        ("Keeper_ID", "keeper", "ID")
    ]


def test_text_compares_without_case(zoo: bytes):
    assert rows(zoo, "SELECT ID FROM animal WHERE Name = 'ADA'") == [(1,)]


def test_each_database_has_its_image():
    images = dump.convert(ZOO, "zoo.sql")
    assert set(images) == {"zoo", "bare"}
    assert rows(images["bare"], 'SELECT count(*) FROM "nothing"') == [(0,)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("CREATE DATABASE  IF", "CREATE SCHEMA  IF", "line 5: a table before any CREATE DATABASE"),
        ("(2,'it''s');", "(2,'it''s'", "line 26: torn, or not as mysqldump writes it: INSERT INTO `keeper`"),
        ("(2,'it''s');", "(2,'it''s';", r"line 26: expected '\)' before ''"),
        ("`keeper` VALUES", "`keeper` (a) VALUES", "line 26: torn, or not as"),
        ("(2,'it''s');", "(2,x'00');", "not understood: \"x'00'"),
        ("(2,'it''s');", "(2,'a','b');", "SQLite refuses table 'keeper'"),
        ("UNIQUE KEY `u` (`ID`)", "CHECK (`ID` > 0)", "'keeper': a line that is not understood: CHECK"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(old: str, new: str, message: str):
    with pytest.raises(DataError, match=message) as raised:
        dump.convert(ZOO.replace(old, new), "zoo.sql")
    assert "zoo.sql" in str(raised.value)


def test_a_file_of_something_else_is_refused():
    with pytest.raises(DataError, match=r"notes\.txt: no CREATE DATABASE"):
        dump.convert("SELECT 1;", "notes.txt")


def test_a_conversion_is_kept_and_found_again(zoo_dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = dump.load_images(zoo_dump)
    (folder,) = dump.cache_dir().iterdir()
    (folder / "bare.sqlite").write_bytes(b"changed")
    assert dump.load_images(zoo_dump) == {**first, "bare": b"changed"}
    zoo_dump.write_text(ZOO.replace("Ada", "Eve"), encoding="utf-8")
    assert rows(dump.load_images(zoo_dump)["zoo"], "SELECT Name FROM animal LIMIT 1") == [("Eve",)]


def test_without_a_place_for_the_cache_it_converts_every_time(
    zoo_dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(dump.load_images(zoo_dump)) == {"zoo", "bare"}


def test_a_missing_dump_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"env\.options\.dump"):
        dump.find_dump(str(tmp_path / "none.sql"))
    monkeypatch.setattr(dump, "PACKAGE", "a-package-that-is-not-there")
    with pytest.raises(ConfigError, match=r"pip install .sparring\[sql\]"):
        dump.find_dump(None)


def test_spiders_own_files_are_read(tmp_path: Path, zoo: bytes):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "zoo.sqlite").write_bytes(zoo)
    (tmp_path / "zoo" / "other.sqlite").write_bytes(zoo)
    assert dump.read_databases(tmp_path) == {"zoo": zoo}
    (tmp_path / "torn.sqlite").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"torn\.sqlite"):
        dump.read_databases(tmp_path)
    with pytest.raises(ConfigError, match=r"NAME/NAME\.sqlite"):
        dump.read_databases(tmp_path / "zoo" / "none")


def test_the_real_dump_has_twenty_databases_and_one_without_rows(images: dict[str, bytes]):
    assert len(images) == 20
    for name, image in images.items():
        tables = [table for (table,) in rows(image, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
        num = sum(rows(image, f'SELECT count(*) FROM "{table}"')[0][0] for table in tables)
        assert (num == 0) == (name in dump.EMPTY_DATABASES), name
