"""The package as users install it: what the wheel holds, and that type checkers see its annotations."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
import sparring
from sparring import EnvStep, Task, load_benchmark, summarise

reveal_type(load_benchmark("webshop").tasks("train")[0])
reveal_type(summarise({"0": {"a": 1.0}}).mean)
reveal_type(sparring.LocalPolicy.act)
EnvStep(observation="x", reward="much", is_done=True)
Task(id=3, kind="x")
sparring.Trajectorie
"""
"""Three types that must be known, and three mistakes that must be found."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment's packages, with the wheel unpacked among them."""
    pytest.importorskip("hatchling", reason="builds the wheel: pip install hatchling")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    (packages,) = (folder / "venv").glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    return packages


@pytest.mark.slow
def test_a_type_checker_knows_the_types_of_an_installed_package(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    venv = installed.parents[2]
    config = {"venvPath": str(venv.parent), "venv": venv.name, "typeCheckingMode": "strict", "include": ["use.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(tmp_path)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    told = {(one["range"]["start"]["line"], one["severity"]): one["message"] for one in found["generalDiagnostics"]}
    assert told[4, "information"].endswith('is "Task"')
    assert told[5, "information"].endswith('is "float"')
    assert "-> list[Reply | None]" in told[6, "information"]
    assert sorted(line for line, severity in told if severity == "error") == [7, 8, 9]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    assert sorted(one.name.partition("-")[0] for one in installed.iterdir()) == ["sparring", "sparring"]
    package = installed / "sparring"
    assert (package / "py.typed").exists()
    assert list(package.glob("models/bundled/**/model.safetensors"))
    assert not [one for one in package.rglob("*") if one.name.startswith("test_")]
