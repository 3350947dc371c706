"""Databases in, our own questions out: drawn from the templates, run, sifted, and split by query skeleton and database.

No gold query, and no pair of skeleton and database, is in two splits: what is tested was not seen in another wording or
with another value.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.intercode_sql import drafts, grammar, joins, lexicon, tables
from sparring.envs.intercode_sql.drafts import Draft, Template
from sparring.envs.intercode_sql.dump import cache_dir, write_cache
from sparring.envs.intercode_sql.grammar import Scope
from sparring.envs.intercode_sql.official import SHARES, normal_form

DRAWS = 40
"""Draws from each template for each database. Most give nothing, or what another gave already."""

MOST_ALIKE = 4
"""Most questions of one skeleton over one database."""

MAX_ROWS = 100
"""Most rows of an answer."""

_TOKEN = re.compile(r"'(?:[^']|'')*'|`[^`]*`|[A-Za-z_]\w*(?:\.(?:`[^`]*`|\w+))?|\d+(?:\.\d+)?|[<>!=]+|[(),*]")
_KEYWORD = re.compile(
    "SELECT|DISTINCT|FROM|WHERE|AND|OR|NOT|IN|LIKE|BETWEEN|JOIN|ON|AS|GROUP|ORDER|BY|HAVING|DESC|LIMIT|COUNT|"
    "INTERSECT|EXCEPT|UNION"
)
_AGGREGATES = frozenset({"AVG", "MIN", "MAX", "SUM"})


class Question(NamedTuple):
    id: str
    kind: str
    db: str
    question: str
    gold: str


FAMILIES: Mapping[str, tuple[Template, ...]] = {
    "project": (tables.project, tables.project_distinct),
    "filter": (tables.filter_one, tables.filter_two),
    "aggregate": (
        tables.count_all,
        tables.count_some,
        tables.count_distinct,
        tables.aggregate_all,
        tables.aggregate_some,
    ),
    "order": (tables.order_all, tables.order_top, tables.order_top_of_some),
    "group": (tables.group_count, tables.group_aggregate, tables.group_top),
    "having": (tables.having_count, tables.having_aggregate),
    "join": (
        joins.join_show,
        joins.join_two_parents,
        joins.join_filter_parent,
        joins.join_grandparent,
        joins.join_distinct_parent,
    ),
    "join-group": (joins.join_count, joins.join_count_top, joins.join_having, joins.join_aggregate),
    "nested": (tables.nested_average, tables.nested_extreme_of_group, joins.nested_without, tables.nested_same),
    "set": (tables.set_intersect, tables.set_except, tables.set_union),
}
"""Kind of question → its templates."""


def make_splits(images: Mapping[str, bytes]) -> dict[str, list[Task]]:
    """Return split → tasks; the same for the same databases and code, from the cache where they were made before."""
    known = {name: image for name, image in images.items() if name in lexicon.LEXICON}
    digest = hashlib.sha256()
    for name, image in sorted(known.items()):
        digest.update(name.encode() + image)
    for module in (__file__, drafts.__file__, grammar.__file__, joins.__file__, lexicon.__file__, tables.__file__):
        digest.update(Path(str(module)).read_bytes())
    folder = cache_dir() / f"questions-{digest.hexdigest()[:16]}"
    file = folder / "questions.json"
    if file.is_file():
        recorded = json.loads(file.read_text(encoding="utf-8"))
    else:
        recorded = split_questions(make_questions(known))
        write_cache(folder, {file.name: json.dumps(recorded).encode()})
    return {
        split: [
            Task(id=id, kind=kind, data={"db": db, "question": question, "gold": gold})
            for id, kind, db, question, gold in rows
        ]
        for split, rows in recorded.items()
    }


def make_questions(images: Mapping[str, bytes]) -> list[Question]:
    """Draw questions over databases, each query and each question once.

    Raises:
        DataError: a database is called like one of the benchmark's and is another.
    """
    made: list[Question] = []
    seen: set[str] = set()
    num_alike: Counter[tuple[str, str]] = Counter()
    for name, image in sorted(images.items()):
        try:
            scope = Scope(name, image, lexicon.LEXICON[name])
        except sqlite3.OperationalError as error:
            raise DataError(
                f"database {name}: is not the benchmark's ({error}), so there are no questions of ours about it. "
                f"Name a file of yours: env.options.path."
            ) from None
        for kind, draft in _drafts(scope):
            query, question = normal_form(draft.query), f"{name}: {draft.question}"
            alike = (skeleton(draft.query), name)
            if query in seen or question in seen or num_alike[alike] >= MOST_ALIKE or not is_good(scope, draft):
                continue
            seen |= {query, question}
            num_alike[alike] += 1
            id = f"{kind}/{name}/{hashlib.sha256(draft.query.encode()).hexdigest()[:8]}"
            made.append(Question(id, kind, name, draft.question, draft.query))
        scope.close()
    return made


def _drafts(scope: Scope) -> Iterator[tuple[str, Draft]]:
    """Draw from each template of each family in turn; each draw has a source of chance of its own."""
    for kind, family in FAMILIES.items():
        for template in family:
            for i in range(DRAWS):
                draft = template(Random(f"{scope.name}/{template.__name__}/{i}"), scope)
                if draft is not None:
                    yield kind, draft


def is_good(scope: Scope, draft: Draft) -> bool:
    """Whether the answer says something: some rows and not too many, not all alike, not a lone 0 or NULL."""
    try:
        rows = scope.rows(draft.query)
    except sqlite3.Error as error:
        raise AssertionError(f"{scope.name}: {draft.query}: {error}") from error
    if not 1 <= len(rows) <= MAX_ROWS:
        return False
    if len(rows) == 1:
        return any(value not in (None, 0, "") for value in rows[0])
    return len(set(rows)) > 1


def skeleton(query: str) -> str:
    """Return what is left of a query without its names, values, and choices of comparison and aggregate."""
    parts = []
    for token in _TOKEN.findall(query):
        if _KEYWORD.fullmatch(token) or token in "(),*":
            parts.append("" if token == "DESC" else token)
        elif token in _AGGREGATES:
            parts.append("AGG")
        elif token[0] in "<>!=":
            parts.append("=" if token == "=" else "<>")
        else:
            parts.append("_")
    return " ".join(part for part in parts if part)


def split_questions(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Split by skeleton and database, kind by kind, in the order of hashes: each kind is in each split."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((skeleton(question.gold), question.db), []).append(question)
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for group, members in groups.items():
        by_kind.setdefault(members[0].kind, []).append(group)
    splits: dict[str, list[Question]] = {split: [] for split in SHARES}
    for keys in by_kind.values():
        keys.sort(key=lambda key: hashlib.sha256("/".join(key).encode()).digest())
        reached, start = 0.0, 0
        for split, share in SHARES.items():
            reached += share
            end = round(reached * len(keys))
            splits[split] += [question for key in keys[start:end] for question in groups[key]]
            start = end
    return {split: sorted(members) for split, members in splits.items()}
