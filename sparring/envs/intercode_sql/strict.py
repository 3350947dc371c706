"""What MySQL's default mode refuses and SQLite accepts, refused with MySQL's messages: the option `strict`.

Source: the messages of MySQL 8.0 (errors 1054, 1055, 1066, 1140, 1146, 1235, 1242, 1248, 1305, 3029, 3065). A
subquery that gives several rows where one is due (1242) shows while it runs: `rewriting` writes a watch around it.

Where a statement can't be followed, it passes: nothing is refused here that MySQL accepts, as far as is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from sparring.envs.intercode_sql.schema import Schema
from sparring.envs.intercode_sql.scopes import Column, Scope
from sparring.envs.intercode_sql.translator import Refusal

GROUPED = (
    "Expression #{} of {} is not in GROUP BY clause and contains nonaggregated column '{}' which is not functionally "
    "dependent on columns in GROUP BY clause; this is incompatible with sql_mode=only_full_group_by"
)
AGGREGATED = (
    "In aggregated query without GROUP BY, expression #{} of {} contains nonaggregated column '{}'; this is "
    "incompatible with sql_mode=only_full_group_by"
)
DISTINCT = (
    "Expression #{} of ORDER BY clause is not in SELECT list, references column '{}' which is not in SELECT list; "
    "this is incompatible with DISTINCT"
)
NOT_AGGREGATED = (
    "Expression #{} of ORDER BY contains aggregate function and applies to the result of a non-aggregated query"
)
LIMITED = "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'"
UNNAMED = "Every derived table must have its own alias"

SQLITES_FUNCTIONS = frozenset({"IIF", "JULIANDAY", "STRFTIME", "TOTAL", "TYPEOF", "UNIXEPOCH", "GLOB"})
"""Functions of SQLite's that MySQL lacks."""


def check(tree: exp.Expr, database: str, schema: Schema) -> None:
    """Look for what MySQL refuses.

    Raises:
        Refusal: there is something; the first of it.
    """
    where = database.casefold()
    for node in tree.walk():
        if isinstance(node, exp.Table) and node.name.casefold().startswith(("sqlite_", "pragma_")):
            raise Refusal(f"Table '{where}.{node.name}' doesn't exist")
        if isinstance(node, exp.Anonymous) and node.name.upper() in SQLITES_FUNCTIONS:
            raise Refusal(f"FUNCTION {where}.{node.name} does not exist")
        if isinstance(node, exp.Subquery) and isinstance(node.parent, exp.From | exp.Join) and not node.alias:
            raise Refusal(UNNAMED)
        if isinstance(node, exp.In | exp.All | exp.Any) and _is_limited(node):
            raise Refusal(LIMITED)
    for select in tree.find_all(exp.Select, bfs=False):
        _check_select(Scope(select, schema), where, schema)


def _is_limited(node: exp.Expr) -> bool:
    query = node.args.get("query") or node.this
    while isinstance(query, exp.Subquery) and not query.args.get("limit"):
        query = query.this
    return isinstance(query, exp.Query) and query.args.get("limit") is not None


def _check_select(scope: Scope, database: str, schema: Schema) -> None:
    names: set[str] = set()
    for source in scope.sources:
        if source.name and source.name.casefold() in names:
            raise Refusal(f"Not unique table/alias: '{source.name}'")
        names.add(source.name.casefold())
    _check_conditions(scope, schema)
    _Grouping(scope, database).check()


def _check_conditions(scope: Scope, schema: Schema) -> None:
    """Refuse aliases of the SELECT list in WHERE: SQLite knows them there."""
    where, aliases = scope.select.args.get("where"), _aliases(scope.select)
    if where is None or not aliases or not scope.is_known:
        return
    for column in _columns(where.this, within_aggregates=True):
        is_alias = not column.table and column.name.casefold() in aliases
        if is_alias and scope.resolve(column) is None and not _is_of_outer(scope.select, column, schema):
            raise Refusal(f"Unknown column '{column.name}' in 'where clause'")


def _is_of_outer(select: exp.Select, column: exp.Column, schema: Schema) -> bool:
    outer = select.parent_select
    while outer is not None:
        scope = Scope(outer, schema) if isinstance(outer, exp.Select) else None
        if scope is None or not scope.is_known or scope.resolve(column) is not None:
            return True
        outer = outer.parent_select
    return False


def _aliases(select: exp.Select) -> dict[str, exp.Expr]:
    return {item.alias.casefold(): item.this for item in select.expressions if isinstance(item, exp.Alias)}


def _is_aggregate(node: exp.Expr) -> bool:
    is_one = isinstance(node, exp.AggFunc | exp.GroupConcat) or (
        isinstance(node, exp.Anonymous) and node.name.upper() in ("STD", "BIT_AND", "BIT_OR", "BIT_XOR")
    )
    return is_one and not isinstance(node.parent, exp.Window)


def _columns(node: exp.Expr, *, within_aggregates: bool = False) -> Iterator[exp.Column]:
    """Yield the columns of an expression, without those of subqueries."""

    def is_closed(part: exp.Expr) -> bool:
        return isinstance(part, exp.Query) or (not within_aggregates and _is_aggregate(part))

    for part in node.walk(bfs=False, prune=is_closed):
        if isinstance(part, exp.Column) and not is_closed(part):
            yield part


class _Grouping:
    """The rules on what stands beside aggregates and behind DISTINCT."""

    def __init__(self, scope: Scope, database: str) -> None:
        self._scope, self._database, self._select = scope, database, scope.select
        self._aliases = _aliases(scope.select)
        group = scope.select.args.get("group")
        self._keys = [self._key(key) for key in group.expressions] if group else []
        self._is_grouped = group is not None
        self._is_aggregated = any(self._has_aggregate(item) for item in self._judged())
        """Whether there are aggregates, and no groups to form them over."""
        columns = {identity for key in self._keys if (identity := scope.identity(key)) is not None}
        self._known = scope.determined(columns)
        self._written = {key.sql().casefold() for key in self._keys}

    def check(self) -> None:
        if self._is_grouped or self._is_aggregated:
            self._check_list()
        self._check_having()
        order = self._select.args.get("order")
        for place, item in enumerate(order.expressions if order else (), 1):
            self._check_order(place, item.this)

    def _judged(self) -> Iterator[exp.Expr]:
        yield from self._select.expressions
        if self._select.args.get("having") is not None:
            yield self._select.args["having"]

    def _has_aggregate(self, node: exp.Expr) -> bool:
        walked = node.walk(bfs=False, prune=lambda part: isinstance(part, exp.Query))
        return any(_is_aggregate(part) for part in walked)

    def _key(self, key: exp.Expr) -> exp.Expr:
        """Return what a key of GROUP BY stands for: a place in the list, a column or an alias."""
        if isinstance(key, exp.Literal) and key.is_int and 0 < int(key.name) <= len(self._select.expressions):
            return self._select.expressions[int(key.name) - 1].unalias()
        if isinstance(key, exp.Column) and not key.table and self._scope.resolve(key) is None:
            return self._aliases.get(key.name.casefold(), key)
        return key

    def _check_list(self) -> None:
        for place, item in enumerate(self._spread(), 1):
            self._refuse_loose(item.unalias(), place, "SELECT list")

    def _spread(self) -> Iterator[exp.Expr]:
        """Yield the SELECT list with the columns that its stars stand for."""
        for item in self._select.expressions:
            if not item.is_star or isinstance(item, exp.Count):
                yield item
                continue
            table = item.table.casefold() if isinstance(item, exp.Column) else ""
            for source in self._scope.sources:
                if not table or source.name.casefold() == table:
                    for column in source.columns or ():
                        yield exp.column(column, table=source.name)

    def _refuse_loose(self, node: exp.Expr, place: int, clause: str) -> None:
        """Refuse an expression with a column that the group does not determine."""
        column = next((loose for loose in self._loose(node)), None)
        if column is None:
            return
        raise Refusal((GROUPED if self._is_grouped else AGGREGATED).format(place, clause, self._full_name(column)))

    def _full_name(self, column: exp.Column) -> str:
        found = self._scope.resolve(column)
        assert found is not None
        return ".".join([*([] if found[0].is_derived else [self._database]), found[0].name, found[1]])

    def _loose(self, node: exp.Expr) -> Iterator[exp.Column]:
        def is_settled(part: exp.Expr) -> bool:
            return isinstance(part, exp.Query) or _is_aggregate(part) or part.sql().casefold() in self._written

        for part in node.walk(bfs=False, prune=is_settled):
            if isinstance(part, exp.Column) and not is_settled(part) and self._is_loose(part):
                yield part

    def _is_loose(self, column: exp.Column) -> bool:
        found = self._scope.resolve(column)
        if found is None or found[0].is_open or isinstance(column.parent, exp.AnyValue):
            return False
        return self._identity(column) not in self._known

    def _identity(self, column: exp.Column) -> Column | None:
        return self._scope.identity(column)

    def _check_having(self) -> None:
        having = self._select.args.get("having")
        if having is None:
            return
        listed = {self._scope.identity(item.unalias()) for item in self._spread()}
        listed |= {self._scope.identity(key) for key in self._keys}
        for column in _columns(having.this):
            is_alias = not column.table and column.name.casefold() in self._aliases
            if not is_alias and self._scope.resolve(column) is not None and self._identity(column) not in listed:
                shown = f"{column.table}.{column.name}" if column.table else column.name
                raise Refusal(f"Unknown column '{shown}' in 'having clause'")

    def _check_order(self, place: int, node: exp.Expr) -> None:
        if isinstance(node, exp.Column) and not node.table and node.name.casefold() in self._aliases:
            return
        if self._is_grouped:
            self._refuse_loose(node, place, "ORDER BY clause")
        elif self._has_aggregate(node) and not self._is_aggregated:
            raise Refusal(NOT_AGGREGATED.format(place))
        elif self._select.args.get("distinct") and not self._is_aggregated:
            listed = {self._identity(item) for item in map(_unalias, self._spread()) if isinstance(item, exp.Column)}
            written = {item.unalias().sql().casefold() for item in self._select.expressions}
            if node.sql().casefold() in written:
                return
            for column in _columns(node):
                found = self._scope.resolve(column)
                if found is not None and self._identity(column) not in listed:
                    raise Refusal(DISTINCT.format(place, self._full_name(column)))


def _unalias(item: exp.Expr) -> exp.Expr:
    return item.unalias()
