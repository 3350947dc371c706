"""What the kernel holds back once a process has shut itself in. Needs Linux, not the engine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sparring.envs.appworld.install import INSIDE
from tests.envs.appworld.hostile import BREAKOUTS, REFUSED, SURVIVED


def load(name: str) -> ModuleType:
    """Import a module of the engine's side that needs nothing but the standard library."""
    spec = importlib.util.spec_from_file_location(f"inside_{name}", INSIDE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_nothing_gets_out_and_what_the_engine_needs_still_works(tmp_path: Path):
    if problem := load("confine").problem():
        pytest.skip(problem)
    secret = tmp_path / "secret"
    secret.write_text("42")
    program = BREAKOUTS.format(inside=str(INSIDE), outside=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 35, done.stderr
    assert [line for line in lines if line.startswith(("OUT", "SHUT"))] == []
    assert secret.read_text() == "42" and list(tmp_path.iterdir()) == [secret]


def test_the_kinds_of_machine_list_the_same_calls():
    machines = load("confine").MACHINES
    assert all(len(set(machine.forbidden)) == len(machine.forbidden) for machine in machines.values())
    assert all(machine.clone not in machine.forbidden for machine in machines.values())


@pytest.mark.parametrize("what", REFUSED)
def test_code_that_reaches_past_the_apps_is_refused(what: str):
    assert load("guard").refusal(REFUSED[what])


@pytest.mark.parametrize("what", [what for what in SURVIVED if "magic" not in what])
def test_code_that_only_computes_is_not_refused(what: str):
    assert load("guard").refusal(SURVIVED[what]) == "" or "__" in SURVIVED[what]


def test_ordinary_code_is_not_refused():
    code = """
from collections import Counter
import json, re, datetime
class Note:
    def __init__(self, text): self.text = text
class Long(Note):
    def __init__(self, text): super().__init__(text)
if __name__ == "__main__":
    print(Counter(type(x).__name__ for x in [1, "a"]), json.dumps({"a": 1}), "____")
for _ in range(2):
    print([n for n in apis.simple_note.search_notes(access_token="x") if isinstance(n, dict)])
"""
    assert load("guard").refusal(code.replace(', "____"', "")) == ""
