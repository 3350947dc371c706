"""MySQL's ways of looking around, put into SQLite's words: SHOW, DESC, USE, and a few functions.

An agent that knows MySQL types `SHOW TABLES` and `DESC city` before anything else; both answer with MySQL's columns.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparring.envs.intercode_sql.functions import mod

_NAME = r"[`\"']?(?P<{}>[^`\"';\s.]+)[`\"']?"
_TABLE = rf"(?:{_NAME.format('of')}\s*\.\s*)?{_NAME.format('table')}"
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
_INDEX = """
SELECT (SELECT name FROM main.sqlite_schema WHERE name = {table} COLLATE NOCASE) AS "Table", 0 AS Non_unique,
  'PRIMARY' AS Key_name, pk AS Seq_in_index, name AS Column_name, 'A' AS Collation
FROM pragma_table_info({table}) WHERE pk ORDER BY pk
"""
"""The primary key: the dump's other keys are left out of the images."""
_TABLES = "FROM main.sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"

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


def columns_of(table: str) -> str:
    """Return the query for a table's columns: no rows where there is no such table."""
    return f"SELECT name FROM pragma_table_info({_text(table)})"


def _show_tables(match: re.Match[str]) -> str:
    like = f" AND name LIKE {_text(match['like'])}" if match["like"] else ""
    columns = "name, iif(type = 'view', 'VIEW', 'BASE TABLE')" if match["full"] else "name"
    return f"SELECT {columns} {_TABLES}{like} ORDER BY name COLLATE NOCASE"


def _show_columns(match: re.Match[str]) -> str:
    like = match.groupdict().get("like")
    return _COLUMNS.format(table=_text(match["table"]), where=f" WHERE name LIKE {_text(like)}" if like else "")


def _show_index(match: re.Match[str]) -> str:
    return _INDEX.format(table=_text(match["table"]))


def _show_databases(match: re.Match[str]) -> str:
    return "SELECT database()" + (f" WHERE database() LIKE {_text(match['like'])}" if match["like"] else "")


def _show_create(match: re.Match[str]) -> str:
    return f"SELECT name, sql FROM main.sqlite_schema WHERE name = {_text(match['table'])} COLLATE NOCASE"


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(rf"\s*{pattern}\s*;?\s*", re.IGNORECASE | re.DOTALL), build)
    for pattern, build in (
        (rf"SHOW\s+(?P<full>FULL\s+)?TABLES{_FROM}{_LIKE}", _show_tables),
        (rf"(?:DESC|DESCRIBE|EXPLAIN)\s+{_TABLE}", _show_columns),
        (
            rf"SHOW\s+(?:FULL\s+)?(?:COLUMNS|FIELDS)\s+(?:FROM|IN)\s+{_TABLE}{_FROM}{_LIKE}",
            _show_columns,
        ),
        (rf"SHOW\s+(?:INDEX|INDEXES|KEYS)\s+(?:FROM|IN)\s+{_TABLE}{_FROM}", _show_index),
        (rf"SHOW\s+CREATE\s+TABLE\s+{_TABLE}", _show_create),
        (rf"SHOW\s+(?:DATABASES|SCHEMAS){_LIKE}", _show_databases),
    )
)
_USE = re.compile(rf"\s*USE\s+{_NAME.format('database')}\s*;?\s*", re.IGNORECASE)


def used_database(statement: str) -> str | None:
    """Return the database that a `USE` statement names; None: it is another statement."""
    match = _USE.fullmatch(statement)
    return match["database"] if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A way of looking around, in SQLite's words."""

    sql: str = ""
    table: str = ""
    """The table that it describes: it must exist."""
    database: str = ""
    """The database that it names, where it names one."""


def look(statement: str) -> Look | None:
    """Return what a `SHOW` or `DESC` asks for; None: it is another statement, which SQLite itself understands."""
    for pattern, build in _FORMS:
        if match := pattern.fullmatch(statement):
            parts = match.groupdict()
            database = parts.get("database") or parts.get("of") or ""
            return Look(sql=build(match), table=parts.get("table") or "", database=database)
    return None


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
    "mod": (2, mod),
}
"""Functions of MySQL's that SQLite lacks and many statements use: name → number of arguments (-1: any), function."""


def add_functions(connection: sqlite3.Connection, database: str) -> None:
    """Teach a connection MySQL's functions."""
    for name, (num, function) in FUNCTIONS.items():
        connection.create_function(name, num, function, deterministic=True)  # `mod` takes the place of SQLite's
    connection.create_function("database", 0, lambda: database, deterministic=True)
