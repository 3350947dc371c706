"""Gather walks over invented databases: thousands of schemas, where names and values can only be copied.

In: a seed. Out: JSONL lines as `gather_worlds.py` writes them. Each database has its own tables, columns, values and
phrases, drawn from pools of words; its questions come from the templates of InterCodeSQL's own ones and are played in
its env. Nothing of the benchmark's databases, or of its questions, is in it.

    python recipes/pretrain/invented_databases.py --out runs/pretrain/invented_sql --num-databases 3700 --seed 0
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from gather_worlds import play
from invented_columns import (
    SHARE_PREFIXED,
    Column,
    Making,
    Style,
    Value,
    coined,
    draw_style,
    make_column,
    make_label,
    pick,
    split_words,
)

from sparring.core.types import Task
from sparring.envs.intercode_sql import dump
from sparring.envs.intercode_sql.benchmark import MAX_OBSERVATION, Images
from sparring.envs.intercode_sql.env import InterCodeSQLEnv
from sparring.envs.intercode_sql.expert import SHOW_TABLES, SUBMIT, look_statements, tables_read
from sparring.envs.intercode_sql.grammar import Scope
from sparring.envs.intercode_sql.lexicon import Entity, plural
from sparring.envs.intercode_sql.official import normal_form
from sparring.envs.intercode_sql.questions import FAMILIES, Question, is_good
from sparring.envs.intercode_sql.walks import MAX_ACTIONS, walk

WEIGHTS: Mapping[str, float] = {
    "project": 0.1,
    "filter": 0.24,
    "aggregate": 0.22,
    "order": 0.15,
    "group": 0.06,
    "having": 0.05,
    "join": 0.3,
    "join-group": 0.1,
    "nested": 0.1,
    "set": 0.09,
}
"""Kind of question → how often it is drawn. Where joins and sets can't be, others come in their place; so they are
drawn more often than they are wanted: about 0.13 and 0.035 of the questions made."""

SHARE_DIRECT = 0.6
"""Share of walks without detours: the tables, the columns of those that the query reads, the query."""

SHARE_NAMES_ONLY = 0.1
"""Share of databases whose columns are looked up in `information_schema`, as where DESC would be cut."""

PLURAL_TWICE = re.compile(r"\b(?:FROM|JOIN) (\w+ss)\b")
"""The table in an attempt at the plural of a plural: no question calls a table so."""

DRAWS = 40
"""Most draws from the templates for a question: most of them give nothing."""

LINKS: Mapping[int, Sequence[Sequence[tuple[int, int]]]] = {
    1: ((),),
    2: (((1, 0),), ((1, 0),), ()),
    3: (((1, 0), (2, 1)), ((2, 0), (2, 1)), ((2, 0), (2, 1)), ((1, 0), (2, 0))),
}
"""Number of tables → ways to link them: child, parent."""


class Field(NamedTuple):
    """A column as it is stored."""

    name: str
    type: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class InventedTable:
    name: str
    entity: Entity
    fields: Sequence[Field]
    """The first is the primary key, which other tables point at."""
    parents: Mapping[str, InventedTable]
    """Column → the table that it points at."""

    @property
    def key(self) -> Field:
        return self.fields[0]


class InventedDatabase(NamedTuple):
    name: str
    image: bytes
    entities: Mapping[str, Entity]
    """What `lexicon.LEXICON` has for a database of the benchmark."""


def invent(draw: Random) -> InventedDatabase:
    """Make a database of one to three tables."""
    style = draw_style(draw)
    num_tables = draw.choices((1, 2, 3), (0.25, 0.45, 0.3))[0]
    links = draw.choice(LINKS[num_tables])
    tables: list[InventedTable] = []
    for index in range(num_tables):
        parents = [tables[parent] for child, parent in links if child == index]
        tables.append(invent_table(draw, style, parents, taken={table.name.casefold() for table in tables}))
    first, second = (coined(draw) if draw.random() < 0.2 else pick(draw, "things", "dealings") for _ in range(2))
    words = "_".join(split_words(draw.choice((first, f"{first} {second}"))))
    name = draw.choice((words, f"{words}_{draw.randint(1, 9)}"))
    (image,) = dump.convert(as_dump(name, tables), name).values()
    return InventedDatabase(name, image, {table.name: table.entity for table in tables})


def invent_table(draw: Random, style: Style, parents: Sequence[InventedTable], *, taken: set[str]) -> InventedTable:
    """Make a table of three to seven columns, its keys among them."""
    pool = draw.choice(("dealings", "dealings", "things", "people") if parents else ("people", "things", "animals"))
    noun, name = _name_table(draw, style, pool, taken)
    num_rows = draw.choice((5, 5, 6, 6, 7, 8, 9, 10, 12)) + (draw.choice((0, 4)) if parents else 0)
    key = style(draw.choice((("id",), ("id",), split_words(f"{noun} id"), split_words(f"{noun.split()[-1]} id"))))
    links = _link_fields(draw, style, key, parents, num_rows)
    used = {key.casefold(), *(link.casefold() for link in links)}
    columns = _columns(Making(draw, num_rows, []), style, used, noun, is_person=pool == "people", num_links=len(links))
    words = {column: made.phrase for column, made in columns.items() if made.role == "words"}
    if draw.random() < 0.1:
        words[key] = "id"
    entity = Entity(
        noun=noun,
        label=next(iter(columns)),
        words=words,
        numbers={column: made.phrase for column, made in columns.items() if made.role == "numbers"},
        dates={column: made.phrase for column, made in columns.items() if made.role == "dates"},
    )
    first = draw.choice((1, 1, 1, 101, 1000))
    own = [Field(column, made.type, made.values) for column, made in columns.items()]
    others = [*links.values(), *own] if draw.random() < 0.3 else [*own, *links.values()]
    fields = [Field(key, "int", range(first, first + num_rows)), *others]
    return InventedTable(name=name, entity=entity, fields=fields, parents=dict(zip(links, parents, strict=True)))


def as_dump(database: str, tables: Sequence[InventedTable]) -> str:
    """Write a database as mysqldump does, for the reader that makes the benchmark's images."""
    parts = [f"CREATE DATABASE `{database}`;"]
    for table in tables:
        lines = [f"`{name}` {type} {'DEFAULT' if i else 'NOT'} NULL" for i, (name, type, _) in enumerate(table.fields)]
        lines.append(f"PRIMARY KEY (`{table.key.name}`)")
        lines += [
            f"CONSTRAINT `{column}_fk` FOREIGN KEY (`{column}`) REFERENCES `{parent.name}` (`{parent.key.name}`)"
            for column, parent in table.parents.items()
        ]
        parts.append(f"CREATE TABLE `{table.name}` (\n  " + ",\n  ".join(lines) + "\n) ENGINE=InnoDB;")
        rows = zip(*(field.values for field in table.fields), strict=True)
        values = ",".join(f"({','.join(map(_literal, row))})" for row in rows)
        parts.append(f"INSERT INTO `{table.name}` VALUES {values};")
    return "\n".join(parts) + "\n"


def draw_questions(draw: Random, scope: Scope, id: str, num: int) -> list[Question]:
    """Draw questions over a database; fewer than `num` where the templates give no more."""
    made: dict[str, Question] = {}
    for _ in range(2 * num):
        if len(made) == num:
            break
        (kind,) = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
        for _ in range(DRAWS):
            draft = draw.choice(FAMILIES[kind])(draw, scope)
            if draft and normal_form(draft.query) not in made and is_good(scope, draft):
                question = Question(f"{id}-{len(made)}", kind, scope.name, draft.question, draft.query)
                made[normal_form(draft.query)] = question
                break
    return list(made.values())


def invented_walks(seed: int, num_databases: int, most_questions: int) -> Iterator[dict[str, Any]]:
    """Yield walks, each as a line of the corpus."""
    for index in range(num_databases):
        draw = Random(f"{seed}/{index}")
        database = invent(draw)
        scope = Scope(database.name, database.image, database.entities)
        questions = draw_questions(draw, scope, f"invented/{seed}/{index}", draw.randint(3, most_questions))
        scope.close()
        env = InterCodeSQLEnv(
            Images({database.name: database.image}), max_observation=MAX_OBSERVATION, is_graded=lambda _: False
        )
        most_text = 0 if draw.random() < SHARE_NAMES_ONLY else MAX_OBSERVATION
        looks = look_statements(database.name, database.image, most_text)
        for id, kind, db, question, gold in questions:
            read = tables_read(database.image, gold)
            actions = walk(draw, gold, read, looks) if draw.random() > SHARE_DIRECT else [gold, SUBMIT]
            actions = [action for action in actions if looks.keys() >= set(PLURAL_TWICE.findall(action))]
            actions = with_looks(actions, [SHOW_TABLES, *(looks[table] for table in read)])
            task = Task(id=id, kind=kind, data={"db": db, "question": question, "gold": gold})
            yield {"task": f"intercode_sql/{id}", "walk": "scripted", "turns": play(env, task, actions)}
        env.close()


def with_looks(actions: Sequence[str], looks: Sequence[str]) -> list[str]:
    """Put the looks that a walk left out at its start: nobody can guess an invented name. Too long: looks alone."""
    missing = [look for look in looks if look not in actions]
    if SHOW_TABLES not in missing and missing:
        missing = [SHOW_TABLES, *missing]
        actions = [action for action in actions if action != SHOW_TABLES]
    made = [*missing, *actions]
    return made if len(made) <= MAX_ACTIONS else [*looks, *actions[-2:]]


def _name_table(draw: Random, style: Style, pool: str, taken: set[str]) -> tuple[str, str]:
    """Draw what a row is called, and the table's name."""
    while True:
        head = coined(draw) if draw.random() < 0.06 else pick(draw, pool)
        noun = f"{pick(draw, 'modifiers')} {head}" if " " not in head and draw.random() < 0.35 else head
        words = split_words(draw.choice((noun, plural(Entity(noun=noun, label="")))))
        if draw.random() < 0.06:
            words = (*words, draw.choice(("list", "data", "records", "log", "catalog")))
        if style(words).casefold() not in taken:
            return noun, style(words)


def _link_fields(
    draw: Random, style: Style, key: str, parents: Sequence[InventedTable], num_rows: int
) -> dict[str, Field]:
    """Make the columns that point at parents: at some of them often, at some never."""
    fields: dict[str, Field] = {}
    for parent in parents:
        noun = parent.entity.noun
        names = [style(split_words(phrase)) for phrase in (f"{noun} id", f"{noun.split()[-1]} id", noun)]
        names.append(style(split_words(f"{parent.name} id")))
        used = {key.casefold(), *map(str.casefold, fields)}
        name = next(name for name in (draw.choice(names), *names, f"{names[0]}_ref") if name.casefold() not in used)
        known = draw.sample(parent.key.values, max(2, round(len(parent.key.values) * draw.choice((0.5, 0.7, 0.9, 1)))))
        values = draw.choices(known, [draw.choice((1, 2, 4)) for _ in known], k=num_rows)
        fields[name] = Field(name, "int", values)
    return fields


def _columns(
    making: Making, style: Style, used: set[str], noun: str, *, is_person: bool, num_links: int
) -> dict[str, Column]:
    """Make a table's own columns, the label first; no two names and no two phrases are alike."""
    draw = making.draw
    is_prefixed = draw.random() < SHARE_PREFIXED
    columns: dict[str, Column] = {}
    num = max(2, draw.choices((2, 3, 4, 5, 6), (0.15, 0.35, 0.3, 0.15, 0.05))[0] - num_links)
    while len(columns) < num:
        column = make_column(making) if columns else make_label(making, is_person=is_person)
        is_named = not columns and draw.random() < 0.25 and column.phrase == "name"
        name = style((*(split_words(noun)[-1:] if is_prefixed or is_named else ()), *column.words))
        if name.casefold() not in used and not any(map(column.is_confused_with, columns.values())):
            columns[name] = column
            used.add(name.casefold())
    return columns


def _literal(value: Value) -> str:
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the walks")
    parser.add_argument("--num-databases", type=int, default=3700)
    parser.add_argument("--most-questions", type=int, default=6, help="most questions of a database; the least is 3")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    num, start = 0, time.process_time()
    with (args.out / f"walks-{args.seed}.jsonl").open("w", encoding="utf-8") as file:
        for line in invented_walks(args.seed, args.num_databases, args.most_questions):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            num += 1
    print(f"{num} walks, {num / (time.process_time() - start):.0f} per CPU-second: {args.out}")


if __name__ == "__main__":
    main()
