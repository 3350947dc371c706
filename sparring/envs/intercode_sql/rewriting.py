"""Trees of MySQL statements in, SQLite's text out: the nodes that SQLite spells otherwise, one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from sqlglot import exp
from sqlglot.dialects.mysql import MySQL
from sqlglot.tokenizer_core import Token, TokenType

from sparring.envs.intercode_sql.generator import Generator
from sparring.envs.intercode_sql.translator import NotTranslatable, Refusal

STATEMENTS = (exp.Query, exp.Insert, exp.Update, exp.Delete)
REFUSED = (exp.Into, exp.Parameter, exp.SessionParameter, exp.Placeholder, exp.Command, exp.Rollup, exp.Cube,
           exp.GroupingSets, exp.PropertyEQ, exp.Lateral, exp.Pivot, exp.Hint, exp.Bracket,
           exp.JSONExtract)  # fmt: skip
"""Nodes that are not translated: variables, INTO, ROLLUP, and what no text of MySQL's should give."""

CLAUSES: Mapping[TokenType, int] = {
    TokenType.SELECT: 0, TokenType.UNION: 0, TokenType.EXCEPT: 0, TokenType.INTERSECT: 0, TokenType.JOIN: 1,
    TokenType.WHERE: 2, TokenType.GROUP_BY: 3, TokenType.HAVING: 4, TokenType.ORDER_BY: 5, TokenType.LIMIT: 6,
}  # fmt: skip
"""Clauses and their places in a query; 0 begins another one."""

COMPARED = {exp.GT: "MAX", exp.GTE: "MAX", exp.LT: "MIN", exp.LTE: "MIN"}

logging.getLogger("sqlglot").addHandler(logging.NullHandler())


class _Parser(MySQL.Parser):
    """MySQL's parser, which gives up after a number of steps: it tries ways out, and brackets in brackets multiply."""

    steps_left = 0

    def _advance(self, times: int = 1) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise NotTranslatable("too deep")
        super()._advance(times)


def parse(statement: str, max_steps: int) -> exp.Expr:
    """Parse one statement.

    Raises:
        NotTranslatable: it is none of `STATEMENTS`, there are several, or the parser would take too long.
        ParseError, TokenError: it is not MySQL's.
    """
    dialect = MySQL()
    parser = _Parser(dialect=dialect)
    parser.steps_left = max_steps
    tokens = dialect.tokenize(statement)
    trees = parser.parse(tokens, statement)
    if len(trees) != 1 or not isinstance(trees[0], STATEMENTS):
        raise NotTranslatable("no query")
    if not _is_in_order(tokens):
        raise NotTranslatable("clauses out of order")
    return trees[0]


def _is_in_order(tokens: Sequence[Token]) -> bool:
    """Say whether the clauses stand in MySQL's order: the parser takes them in any."""
    places = [0]
    for token in tokens:
        if token.token_type == TokenType.L_PAREN:
            places.append(0)
        elif token.token_type == TokenType.R_PAREN and len(places) > 1:
            places.pop()
        place = CLAUSES.get(token.token_type, -1)
        if 0 < place < places[-1]:
            return False
        if place >= 0:
            places[-1] = place
    return True


def write(tree: exp.Expr, database: str) -> str:
    """Write a tree in SQLite's words; the tree is used up.

    Raises:
        NotTranslatable: a part of it has no counterpart.
        Refusal: it names a database that is not there.
    """
    for node in list(tree.walk()):
        if isinstance(node, REFUSED) or (isinstance(node, exp.Group) and _has_more_than_keys(node)):
            raise NotTranslatable(type(node).__name__)
        if isinstance(node, exp.Table | exp.Column):
            _drop_database(node, database)
        if isinstance(node, exp.Select):
            _tidy(node)
    for node in list(tree.find_all(exp.Xor)):
        node.replace(exp.Anonymous(this="mysql_xor", expressions=[node.left, node.right]))
    for node in list(tree.find_all(exp.All, exp.Any)):
        node.parent.replace(_quantified(node))  # pyright: ignore[reportOptionalMemberAccess]
    for node in list(tree.find_all(exp.SetOperation)):
        for side in ("this", "expression"):
            node.set(side, _operand(node.args[side]))
    if isinstance(tree, exp.Subquery):
        tree = _whole(tree)
    return Generator(dialect=MySQL(), identify=True, comments=False).generate(tree)


def _has_more_than_keys(group: exp.Group) -> bool:
    return any(value for key, value in group.args.items() if key != "expressions")


def _drop_database(node: exp.Table | exp.Column, database: str) -> None:
    named = node.args.get("db")
    if named is None:
        return
    name = named.name.casefold()
    if isinstance(node, exp.Table) and name in ("information_schema", "main", "temp"):
        return
    if name != database.casefold() or node.args.get("catalog"):
        raise Refusal(f"Unknown database '{named.name}'")
    node.set("db", None)


def _tidy(select: exp.Select) -> None:
    """Leave out what tells MySQL how to run a query, and the table that is none."""
    for name in ("locks", "operation_modifiers", "hint"):
        select.set(name, None)
    source = select.args.get("from_")
    if source is not None and isinstance(source.this, exp.Table) and source.this.name.upper() == "DUAL":
        select.set("from_", None)
    for table in select.find_all(exp.Table):
        table.set("hints", None)


def _operand(side: exp.Expr) -> exp.Expr:
    """Take a side of UNION out of its brackets; what has an order or a limit of its own becomes a table."""
    if not isinstance(side, exp.Subquery):
        return side
    is_plain = isinstance(side.this, exp.Select) and not _ends(side.this) and not _ends(side)
    return side.this if is_plain and not side.this.args.get("with_") else _whole(side)


def _ends(query: exp.Expr) -> bool:
    return any(query.args.get(name) for name in ("order", "limit", "offset"))


def _whole(query: exp.Subquery) -> exp.Select:
    """Return `SELECT * FROM (query)`, with the order and the limit that stand behind the bracket."""
    inner = query.this
    if isinstance(inner, exp.Subquery):
        inner = _whole(inner)
    select = exp.select("*").from_(exp.Subquery(this=inner, alias=exp.TableAlias(this=exp.to_identifier("whole_"))))
    for name in ("order", "limit", "offset"):
        select.set(name, query.args.get(name))
    return select


def _quantified(node: exp.Expr) -> exp.Expr:
    """Return what a comparison with ALL or ANY means: a comparison with the largest or the smallest, NULL with care."""
    comparison = node.parent
    query = node.this.this if isinstance(node.this, exp.Subquery) else node.this
    if not isinstance(comparison, exp.Binary) or comparison.expression is not node or not isinstance(query, exp.Query):
        raise NotTranslatable("ALL")
    left, is_all = comparison.this, isinstance(node, exp.All)
    if isinstance(comparison, exp.EQ if not is_all else exp.NEQ):
        found = exp.In(this=left.copy(), query=exp.Subquery(this=query.copy()))
        return exp.paren(exp.Not(this=found) if is_all else found, copy=False)
    if type(comparison) not in COMPARED:
        raise NotTranslatable("ALL")
    extreme = COMPARED[type(comparison)]
    if not is_all:
        extreme = "MIN" if extreme == "MAX" else "MAX"

    def over(aggregate: str) -> exp.Expr:
        """Return `(WITH q(v) AS (query) SELECT aggregate FROM q)`."""
        alias = exp.TableAlias(this=exp.to_identifier("quantified_"), columns=[exp.to_identifier("value_")])
        select = exp.maybe_parse(f"SELECT {aggregate} FROM quantified_", dialect=MySQL)
        select.set("with_", exp.With(expressions=[exp.CTE(this=query.copy(), alias=alias)]))
        return exp.Subquery(this=select)

    against = type(comparison)(this=left.copy(), expression=over(f"{extreme}(value_)"))
    if is_all:
        known = over("CASE WHEN COUNT(value_) = COUNT(*) THEN 1 END")
        meant = exp.or_(over("COUNT(*) = 0"), exp.and_(against, known, copy=False), copy=False)
    else:
        unknown = over("CASE WHEN COUNT(value_) = COUNT(*) THEN 0 END")
        meant = exp.and_(over("COUNT(*) > 0"), exp.or_(against, unknown, copy=False), copy=False)
    return exp.paren(meant, copy=False)


def watch(tree: exp.Expr) -> bool:
    """Watch over the subqueries that may give several values where one is due; say whether there are any."""
    found = list(_scalar_subqueries(tree))
    for node in found:
        node.set("this", _single(node.this))
    return bool(found)


def _scalar_subqueries(tree: exp.Expr) -> Iterator[exp.Subquery]:
    """Yield the subqueries that stand for one value and may give several."""
    for node in tree.find_all(exp.Subquery):
        parent = node.parent
        is_table = isinstance(parent, exp.From | exp.Join | exp.SetOperation | exp.Subquery | exp.CTE) or parent is None
        if is_table or isinstance(parent, exp.In | exp.Exists | exp.All | exp.Any) or node.arg_key == "query":
            continue
        query = node.this
        if isinstance(query, exp.Select) and (len(query.expressions) != 1 or _gives_one(query)):
            continue
        yield node


def _gives_one(query: exp.Select) -> bool:
    limit = query.args.get("limit")
    if isinstance(limit, exp.Limit) and limit.expression is not None and limit.expression.name in ("0", "1"):
        return True
    value = query.expressions[0].unalias()
    return not query.args.get("group") and (isinstance(value, exp.AggFunc) or not query.args.get("from_"))


def _single(query: exp.Query) -> exp.Expr:
    """Return `WITH q(v) AS (query) SELECT mysql_single(v) FROM q`, which stops the statement at a second row."""
    alias = exp.TableAlias(this=exp.to_identifier("single_"), columns=[exp.to_identifier("value_")])
    select = exp.select(exp.func("mysql_single", exp.column("value_"))).from_("single_")
    select.set("with_", exp.With(expressions=[exp.CTE(this=query.copy(), alias=alias)]))
    return select
