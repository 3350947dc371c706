"""SQLite's text for nodes of MySQL's trees: MySQL's own generator, but for what SQLite has no word for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlglot import exp
from sqlglot.dialects.mysql import MySQL

from sparring.envs.intercode_sql.translator import NotTranslatable

CAST_TYPES = {
    "BIGINT": "SIGNED", "INT": "SIGNED", "UBIGINT": "UNSIGNED", "UINT": "UNSIGNED", "DECIMAL": "DECIMAL",
    "CHAR": "CHAR", "VARCHAR": "CHAR", "TEXT": "CHAR", "NCHAR": "CHAR", "DATE": "DATE", "DATETIME": "DATETIME",
    "TIMESTAMP": "DATETIME", "TIME": "TIME", "YEAR": "YEAR",
}  # fmt: skip
REAL_TYPES = frozenset({"DOUBLE", "FLOAT"})
UNITS = frozenset({"SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR", "YEAR_MONTH"})


def _but_for(methods: Mapping[str, object]) -> dict[type[exp.Expr], Callable[..., str]]:
    """Return MySQL's table of writers without the kinds that have a method here: a table goes before methods."""
    table = MySQL.Generator.TRANSFORMS
    return {kind: write for kind, write in table.items() if kind is not exp.Select and f"{kind.key}_sql" not in methods}


class Generator(MySQL.Generator):
    """MySQL's generator, but for what SQLite has no word for."""

    def literal_sql(self, expression: exp.Literal) -> str:
        return "'" + expression.this.replace("'", "''") + "'" if expression.is_string else expression.this

    def left_sql(self, expression: exp.Left) -> str:
        return self.func("mysql_left", expression.this, expression.expression)

    def right_sql(self, expression: exp.Right) -> str:
        return self.func("mysql_right", expression.this, expression.expression)

    def if_sql(self, expression: exp.If) -> str:
        return self.func("IIF", expression.this, expression.args["true"], expression.args.get("false") or exp.null())

    def intdiv_sql(self, expression: exp.IntDiv) -> str:
        return self.func("mysql_div", expression.this, expression.expression)

    def div_sql(self, expression: exp.Div) -> str:
        return self.func("mysql_divide", expression.this, expression.expression)

    def mod_sql(self, expression: exp.Mod) -> str:
        return self.func("MOD", _bare(expression.this), _bare(expression.expression))

    def bitwisexor_sql(self, expression: exp.BitwiseXor) -> str:
        raise NotTranslatable("^")

    def nullsafeeq_sql(self, expression: exp.NullSafeEQ) -> str:
        return self.binary(expression, "IS")

    def numbertostr_sql(self, expression: exp.NumberToStr) -> str:
        return self.func("mysql_format", expression.this, expression.args["format"])

    def introducer_sql(self, expression: exp.Introducer) -> str:
        return self.sql(expression, "expression")

    def national_sql(self, expression: exp.National, prefix: str = "") -> str:
        return "'" + expression.name.replace("'", "''") + "'"

    def collate_sql(self, expression: exp.Collate) -> str:
        name = expression.expression.name.lower()
        if name in ("binary", "nocase", "rtrim"):
            return self.binary(expression, "COLLATE")
        if not name.endswith(("_ci", "_bin", "_cs")):
            raise NotTranslatable(name)
        return f"{self.sql(expression, 'this')} COLLATE {'NOCASE' if name.endswith('_ci') else 'BINARY'}"

    def cast_sql(self, expression: exp.Cast, safe_prefix: str | None = None) -> str:
        kind = expression.to.this
        name = kind.name if isinstance(kind, exp.DType) else str(kind)
        if name == "BINARY" and not isinstance(expression.parent, exp.Like | exp.RegexpLike):
            return f"({self.sql(expression, 'this')} COLLATE BINARY)"
        if name in REAL_TYPES:
            return f"CAST({self.sql(expression, 'this')} AS REAL)"
        if name not in CAST_TYPES:
            raise NotTranslatable(f"CAST AS {name}")
        sizes = [size.this for size in expression.to.expressions if isinstance(size, exp.DataTypeParam)]
        return self.func("mysql_cast", expression.this, exp.Literal.string(CAST_TYPES[name]), *sizes)

    def like_sql(self, expression: exp.Like) -> str:
        written = self.binary(expression, "NOT LIKE" if expression.args.get("negate") else "LIKE")
        pattern = expression.expression
        if isinstance(expression.parent, exp.Escape) or (isinstance(pattern, exp.Literal) and "\\" not in pattern.name):
            return written
        return f"{written} ESCAPE '\\'"

    def count_sql(self, expression: exp.Count) -> str:
        distinct = expression.this
        if not isinstance(distinct, exp.Distinct):
            return self.function_fallback_sql(expression)
        values = [_bare(value) for value in distinct.expressions]
        if len(values) == 1 and isinstance(values[0], exp.Tuple):
            values = values[0].expressions
        counted = self.sql(values[0]) if len(values) == 1 else self.func("mysql_key", *values)
        return f"COUNT(DISTINCT {counted})"

    def groupconcat_sql(self, expression: exp.GroupConcat) -> str:
        value, keys, order = expression.this, [], ""
        if isinstance(value, exp.Order):
            keys = [ordered.this for ordered in value.expressions]
            order = "".join("d" if ordered.args.get("desc") else "a" for ordered in value.expressions)
            value = value.this
        is_distinct = isinstance(value, exp.Distinct)
        if is_distinct:
            value = value.expressions[0]
        keys = [value if isinstance(key, exp.Literal) and key.is_int else key for key in keys]
        separator = expression.args.get("separator") or exp.Literal.string(",")
        head = [exp.Literal.number(int(is_distinct)), separator, exp.Literal.string(order)]
        return self.func("mysql_group_concat", *head, value, *keys)

    def add_sql(self, expression: exp.Add) -> str:
        return self._moved(expression, 1) or self.binary(expression, "+")

    def sub_sql(self, expression: exp.Sub) -> str:
        return self._moved(expression, -1) or self.binary(expression, "-")

    def dateadd_sql(self, expression: exp.DateAdd) -> str:
        return self._date_moved(expression.this, expression.expression, expression.args.get("unit"), 1)

    def datesub_sql(self, expression: exp.DateSub) -> str:
        return self._date_moved(expression.this, expression.expression, expression.args.get("unit"), -1)

    def timestampadd_sql(self, expression: exp.TimestampAdd) -> str:
        return self._date_moved(expression.this, expression.expression, expression.args.get("unit"), 1)

    def anonymous_sql(self, expression: exp.Anonymous) -> str:
        values = expression.expressions
        if expression.name.upper() in ("ADDDATE", "SUBDATE") and isinstance(values[-1], exp.Interval):
            sign = 1 if expression.name.upper() == "ADDDATE" else -1
            return self._date_moved(values[0], values[-1], None, sign)
        return self.func(expression.name, *values)

    def interval_sql(self, expression: exp.Interval) -> str:
        raise NotTranslatable("INTERVAL")

    def extract_sql(self, expression: exp.Extract) -> str:
        return self.func("mysql_extract", _unit(expression.this), expression.expression)

    def timestampdiff_sql(self, expression: exp.TimestampDiff) -> str:
        unit = _unit(expression.args.get("unit"))
        return self.func("mysql_timestampdiff", unit, expression.expression, expression.this)

    def trim_sql(self, expression: exp.Trim) -> str:
        chars, position = expression.expression, expression.args.get("position")
        if chars is None and not position:
            return self.func("TRIM", expression.this)
        where = exp.Literal.string((position or "BOTH").upper())
        return self.func("mysql_trim", where, chars or exp.Literal.string(" "), expression.this)

    def currentdate_sql(self, expression: exp.CurrentDate) -> str:
        return "CURDATE()"

    def currenttime_sql(self, expression: exp.CurrentTime) -> str:
        return "CURTIME()"

    def currenttimestamp_sql(self, expression: exp.CurrentTimestamp) -> str:
        return "NOW()"

    def _moved(self, expression: exp.Binary, sign: int) -> str:
        """Return a date that an interval is added to; empty: it is plain arithmetic."""
        left, right = expression.this, expression.expression
        if isinstance(left, exp.Interval) and sign > 0:
            left, right = right, left
            if isinstance(left, exp.Interval) and not left.args.get("unit"):
                left = left.this  # sqlglot reads `INTERVAL 2 DAY + x` as a sum of two intervals
        if not isinstance(right, exp.Interval):
            return ""
        return self._date_moved(left, right.this, right.args.get("unit"), sign)

    def _date_moved(self, date: exp.Expr, amount: exp.Expr, unit: object, sign: int) -> str:
        if isinstance(amount, exp.Interval):
            unit, amount = amount.args.get("unit"), amount.this
        moved = amount if sign > 0 else exp.Neg(this=exp.paren(amount))
        return self.func("mysql_date_add", date, moved, _unit(unit))

    TRANSFORMS = _but_for(locals())


def _unit(unit: object) -> exp.Literal:
    name = unit.name.upper() if isinstance(unit, exp.Expr) else "DAY"
    if name not in UNITS:
        raise NotTranslatable(name)
    return exp.Literal.string(name)


def _bare(node: exp.Expr) -> exp.Expr:
    return node.unnest() if isinstance(node, exp.Paren) else node
