"""Text in, literal calls out: what is read, what is an error, and what is no call at all."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.bfcl import Call, read_calls, write_calls
from sparring.envs.bfcl.calls import MAX_CALLS, MAX_CHARS, MAX_DEPTH, MAX_DIGITS
from sparring.envs.bfcl.wheel import find_wheel


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("ls()", [Call("ls")]),
        ("[ls()]", [Call("ls")]),
        ("[ls(a=True), cd('x')]", [Call("ls", (), {"a": True}), Call("cd", ("x",))]),
        ("ls(), pwd()", [Call("ls"), Call("pwd")]),
        ("```\n[ls()]\n```", [Call("ls")]),
        ("f(a=-1, b=2.5, c=None)", [Call("f", (), {"a": -1, "b": 2.5, "c": None})]),
        ("f(a=[1, (2, 'x')], b={'k': [{}]})", [Call("f", (), {"a": [1, (2, "x")], "b": {"k": [{}]}})]),
        ("f(a='it''s \"it\"\\n')", [Call("f", (), {"a": 'its "it"\n'})]),
    ],
)
def test_calls_are_read(text: str, calls: list[Call]):
    assert read_calls(text) == calls
    assert read_calls(write_calls(calls)) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "done",
        "[]",
        "I can't: the function sort() is missing.",
        "ls",
        "ls(",
        "[ls(), 5]",
        "[[ls()]]",
        "ls(); pwd()",
        "x = ls()",
        "ls() if a else pwd()",
        "lambda: ls()",
        "ls(a='\x00')",
        "ls(a='\ud800')",
        "ls(a=" + "(" * 500 + ")" * 500 + ")",
        "-" * (MAX_CHARS - 10) + "1",
        "+".join(["1"] * (MAX_CHARS // 2 - 10)),
        "f" + ".a" * (MAX_CHARS // 2 - 10) + "()",
        "f" + "()" * (MAX_CHARS // 2 - 10),
        "f(a=" + "9" * 5000 + ")",
        "ls()" + " " * MAX_CHARS + "#",
    ],
)
def test_anything_else_is_no_call(text: str):
    assert read_calls(text) == [] or all(call.problem for call in read_calls(text))
    assert not [call for call in read_calls(text) if not call.problem]


REFUSED = [
    *(
        "9 ** 9 ** 9",
        "'a' * 10**10",
        "10**30 * 10**30",
        "g(x=1)",
        "b'x'",
        "1j",
        "{(1,): 2}",
        "1 << 9",
        "(1,) + (2,)",
    ),
    *(
        "9" * (MAX_DIGITS + 1),
        "-" + "9" * (MAX_DIGITS + 1),
        "9" * MAX_DIGITS + " * 9",
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
    ),
]
"""The benchmark takes or evaluates these; here they make their call an error."""

ENDING = [
    *(
        "[x for x in range(10**9)]",
        "lambda: 1",
        "x.__class__",
        "f'{1}'",
        "{1, 2}",
        "{**{}}",
        "[*[1]]",
        "--1",
        "(x := 1)",
    ),
    *(
        "1 if a else 2",
        "a and b",
        "1 < 2",
        "-x",
        "-'a'",
        "{[]: 1}",
        "x + 1",
        "1 + g()",
        "1 / 0",
        "{}",
        "{'a': {}, 'b': 1}",
        "(yield)",
    ),
    *("g(x=f'{1}')", "[lambda: 1]", "{'a': {'b': {}}}", "not x"),
]
"""With one of these the benchmark's decoder fails, and the user's turn is over."""

TAKEN = {
    "true": "true", "b": "b", "g()": "g()", "g(1)": "g(1)", "x[0]": "x[0]", "x['a']": "x['a']",
    "1 + 1": 2, "2 * 3 - 4 / 2": 4.0,
    "7 // 2 % 2": 1, "'a' + 'b'": "ab", "-1 + 2": 1, "...": "...", "not True": -1, "-True": -1, "+2.5": -2.5, "~5": -5,
    "[true, null]": ["true", "null"], "{a: 1}": {"a": 1}, "[{}]": [{}], "(1)": 1, "'a' 'b'": "ab", "None": None,
}  # fmt: skip
"""What the benchmark makes of these is safe, and made of them here too, odd as some is."""


@pytest.mark.parametrize("argument", REFUSED)
def test_an_argument_that_is_not_safe_to_work_out_makes_its_call_an_error(argument: str):
    bad, good = read_calls(f"[f(a={argument}), ls()]")
    assert bad.name == "f" and bad.problem and not bad.kwargs
    assert good == Call("ls")
    assert read_calls(f"f({argument})")[0].problem


@pytest.mark.parametrize("argument", ENDING)
def test_with_some_arguments_an_answer_holds_no_call(argument: str):
    assert read_calls(f"[f(a={argument}), ls()]") == []


@pytest.mark.parametrize(("argument", "value"), TAKEN.items())
def test_what_the_benchmark_makes_of_an_argument_is_made_of_it(argument: str, value: object):
    (call,) = read_calls(f"f(a={argument})")
    assert call == Call("f", (), {"a": value}) and type(call.kwargs["a"]) is type(value)


DECODER = (
    *("ast_parse", "resolve_ast_call", "resolve_ast_by_type", "parse_nested_value", "decoded_output_to_execution_list"),
    "default_decode_execute_prompting",
)


@pytest.fixture(scope="module")
def decode() -> Callable[[str], list[str] | None]:
    """The benchmark's own decoder, without the packages that its module imports for other ends; None: no calls."""
    try:
        wheel = find_wheel()
    except ConfigError as error:
        pytest.skip(str(error))
    source = (wheel / "model_handler" / "utils.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if getattr(node, "name", "") in DECODER]
    assert len(functions) == len(DECODER)
    names: dict[str, Any] = {"ast": ast, "re": re, "ReturnFormat": SimpleNamespace(PYTHON="python")}
    exec(compile(ast.Module(functions, []), "utils.py", "exec"), names)
    names["ast_parse"].__defaults__ = ("python", False)

    def decode(text: str) -> list[str] | None:
        try:
            return names["default_decode_execute_prompting"](text) or None
        except Exception:
            return None

    return decode


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"f(a={argument})"
            for argument in [*ENDING, *TAKEN, *(one for one in REFUSED if "10" not in one and "9 **" not in one)]
        ),
        *(f"[ls(), f(b=1, a={argument})]" for argument in [*ENDING, *TAKEN]),
        *("f(a=1, a=2)", "f(**{'a': 1})", "f(*[1])", "f(f'{1}')", "f(**{})", "ls(), pwd()", "(ls(), pwd())", "{ls()}"),
        *(
            "[ls()][0]",
            "[ls()] + [pwd()]",
            "ls() and pwd()",
            "done",
            "ls",
            "[]",
            "[[ls()]]",
            "ls(); pwd()",
            "ls()\npwd()",
        ),
        *(
            "[ls() for x in y]",
            "'ls()'",
            "print('ls()')",
            "a.b()",
            "f()()",
            "f[0]()",
            "''.join()",
            "await f()",
            "# ls()",
        ),
        *(
            "```python\nls()\n```",
            "Sure: ls()",
            "f(a='x\\n')",
            'f(a="it\'s")',
            "f(a=01)",
            "f(a=1_000)",
            "f(a=0x10)",
            "f(a=)",
            "f(,)",
        ),
    ],
)
def test_what_holds_calls_is_what_the_benchmarks_decoder_says(text: str, decode: Callable[[str], list[str] | None]):
    calls, theirs = read_calls(text), decode(text)
    assert bool(calls) == (theirs is not None)
    for call, line in zip(calls, theirs or [], strict=True):
        if not call.problem and not call.args:
            assert ast.dump(ast.parse(str(call))) == ast.dump(ast.parse(line))


@pytest.mark.parametrize("text", ["a.b()", "().f()", "f()()", "f[0]()", "''.join()", "__import__('os').system('x')"])
def test_only_plain_names_are_called(text: str):
    (call,) = read_calls(text)
    assert call.problem and not call.name


@pytest.mark.parametrize("text", ["f(**{'a': 1})", "f(*[1])"])
def test_each_argument_is_given_by_itself(text: str):
    assert read_calls(text)[0].problem


def test_the_number_of_calls_is_bounded():
    assert len(read_calls("[" + "ls()," * MAX_CALLS + "]")) == MAX_CALLS
    (call,) = read_calls("[" + "ls()," * (MAX_CALLS + 1) + "]")
    assert call.problem


def test_odd_literals_raise_no_warnings(recwarn: pytest.WarningsRecorder):
    assert read_calls(r"f(a='\d')")[0].kwargs == {"a": r"\d"}
    assert not recwarn.list
