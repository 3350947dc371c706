"""Text in, literal calls out: what is read, what is an error, and what is no call at all."""

from __future__ import annotations

import pytest

from sparring.envs.bfcl import Call, read_calls, write_calls
from sparring.envs.bfcl.calls import MAX_CALLS, MAX_CHARS, MAX_DEPTH, MAX_DIGITS


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("ls()", [Call("ls")]),
        ("[ls()]", [Call("ls")]),
        ("[ls(a=True), cd('x')]", [Call("ls", (), {"a": True}), Call("cd", ("x",))]),
        ("ls(), pwd()", [Call("ls"), Call("pwd")]),
        ("```\n[ls()]\n```", [Call("ls")]),
        ("f(a=-1, b=+2.5, c=None)", [Call("f", (), {"a": -1, "b": 2.5, "c": None})]),
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


@pytest.mark.parametrize(
    "argument",
    [
        "b",
        "g()",
        "1 + 1",
        "9 ** 9 ** 9",
        "'a' * 10**10",
        "[x for x in range(10**9)]",
        "lambda: 1",
        "x.__class__",
        "f'{1}'",
        "b'x'",
        "1j",
        "...",
        "{1, 2}",
        "{(1,): 2}",
        "{**{}}",
        "[*[1]]",
        "not True",
        "-True",
        "--1",
        "(x := 1)",
        "9" * (MAX_DIGITS + 1),
        "-" + "9" * (MAX_DIGITS + 1),
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
    ],
)
def test_an_argument_that_is_no_literal_makes_its_call_an_error(argument: str):
    bad, good = read_calls(f"[f(a={argument}), ls()]")
    assert bad.name == "f" and bad.problem and not bad.kwargs
    assert good == Call("ls")
    assert read_calls(f"f({argument})")[0].problem


@pytest.mark.parametrize("text", ["a.b()", "().f()", "f()()", "f[0]()", "''.join()", "__import__('os').system('x')"])
def test_only_plain_names_are_called(text: str):
    (call,) = read_calls(text)
    assert call.problem and not call.name


@pytest.mark.parametrize("text", ["f(a=1, a=2)", "f(**{'a': 1})", "f(*[1])"])
def test_each_argument_is_given_once_and_by_itself(text: str):
    assert read_calls(text)[0].problem


def test_the_number_of_calls_is_bounded():
    assert len(read_calls("[" + "ls()," * MAX_CALLS + "]")) == MAX_CALLS
    (call,) = read_calls("[" + "ls()," * (MAX_CALLS + 1) + "]")
    assert call.problem


def test_odd_literals_raise_no_warnings(recwarn: pytest.WarningsRecorder):
    assert read_calls(r"f(a='\d')")[0].kwargs == {"a": r"\d"}
    assert not recwarn.list
