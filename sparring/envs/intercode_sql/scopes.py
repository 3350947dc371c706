"""What the names in one SELECT stand for: its sources, their columns, and which columns determine which.

Source: MySQL 8.0 Reference Manual, 14.19.3 (functional dependence). Deviates: what a derived table without groups, a
view or a UNION determines is not worked out; such sources are *open*, and nothing is said against their columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from sparring.envs.intercode_sql.schema import Schema

Column = tuple[str, str]
"""A source's name and a column's, both in lower case."""


@dataclass(slots=True)
class Source:
    """One item of a FROM clause."""

    name: str
    """The alias, or the table's name, as written."""
    columns: tuple[str, ...] | None = None
    """Its columns as they are spelled; None: not known."""
    keys: list[frozenset[str]] = field(default_factory=list)
    """Sets of columns, in lower case, that determine all others. An empty set: it has one row."""
    is_derived: bool = True
    """Whether it is a query: messages then give its name without the database's."""
    is_open: bool = False
    """Whether its columns may be determined in ways that are not followed here."""

    def spelled(self, column: str) -> str | None:
        """Return how a column is spelled; None: there is none of that name."""
        return next((name for name in self.columns or () if name.casefold() == column.casefold()), None)


class Scope:
    """One SELECT's sources, within those of the queries around it."""

    def __init__(self, select: exp.Select, schema: Schema) -> None:
        self.select = select
        self._tables = {table.name.casefold(): table for table in schema}
        self.sources = [self._source(item) for item in self._items()]
        self.is_known = all(source.columns is not None for source in self.sources)

    def _items(self) -> Iterator[exp.Expr]:
        source = self.select.args.get("from_")
        if source is not None:
            yield source.this
        for join in self.select.args.get("joins") or ():
            yield join.this

    def _source(self, item: exp.Expr) -> Source:
        name = item.alias_or_name
        if isinstance(item, exp.Table):
            with_query = _common_table(item) if not item.args.get("db") else None
            if with_query is not None:
                return _derived(name, with_query.this, with_query.alias_column_names)
            table = self._tables.get(item.name.casefold())
            if table is not None and isinstance(item.this, exp.Identifier):
                keys = [frozenset(column.casefold() for column in table.key)] if table.key else []
                return Source(name, table.columns, keys, is_derived=False)
        elif isinstance(item, exp.Subquery):
            return _derived(name, item.this, item.alias_column_names)
        return Source(name, is_open=True)

    def resolve(self, column: exp.Column) -> tuple[Source, str] | None:
        """Return a column's source and its spelling; None: it is none of this SELECT's, or not known to be."""
        for source in self.sources:
            if column.table and source.name.casefold() != column.table.casefold():
                continue
            spelled = source.spelled(column.name)
            if spelled is not None:
                return source, spelled
        return None

    def identity(self, node: exp.Expr) -> Column | None:
        """Return which column of this SELECT's sources an expression is; None: it is another thing."""
        found = self.resolve(node) if isinstance(node, exp.Column) else None
        return (found[0].name.casefold(), found[1].casefold()) if found else None

    def determined(self, columns: set[Column]) -> set[Column]:
        """Return the columns whose values `columns` determine, themselves included: by keys, equalities, constants."""
        known, arrows = set(columns), list(self._equalities())
        while True:
            found = {right for left, right in arrows if left is None or left in known}
            for source in self.sources:
                name = source.name.casefold()
                if any(all((name, part) in known for part in key) for key in source.keys):
                    found |= {(name, column.casefold()) for column in source.columns or ()}
            if found <= known:
                return known
            known |= found

    def _equalities(self) -> Iterator[tuple[Column | None, Column]]:
        """Yield (left, right) where the left side determines the right one; None: a constant does."""
        where = self.select.args.get("where")
        if where is not None:
            yield from self._of_condition(where.this, None)
        for place, join in enumerate(self.select.args.get("joins") or (), 1):
            side = join.side.upper()
            weak = None
            if side in ("LEFT", "RIGHT"):
                weak = {self.sources[place].name} if side == "LEFT" else {s.name for s in self.sources[:place]}
                weak = {name.casefold() for name in weak}
            if join.args.get("on") is not None:
                yield from self._of_condition(join.args["on"], weak)
            yield from self._of_common_names(join, place, weak)

    def _of_condition(self, condition: exp.Expr, weak: set[str] | None) -> Iterator[tuple[Column | None, Column]]:
        parts = condition.flatten() if isinstance(condition, exp.And) else (condition,)
        for part in [part.unnest() for part in parts]:
            if isinstance(part, exp.And):
                yield from self._of_condition(part, weak)
            if not isinstance(part, exp.EQ):
                continue
            left, right = self.identity(part.left), self.identity(part.right)
            for one, other, node in ((left, right, part.left), (right, left, part.right)):
                if other is None or (weak is not None and other[0] not in weak):
                    continue
                if one is not None and (weak is None or one[0] not in weak):
                    yield one, other
                elif weak is None and one is None and _is_constant(node):
                    yield None, other

    def _of_common_names(
        self, join: exp.Join, place: int, weak: set[str] | None
    ) -> Iterator[tuple[Column | None, Column]]:
        names = [identifier.name for identifier in join.args.get("using") or ()]
        right = self.sources[place]
        if (join.args.get("method") or "").upper() == "NATURAL":
            names = list(right.columns or ())
        for name in names:
            for left in self.sources[:place]:
                if left.spelled(name) and right.spelled(name):
                    pair = (left.name.casefold(), name.casefold()), (right.name.casefold(), name.casefold())
                    for one, other in (pair, pair[::-1]):
                        if weak is None or other[0] in weak:
                            yield one, other


def _is_constant(node: exp.Expr) -> bool:
    return isinstance(node.unnest(), exp.Literal | exp.Boolean) or isinstance(node, exp.Subquery)


def _common_table(table: exp.Table) -> exp.CTE | None:
    """Return the WITH query that a name stands for."""
    node: exp.Expr | None = table
    while node is not None:
        for query in getattr(node.args.get("with_"), "expressions", ()):
            if query.alias.casefold() == table.name.casefold():
                return query
        node = node.parent
    return None


def _derived(name: str, query: exp.Expr, renamed: Sequence[str]) -> Source:
    """Describe a query that stands for a table."""
    while isinstance(query, exp.Subquery):
        query = query.this
    if not isinstance(query, exp.Select):
        left = query
        while isinstance(left, exp.SetOperation | exp.Subquery):
            left = left.this
        return Source(name, _output(left, renamed), is_open=True)
    columns, group = _output(query, renamed), query.args.get("group")
    if columns is None:
        return Source(name, is_open=True)
    if query.args.get("distinct"):
        return Source(name, columns, [frozenset(column.casefold() for column in columns)])
    if group is None:
        if any(isinstance(item.unalias(), exp.AggFunc) for item in query.expressions):
            return Source(name, columns, [frozenset()])
        return Source(name, columns, is_open=True)
    outputs = {item.unalias().sql().casefold(): columns[i].casefold() for i, item in enumerate(query.expressions)}
    outputs |= {item.alias.casefold(): columns[i].casefold() for i, item in enumerate(query.expressions) if item.alias}
    keys = [outputs.get(key.sql().casefold()) or outputs.get(key.name.casefold()) for key in group.expressions]
    if None in keys:
        return Source(name, columns, is_open=True)
    return Source(name, columns, [frozenset(key for key in keys if key)])


def _output(query: exp.Expr, renamed: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of a query's columns; None: they are not known."""
    if renamed:
        return tuple(renamed)
    if not isinstance(query, exp.Select) or any(item.is_star for item in query.expressions):
        return None
    return tuple(item.alias_or_name or item.sql() for item in query.expressions)
