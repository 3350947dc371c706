"""A database and its lexicon in, the pieces of questions out, as SQL and as English: tables, columns, conditions.

Every piece is checked against the rows: a condition keeps some of them and not all, an order has no ties.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal

from sparring.envs.intercode_sql import lexicon
from sparring.envs.intercode_sql.expert import quoted
from sparring.envs.intercode_sql.lexicon import Entity

Kind = Literal["word", "number", "date"]

MAX_WORD = 30
"""Longest text that a question quotes."""

MOST_GROUPED = 0.7
"""A column has at most this share of different values among its rows to be grouped by."""


@dataclass(frozen=True, eq=False)
class Column:
    name: str
    phrase: str
    kind: Kind
    values: tuple[Any, ...]
    """Its values without NULL, sorted, repeated as in the table."""
    has_null: bool

    @property
    def sql(self) -> str:
        return quoted(self.name)

    @cached_property
    def is_group(self) -> bool:
        """Whether rows can be grouped by it: repeated values, two different ones or more, all known."""
        num = len({str(value).casefold() for value in self.values})
        return self.kind == "word" and not self.has_null and 2 <= num <= MOST_GROUPED * len(self.values)

    @cached_property
    def is_key(self) -> bool:
        """Whether it puts the rows into one order: all known, no two alike."""
        return not self.has_null and len({str(value).casefold() for value in self.values}) == len(self.values)

    @cached_property
    def is_constant(self) -> bool:
        return len(set(self.values)) < 2

    @property
    def extremes(self) -> tuple[str, str]:
        """How its last and first values in order are called."""
        return ("latest", "earliest") if self.kind == "date" else ("highest", "lowest")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    name: str
    entity: Entity
    columns: tuple[Column, ...]

    @property
    def sql(self) -> str:
        return quoted(self.name)

    @property
    def one(self) -> str:
        return lexicon.singular(self.entity)

    @property
    def many(self) -> str:
        return lexicon.plural(self.entity)

    @property
    def label(self) -> Column | None:
        return next((column for column in self.columns if column.name == self.entity.label), None)

    def of_kind(self, *kinds: Kind) -> list[Column]:
        return [column for column in self.columns if column.kind in kinds]


@dataclass(frozen=True, slots=True, eq=False)
class ForeignKey:
    child: Table
    column: str
    parent: Table
    target: str
    one: str
    """The parent, seen from a child: `its singer`."""
    many: str
    """The children, seen from a parent: `songs`."""

    def join(self, child: str, parent: str) -> str:
        """The join's condition, on the aliases of the two tables."""
        return f"{child}.{quoted(self.column)} = {parent}.{quoted(self.target)}"


@dataclass(frozen=True, slots=True)
class Condition:
    column: Column
    test: str
    """What follows the column in SQL: `> 30`."""
    predicate: str
    """What follows its phrase in English: "is greater than 30"."""

    @property
    def text(self) -> str:
        """As in "every singer whose age is greater than 30"."""
        return f"whose {self.column.phrase} {self.predicate}"

    def of(self, one: str) -> str:
        """As in "every song for which the age of its singer is greater than 30"."""
        return f"the {self.column.phrase} of {one} {self.predicate}"

    def on(self, alias: str = "") -> str:
        """The condition in SQL, on the table or on its alias."""
        return f"{alias}.{self.column.sql} {self.test}" if alias else f"{self.column.sql} {self.test}"


class Scope:
    """One database, to draw from."""

    def __init__(self, name: str, image: bytes, entities: Mapping[str, Entity]) -> None:
        self.name = name
        self._connection = sqlite3.connect(":memory:")
        self._connection.deserialize(image)
        self.tables = [self._table(table, entity) for table, entity in entities.items()]
        self.foreign_keys = [key for table in self.tables for key in self._foreign_keys(table)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def close(self) -> None:
        self._connection.close()

    def condition(self, draw: Random, table: Table, *, but: Sequence[Column] = (), least: int = 1) -> Condition | None:
        """Draw a condition that keeps `least` rows of the table or more, and not all; None: this draw gives none."""
        columns = [column for column in table.columns if column not in but and not column.is_constant]
        if not columns:
            return None
        condition = draw_condition(draw, draw.choice(columns))
        if condition is None or not self.is_selective(table, condition.on(), least):
            return None
        return condition

    def is_selective(self, table: Table, where: str, least: int = 1) -> bool:
        ((kept, total),) = self.rows(f"SELECT count(*) FILTER (WHERE {where}), count(*) FROM {table.sql}")
        return least <= kept < total

    def _table(self, name: str, entity: Entity) -> Table:
        named: list[tuple[Mapping[str, str], Kind]] = [
            (entity.words, "word"),
            (entity.numbers, "number"),
            (entity.dates, "date"),
        ]
        columns = []
        for phrases, kind in named:
            for column, phrase in phrases.items():
                values = [value for (value,) in self.rows(f"SELECT {quoted(column)} FROM {quoted(name)} ORDER BY 1")]
                known = tuple(value for value in values if value is not None)
                columns.append(Column(column, phrase, kind, known, len(known) < len(values)))
        return Table(name, entity, tuple(columns))

    def _foreign_keys(self, child: Table) -> list[ForeignKey]:
        by_name = {table.name.casefold(): table for table in self.tables}
        keys: dict[tuple[str, str], ForeignKey] = {}
        for _, _, target_table, column, target, *_ in self.rows(f"PRAGMA foreign_key_list({quoted(child.name)})"):
            if parent := by_name.get(target_table.casefold()):
                link = lexicon.LINKS.get((self.name, child.name, column), lexicon.Link())
                one, many = link.one or f"its {parent.one}", link.many or child.many
                keys[column, parent.name] = ForeignKey(child, column, parent, target, one, many)
        return sorted(keys.values(), key=lambda key: (key.column, key.parent.name))


def draw_condition(draw: Random, column: Column) -> Condition | None:
    """Draw a condition on a column, from its values."""
    if column.kind == "number":
        return _on_number(draw, column)
    if column.kind == "date":
        day = str(draw.choice(column.values))[:10]
        word, sign = draw.choice((("after", ">"), ("before", "<")))
        return Condition(column, f"{sign} '{day}'", f"is {word} {day}")
    return _on_word(draw, column)


def _on_number(draw: Random, column: Column) -> Condition:
    low, high = sorted(draw.sample(column.values, 2))
    value = draw.choice((low, high))
    forms = [
        (f"> {number(value)}", f"is greater than {number(value)}"),
        (f"< {number(value)}", f"is less than {number(value)}"),
        (f">= {number(value)}", f"is at least {number(value)}"),
        (f"<= {number(value)}", f"is at most {number(value)}"),
    ]
    if low != high:
        between = f"{number(low)} and {number(high)}"
        forms.append((f"BETWEEN {between.replace('and', 'AND')}", f"is between {between} inclusive"))
    if column.values.count(value) > 1:
        forms.append((f"= {number(value)}", f"is {number(value)}"))
    return Condition(column, *draw.choice(forms))


def _on_word(draw: Random, column: Column) -> Condition | None:
    word = draw.choice(column.values)
    if isinstance(word, int | float):
        return Condition(column, f"= {number(word)}", f"is {number(word)}")
    if not can_be_quoted(word):
        return None
    forms = [(f"= {string(word)}", f'is "{word}"')]
    if column.is_group:
        forms.append((f"!= {string(word)}", f'is not "{word}"'))
    if len(word) > 3 and word[0].isalpha():
        forms.append((f"LIKE {string(word[0] + '%')}", f'begins with "{word[0]}"'))
    part = max(word.split(), key=len)
    if part != word and part.isalpha():
        forms.append((f"LIKE {string('%' + part + '%')}", f'contains "{part}"'))
    return Condition(column, *draw.choice(forms))


def can_be_quoted(word: object) -> bool:
    """Whether a value reads well between quotation marks: short, plain text."""
    return isinstance(word, str) and 0 < len(word) <= MAX_WORD and word.isprintable() and '"' not in word


def number(value: float) -> str:
    """Write a number as a person would: without a fraction that is zero."""
    return str(int(value)) if float(value).is_integer() else str(value)


def string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def listed(parts: Sequence[str]) -> str:
    """Join phrases: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
