"""Tasks in, actions that solve them out: SHOW TABLES, the columns of what the gold query reads, the query, `submit`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from sparring.core.types import Task
from sparring.envs.intercode_sql import dialect, functions, translator
from sparring.envs.intercode_sql.sandbox import Sandbox

SHOW_TABLES = "SHOW TABLES"
SUBMIT = "submit"


def expert_actions(
    tasks: Sequence[Task], images: Mapping[str, bytes], *, num_turns: int, max_text: int
) -> dict[str, list[str]]:
    """Return task id → actions. Where a query reads more tables than there are turns, it looks at the first of them."""
    looks: dict[str, dict[str, str]] = {}
    actions = {}
    for task in tasks:
        database, gold = task.data["db"], task.data["gold"]
        if database not in looks:
            looks[database] = look_statements(database, images[database], max_text)
        read = tables_read(images[database], gold)[: num_turns - 3]
        actions[task.id] = [SHOW_TABLES, *(looks[database][table] for table in read), gold, SUBMIT]
    return actions


def tables_read(image: bytes, query: str) -> list[str]:
    """Return the tables that a query reads, by name as the database spells it, in the order in which it first does.

    SQLite itself says which, so that no SQL is parsed here. A query that it refuses reads none.
    """
    found: dict[str, None] = {}

    def note(action: int, table: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table and not table.startswith("sqlite_"):
            found.setdefault(table)
        return sqlite3.SQLITE_OK

    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(image)
        dialect.add_functions(connection, "")
        connection.set_authorizer(note)
        try:
            connection.execute(f"EXPLAIN {translator.literals(query)}")
        except sqlite3.Error:
            functions.install(connection, lambda reason: None, lambda: 0.0)
            connection.execute(f"EXPLAIN {translator.translate(query, '').sql or query}")
    except sqlite3.Error:
        return []
    finally:
        connection.close()
    return list(found)


def look_statements(database: str, image: bytes, max_text: int) -> dict[str, str]:
    """Return table → the statement that shows its columns: DESC, or just their names where DESC would be cut."""
    sandbox = Sandbox(database, image)
    looks = {}
    for (table,) in sandbox.run(SHOW_TABLES).rows or ():
        desc = f"DESC {quoted(table)}"
        if len(str(list(sandbox.run(desc).rows or ()))) > max_text:
            desc = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
        looks[table] = desc
    sandbox.close()
    return looks


def quoted(name: str) -> str:
    """Put a name into backticks where MySQL needs them."""
    return name if name.isidentifier() and name.lower() != "show" else f"`{name}`"
