"""What templates draw from a database, and what they give: a question and its gold query.

A template is a function `(draw, scope) → Draft | None`. It draws tables, columns and values, and returns None as soon
as a draw doesn't fit; the caller draws again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from sparring.envs.intercode_sql.grammar import Column, ForeignKey, Scope, Table, listed
from sparring.envs.intercode_sql.lexicon import SUMMABLE


@dataclass(frozen=True, slots=True)
class Draft:
    question: str
    query: str


Template = Callable[[Random, Scope], Draft | None]

AGGREGATES: Mapping[str, str] = {"AVG": "average", "MIN": "lowest", "MAX": "highest", "SUM": "total"}


def draw_table(draw: Random, scope: Scope, *, least: int = 1) -> Table | None:
    """Draw a table with at least so many columns to ask for."""
    tables = [table for table in scope.tables if len(table.columns) >= least]
    return draw.choice(tables) if tables else None


def draw_columns(draw: Random, table: Table, num: int, *, but: Sequence[Column] = ()) -> list[Column]:
    """Draw columns to show, the label more often than the others; fewer than `num` where there are not so many."""
    left = [column for column in table.columns if column not in but]
    chosen = []
    if table.label in left and draw.random() < 0.5:
        chosen.append(table.label)
        left.remove(table.label)
    return chosen + draw.sample(left, min(num - len(chosen), len(left)))


def draw_one(draw: Random, columns: Sequence[Column]) -> Column | None:
    return draw.choice(columns) if columns else None


def draw_key(draw: Random, table: Table) -> Column | None:
    """Draw a column that orders the rows without ties."""
    return draw_one(draw, [column for column in table.of_kind("number", "date") if column.is_key])


def draw_link(draw: Random, scope: Scope) -> ForeignKey | None:
    return draw.choice(scope.foreign_keys) if scope.foreign_keys else None


def aggregates_for(column: Column) -> list[str]:
    """Return the aggregates that make sense for a column: no sum of ages, no average of years' ranks."""
    return [name for name in AGGREGATES if name != "SUM" or column.phrase in SUMMABLE]


def sql_of(columns: Sequence[Column], alias: str = "") -> str:
    return ", ".join(f"{alias}.{column.sql}" if alias else column.sql for column in columns)


def text_of(columns: Sequence[Column]) -> str:
    return listed([column.phrase for column in columns])
