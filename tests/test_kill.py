"""A run that is stopped at random moments, ten times by SIGKILL or five by Ctrl-C, ends like one that never was.

Envs live in processes of their own, and every training step is saved, so that moments fall before, within and between
phases: a run is stopped a random while after it has shown a number of new signs of progress.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sparring.models.loading import save_model
from tests.command_line import ENVIRONMENT, ROOT, CommandLine
from tests.processes import is_alive, wait_until
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE

SETTINGS = [
    *("--arms", "coevolving_agents"),
    *("--env.num-envs", "2", "--env.options", "{size = 4, per_process = true}"),
    *("--rollout.wave-size", "2", "--rollout.temperature", "1.0"),
    *("--sft.lr", "3e-3", "--sft.epochs", "10", "--sft.save-every-s", "0"),
    *("--dpo.lr", "1e-3", "--dpo.save-every-s", "0"),
]


@dataclass(frozen=True)
class Undisturbed:
    """A run that was never stopped."""

    recipe: Path
    out: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Run the recipe as a user does, `python -m sparring run`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    save_model(tiny_model(), tiny_tokenizer(), folder / "model")
    recipe, out = folder / "toy.toml", folder / "run"
    recipe.write_text(TOY_RECIPE.format(model=folder / "model"))
    command = [sys.executable, "-m", "sparring", "run", str(recipe), "--out", str(out), *SETTINGS]
    child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: out.exists() or child.poll() is not None, 300)
    started = time.monotonic()
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors.decode()
    return Undisturbed(recipe, out, time.monotonic() - started)


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with CommandLine(tmp_path_factory.mktemp("printed")) as command_line:
        assert command_line.wait_until_ready()
        yield command_line


def num_signs(out: Path) -> int:
    """Count what a run has to show: lines of its journals, and finished phases."""
    num = int(out.exists())
    for folder, _, names in os.walk(out):  # which, unlike glob, bears with folders that vanish meanwhile
        num += "done.json" in names
        num += sum((Path(folder) / name).read_bytes().count(b"\n") for name in names if name.endswith(".jsonl"))
    return num


def outcome(out: Path) -> dict[str, bytes]:
    """Return what a run ends with: all files but those that tell of time, of states that are needed no more, and of
    the checkout's revision, which whoever edits the code meanwhile changes."""
    found = {}
    passing = ("timings.jsonl", "report.html", "versions.json", ".lock")
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_file() and path.name not in passing and "/state/" not in name:
            content = path.read_bytes()
            # Two lanes finish waves in an order that depends on where the run was resumed.
            found[name] = b"\n".join(sorted(content.splitlines())) if name.endswith("jsonl") else content
    return found


def finished_files(out: Path) -> dict[Path, int]:
    """Return when the files of finished phases were written."""
    phases = [marker.parent for marker in out.rglob("done.json")]
    files = [path for phase in phases for path in phase.rglob("*") if path.is_file() and "state" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_stops"), [(signal.SIGKILL, 10), (signal.SIGINT, 5)], ids=("kill", "ctrl-c"))
def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(
    undisturbed: Undisturbed, command_line: CommandLine, tmp_path: Path, kind: signal.Signals, num_stops: int
) -> None:
    draw = random.Random(kind.value)
    total = num_signs(undisturbed.out)
    out = tmp_path / "run"
    words = ["run", str(undisturbed.recipe), "--out", str(out), "--quiet", *SETTINGS]
    finished: dict[Path, int] = {}
    num_with_envs = 0
    for i in range(num_stops):
        wanted = max(num_signs(out) + 1, round(total * (i + draw.random()) / (num_stops + 1)))
        child = command_line.start(*words)
        wait_until(lambda num=wanted, child=child: num_signs(out) >= num or not is_alive(child))
        time.sleep(draw.uniform(0, 2 * undisturbed.seconds / total))
        envs = _children(child)
        if not is_alive(child):  # a quick machine was done before this stop came
            assert command_line.end().code == 0 and i >= num_stops - 2, i
            break
        num_with_envs += bool(envs)
        if kind is signal.SIGKILL:
            child.kill()
        else:
            os.killpg(child.pid, kind)  # as a terminal does
        ended = command_line.end()
        assert ended.code == (-signal.SIGKILL if kind is signal.SIGKILL else 130), (i, wanted, total, ended)
        if kind is signal.SIGINT:
            interrupted = "sparring: interrupted. The same command goes on where it stopped: sparring run"
            *notes, message = ended.errors.splitlines()
            assert message.startswith(interrupted), ended.errors
            assert all("dropped a torn last line" in note for note in notes), ended.errors
        wait_until(lambda envs=envs: not any(map(is_alive, envs)))
        assert finished.items() <= finished_files(out).items(), "something that was finished was done again"
        finished = finished_files(out)
    assert num_with_envs > 0, "no stop met a live env: the test shows less than it should"
    ended = command_line.run(*words)
    assert ended.code == 0, ended.errors
    assert "mean reward" in ended.out
    assert finished.items() <= finished_files(out).items()
    expected, found = outcome(undisturbed.out), outcome(out)
    assert sum(name.endswith("model.safetensors") for name in expected) >= 4
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert (out / "report.html").stat().st_size > 10_000


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
