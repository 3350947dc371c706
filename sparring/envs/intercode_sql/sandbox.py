"""Hostile SQL in, rows or an error out: SQLite in this process, with no way out and a bound on everything.

Each episode gets an in-memory copy of its database's image. What bounds a statement:

- *reach*: an authorizer that allows what is listed and nothing else. No ATTACH, no VACUUM INTO, no PRAGMA but the
  three that describe tables, no virtual tables, no triggers, and of the functions only those in `FUNCTIONS`: none that
  reads a file, loads code, draws at random or makes long values out of nothing.
- *time*: a count of SQLite's own instructions, so that the same statement always fails or always passes; wall-clock
  time behind it, for what is slow before the first instruction.
- *memory*: values and rows of at most `MAX_LENGTH` bytes, tables that may grow by `MAX_GROWTH_PAGES`, results of a
  bounded size, and SQLite's hard limit on its heap (`limit_heap`), which holds for the whole process.
- *answers*: SQLite's limits on the length and depth of statements.

One statement runs at a time among the sandboxes that share a lock: none runs into the heap's limit in another's place.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Mapping

from sparring.envs.intercode_sql import dialect, functions, translator
from sparring.envs.intercode_sql.backend import Result, Row
from sparring.envs.intercode_sql.schema import Schema, read_schema

MAX_LENGTH = 4096
"""Most bytes of a value and of a row. The longest row of the 20 databases has a few hundred."""

MAX_STATEMENT = 4000
"""Most bytes of a statement."""

MAX_INSTRUCTIONS = 10_000_000
"""Most instructions of SQLite's machine for a statement, about a second. Official gold queries take up to 60,000."""

INSTRUCTIONS_PER_CHECK = 1000

MAX_SECONDS = 5.0
"""Most wall-clock seconds for a statement: ten times what `MAX_INSTRUCTIONS` takes on an idle machine."""

MAX_ROWS = 10_000
MAX_RESULT_CHARS = 2_000_000

MAX_GROWTH_PAGES = 512
"""Pages of 4 KB by which an episode may make its copy, and its temporary tables, grow."""

LIMITS: Mapping[int, int] = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_LENGTH,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * MAX_STATEMENT,  # a translation may be longer than what it was made of
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 64,  # a LIKE may take its pattern's length times its text's
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_FUNCTION_NAMES = """
count sum avg min max total group_concat
abs round sign ceil ceiling floor mod pow power sqrt exp ln log
length lower upper substr substring trim ltrim rtrim replace instr like glob
coalesce ifnull nullif iif typeof database
date time datetime julianday strftime unixepoch
row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split()) | frozenset(dialect.FUNCTIONS) | functions.NAMES
"""Functions that a statement may call."""

PRAGMAS = frozenset({"table_info", "foreign_key_list", "table_list"})
"""Pragmas that a statement may use, also as `pragma_table_info('city')`."""

_MYSQLS = ("near ", "unrecognized token", "no such function", "wrong number of arguments", "ORDER BY clause should",
           "LIMIT clause should", "row value misused", "no such collation", "not authorized to use function",
           "DISTINCT aggregates")  # fmt: skip
"""How SQLite's messages begin where a statement may be one of MySQL's."""

_QUERY = re.compile(r"[\s(]*(?:SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
"""How what can be translated begins: prose is not worth the time."""

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
_WRITING = frozenset(
    {
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_VIEW,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_DROP_TEMP_TABLE,
        sqlite3.SQLITE_DROP_VIEW,
        sqlite3.SQLITE_DROP_TEMP_VIEW,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TEMP_INDEX,
    }
)


def limit_heap(num_bytes: int) -> None:
    """Set SQLite's hard limit on its memory: for all of the process, whoever uses SQLite in it, and for good."""
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"PRAGMA hard_heap_limit={num_bytes:d}")
    connection.close()


class Sandbox:
    """One episode's database."""

    def __init__(
        self, database: str, image: bytes, *, lock: threading.Lock | None = None, is_strict: bool = False
    ) -> None:
        """Open a copy of `image`; `is_strict`: refuse what MySQL refuses (`strict`)."""
        self.database, self._is_strict = database, is_strict
        self._lock = lock or threading.Lock()
        self._num_checks, self._deadline = 0, 0.0
        self._has_catalog, self._has_functions, self._refusal = False, False, ""
        self._schema: Schema | None = None
        self._connection: sqlite3.Connection | None = None
        with self._lock:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            connection.deserialize(image)
            self._restrict(connection)
            self._connection = connection

    def run(self, statement: str) -> Result:
        """Run one statement within the bounds."""
        if self._connection is None:
            return Result(error="The database is closed.")
        text = statement.encode("utf-8", "replace").decode()
        used = dialect.used_database(text)
        if used is not None:
            return Result() if self._is_here(used) else Result(error=f"Unknown database '{used}'")
        with self._lock:
            self._num_checks, self._deadline, self._refusal = 0, time.monotonic() + MAX_SECONDS, ""
            look = dialect.look(text)
            return self._look(self._connection, look) if look else self._query(self._connection, text)

    def _is_here(self, database: str) -> bool:
        return database.casefold() == self.database.casefold()

    def _look(self, connection: sqlite3.Connection, look: dialect.Look) -> Result:
        """Answer `SHOW` or `DESC`."""
        if look.database and not self._is_here(look.database):
            return Result(error=f"Unknown database '{look.database}'")
        result = self._execute(connection, look.sql)
        if look.table and result.rows == () and not self._execute(connection, dialect.columns_of(look.table)).rows:
            return Result(error=f"no such table: {look.table}")
        return result

    def _query(self, connection: sqlite3.Connection, text: str) -> Result:
        """Run a statement as it is where SQLite takes it with MySQL's meaning, else translated."""
        if len(text.encode()) > MAX_STATEMENT:
            return Result(error="the statement is too long")
        if dialect.CATALOG in text.lower() and not self._has_catalog:
            self._add_catalog(connection)
        plain = translator.literals(text)
        has_other_meaning = translator.has_other_meaning(plain)
        if has_other_meaning or (self._is_strict and _QUERY.match(plain)):
            translation = self._translate(connection, text)
            if translation.error or translation.is_watched or (has_other_meaning and translation.sql):
                return self._execute_translated(connection, translation)
        result = self._execute(connection, plain)
        if result.error and self._may_be_mysqls(plain, result.error):
            translation = self._translate(connection, text)
            if translation.error or translation.sql:
                return self._execute_translated(connection, translation)
        return result

    def _translate(self, connection: sqlite3.Connection, text: str) -> translator.Translation:
        return translator.translate(text, self.database, self._read_schema(connection) if self._is_strict else None)

    def _execute_translated(self, connection: sqlite3.Connection, translation: translator.Translation) -> Result:
        if translation.error:
            return Result(error=translation.error)
        if not self._has_functions:
            self._has_functions = True
            functions.install(connection, self._refuse, lambda: self._deadline)
        self._num_checks = 0
        return self._execute(connection, translation.sql)

    def _may_be_mysqls(self, statement: str, error: str) -> bool:
        """Say whether a statement that SQLite refuses may be MySQL's: not where it is known to be wrong in both."""
        if error.startswith(("no such table", "no such column")):
            bare = statement.casefold().translate({ord("`"): None, ord(" "): None})
            marks = (f"{self.database.casefold()}.", "timestampdiff(", "timestampadd(")
            return error.casefold() == "no such table: dual" or any(mark in bare for mark in marks)
        return error.startswith(_MYSQLS) and _QUERY.match(statement) is not None

    def _refuse(self, reason: str) -> None:
        self._refusal = reason

    def _read_schema(self, connection: sqlite3.Connection) -> Schema:
        """Return table → columns and keys, as far as the statements so far have left them."""
        if self._schema is None:
            self._schema = read_schema(connection)
        return self._schema

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _execute(self, connection: sqlite3.Connection, statement: str) -> Result:
        try:
            cursor = connection.execute(statement)
            if cursor.description is None:
                self._schema = None
                return Result()
            rows: list[Row] = []
            num_chars = 0
            for row in cursor:
                rows.append(row)
                num_chars += sum(len(value) for value in row if isinstance(value, str | bytes))
                if len(rows) > MAX_ROWS or num_chars > MAX_RESULT_CHARS:
                    cursor.close()
                    return Result(error=f"the result is too large (more than {MAX_ROWS:,} rows or very long ones)")
            return Result(rows=tuple(rows))
        except MemoryError:
            return Result(error="out of memory")
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # Warning: two statements; ValueError: NUL in it
            return Result(error=self._refusal or _plain(str(error)))

    def _restrict(self, connection: sqlite3.Connection) -> None:
        dialect.add_functions(connection, self.database)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA temp_store=MEMORY")
        num_pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA main.max_page_count={num_pages + MAX_GROWTH_PAGES}")
        connection.execute(f"PRAGMA temp.max_page_count={MAX_GROWTH_PAGES}")
        modules = {name for (name,) in connection.execute("PRAGMA module_list")}
        self._closed_tables = modules - {f"pragma_{name}" for name in PRAGMAS}
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        connection.setlimit(
            sqlite3.SQLITE_LIMIT_ATTACHED, 1
        )  # for the catalog; the authorizer lets no statement attach
        connection.set_progress_handler(self._is_over, INSTRUCTIONS_PER_CHECK)
        connection.set_authorizer(self._authorize)

    def _add_catalog(self, connection: sqlite3.Connection) -> None:
        """Give the database its information_schema. Few statements ask for it, so the first that does has it made."""
        self._has_catalog = True
        connection.set_authorizer(None)
        try:
            for statement in dialect.MAKE_CATALOG:
                connection.execute(statement)
        finally:
            connection.set_authorizer(self._authorize)

    def _is_over(self) -> bool:
        self._num_checks += 1
        return self._num_checks * INSTRUCTIONS_PER_CHECK > MAX_INSTRUCTIONS or time.monotonic() > self._deadline

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, _: str | None
    ) -> int:
        """Say whether a statement may do one thing; called while it is compiled."""
        if time.monotonic() > self._deadline:  # views in views in views
            is_allowed = False
        elif action == sqlite3.SQLITE_READ:
            is_allowed = first not in self._closed_tables
        elif action == sqlite3.SQLITE_FUNCTION:
            is_allowed = (second or "").lower() in FUNCTIONS
        elif action == sqlite3.SQLITE_PRAGMA:
            is_allowed = (first or "").lower() in PRAGMAS
        else:
            is_allowed = action in _READING or (action in _WRITING and database != dialect.CATALOG)
        return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def _plain(message: str) -> str:
    """Give the message without a part that tells of this library's inside."""
    return re.sub(r"^interrupted$", "interrupted: the statement takes too long", message)
