"""Templates over one table: projection, filters, aggregates, order, groups, nesting and set operations."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from sparring.envs.intercode_sql.drafts import (
    AGGREGATES,
    Draft,
    aggregates_for,
    draw_columns,
    draw_key,
    draw_one,
    draw_table,
    sql_of,
    text_of,
)
from sparring.envs.intercode_sql.grammar import Scope, can_be_quoted, listed, number, string


def project(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    if table is None:
        return None
    columns = draw_columns(draw, table, draw.randint(1, 3))
    return Draft(f"Show the {text_of(columns)} of every {table.one}.", f"SELECT {sql_of(columns)} FROM {table.sql}")


def project_distinct(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    column = table and draw_one(draw, [column for column in table.columns if column.is_group])
    if not table or not column:
        return None
    return Draft(
        f"Show the different values of the {column.phrase} of the {table.many}, each once.",
        f"SELECT DISTINCT {column.sql} FROM {table.sql}",
    )


def filter_one(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    condition = table and scope.condition(draw, table)
    if not table or not condition:
        return None
    columns = draw_columns(draw, table, draw.randint(1, 2), but=[condition.column])
    return Draft(
        f"Show the {text_of(columns)} of every {table.one} {condition.text}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} WHERE {condition.on()}",
    )


def filter_two(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=3)
    first = table and scope.condition(draw, table)
    second = table and first and scope.condition(draw, table, but=[first.column])
    if not table or not first or not second:
        return None
    word = draw.choice(("and", "or"))
    where = f"{first.on()} {word.upper()} {second.on()}"
    columns = draw_columns(draw, table, 1, but=[first.column, second.column])
    if not scope.is_selective(table, where) or not columns:
        return None
    return Draft(
        f"Show the {text_of(columns)} of every {table.one} {first.text} {word} {second.text}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} WHERE {where}",
    )


def count_all(draw: Random, scope: Scope) -> Draft | None:
    table = draw.choice(scope.tables)
    return Draft(f"How many {table.many} are there?", f"SELECT COUNT(*) FROM {table.sql}")


def count_some(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    condition = table and scope.condition(draw, table)
    if not table or not condition:
        return None
    return Draft(
        f"How many {table.many} are there {condition.text}?",
        f"SELECT COUNT(*) FROM {table.sql} WHERE {condition.on()}",
    )


def count_distinct(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    column = table and draw_one(
        draw, [column for column in table.columns if not column.is_key and not column.is_constant]
    )
    if not table or not column:
        return None
    return Draft(
        f"How many different values does the {column.phrase} of the {table.many} have?",
        f"SELECT COUNT(DISTINCT {column.sql}) FROM {table.sql}",
    )


def aggregate_all(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    column = table and draw_one(draw, table.of_kind("number"))
    if not table or not column:
        return None
    names = draw.sample(aggregates_for(column), draw.randint(1, 2))
    return Draft(
        f"What is the {listed([AGGREGATES[name] for name in names])} {column.phrase} of all {table.many}?",
        f"SELECT {', '.join(f'{name}({column.sql})' for name in names)} FROM {table.sql}",
    )


def aggregate_some(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    column = table and draw_one(draw, table.of_kind("number"))
    condition = table and column and scope.condition(draw, table, but=[column], least=2)
    if not table or not column or not condition:
        return None
    name = draw.choice(aggregates_for(column))
    return Draft(
        f"What is the {AGGREGATES[name]} {column.phrase} of the {table.many} {condition.text}?",
        f"SELECT {name}({column.sql}) FROM {table.sql} WHERE {condition.on()}",
    )


def order_all(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    key = table and draw_one(draw, [column for column in table.columns if column.is_key])
    if not table or not key:
        return None
    columns = draw_columns(draw, table, draw.randint(1, 2), but=[] if draw.random() < 0.3 else [key])
    is_down = draw.random() < 0.5
    if key.kind == "word":
        how = f"in {'reverse ' if is_down else ''}alphabetical order of the {key.phrase}"
        if not all(isinstance(value, str) and value[:1].isascii() for value in key.values):
            return None
    else:
        last, first = key.extremes
        how = f"ordered by the {key.phrase} from {f'{last} to {first}' if is_down else f'{first} to {last}'}"
    return Draft(
        f"Show the {text_of(columns)} of every {table.one}, {how}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} ORDER BY {key.sql}{' DESC' if is_down else ''}",
    )


def order_top(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    key = table and draw_key(draw, table)
    if not table or not key or len(key.values) < 4:
        return None
    columns = draw_columns(draw, table, draw.randint(1, 2), but=[key])
    num, is_down = draw.choice((1, 1, 2, 3)), draw.random() < 0.5
    extreme = key.extremes[0 if is_down else 1]
    whose = f"the {table.one}" if num == 1 else f"the {num} {table.many}"
    order = "" if num == 1 else f", starting with the {extreme}"
    return Draft(
        f"Show the {text_of(columns)} of {whose} with the {extreme} {key.phrase}{order}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} ORDER BY {key.sql}{' DESC' if is_down else ''} LIMIT {num}",
    )


def order_top_of_some(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=3)
    key = table and draw_key(draw, table)
    condition = table and key and scope.condition(draw, table, but=[key], least=2)
    if not table or not key or not condition:
        return None
    columns = draw_columns(draw, table, 1, but=[key, condition.column])
    is_down = draw.random() < 0.5
    if not columns:
        return None
    return Draft(
        f"Of the {table.many} {condition.text}, show the {text_of(columns)} of the one with the "
        f"{key.extremes[0 if is_down else 1]} {key.phrase}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} WHERE {condition.on()} "
        f"ORDER BY {key.sql}{' DESC' if is_down else ''} LIMIT 1",
    )


def group_count(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    if not table or not group:
        return None
    condition = scope.condition(draw, table, but=[group], least=3) if draw.random() < 0.4 else None
    which = f" {condition.text}" if condition else ""
    where = f" WHERE {condition.on()}" if condition else ""
    return Draft(
        f"For each {group.phrase} of the {table.many}{which}, show the {group.phrase} and the number of {table.many}.",
        f"SELECT {group.sql}, COUNT(*) FROM {table.sql}{where} GROUP BY {group.sql}",
    )


def group_aggregate(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    column = table and draw_one(draw, table.of_kind("number"))
    if not table or not group or not column:
        return None
    name = draw.choice(aggregates_for(column))
    return Draft(
        f"For each {group.phrase} of the {table.many}, show the {group.phrase} and the {AGGREGATES[name]} "
        f"{column.phrase}.",
        f"SELECT {group.sql}, {name}({column.sql}) FROM {table.sql} GROUP BY {group.sql}",
    )


def group_top(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    if not table or not group:
        return None
    counts = sorted(n for (n,) in scope.rows(f"SELECT COUNT(*) FROM {table.sql} GROUP BY {group.sql}"))
    is_down = draw.random() < 0.7
    if counts[-1] == counts[-2] if is_down else counts[0] == counts[1]:
        return None
    return Draft(
        f"Which {group.phrase} is the {'most' if is_down else 'least'} frequent among the {table.many}?",
        f"SELECT {group.sql} FROM {table.sql} GROUP BY {group.sql} ORDER BY COUNT(*){' DESC' if is_down else ''} "
        f"LIMIT 1",
    )


def having_count(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    if not table or not group:
        return None
    least = draw.choice([n for (n,) in scope.rows(f"SELECT COUNT(*) FROM {table.sql} GROUP BY {group.sql}")])
    has_count = draw.random() < 0.4
    if least < 2:
        return None
    return Draft(
        f"Which values of the {group.phrase} occur for at least {least} {table.many}?"
        + (f" Show the {group.phrase} and the number of {table.many}." if has_count else ""),
        f"SELECT {group.sql}{', COUNT(*)' if has_count else ''} FROM {table.sql} GROUP BY {group.sql} "
        f"HAVING COUNT(*) >= {least}",
    )


def having_aggregate(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    column = table and draw_one(draw, table.of_kind("number"))
    if not table or not group or not column or column.is_constant:
        return None
    name = draw.choice(("AVG", "MAX", "MIN"))
    bound, is_above = number(draw.choice(column.values)), draw.random() < 0.5
    return Draft(
        f"For which values of the {group.phrase} is the {AGGREGATES[name]} {column.phrase} of the {table.many} "
        f"{'greater' if is_above else 'less'} than {bound}?",
        f"SELECT {group.sql} FROM {table.sql} GROUP BY {group.sql} "
        f"HAVING {name}({column.sql}) {'>' if is_above else '<'} {bound}",
    )


def nested_average(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    column = table and draw_one(draw, table.of_kind("number"))
    if not table or not column:
        return None
    columns = draw_columns(draw, table, draw.randint(1, 2), but=[column])
    is_above, is_count = draw.random() < 0.5, draw.random() < 0.3
    which = (
        f"whose {column.phrase} is {'above' if is_above else 'below'} the average {column.phrase} of all {table.many}"
    )
    source = (
        f"FROM {table.sql} WHERE {column.sql} {'>' if is_above else '<'} (SELECT AVG({column.sql}) FROM {table.sql})"
    )
    if is_count:
        return Draft(f"How many {table.many} are there {which}?", f"SELECT COUNT(*) {source}")
    return Draft(f"Show the {text_of(columns)} of every {table.one} {which}.", f"SELECT {sql_of(columns)} {source}")


def nested_extreme_of_group(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=3)
    column = table and draw_one(draw, table.of_kind("number"))
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    if not table or not column or not group:
        return None
    condition = scope.condition(draw, table, but=[other for other in table.columns if other is not group])
    columns = draw_columns(draw, table, 1, but=[column])
    is_above = draw.random() < 0.5
    if not condition or not columns:
        return None
    name = "MAX" if is_above else "MIN"
    return Draft(
        f"Show the {text_of(columns)} of every {table.one} whose {column.phrase} is "
        f"{'greater' if is_above else 'less'} than the {AGGREGATES[name]} {column.phrase} of the {table.many} "
        f"{condition.text}.",
        f"SELECT {sql_of(columns)} FROM {table.sql} WHERE {column.sql} {'>' if is_above else '<'} "
        f"(SELECT {name}({column.sql}) FROM {table.sql} WHERE {condition.on()})",
    )


def nested_same(draw: Random, scope: Scope) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    group = table and draw_one(draw, [column for column in table.columns if column.is_group])
    label = table and table.label
    if not table or not group or not label or not label.is_key or label is group:
        return None
    name = draw.choice(label.values)
    if not can_be_quoted(name):
        return None
    return Draft(
        f'Show the {label.phrase} of every {table.one} that has the same {group.phrase} as the {table.one} "{name}", '
        f"that one included.",
        f"SELECT {label.sql} FROM {table.sql} WHERE {group.sql} = "
        f"(SELECT {group.sql} FROM {table.sql} WHERE {label.sql} = {string(name)})",
    )


def set_intersect(draw: Random, scope: Scope) -> Draft | None:
    return _set_operation(draw, scope, "INTERSECT")


def set_except(draw: Random, scope: Scope) -> Draft | None:
    return _set_operation(draw, scope, "EXCEPT")


def set_union(draw: Random, scope: Scope) -> Draft | None:
    return _set_operation(draw, scope, "UNION")


SET_QUESTIONS: Mapping[str, str] = {
    "INTERSECT": "Which values of the {value} occur both among the {many} {first} and among the {many} {second}?",
    "EXCEPT": "Which values of the {value} occur among the {many} {first} but not among the {many} {second}?",
    "UNION": "Which values of the {value} occur among the {many} {first} or among the {many} {second}? Show each once.",
}


def _set_operation(draw: Random, scope: Scope, operation: str) -> Draft | None:
    table = draw_table(draw, scope, least=2)
    value = table and draw_one(draw, [column for column in table.columns if column.is_group])
    first = table and value and scope.condition(draw, table, but=[value], least=2)
    second = table and value and scope.condition(draw, table, but=[value], least=2)
    if not table or not value or not first or not second or first.on() == second.on():
        return None
    parts = [f"SELECT {value.sql} FROM {table.sql} WHERE {condition.on()}" for condition in (first, second)]
    kept, other = (set(scope.rows(part)) for part in parts)
    if operation == "INTERSECT" and (kept <= other or other <= kept):  # else one half would do
        return None
    if operation == "EXCEPT" and not kept & other:
        return None
    if operation == "UNION" and (kept <= other or other <= kept):
        return None
    question = SET_QUESTIONS[operation].format(
        value=value.phrase, many=table.many, first=first.text, second=second.text
    )
    return Draft(question, f" {operation} ".join(parts))
