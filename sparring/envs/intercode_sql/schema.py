"""A database's tables, columns and keys, as the checks of `strict` need them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the database."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    """The columns of its primary key; none: it has none."""


Schema = tuple[Table, ...]


def read_schema(connection: sqlite3.Connection) -> Schema:
    """Read the tables of a database. Views are left out."""
    rows = connection.execute(
        "SELECT t.name, c.name, c.pk FROM main.sqlite_schema AS t JOIN pragma_table_info(t.name) AS c "
        "WHERE t.type = 'table' ORDER BY t.name, c.cid"
    ).fetchall()
    columns: dict[str, list[str]] = {}
    keys: dict[str, list[str]] = {}
    for table, column, place in rows:
        columns.setdefault(table, []).append(column)
        keys.setdefault(table, []).extend([column] if place else [])
    return tuple(Table(name, tuple(found), tuple(keys[name])) for name, found in columns.items())
