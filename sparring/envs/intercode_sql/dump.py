"""A MySQL dump in, one SQLite image per database out: without MySQL, in about a second, then from a cache.

Only what `mysqldump` writes for plain tables is read: CREATE DATABASE, CREATE TABLE and INSERT. Tables keep MySQL's
names and types, primary and foreign keys. Text compares without regard to case and to spaces at its end, as under
MySQL's `_ci` collations: the first by a collation, the second by leaving such spaces out. Other keys are left out: they
would change the order of unordered results and speed nothing up at this size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from sparring.core.errors import ConfigError, DataError

PACKAGE = "intercode-bench"
DUMP_IN_PACKAGE = "intercode/assets/datasets/spider_dev.sql"
INSTALL = "pip install 'sparring[sql]'"
"""The command that gets the databases, 144 KB, with the package's dependencies. Nothing of it is imported, so that
`pip install --no-deps` does as well."""

EMPTY_DATABASES = ("wta_1",)
"""Databases of the package's dump that have tables and no rows: nothing can be asked about them."""

_START = re.compile(r"^(?:CREATE DATABASE|CREATE TABLE|INSERT)\b.*", re.MULTILINE)
_STATEMENT = re.compile(
    r"CREATE DATABASE [^`;\n]*`(?P<database>[^`]+)`[^;\n]*;"
    r"|CREATE TABLE `(?P<table>[^`]+)` \(\n(?P<body>.*?)\n\)[^;]*;"
    r"|INSERT INTO `(?P<into>[^`]+)` VALUES (?P<rows>[^\n]*);$",
    re.MULTILINE | re.DOTALL,
)
_COLUMN = re.compile(r"^\s*`(?P<name>[^`]+)` (?P<type>\w+(?:\([\d,]+\))?(?: unsigned)?)(?P<rest>.*?),?$")
_PRIMARY = re.compile(r"^\s*PRIMARY KEY \((?P<columns>.+)\),?$")
_FOREIGN = re.compile(
    r"^\s*CONSTRAINT `[^`]+` FOREIGN KEY \((?P<columns>[^)]+)\) "
    r"REFERENCES `(?P<table>[^`]+)` \((?P<targets>[^)]+)\)[^,]*,?$"
)
_DEFAULT = re.compile(r"\bDEFAULT ('(?:[^'\\]|\\.|'')*'|[\w.+-]+)")
_VALUE = re.compile(r"'(?P<text>(?:[^'\\]|\\.|'')*)'|(?P<null>NULL)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")
_ESCAPE = re.compile(r"\\(.)|''", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
_TEXT_TYPE = re.compile(r"char|text|enum|set")


def find_dump(dump: str | None) -> Path:
    """Return where the dump is: the given file, or the one in the installed package.

    Raises:
        ConfigError: neither is there.
    """
    if dump is not None:
        file = Path(dump).expanduser()
        if not file.is_file():
            raise ConfigError(f"env.options.dump: {file} is not a file. Give a MySQL dump, or leave it out: {INSTALL}")
        return file
    try:
        file = Path(str(metadata.distribution(PACKAGE).locate_file(DUMP_IN_PACKAGE)))
    except metadata.PackageNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise ConfigError(
            f"InterCodeSQL needs the databases of the package {PACKAGE}, which is not installed. Get them with: "
            f'{INSTALL}\nOr name a MySQL dump of yours: options = {{ dump = "file.sql" }} under [env].'
        )
    return file


def cache_dir() -> Path:
    """Return the folder for what can be made again: `$XDG_CACHE_HOME/sparring`, usually `~/.cache/sparring`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparring" / "intercode_sql"


def load_images(dump: Path) -> dict[str, bytes]:
    """Return database → SQLite image, from the cache where this very dump was converted by this very code before.

    Raises:
        DataError: the dump can't be read, or has a statement that is not understood.
    """
    try:
        content = dump.read_bytes()
    except OSError as error:
        raise DataError(f"{dump}: can't be read ({error.strerror}).") from None
    folder = cache_dir() / hashlib.sha256(content + Path(__file__).read_bytes()).hexdigest()[:16]
    files = sorted(folder.glob("*.sqlite"))
    if files:
        return {file.stem: file.read_bytes() for file in files}
    images = convert(content.decode("utf-8", "replace"), str(dump))
    write_cache(folder, {f"{name}.sqlite": image for name, image in images.items()})
    return images


def read_databases(folder: Path) -> dict[str, bytes]:
    """Read SQLite files as Spider comes, `NAME/NAME.sqlite`, or `NAME.sqlite` beside each other.

    Raises:
        ConfigError: there is none in the folder.
        DataError: one is not SQLite's.
    """
    files = sorted(folder.glob("*.sqlite")) + sorted(f for f in folder.glob("*/*.sqlite") if f.stem == f.parent.name)
    if not files:
        raise ConfigError(
            f"env.options.databases: no NAME/NAME.sqlite in {folder}. Spider's folder is called database."
        )
    images = {}
    for file in files:
        images[file.stem] = file.read_bytes()
        if not images[file.stem].startswith(b"SQLite format 3\0"):
            raise DataError(f"{file}: is not an SQLite database.")
    return images


def write_cache(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of files into the cache, whole or not at all. Without a writable cache nothing is kept."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as made:
            for name, content in files.items():
                (Path(made) / name).write_bytes(content)
            Path(made).rename(folder)  # fails where another process was faster: the same bytes


def convert(sql: str, where: str) -> dict[str, bytes]:
    """Turn a dump's text into SQLite images, one per database; `where` names it in messages.

    Raises:
        DataError: there is no database in it, or a statement that is not understood.
    """
    connections: dict[str, sqlite3.Connection] = {}
    connection = None
    for start in _START.finditer(sql):
        place = f"{where}, line {sql.count(chr(10), 0, start.start()) + 1}"
        match = _STATEMENT.match(sql, start.start())
        if match is None:
            raise DataError(f"{place}: torn, or not as mysqldump writes it: {start[0][:60]}")
        if match["database"]:
            connection = connections.setdefault(match["database"], sqlite3.connect(":memory:", isolation_level=None))
        elif connection is None:
            raise DataError(f"{place}: a table before any CREATE DATABASE. Dump with `mysqldump --databases …`.")
        else:
            _build(connection, match, place)
    if not connections:
        raise DataError(f"{where}: no CREATE DATABASE in it. Dump with `mysqldump --databases …`.")
    images = {name: connection.serialize() for name, connection in connections.items()}
    for connection in connections.values():
        connection.close()
    return images


def _build(connection: sqlite3.Connection, match: re.Match[str], place: str) -> None:
    """Play one CREATE TABLE or INSERT on a database."""
    try:
        if match["table"]:
            connection.execute(_create_table(match["table"], match["body"], place))
            return
        rows = list(_read_rows(match["rows"], place))
        marks = ",".join("?" * len(rows[0]))
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO {_quote(match['into'])} VALUES ({marks})", rows)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise DataError(f"{place}: SQLite refuses table {match['table'] or match['into']!r} ({error}).") from None


def _create_table(name: str, body: str, place: str) -> str:
    parts = []
    for line in body.split("\n"):
        if column := _COLUMN.match(line):
            parts.append(_column(column))
        elif key := _PRIMARY.match(line):
            parts.append(f"PRIMARY KEY ({_names(key['columns'])})")
        elif key := _FOREIGN.match(line):
            target = f"{_quote(key['table'])} ({_names(key['targets'])})"
            parts.append(f"FOREIGN KEY ({_names(key['columns'])}) REFERENCES {target}")
        elif not re.match(r"\s*(?:UNIQUE |FULLTEXT |SPATIAL )?KEY ", line):
            raise DataError(f"{place}: table {name!r}: a line that is not understood: {line.strip()[:80]}")
    return f"CREATE TABLE {_quote(name)} (\n  " + ",\n  ".join(parts) + "\n)"


def _column(match: re.Match[str]) -> str:
    rest = match["rest"]
    words = [_quote(match["name"]), match["type"]]
    if _TEXT_TYPE.search(match["type"]):
        words.append("COLLATE NOCASE")
    if "NOT NULL" in rest:
        words.append("NOT NULL")
    default = _DEFAULT.search(rest)
    if default and default[1] != "NULL":
        words.append(f"DEFAULT {default[1]}")
    return " ".join(words)


def _read_rows(text: str, place: str) -> Iterator[list[str | int | float | None]]:
    """Read `(…),(…)`, value by value."""
    position = 0
    while position < len(text):
        row, position = [], _expect(text, position, "(", place)
        while True:
            value = _VALUE.match(text, position)
            if value is None:
                raise DataError(f"{place}: a value that is not understood: {text[position : position + 40]!r}")
            row.append(_literal(value))
            position = value.end()
            if text[position : position + 1] != ",":
                break
            position += 1
        yield row
        position = _expect(text, position, ")", place)
        if position < len(text):
            position = _expect(text, position, ",", place)


def _expect(text: str, position: int, mark: str, place: str) -> int:
    if text[position : position + 1] != mark:
        raise DataError(f"{place}: expected {mark!r} before {text[position : position + 40]!r}. The file may be torn.")
    return position + 1


def _literal(value: re.Match[str]) -> str | int | float | None:
    if value["null"]:
        return None
    if value["number"]:
        return float(value["number"]) if re.search(r"[.eE]", value["number"]) else int(value["number"])
    text = _ESCAPE.sub(lambda match: "'" if match[1] is None else _ESCAPED.get(match[1], match[1]), value["text"])
    return text.rstrip(" ")


def _names(columns: str) -> str:
    return ", ".join(_quote(name) for name in re.findall(r"`([^`]+)`", columns))  # without lengths of prefixes


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
