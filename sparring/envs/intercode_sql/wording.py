"""An agent's query in, the same in our grammar out: a gold query and the question that it answers, or nothing.

Only queries on one table of the lexicon have words: columns or counts or aggregates, with up to two conditions, ordered
or grouped, as our templates ask for them. The query is written anew from the pieces that were understood; whoever uses
it compares the two results, so that what was misread shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparring.envs.intercode_sql.drafts import AGGREGATES, Draft, sql_of, text_of
from sparring.envs.intercode_sql.grammar import Column, Condition, Scope, Table, can_be_quoted, number, string

NAME = r"`[^`]+`|\w+"
QUERY = re.compile(
    rf"SELECT\s+(?P<distinct>DISTINCT\s+)?(?P<what>[^']+?)\s+FROM\s+(?P<table>{NAME})"
    r"(?:\s+WHERE\s+(?P<where>.+?))?"
    rf"(?:\s+GROUP\s+BY\s+(?P<group>{NAME}))?"
    rf"(?:\s+ORDER\s+BY\s+(?P<order>{NAME})(?:\s+(?P<down>DESC)|\s+ASC)?)?"
    r"(?:\s+LIMIT\s+(?P<limit>\d+))?\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
TEXT = r"'(?:[^']|'')*'|\"[^\"']*\""
CONDITION = re.compile(
    rf"(?P<column>{NAME})\s*(?:(?P<sign>!=|<>|<=|>=|=|<|>)\s*|(?P<like>LIKE)\s+)(?P<value>{TEXT}|-?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
CALL = re.compile(rf"(?P<name>COUNT|AVG|MIN|MAX|SUM)\s*\(\s*(?P<distinct>DISTINCT\s+)?(?P<column>\*|{NAME})\s*\)", re.I)
SAID_OF_NUMBERS = {
    ">": "is greater than", "<": "is less than", ">=": "is at least", "<=": "is at most", "=": "is", "!=": "is not"
}  # fmt: skip
SAID_OF_DATES = {">": "is after", "<": "is before"}
MOST_COLUMNS = 3
"""Most columns that a question asks for."""


def put_into_words(statement: str, scope: Scope) -> Draft | None:
    """Return a query and the question that it answers; None where our grammar has no words for it."""
    found = QUERY.fullmatch(statement.strip())
    table = found and _table(found["table"], scope)
    if not found or not table:
        return None
    where = _conditions(found["where"], table) if found["where"] else ("", "")
    if where is None:
        return None
    such, source = where[0], f"FROM {table.sql}{where[1]}"
    if found["group"]:
        is_alone = not (found["order"] or found["limit"] or found["distinct"])
        return _grouped(found["what"], found["group"], table, such, source) if is_alone else None
    if call := CALL.fullmatch(found["what"].strip()):
        is_alone = not (found["order"] or found["limit"] or found["distinct"])
        return _one_value(call, table, such, source) if is_alone else None
    columns = [_column(name, table) for name in found["what"].split(",")]
    known = [column for column in columns if column is not None]
    if len(known) < len(columns) or len(known) > MOST_COLUMNS:
        return None
    if found["order"]:
        return _ordered(known, found, table, such, source)
    if found["limit"]:
        return None
    return _listing(known, bool(found["distinct"]), table, such, source)


def _listing(columns: Sequence[Column], is_distinct: bool, table: Table, such: str, source: str) -> Draft | None:
    if not is_distinct:
        which = f" {such}" if such else ""
        return Draft(f"Show the {text_of(columns)} of every {table.one}{which}.", f"SELECT {sql_of(columns)} {source}")
    if len(columns) > 1:
        return None
    which = f" {such}" if such else ""
    return Draft(
        f"Show the different values of the {columns[0].phrase} of the {table.many}{which}, each once.",
        f"SELECT DISTINCT {columns[0].sql} {source}",
    )


def _one_value(call: re.Match[str], table: Table, such: str, source: str) -> Draft | None:
    which = f" {such}" if such else ""
    if call["column"] == "*":
        is_count = call["name"].upper() == "COUNT" and not call["distinct"]
        return Draft(f"How many {table.many} are there{which}?", f"SELECT COUNT(*) {source}") if is_count else None
    column, name = _column(call["column"], table), call["name"].upper()
    if column is None:
        return None
    if name == "COUNT":
        if not call["distinct"]:
            return None
        return Draft(
            f"How many different values does the {column.phrase} of the {table.many}{which} have?",
            f"SELECT COUNT(DISTINCT {column.sql}) {source}",
        )
    if column.kind != "number" or call["distinct"]:
        return None
    whose = f"the {table.many}{which}" if which else f"all {table.many}"
    return Draft(f"What is the {AGGREGATES[name]} {column.phrase} of {whose}?", f"SELECT {name}({column.sql}) {source}")


def _grouped(what: str, group: str, table: Table, such: str, source: str) -> Draft | None:
    key = _column(group, table)
    shown, _, rest = what.partition(",")
    call = CALL.fullmatch(rest.strip())
    if key is None or not key.is_group or _column(shown, table) is not key or not call or call["distinct"]:
        return None
    name, which = call["name"].upper(), f" {such}" if such else ""
    start = f"For each {key.phrase} of the {table.many}{which}, show the {key.phrase} and"
    if name == "COUNT":
        if call["column"] != "*":
            return None
        return Draft(f"{start} the number of {table.many}.", f"SELECT {key.sql}, COUNT(*) {source} GROUP BY {key.sql}")
    column = _column(call["column"], table)
    if column is None or column.kind != "number":
        return None
    return Draft(
        f"{start} the {AGGREGATES[name]} {column.phrase}.",
        f"SELECT {key.sql}, {name}({column.sql}) {source} GROUP BY {key.sql}",
    )


def _ordered(columns: Sequence[Column], found: re.Match[str], table: Table, such: str, source: str) -> Draft | None:
    """Word an order without ties: of a part of the rows, or of all."""
    key = _column(found["order"], table)
    if key is None or not key.is_key or found["distinct"]:
        return None
    is_down, num = bool(found["down"]), int(found["limit"] or 0)
    query = f"SELECT {sql_of(columns)} {source} ORDER BY {key.sql}{' DESC' if is_down else ''}"
    which = f" {such}" if such else ""
    if not num:
        if key.kind == "word":
            how = f"in {'reverse ' if is_down else ''}alphabetical order of the {key.phrase}"
        else:
            last, first = key.extremes
            how = f"ordered by the {key.phrase} from {f'{last} to {first}' if is_down else f'{first} to {last}'}"
        return Draft(f"Show the {text_of(columns)} of every {table.one}{which}, {how}.", query)
    if key.kind == "word" or num > MOST_COLUMNS:
        return None
    extreme = key.extremes[0 if is_down else 1]
    if such:
        if num > 1:
            return None
        question = (
            f"Of the {table.many} {such}, show the {text_of(columns)} of the one with the {extreme} {key.phrase}."
        )
        return Draft(question, f"{query} LIMIT 1")
    whose = f"the {table.one}" if num == 1 else f"the {num} {table.many}"
    order = "" if num == 1 else f", starting with the {extreme}"
    return Draft(
        f"Show the {text_of(columns)} of {whose} with the {extreme} {key.phrase}{order}.", f"{query} LIMIT {num}"
    )


def _conditions(where: str, table: Table) -> tuple[str, str] | None:
    """Return one condition, or two joined by AND or OR, in English and in SQL."""
    first = CONDITION.match(where.strip())
    if not first:
        return None
    rest = where.strip()[first.end() :].strip()
    parts = [_condition(first, table)]
    word = ""
    if rest:
        joined = re.fullmatch(r"(AND|OR)\s+(.+)", rest, re.IGNORECASE | re.DOTALL)
        second = CONDITION.fullmatch(joined[2].strip()) if joined else None
        if not joined or not second:
            return None
        word = joined[1].lower()
        parts.append(_condition(second, table))
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.column.name for part in known}) < len(known):
        return None
    text = f" {word} ".join(part.text for part in known)
    return text, " WHERE " + f" {word.upper()} ".join(part.on() for part in known)


def _condition(found: re.Match[str], table: Table) -> Condition | None:
    column = _column(found["column"], table)
    sign, value = "!=" if found["sign"] == "<>" else found["sign"], found["value"]
    if column is None:
        return None
    if value[0] not in "'\"":
        if column.kind == "date" or found["like"]:
            return None
        shown = number(float(value))
        return Condition(column, f"{sign} {shown}", f"{SAID_OF_NUMBERS[sign]} {shown}")
    text = value[1:-1].replace("''", "'")
    if found["like"]:
        return _likeness(column, text)
    if column.kind == "date":
        is_day = re.fullmatch(r"\d{4}-\d\d-\d\d", text) and sign in SAID_OF_DATES
        return Condition(column, f"{sign} {string(text)}", f"{SAID_OF_DATES[sign]} {text}") if is_day else None
    if column.kind != "word" or sign not in ("=", "!=") or not can_be_quoted(text):
        return None
    return Condition(column, f"{sign} {string(text)}", f'{SAID_OF_NUMBERS[sign]} "{text}"')


def _likeness(column: Column, pattern: str) -> Condition | None:
    part = pattern.strip("%")
    if column.kind != "word" or not can_be_quoted(part) or re.search("[%_]", part):
        return None
    said = {f"{part}%": "begins with", f"%{part}": "ends with", f"%{part}%": "contains"}.get(pattern)
    return Condition(column, f"LIKE {string(pattern)}", f'{said} "{part}"') if said else None


def _table(name: str, scope: Scope) -> Table | None:
    return next((one for one in scope.tables if one.name.casefold() == name.strip("` ").casefold()), None)


def _column(name: str, table: Table) -> Column | None:
    return next((one for one in table.columns if one.name.casefold() == name.strip("` \n").casefold()), None)
