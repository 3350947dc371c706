"""How the 20 databases' tables, columns and links are called in English: what our questions are made of.

Only what stands here is asked about. Columns are left out that hold no data, filler text, or numbers kept as text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What a row of a table is, and how its columns are called."""

    noun: str
    """`singer`, or `person|people` where the plural is irregular."""
    label: str
    """The column that names a row."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Columns of text and codes: column → phrase, as in "the … of every singer"."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    dates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a foreign key reads from both ends."""

    one: str = ""
    """The row it points at, as in "the name of …"; empty: `its` and that row's noun."""
    many: str = ""
    """The rows that point at one, as in "with at least two …"; empty: their plural."""


_DATA: Mapping[str, Any] = tomllib.loads(Path(__file__).with_name("lexicon.toml").read_text(encoding="utf-8"))

LEXICON: Mapping[str, Mapping[str, Entity]] = {
    database: {table: Entity(**fields) for table, fields in tables.items()}
    for database, tables in _DATA["entities"].items()
}
"""Database → table → what a row of it is."""
LINKS: Mapping[tuple[str, str, str], Link] = {
    (link["key"][0], link["key"][1], link["key"][2]): Link(one=link.get("one", ""), many=link.get("many", ""))
    for link in _DATA["links"]
}
"""(database, table, column) → how the foreign key reads, where its default does not."""
SUMMABLE = frozenset(_DATA["summable"])
"""Phrases of numbers whose total means something."""


def singular(entity: Entity) -> str:
    return entity.noun.partition("|")[0]


def plural(entity: Entity) -> str:
    """Return the noun's plural: the given one, or by rule."""
    one, _, many = entity.noun.partition("|")
    if many:
        return many
    if one.endswith("y") and one[-2] not in "aeiou":
        return one[:-1] + "ies"
    if one.endswith(("series", "data")):
        return one
    return one + ("es" if one.endswith(("s", "x", "ch", "sh")) else "s")
