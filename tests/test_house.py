"""The house's own rules: small modules, small functions, few parameters, and a plan that names every room."""

from __future__ import annotations

import ast
from pathlib import Path

import sparring

PACKAGE = Path(sparring.__file__).parent
DOCS = PACKAGE.parent / "docs"
MAX_MODULE, MAX_FUNCTION, MAX_PARAMETERS = 400, 50, 7


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"], ["ctx"]))


def test_modules_functions_and_parameter_lists_are_small() -> None:
    too_large = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if (num := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE:
            too_large.append(f"{name}: {num} lines")
        for function in functions(path):
            assert function.end_lineno is not None
            if (num := function.end_lineno - function.lineno + 1) > MAX_FUNCTION:
                too_large.append(f"{name}, {function.name}: {num} lines")
            if (num := num_parameters(function)) > MAX_PARAMETERS:
                too_large.append(f"{name}, {function.name}: {num} parameters")
    assert not too_large


def test_the_plan_names_every_room_and_every_room_says_what_it_is() -> None:
    rooms = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    plan = (DOCS / "architecture.md").read_text(encoding="utf-8")
    first = {word for line in plan.split("```")[1].splitlines() for word in line.split()}
    assert rooms.keys() <= first
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in rooms.values())
