"""Arms and seeds side by side, each in a process of its own. What must hold:

- results, trajectories and weights are those of one after another, and what arms share is done once;
- a job that fails, or whose process dies, does not stop the others, is named, and goes on with the same command;
- a run that is stopped or killed leaves no process behind.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sparring.core.errors import ConfigError, SparringError
from sparring.core.progress import LineProgress, SilentProgress
from sparring.models.loading import save_model
from sparring.runs import side_by_side
from sparring.runs.config import Recipe
from sparring.runs.memory_check import check_jobs
from sparring.runs.recipe import run_recipe
from tests.command_line import ENVIRONMENT, ROOT
from tests.methods.test_methods import make_recipe, outcome
from tests.processes import is_alive, wait_until
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE

ARMS = ("sft", "eto", "frozen")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


@pytest.fixture(scope="module")
def recipe(model_folder: Path) -> Recipe:
    return replace(make_recipe(model_folder, *ARMS, loop={"rounds": 1}), seeds=(0, 1))


@pytest.fixture(scope="module")
def one_after_another(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_recipe(recipe, out, SilentProgress(), with_report=False)
    return out


def side_by_side_run(recipe: Recipe, out: Path, num_jobs: int = 2) -> list[str]:
    """Run a recipe and return the lines that were shown."""
    lines: list[str] = []
    run_recipe(recipe, out, LineProgress(lines.append), with_report=False, num_jobs=num_jobs)
    return lines


def test_jobs_side_by_side_end_as_one_after_another(recipe: Recipe, one_after_another: Path, tmp_path: Path) -> None:
    lines = side_by_side_run(recipe, tmp_path / "out")
    assert outcome(tmp_path / "out") == outcome(one_after_another)
    for seed in ("", "seed 1 · "):
        done = [line for line in lines if re.search(rf"^ +{seed}\w+ · sft-target.*: done", line)]
        assert len(done) == 1, "what arms share is done once"
    timings = [json.loads(line) for line in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert {(one["seed"], one["arm"]) for one in timings} >= {(seed, arm) for seed in (0, 1) for arm in ARMS[1:]}
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.name.endswith((".claim", ".log"))]
    assert not left


def test_a_job_that_fails_does_not_stop_the_others(recipe: Recipe, tmp_path: Path) -> None:
    arm = recipe.arms["eto"]
    wild = replace(arm.config.sft, lr=10.0, clip_norm=None, weight_decay=100.0)
    arms = {
        "eto": replace(arm, config=replace(arm.config, sft=wild)),
        "sft": recipe.arms["sft"],
    }
    with pytest.raises(SparringError, match=r"1 of 2 jobs failed.*\n  seed 0 · eto: .*(is nan|is inf) at step"):
        side_by_side_run(replace(recipe, seeds=(0,), arms=arms), tmp_path / "out")
    assert (tmp_path / "out/seed-0/sft/round-0/evaluate-target/done.json").exists()


def test_a_worker_that_dies_is_named_and_its_job_goes_on_with_the_same_command(
    recipe: Recipe, one_after_another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, victims = side_by_side._Work._follow, ["eto"]  # pyright: ignore

    def deadly(self: object, worker: side_by_side.Worker, job: side_by_side.Job) -> None:
        if [job.arm] == victims and victims.pop():
            worker._process.kill()  # pyright: ignore
        follow(self, worker, job)  # pyright: ignore

    monkeypatch.setattr(side_by_side._Work, "_follow", deadly)  # pyright: ignore
    with pytest.raises(SparringError, match=r"1 of 6 jobs failed.*\n  seed 0 · eto: its process ended with code -9"):
        side_by_side_run(recipe, tmp_path / "out", num_jobs=1 + 1)
    side_by_side_run(recipe, tmp_path / "out")
    assert outcome(tmp_path / "out") == outcome(one_after_another)


@pytest.mark.ray
def test_jobs_over_a_cluster_end_as_one_after_another(
    recipe: Recipe, one_after_another: Path, tmp_path: Path, ray_cluster: None
) -> None:
    run_recipe(recipe, tmp_path / "out", SilentProgress(), with_report=False, num_jobs="ray")
    assert outcome(tmp_path / "out") == outcome(one_after_another)
    assert not list((tmp_path / "out").glob("worker-*.log"))


@pytest.mark.ray
def test_a_node_that_does_not_see_the_run_is_named(
    recipe: Recipe, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "elsewhere")
    arms = {"sft": recipe.arms["sft"]}
    with pytest.raises(SparringError, match=r"(?s)2 of 2 jobs failed.*does not see .*elsewhere"):
        run_recipe(replace(recipe, arms=arms), tmp_path / "out", SilentProgress(), with_report=False, num_jobs="ray")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(model_folder: Path, tmp_path: Path, how: int) -> None:
    recipe, out = tmp_path / "toy.toml", tmp_path / "run"
    recipe.write_text(TOY_RECIPE.format(model=model_folder))
    words = ["run", str(recipe), "--out", str(out), "--jobs", "2", "--seeds", "0", "1", "--arms", "sft"]
    command = [sys.executable, "-m", "sparring", *words, "--sft.epochs", "400", "--env.options", "{per_process = true}"]
    child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: (out / "seed-0/shared").exists() or child.poll() is not None, 120)
    assert child.poll() is None
    family = psutil.Process(child.pid).children(recursive=True)
    assert len(family) >= 2
    child.send_signal(how)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == (130 if how == signal.SIGINT else -how), errors.decode()
    assert b"Traceback" not in errors
    wait_until(lambda: not any(is_alive(one.pid) for one in family), 30)


def test_more_jobs_than_fit_are_refused_with_how_many_would() -> None:
    check_jobs([4, 4, 2], 2, 8, 1)
    check_jobs([4, 4, 2], 3, 8, 2)
    check_jobs([4, 4, 2], 3, None, 1)
    with pytest.raises(ConfigError, match=r"--jobs 2\."):
        check_jobs([4, 4, 2], 3, 8, 1)


@pytest.mark.parametrize(
    ("seen", "num_workers", "gpus"), [("", 2, ["0", "1", "2"]), ("4,6,7", 2, ["4", "6", "7"]), ("", 1, [])]
)
def test_workers_are_spread_over_gpus(
    monkeypatch: pytest.MonkeyPatch, seen: str, num_workers: int, gpus: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert side_by_side.gpus_of(num_workers) == gpus
