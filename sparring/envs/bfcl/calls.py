"""An agent's text in, function calls with literal arguments out. Nothing is evaluated.

A call is `name(value, key=value)`; an answer is one call, or several in square brackets. Values are Python literals:
text, numbers, True, False, None, lists, tuples and dictionaries of those. Sizes are bounded, so that neither reading a
call nor playing it can be made expensive by its arguments' length.

Source: the benchmark's prompting format. Deviates: arguments without a name count (the benchmark drops them), and what
is no literal (a nested call, a sum, a bare name) makes its call an error instead of being evaluated.
"""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Mapping
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
    """An argument is no literal, or too large a one."""


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
    return [_read_call(one) for one in body.elts if isinstance(one, ast.Call)]


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
    name = node.func.id
    try:
        args = tuple(_literal(one) for one in node.args)
        kwargs: dict[str, Any] = {}
        for one in node.keywords:
            if one.arg is None or one.arg in kwargs:
                raise NotLiteral("each argument is given once, by its name")
            kwargs[one.arg] = _literal(one.value)
    except (NotLiteral, RecursionError) as error:
        return Call(name, problem=str(error))
    return Call(name, args, kwargs)


def _literal(node: ast.expr, depth: int = 0) -> Any:
    """Return the value that a node spells out.

    Raises:
        NotLiteral: it spells out none.
    """
    if depth > MAX_DEPTH:
        raise NotLiteral("arguments are nested too deep")
    match node:
        case ast.Constant(value=bool() | str() | float() | None as value):
            return value
        case ast.Constant(value=int() as value) if abs(value) < 10**MAX_DIGITS:
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant() as operand):
            value = _literal(operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value if isinstance(sign, ast.USub) else value
        case ast.List(elts=elements):
            return [_literal(one, depth + 1) for one in elements]
        case ast.Tuple(elts=elements):
            return tuple(_literal(one, depth + 1) for one in elements)
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value, depth + 1) for key, value in zip(keys, values, strict=True)}
    raise NotLiteral(
        f"arguments are literals (text in quotes, numbers of up to {MAX_DIGITS} digits, True, None, lists)"
    )


def _key(node: ast.expr | None) -> Any:
    if not isinstance(node, ast.Constant):
        raise NotLiteral("a dictionary's keys are text or numbers")
    return _literal(node)
