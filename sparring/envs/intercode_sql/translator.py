"""MySQL's syntax in, SQLite's out: with sqlglot's parser and generator of MySQL, and a bound on what they may do.

Two stages. `literals` writes what SQLite would read as something else into its words, on every statement: strings in
double quotes, backslashes in strings, `#` comments. `translate` parses a statement and writes it anew; it takes a
millisecond, ten times what SQLite takes, so that only those statements go through it that SQLite refuses, or
that mean something else in SQLite (`has_other_meaning`). What has no counterpart is not translated at all: SQLite's
refusal stands. Functions keep their names; those that SQLite lacks are in `functions`.

What comes out is run under the same authorizer and limits as what an agent writes itself.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.util import find_spec

from sparring.core.errors import ConfigError
from sparring.envs.intercode_sql.schema import Schema

INSTALL = "pip install 'sparring[sql]'"

MAX_PARSER_STEPS = 40_000
"""Most steps of the parser over the tokens of a statement: some 30 a token are usual, nested brackets take more."""

CACHE_SIZE = 4096
"""Translations that are kept: an agent in training writes the same statements again and again."""

_TOKEN = re.compile(
    r"'(?:[^'\\]|\\.|'')*'"
    r'|"(?:[^"\\]|\\.|"")*"'
    r"|`(?:[^`]|``)*`"
    r"|/\*!\d{0,6}(?P<run>(?:[^*]|\*(?!/))*)\*/|/\*(?:[^*]|\*(?!/))*\*/"
    r"|--(?:(?=[\s])|\Z)[^\n]*|\#[^\n]*"
    r"|--",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)|(''|\"\")", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_TO_LEX = ('"', "\\", "#", "--", "/*!")
_OTHER_MEANING = re.compile(
    r"\|\||[/%^\\]|'\s+'|\bGROUP_CONCAT\s*\(|\bINTERSECT\b|\b(?:CAST|CONVERT)\s*\(|\bBINARY\b|\bCOUNT\s*\(\s*DISTINCT\s*\(",
    re.IGNORECASE,
)
_MARKS = (
    "||",
    "/",
    "%",
    "^",
    "\\",
    "group_concat",
    "intersect",
    "cast",
    "convert",
    "binary",
    "distinct(",
    "distinct (",
)
"""One of them is in every statement with another meaning: quick to look for."""
_ADJACENT = re.compile(r"'\s+'")
_LITERAL = re.compile(r"'(?:[^']|'')*'|`(?:[^`]|``)*`|/\*.*?\*/|--[^\n]*", re.DOTALL)


class Refusal(Exception):
    """MySQL refuses a statement; the text is its message."""


class NotTranslatable(Exception):
    """A statement, or a part of it, has no counterpart here."""


def literals(statement: str, *, keep_strings: bool = False) -> str:
    """Write strings and comments as SQLite reads them; with `keep_strings`, comments alone."""
    if not any(mark in statement for mark in _TO_LEX):
        return statement

    def write(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] in "'\"":
            return token if keep_strings else "'" + _content(token).replace("'", "''") + "'"
        if match["run"] is not None:
            return f" {match['run']} "
        if token == "--":
            return "- -"  # MySQL's comments want a space after it
        return token if token[0] == "`" else " "

    return _TOKEN.sub(write, statement)


def _content(token: str) -> str:
    """Return what stands in a string's quotes. `\\%` and `\\_` stay as they are: LIKE reads them."""
    mark = token[0]

    def unescape(match: re.Match[str]) -> str:
        if match[1] is not None:
            return _ESCAPED.get(match[1], match[1])
        return mark if match[2][0] == mark else match[2]

    return _ESCAPE.sub(unescape, token[1:-1])


def has_other_meaning(statement: str) -> bool:
    """Say whether SQLite may take a statement, as `literals` gives it, and give it another meaning than MySQL does."""
    lowered = statement.lower()
    if not any(mark in lowered for mark in _MARKS) and not _ADJACENT.search(statement):
        return False
    bare = _LITERAL.sub(lambda match: "'\\'" if "\\" in match[0] else "''", statement)
    return _OTHER_MEANING.search(bare) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What became of a statement."""

    sql: str = ""
    """SQLite's words for it; empty where there are none."""
    is_watched: bool = False
    """Whether these words hold a watch over subqueries, so that they must be used."""
    error: str = ""
    """MySQL's message, where MySQL refuses it."""


@functools.lru_cache(CACHE_SIZE)
def translate(statement: str, database: str, schema: Schema | None = None) -> Translation:
    """Translate one query, INSERT, UPDATE or DELETE over `database`; with a `schema`, refuse what MySQL refuses.

    The statement is one of bounded length. Never raises over its text.
    """
    from sparring.envs.intercode_sql import rewriting, strict

    try:
        tree = rewriting.parse(literals(statement, keep_strings=True), MAX_PARSER_STEPS)
        if schema is not None:
            strict.check(tree, database, schema)
        is_watched = schema is not None and rewriting.watch(tree)
        return Translation(sql=rewriting.write(tree, database), is_watched=is_watched)
    except Refusal as refusal:
        return Translation(error=str(refusal))
    except Exception:  # sqlglot's own errors, too much recursion, and whatever odd text makes of its trees
        return Translation()


def require() -> None:
    """Check that sqlglot is there.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("sqlglot") is None:
        raise ConfigError(f"InterCodeSQL needs the package sqlglot: {INSTALL}")
