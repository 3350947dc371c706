"""The same world on a MySQL or MariaDB server of the user's: for figures beside those of the benchmark's authors.

The databases must be on the server (the dump loads with any client), and the user may read them and do nothing else:
that is checked, and it is what keeps episodes apart and an agent's statements harmless. Statements are bounded in time
and their results in size, as in the sandbox. Needs the package PyMySQL.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from typing import Any

from sparring.core.errors import ConfigError, EnvFault
from sparring.envs.intercode_sql.backend import Result, Row
from sparring.envs.intercode_sql.sandbox import MAX_RESULT_CHARS, MAX_ROWS, MAX_SECONDS, MAX_STATEMENT

PASSWORD_VARIABLE = "SPARRING_MYSQL_PASSWORD"
"""Where the password is taken from: options are saved with a run."""

DEFAULTS: Mapping[str, Any] = {"host": "127.0.0.1", "port": 3306, "user": "sparring"}
OPTIONS = frozenset(DEFAULTS) | {"unix_socket"}

ALLOWED_WORDS = frozenset({"SELECT", "SHOW", "DESC", "DESCRIBE", "EXPLAIN", "WITH", "USE", "VALUES"})
"""What a statement may begin with: what reads, and nothing that changes the session, such as SET or PREPARE."""

CREATE_USER = "CREATE USER sparring IDENTIFIED BY '…'; GRANT SELECT ON `{database}`.* TO sparring;  (for each database)"

ACCOUNTS = ("mysql.user", "mysql.global_priv", "mysql.db")
"""Tables with the server's accounts, password hashes among them: `GRANT SELECT ON *.*` opens them."""

_GRANT = re.compile(r"GRANT (?:USAGE|SELECT(?:, SHOW VIEW)?|SHOW VIEW) ON ", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[\s(]*([A-Za-z]+)")
_LOST = frozenset({2006, 2013})
"""Error codes of a connection that is gone."""

_SESSION = "SET SESSION sql_mode = REPLACE(@@sql_mode, 'ONLY_FULL_GROUP_BY', '')"
"""How a session starts: many gold queries select columns that they do not group by."""

_STRICT_SESSION = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ONLY_FULL_GROUP_BY')"
"""How a strict one starts: MySQL's default, whatever the server's is."""


class Server:
    """The backend: opens a connection for each episode."""

    def __init__(self, options: Mapping[str, Any], databases: Collection[str], *, is_strict: bool = False) -> None:
        """Check that the server answers, has the databases, and lets the user read these and do nothing else.

        `is_strict`: agents' sessions keep the server's mode, ONLY_FULL_GROUP_BY included.

        Raises:
            ConfigError: PyMySQL is missing, an option is unknown, or one of the above is not so.
        """
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise ConfigError(
                f"env.options.mysql: unknown {', '.join(unknown)}. Known: {', '.join(sorted(OPTIONS))}; the password "
                f"comes from the environment variable {PASSWORD_VARIABLE}."
            )
        try:
            import pymysql
        except ImportError:
            raise ConfigError('env.options.backend: "mysql" needs a package: pip install PyMySQL') from None
        self._pymysql, self._is_strict = pymysql, is_strict
        self._options = {**DEFAULTS, **options, "password": os.environ.get(PASSWORD_VARIABLE, "")}
        try:
            connection = self.connect(None)
        except EnvFault as fault:
            raise ConfigError(f"env.options.mysql: {fault} The password is read from {PASSWORD_VARIABLE}.") from None
        try:
            self._check(connection, databases)
        finally:
            connection.close()

    def names(self) -> frozenset[str]:
        return self._names

    def open(self, database: str, *, for_gold: bool = False) -> ServerSession:
        return ServerSession(self, database, is_strict=self._is_strict and not for_gold)

    def connect(self, database: str | None, *, is_strict: bool = False) -> Any:
        """Open a connection. Raises EnvFault where the server doesn't answer."""
        try:
            connection = self._pymysql.connect(
                **self._options,
                database=database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=10,
                read_timeout=2 * MAX_SECONDS,
                cursorclass=self._pymysql.cursors.SSCursor,
            )
            is_mariadb = "MariaDB" in connection.get_server_info()
            scale, name = (1, "max_statement_time") if is_mariadb else (1000, "max_execution_time")
            with connection.cursor() as cursor:
                mode = _STRICT_SESSION if is_strict else _SESSION
                cursor.execute(f"{mode}, {name} = {scale * MAX_SECONDS:.0f}")
        except self._pymysql.err.MySQLError as error:
            raise EnvFault(f"no connection to the MySQL server ({error.args[-1]}).") from None
        return connection

    def _check(self, connection: Any, databases: Collection[str]) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW GRANTS")
            grants = [grant for (grant,) in cursor.fetchall()]
            cursor.execute("SHOW DATABASES")
            self._names = frozenset(name for (name,) in cursor.fetchall())
        unsafe = [grant for grant in grants if not _GRANT.match(grant) or "WITH GRANT OPTION" in grant]
        if unsafe:
            raise ConfigError(
                f"env.options.mysql: the user may do more than read ({_shortened(unsafe[0])}), and agents' statements "
                f"are not to be trusted. Make one that may not: {CREATE_USER.format(database='…')}"
            )
        readable = next((table for table in ACCOUNTS if self._can_read(connection, table)), None)
        if readable:
            raise ConfigError(
                f"env.options.mysql: the user may read {readable}, the server's accounts with their password "
                "hashes, and so may agents. Make one that may read the databases alone: "
                f"{CREATE_USER.format(database='…')}"
            )
        here = {name.casefold() for name in self._names}
        missing = sorted(name for name in databases if name.casefold() not in here)
        if missing:
            raise ConfigError(
                f"env.options.mysql: the server has no database {missing[0]!r} that this user may read, and "
                f"{len(missing) - 1} others are missing. Load the dump, then: {CREATE_USER.format(database=missing[0])}"
            )

    def _can_read(self, connection: Any, table: str) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")
                cursor.fetchall()
        except self._pymysql.err.MySQLError:
            return False
        return True


class ServerSession:
    """One episode's connection."""

    def __init__(self, server: Server, database: str, *, is_strict: bool = False) -> None:
        self._server, self._database, self._is_strict = server, database, is_strict
        self._connection: Any = server.connect(database, is_strict=is_strict)

    def run(self, statement: str) -> Result:
        """Run one statement. Raises EnvFault where the server is gone."""
        if self._connection is None:
            return Result(error="The database is closed.")
        text = statement.encode("utf-8", "replace").decode()
        first = _FIRST_WORD.match(text)
        if first is None or first[1].upper() not in ALLOWED_WORDS:
            return Result(error=f"a statement must begin with one of {', '.join(sorted(ALLOWED_WORDS))}")
        if len(text.encode()) > MAX_STATEMENT:
            return Result(error="the statement is too long")
        errors = self._server._pymysql.err
        start = time.monotonic()
        try:
            return self._execute(text)
        except errors.MySQLError as error:
            code = error.args[0] if error.args else 0
            if code not in _LOST:
                return Result(error=str(error.args[-1]))
            self._reconnect()
            if time.monotonic() - start < MAX_SECONDS:
                raise EnvFault(f"the MySQL server broke the connection ({error.args[-1]}).") from None
            return Result(error="interrupted: the statement takes too long")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection._result is not None:  # an unfinished result would be read to its end, however long
            connection._result.unbuffered_active = False
        connection._force_close()

    def _reconnect(self) -> None:
        self.close()
        self._connection = self._server.connect(self._database, is_strict=self._is_strict)

    def _execute(self, statement: str) -> Result:
        rows: list[Row] = []
        num_chars = 0
        cursor = self._connection.cursor()
        cursor.execute(statement)
        if cursor.description is None:
            return Result()
        while (row := cursor.fetchone()) is not None:
            rows.append(row)
            num_chars += sum(len(value) for value in row if isinstance(value, str | bytes))
            if len(rows) > MAX_ROWS or num_chars > MAX_RESULT_CHARS:
                self._reconnect()
                return Result(error=f"the result is too large (more than {MAX_ROWS:,} rows or very long ones)")
        cursor.close()
        return Result(rows=tuple(rows))


def _shortened(grant: str) -> str:
    """Leave out the middle of a long list of privileges and the password's hash."""
    return re.sub(r"(GRANT \w+)\b.* ON ", r"\1 … ON ", grant).partition(" IDENTIFIED")[0]
