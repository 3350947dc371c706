"""The benchmark in, walks out: actions that look around, try and err, and end with the gold query and `submit`.

They are text to learn the world from, before any demonstration: what tables and columns answer, how errors read, how a
wrong query is put right. Make them of training tasks only. The same task, seed and number give the same walk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from sparring.core.types import Task
from sparring.envs.intercode_sql.benchmark import InterCodeSQL
from sparring.envs.intercode_sql.expert import SHOW_TABLES, SUBMIT, look_statements, quoted, tables_read

MAX_ACTIONS = 10
"""The world's turn limit."""

MAX_OBSERVATION = 350

_FROM = re.compile(r"\b(FROM|JOIN) (`[^`]+`|\w+)")
_TAIL = re.compile(r" (?:WHERE|GROUP BY|ORDER BY|HAVING|LIMIT) .*", re.DOTALL)
_COMPARISON = re.compile(r" (>=|<=|>|<) ")
_AGGREGATE = re.compile(r"\b(AVG|MIN|MAX|SUM)\(")
_COLUMN = re.compile(r"(?<=SELECT )(?:T\d\.)?(\w+)(?=,| FROM)")
_OTHERS: Mapping[str, tuple[str, ...]] = {
    ">": ("<", ">="),
    "<": (">", "<="),
    ">=": (">", "<="),
    "<=": ("<", ">="),
    "AVG": ("SUM", "MAX"),
    "MIN": ("MAX", "AVG"),
    "MAX": ("MIN", "AVG"),
    "SUM": ("AVG", "COUNT"),
}


def walks(benchmark: InterCodeSQL, *, seed: int = 0, num_per_task: int = 1) -> Iterator[tuple[Task, list[str]]]:
    """Yield walks over our own training questions, each with its task.

    Raises:
        ValueError: the benchmark's questions are read from files: official ones belong in no corpus of ours.
    """
    if not benchmark.is_generated:
        raise ValueError("walks: only over questions made here; build InterCodeSQL without path.")
    images = benchmark.images
    looks: dict[str, dict[str, str]] = {}
    for task in benchmark.tasks("train"):
        database = task.data["db"]
        if database not in looks:
            looks[database] = look_statements(database, images[database], MAX_OBSERVATION)
        read = tables_read(images[database], task.data["gold"])
        for i in range(num_per_task):
            draw = Random(f"{seed}/{task.id}/{i}")
            yield task, walk(draw, task.data["gold"], read, looks[database])


def walk(draw: Random, gold: str, read: Sequence[str], looks: Mapping[str, str]) -> list[str]:
    """Make one walk to a gold query.

    Args:
        draw: the source of chance.
        gold: the query.
        read: the tables that it reads.
        looks: table → the statement that shows its columns, for each table of the database.
    """
    actions = [SHOW_TABLES] if draw.random() < 0.85 else []
    seen = draw.sample(list(read), len(read))
    others = [table for table in looks if table not in read]
    if others and draw.random() < 0.3:
        seen.insert(draw.randrange(len(seen) + 1), draw.choice(others))
    for table in seen:
        if draw.random() < 0.9:
            actions.append(looks[table])
        if draw.random() < 0.15:
            actions.append(f"SELECT * FROM {quoted(table)} LIMIT {draw.randint(1, 3)}")
    tries = [attempt for attempt in (make(draw, gold) for make in ATTEMPTS) if attempt and attempt != gold]
    num_tries = draw.choices((0, 1, 2), (0.35, 0.45, 0.2))[0]
    actions += draw.sample(tries, min(num_tries, len(tries)))
    return [*actions[: MAX_ACTIONS - 2], gold, SUBMIT]


def without_tail(draw: Random, gold: str) -> str | None:
    """The query without its conditions, order and groups: a look at the rows it draws on."""
    return _TAIL.sub("", gold) if gold.count("SELECT") == 1 else None


def other_comparison(draw: Random, gold: str) -> str | None:
    return _replace_one(draw, gold, _COMPARISON, lambda name: draw.choice(_OTHERS[name]))


def other_aggregate(draw: Random, gold: str) -> str | None:
    return _replace_one(draw, gold, _AGGREGATE, lambda name: draw.choice(_OTHERS[name]))


def other_direction(draw: Random, gold: str) -> str | None:
    if "ORDER BY" not in gold:
        return None
    if " DESC" in gold:
        return gold.replace(" DESC", "")
    return gold.replace(" LIMIT", " DESC LIMIT") if " LIMIT" in gold else f"{gold} DESC"


def other_word(draw: Random, gold: str) -> str | None:
    """A text of the conditions cut short, as if misread."""
    return _replace_one(draw, gold, re.compile(r"= '([^']{3,})'"), lambda text: text[:-1])


def without_distinct(draw: Random, gold: str) -> str | None:
    return gold.replace("SELECT DISTINCT", "SELECT")


def misnamed_table(draw: Random, gold: str) -> str | None:
    """A table as the question may call it: an error that tells to look at the tables."""
    return _replace_one(draw, gold, _FROM, lambda name: f"{name.strip('`').lower()}s", group=2)


def misnamed_column(draw: Random, gold: str) -> str | None:
    """A column that is not there: an error that tells to look at the columns."""
    other = draw.choice(("{}_name", "{}s", "the_{}"))
    return _replace_one(draw, gold, _COLUMN, lambda name: other.format(name.lower()))


ATTEMPTS: tuple[Callable[[Random, str], str | None], ...] = (
    without_tail,
    other_comparison,
    other_aggregate,
    other_direction,
    other_word,
    without_distinct,
    misnamed_table,
    misnamed_column,
)
"""Ways to miss a gold query by little; None where a way doesn't apply."""


def _replace_one(
    draw: Random, text: str, pattern: re.Pattern[str], make: Callable[[str], str], *, group: int = 1
) -> str | None:
    """Replace a group of one of the pattern's matches."""
    matches = list(pattern.finditer(text))
    if not matches:
        return None
    match = draw.choice(matches)
    return text[: match.start(group)] + make(match[group]) + text[match.end(group) :]
