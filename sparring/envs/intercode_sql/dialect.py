"""MySQL's ways of looking around, put into SQLite's words: SHOW, DESC, USE, and a few functions.

An agent that knows MySQL types `SHOW TABLES` and `DESC city` before anything else; both answer with MySQL's columns.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping

_NAME = r"[`\"']?(?P<{}>[^`\"';\s.]+)[`\"']?"
_TABLE = rf"(?:{_NAME.format('database')}\s*\.\s*)?{_NAME.format('table')}"
_LIKE = r"(?:\s+LIKE\s+(?P<quote>['\"])(?P<like>.*)(?P=quote))?"
_FROM = rf"(?:\s+(?:FROM|IN)\s+{_NAME.format('database')})?"

Value = str | int | float | bytes | None

CATALOG = "information_schema"

_COLUMNS = """
SELECT name AS Field, lower(type) AS Type, iif("notnull" OR pk, 'NO', 'YES') AS "Null",
  iif(pk, 'PRI', iif(name IN (SELECT "from" FROM pragma_foreign_key_list({table})), 'MUL', '')) AS "Key",
  trim(dflt_value, '''') AS "Default", '' AS Extra
FROM pragma_table_info({table}){where}
"""
_TABLES = (
    "SELECT name FROM main.sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
)

MAKE_CATALOG = (
    f"ATTACH ':memory:' AS {CATALOG}",
    f"CREATE TABLE {CATALOG}.tables (table_schema text, table_name text COLLATE NOCASE, table_type text)",
    f"""CREATE TABLE {CATALOG}.columns (
      table_schema text, table_name text COLLATE NOCASE, column_name text COLLATE NOCASE,
      ordinal_position int, is_nullable text, data_type text, column_type text, column_key text)""",
    f"""INSERT INTO {CATALOG}.tables SELECT database(), name, 'BASE TABLE' FROM main.sqlite_schema
      WHERE type = 'table' ORDER BY name COLLATE NOCASE""",
    f"""INSERT INTO {CATALOG}.columns
      SELECT database(), t.name, c.name, c.cid + 1, iif(c."notnull" OR c.pk, 'NO', 'YES'),
        rtrim(substr(lower(c.type), 1, instr(c.type || '(', '(') - 1)), lower(c.type), iif(c.pk, 'PRI', '')
      FROM main.sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
      WHERE t.type = 'table' ORDER BY t.name COLLATE NOCASE, c.cid""",
)
"""Statements that give a connection MySQL's `information_schema`, as far as its tables `tables` and `columns` go."""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _show_tables(match: re.Match[str]) -> str:
    like = f" AND name LIKE {_text(match['like'])}" if match["like"] else ""
    return f"{_TABLES}{like} ORDER BY name COLLATE NOCASE"


def _show_columns(match: re.Match[str]) -> str:
    like = match.groupdict().get("like")
    return _COLUMNS.format(table=_text(match["table"]), where=f" WHERE name LIKE {_text(like)}" if like else "")


def _show_create(match: re.Match[str]) -> str:
    return f"SELECT name, sql FROM main.sqlite_schema WHERE name = {_text(match['table'])} COLLATE NOCASE"


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(rf"\s*{pattern}\s*;?\s*", re.IGNORECASE | re.DOTALL), build)
    for pattern, build in (
        (rf"SHOW\s+(?:FULL\s+)?TABLES{_FROM}{_LIKE}", _show_tables),
        (rf"(?:DESC|DESCRIBE|EXPLAIN)\s+{_TABLE}", _show_columns),
        (
            rf"SHOW\s+(?:FULL\s+)?(?:COLUMNS|FIELDS)\s+(?:FROM|IN)\s+{_TABLE}"
            rf"{_FROM.replace('<database>', '<database_>')}{_LIKE}",
            _show_columns,
        ),
        (rf"SHOW\s+CREATE\s+TABLE\s+{_TABLE}", _show_create),
        (r"SHOW\s+(?:DATABASES|SCHEMAS)", lambda _: "SELECT database()"),
    )
)
_USE = re.compile(rf"\s*USE\s+{_NAME.format('database')}\s*;?\s*", re.IGNORECASE)


def used_database(statement: str) -> str | None:
    """Return the database that a `USE` statement names; None: it is another statement."""
    match = _USE.fullmatch(statement)
    return match["database"] if match else None


def translate(statement: str) -> tuple[str, str]:
    """Return the statement in SQLite's words, and the table it describes: no rows then mean that there is none.

    Statements that SQLite itself understands come back as they are, with no table.
    """
    for pattern, build in _FORMS:
        if match := pattern.fullmatch(statement):
            return build(match), match.groupdict().get("table") or ""
    return statement, ""


def _concat(*parts: Value) -> str | None:
    return None if None in parts else "".join(map(str, parts))


def _part_of_date(start: int, end: int) -> Callable[[Value], int | None]:
    def part(date: Value) -> int | None:
        digits = str(date)[start:end]
        return int(digits) if digits.isascii() and digits.isdigit() else None

    return part


FUNCTIONS: Mapping[str, tuple[int, Callable[..., Value]]] = {
    "concat": (-1, _concat),
    "year": (1, _part_of_date(0, 4)),
    "month": (1, _part_of_date(5, 7)),
    "day": (1, _part_of_date(8, 10)),
}
"""Functions of MySQL's that SQLite lacks: name → number of arguments (-1: any), function."""


def add_functions(connection: sqlite3.Connection, database: str) -> None:
    """Teach a connection MySQL's functions."""
    for name, (num, function) in FUNCTIONS.items():
        connection.create_function(name, num, function, deterministic=True)
    connection.create_function("database", 0, lambda: database, deterministic=True)
