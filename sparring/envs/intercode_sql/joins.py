"""Templates along foreign keys: joins, counts of children, and parents without any."""

from __future__ import annotations

from random import Random

from sparring.envs.intercode_sql.drafts import (
    AGGREGATES,
    Draft,
    aggregates_for,
    draw_columns,
    draw_link,
    draw_one,
    sql_of,
    text_of,
)
from sparring.envs.intercode_sql.expert import quoted
from sparring.envs.intercode_sql.grammar import ForeignKey, Scope


def join_show(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    if not link or not link.child.columns or not link.parent.columns:
        return None
    left, right = draw_columns(draw, link.child, 1)[0], draw_columns(draw, link.parent, 1)[0]
    return Draft(
        f"Show the {left.phrase} of every {link.child.one} together with the {right.phrase} of {link.one}.",
        f"SELECT T1.{left.sql}, T2.{right.sql} FROM {link.child.sql} AS T1 JOIN {link.parent.sql} AS T2 "
        f"ON {link.join('T1', 'T2')}",
    )


def join_two_parents(draw: Random, scope: Scope) -> Draft | None:
    first, second = draw_link(draw, scope), draw_link(draw, scope)
    if not first or not second or first is second or first.child is not second.child or first.column == second.column:
        return None
    if not first.parent.label or not second.parent.label:
        return None
    left, right = first.parent.label, second.parent.label
    return Draft(
        f"For every {first.child.one}, show the {left.phrase} of {first.one} and the {right.phrase} of {second.one}.",
        f"SELECT T2.{left.sql}, T3.{right.sql} FROM {first.child.sql} AS T1 JOIN {first.parent.sql} AS T2 "
        f"ON {first.join('T1', 'T2')} JOIN {second.parent.sql} AS T3 ON {second.join('T1', 'T3')}",
    )


def join_filter_parent(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    condition = link and scope.condition(draw, link.parent)
    if not link or not condition:
        return None
    columns = draw_columns(draw, link.child, draw.randint(1, 2))
    is_count = not columns or draw.random() < 0.25
    such = f"for which {condition.of(link.one)}"
    source = (
        f"FROM {link.child.sql} AS T1 JOIN {link.parent.sql} AS T2 ON {link.join('T1', 'T2')} "
        f"WHERE {condition.on('T2')}"
    )
    if is_count:
        return Draft(f"How many {link.child.many} are there {such}?", f"SELECT COUNT(*) {source}")
    return Draft(
        f"Show the {text_of(columns)} of every {link.child.one} {such}.", f"SELECT {sql_of(columns, 'T1')} {source}"
    )


def join_grandparent(draw: Random, scope: Scope) -> Draft | None:
    link, above = draw_link(draw, scope), draw_link(draw, scope)
    if not link or not above or link.parent is not above.child or above.parent is link.child:
        return None
    if not link.child.columns or not above.parent.label or link is above:
        return None
    left, right = draw_columns(draw, link.child, 1)[0], above.parent.label
    return Draft(
        f"Show the {left.phrase} of every {link.child.one} together with the {right.phrase} of the {above.parent.one} "
        f"that {link.one} belongs to.",
        f"SELECT T1.{left.sql}, T3.{right.sql} FROM {link.child.sql} AS T1 JOIN {link.parent.sql} AS T2 "
        f"ON {link.join('T1', 'T2')} JOIN {above.parent.sql} AS T3 ON {above.join('T2', 'T3')}",
    )


def join_distinct_parent(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    condition = link and scope.condition(draw, link.child)
    if not link or not condition or not link.parent.label or link.many != link.child.many:
        return None
    label = link.parent.label
    return Draft(
        f"Show the {label.phrase} of every {link.parent.one} that has at least one {link.child.one} {condition.text}, "
        f"each {label.phrase} once.",
        f"SELECT DISTINCT T1.{label.sql} FROM {link.parent.sql} AS T1 JOIN {link.child.sql} AS T2 "
        f"ON {link.join('T2', 'T1')} WHERE {condition.on('T2')}",
    )


def join_count(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    if not link or not link.parent.label:
        return None
    label = link.parent.label
    return Draft(
        f"For every {link.parent.one} with {link.many}, show its {label.phrase} and the number of {link.many}.",
        f"SELECT T1.{label.sql}, COUNT(*) {_grouped(link)}",
    )


def join_count_top(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    if not link or not link.parent.label:
        return None
    counts = sorted(n for (n,) in scope.rows(f"SELECT COUNT(*) {_grouped(link)}"))
    if len(counts) < 2 or counts[-1] == counts[-2]:
        return None
    columns = draw_columns(draw, link.parent, 1)
    return Draft(
        f"Show the {text_of(columns)} of the {link.parent.one} with the most {link.many}.",
        f"SELECT {sql_of(columns, 'T1')} {_grouped(link)} ORDER BY COUNT(*) DESC LIMIT 1",
    )


def join_having(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    if not link or not link.parent.label:
        return None
    counts = [n for (n,) in scope.rows(f"SELECT COUNT(*) {_grouped(link)}")]
    least, label = draw.choice(counts) if counts else 0, link.parent.label
    if least < 2:
        return None
    return Draft(
        f"Show the {label.phrase} of every {link.parent.one} with at least {least} {link.many}.",
        f"SELECT T1.{label.sql} {_grouped(link)} HAVING COUNT(*) >= {least}",
    )


def join_aggregate(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    column = link and draw_one(draw, link.child.of_kind("number"))
    if not link or not column or not link.parent.label or link.many != link.child.many:
        return None
    label, name = link.parent.label, draw.choice(aggregates_for(column))
    return Draft(
        f"For every {link.parent.one} with {link.many}, show its {label.phrase} and the {AGGREGATES[name]} "
        f"{column.phrase} of its {link.many}.",
        f"SELECT T1.{label.sql}, {name}(T2.{column.sql}) {_grouped(link)}",
    )


def _grouped(link: ForeignKey) -> str:
    return (
        f"FROM {link.parent.sql} AS T1 JOIN {link.child.sql} AS T2 ON {link.join('T2', 'T1')} "
        f"GROUP BY T1.{quoted(link.target)}"
    )


def nested_without(draw: Random, scope: Scope) -> Draft | None:
    link = draw_link(draw, scope)
    if not link or not link.parent.columns or _has_null(scope, link):
        return None
    columns = draw_columns(draw, link.parent, 1)
    source = (
        f"FROM {link.parent.sql} WHERE {quoted(link.target)} NOT IN "
        f"(SELECT {quoted(link.column)} FROM {link.child.sql})"
    )
    if draw.random() < 0.3:
        return Draft(f"How many {link.parent.many} have no {link.many}?", f"SELECT COUNT(*) {source}")
    return Draft(
        f"Show the {text_of(columns)} of every {link.parent.one} that has no {link.many}.",
        f"SELECT {sql_of(columns)} {source}",
    )


def _has_null(scope: Scope, link: ForeignKey) -> bool:
    """Whether some child points nowhere: NOT IN would then never be true."""
    return bool(scope.rows(f"SELECT 1 FROM {link.child.sql} WHERE {quoted(link.column)} IS NULL LIMIT 1"))
