"""Refuse code that reaches past the apps into the engine: a rule of the game, told to the agent as an error.

The engine has a guard of its own, which this one comes before; what holds against ill will is `confine`.
"""

from __future__ import annotations

import ast

MODULES = {
    *("array", "bisect", "calendar", "collections", "collections.abc", "contextlib", "copy", "dataclasses", "datetime"),
    *("decimal", "difflib", "enum", "fractions", "functools", "heapq", "itertools", "json", "math", "numbers"),
    *("pendulum", "pprint", "random", "re", "statistics", "string", "textwrap", "time", "typing", "uuid"),
}
"""What an agent may import: modules that compute. AppWorld's own list has `os`, `pathlib` and the engine itself too."""

NAMES = {
    *("ApiCollection", "Requester", "requester", "builtins", "get_ipython", "exit", "quit", "In", "Out"),
    *("__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "globals", "help", "input"),
    *("locals", "open", "setattr", "vars"),
}
"""Names that lead into the engine or the interpreter."""

ATTRIBUTES = {
    *("builtins", "sys", "os", "modules", "codecs", "importlib", "attrgetter", "methodcaller", "requester"),
    *("gi_frame", "gi_code", "cr_frame", "ag_frame", "tb_frame", "tb_next", "f_back", "f_globals", "f_locals"),
    *("f_builtins", "f_code", "mro"),
}

HARMLESS = {"__init__", "__name__", "__main__"}
"""Names with two underscores that ordinary programs have, and that lead nowhere by themselves."""

LONGEST_CODE = 20_000
"""Characters; longer code is not looked at."""


def refusal(code: str) -> str:
    """Return why code is refused; empty where it is not. Code that does not parse is left to the engine to refuse."""
    if len(code) > LONGEST_CODE:
        return f"The code has {len(code)} characters; at most {LONGEST_CODE} are run."
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return ""
    except (MemoryError, RecursionError):
        return "The code is nested too deeply."
    refused = sorted({name for node in ast.walk(tree) for name in _refused(node)})
    return f"Not allowed here: {', '.join(refused)}. Act through apis.APP.API(...)." if refused else ""


def _refused(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [f"import {name.name}" for name in names if name.name not in MODULES]
        case ast.ImportFrom(module=module, names=names):
            if module not in MODULES:
                return [f"import {module}"]
            return [f"import {name.name}" for name in names if _is_private(name.name) or name.name in ATTRIBUTES]
        case ast.Name(id=name) if name in NAMES or (name.startswith("__") and name not in HARMLESS):
            return [name]
        case ast.Attribute(attr=name) if _is_private(name) or name in ATTRIBUTES:
            return [f".{name}"]
        case ast.Constant(value=str(text)) if text.startswith("__") and text.endswith("__") and text not in HARMLESS:
            return [repr(text)]
    return []


def _is_private(name: str) -> bool:
    return name.startswith("_") and name not in HARMLESS
