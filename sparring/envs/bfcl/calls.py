"""An agent's text in, function calls with literal arguments out. No code is evaluated.

A call is `name(value, key=value)`; an answer is one call, or several in square brackets. Values are Python literals:
text, numbers, True, False, None, lists, tuples and dictionaries of those. Sizes are bounded, so that neither reading a
call nor playing it can be made expensive by its arguments' length.

Source: the benchmark's decoder of the prompting format, for which an answer with certain arguments (an f-string, a
comprehension) holds no call at all. Deviates: arguments without a name count (the benchmark drops them), and what it
would evaluate beyond sums of numbers (a nested call with named arguments, a power) makes its call an error.
"""

from __future__ import annotations

import ast
import operator
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_CHARS = 10_000
"""Longest answer that is read as calls; the longest call of any reference has 6,713 characters."""
MAX_CALLS = 50
"""Most calls in one answer; the longest user turn of any reference has 34."""
MAX_DEPTH = 20
"""How deep lists and dictionaries may nest."""
MAX_DIGITS = 40
"""Longest whole number."""

LITERALS = f"arguments are literals (text in quotes, numbers of up to {MAX_DIGITS} digits, True, None, lists)"

RULES: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_PARSING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Call:
    """One call as written."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why it can't be played; empty: it can."""

    def __str__(self) -> str:
        """Write the call as an agent would."""
        named = [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.name}({', '.join([*map(repr, self.args), *named])})"


class NotLiteral(ValueError):
    """An argument is no literal, or too large a one: its call is an error."""


class NoCall(ValueError):
    """An argument is one with which the benchmark takes the whole answer for none of calls."""


def read_calls(text: str) -> list[Call]:
    """Read an answer's calls; none where it is anything else than calls, as the benchmark decides it."""
    text = text.strip("`\n ")
    if not text or len(text) > MAX_CHARS:
        return []
    text = text if text.startswith("[") else f"[{text}"
    text = text if text.endswith("]") else f"{text}]"
    try:
        body = _parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    if not isinstance(body, ast.List) or not all(isinstance(one, ast.Call) for one in body.elts):
        return []
    if len(body.elts) > MAX_CALLS:
        return [Call("", problem=f"more than {MAX_CALLS} calls at once")]
    try:
        return [_read_call(one) for one in body.elts if isinstance(one, ast.Call)]
    except NoCall:
        return []


def write_calls(calls: list[Call]) -> str:
    """Write calls as one answer."""
    return f"[{', '.join(map(str, calls))}]"


def _parse(text: str) -> ast.expr:
    # Python warns about odd literals (`1is 2`, "\d") on stderr. Filters are global, so one thread at a time sets them.
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


def _read_call(node: ast.Call) -> Call:
    if not isinstance(node.func, ast.Name):
        return Call("", problem="a function is called by its name alone")
    name, problem = node.func.id, ""
    kwargs: dict[str, Any] = {}
    for one in node.keywords:  # all of them, since one may mean that nothing here is a call
        try:
            value = _literal(one.value)
            if _is_undecodable(value):
                raise NoCall
            if one.arg is None:
                raise NotLiteral("each argument is given by its name")
            kwargs[one.arg] = value
        except (NotLiteral, RecursionError) as error:
            problem = problem or str(error)
    try:
        args = tuple(_literal(one) for one in node.args)
    except NoCall:
        args, problem = (), problem or LITERALS
    except (NotLiteral, RecursionError) as error:
        args, problem = (), problem or str(error)
    return Call(name, problem=problem) if problem else Call(name, args, kwargs)


def _literal(node: ast.expr, depth: int = 0) -> Any:
    """Return the value that a node spells out, as the benchmark takes it.

    Raises:
        NotLiteral: it spells out none, or the benchmark would evaluate more than is safe.
        NoCall: the benchmark's decoder fails over it.
    """
    if depth > MAX_DEPTH:
        raise NotLiteral("arguments are nested too deep")
    match node:
        case ast.Constant(value=value):
            return _constant(value)
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as value)):
            return -_constant(value)  # whatever the operator
        case ast.List(elts=elements):
            return [_literal(one, depth + 1) for one in elements]
        case ast.Tuple(elts=elements):
            return tuple(_literal(one, depth + 1) for one in elements)
        case ast.Dict(keys=keys, values=values):
            return {_key(key, depth): _literal(value, depth + 1) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=name):
            return name
        case ast.Subscript(value=value, slice=index):
            return f"{ast.unparse(value)}[{ast.unparse(index)}]"
        case ast.Call():
            return _nested(node, depth)
        case ast.BinOp():
            return _sum(node, depth)
    raise NoCall


def _nested(node: ast.Call, depth: int) -> str:
    """Return the text of a call that stands as an argument; one with named arguments would be played."""
    for one in node.keywords:
        _literal(one.value, depth + 1)
    if node.keywords:
        raise NotLiteral(LITERALS)
    return ast.unparse(node)


def _constant(value: Any) -> Any:
    if value is ...:
        return "..."
    is_short = not isinstance(value, int) or abs(value) < 10**MAX_DIGITS
    if isinstance(value, str | int | float | None) and is_short:
        return value
    raise NotLiteral(LITERALS)


def _key(node: ast.expr | None, depth: int) -> Any:
    if node is None or isinstance(key := _literal(node, depth + 1), list | dict):
        raise NoCall
    if isinstance(key, tuple):
        raise NotLiteral("a dictionary's keys are text or numbers")
    return key


def _sum(node: ast.expr, depth: int) -> Any:
    """Work out what is made of numbers by the four rules, or put together of texts."""
    if depth > MAX_DEPTH:
        raise NotLiteral("arguments are nested too deep")
    match node:
        case ast.Name() | ast.Call():
            raise NoCall
        case ast.Constant(value=str() | int() | float() as value):
            return _constant(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(value := _sum(operand, depth + 1), str):
            return -value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in RULES:
            one, other = _sum(left, depth + 1), _sum(right, depth + 1)
            if not (isinstance(one, str) or isinstance(other, str)) or (
                isinstance(op, ast.Add) and type(one) is type(other)
            ):
                try:
                    return _constant(RULES[type(op)](one, other))
                except (ArithmeticError, TypeError):
                    raise NoCall from None
    raise NotLiteral(LITERALS)


def _is_undecodable(value: Any) -> bool:
    """Say whether the decoder fails over a value: it takes a dictionary of dictionaries for a call of its first key."""
    if not isinstance(value, dict):
        return False
    if all(isinstance(one, dict) for one in value.values()):
        return not value or any(map(_is_undecodable, next(iter(value.values())).values()))
    return any(map(_is_undecodable, value.values()))
