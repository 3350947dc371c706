"""Whole runs under a real `torchrun`: as in one process, and ended by one message where a rank dies, hangs or fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sparring.core.records import read_trajectories
from sparring.models.loading import save_model
from tests.command_line import ENVIRONMENT, ROOT
from tests.engines import ranked
from tests.processes import wait_until
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.vllm_serving import ModelServer

pytestmark = pytest.mark.slow

RECIPE = """
name = "toy"
[model]
path = "{model}"
[env]
id = "tests.toy_world:ToyWorld"
num_envs = 8
options = {{ num_turns = 5 }}
[chat]
format = "action"
instruction = ""
max_context = 512
[rollout]
max_new_tokens = 6
wave_size = 8
temperature = 1.0
[sft]
lr = 1e-2
epochs = 30
batch_size = 4
save_every_s = 0
[dpo]
lr = 1e-3
epochs = 1
batch_size = 4
[rl]
lr = 1e-3
batch_size = 12
[grpo]
rounds = 1
num_tasks = 6
num_per_task = 4
[ppo]
rounds = 1
num_per_task = 4
[loop]
rounds = 1
[fail]
min_pairs = 1
[eval]
num_resamples = 50
[arms.coevolving_agents]
method = "coevolving_agents"
[arms.grpo]
method = "grpo"
[arms.ppo]
method = "ppo"
"""
LORA = ("--lora.rank", "4", "--sft.lr", "3e-2", "--arms", "coevolving_agents")
ENDED = "the same command goes on where it stopped"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml"), folder / "model")  # pyright: ignore
    path = folder / "toy.toml"
    path.write_text(RECIPE.format(model=folder / "model"))
    return path


def command(recipe: Path, out: Path, *more: str, ranks: int = 0) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={ranked.free_port()}"]
    kind = [*torchrun, "-m", "sparring"] if ranks else ["-m", "sparring"]
    engine = ["--engine.kind", "fsdp"] if ranks else []
    return [sys.executable, *kind, "run", str(recipe), "--out", str(out), "-q", *engine, *more]


def run(recipe: Path, out: Path, *more: str, ranks: int = 0) -> None:
    words = command(recipe, out, *more, ranks=ranks)
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@contextmanager
def started(recipe: Path, out: Path, *more: str, ranks: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a run, and wait until it trains; yield torchrun and the ranks' processes."""
    words = command(recipe, out, *more, ranks=ranks)
    child = subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    log = out / "seed-0/coevolving_agents/sft-target/log.jsonl"
    try:
        wait_until(lambda: (log.exists() and log.stat().st_size > 0) or child.poll() is not None, 300)
        children = {int(one.environ()["RANK"]): one.pid for one in psutil.Process(child.pid).children()}
        yield child, [children[rank] for rank in range(ranks)]
    finally:
        for one in psutil.Process(child.pid).children(recursive=True) if child.poll() is None else ():
            one.kill()
        child.kill()


def log_of(phase: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (phase / "log.jsonl").read_text().splitlines()]


def actions_of(phase: Path) -> list[list[str]]:
    return [[turn.action for turn in one.turns] for one in read_trajectories(phase / "trajectories.jsonl")]


@pytest.mark.parametrize("more", [(), LORA], ids=["full", "adapters"])
def test_a_run_over_ranks_is_the_run_of_one_process(recipe: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    for out, ranks in ((tmp_path / "one", 0), (tmp_path / "two", 2)):
        run(recipe, out, *more, ranks=ranks)
    trained = ["coevolving_agents/sft-target", "coevolving_agents/round-1/train-target"]
    for name in trained if more else (*trained, "grpo/round-1/train-target", "ppo/round-1/train-target"):
        one, two = (log_of(tmp_path / out / "seed-0" / name) for out in ("one", "two"))
        assert [record["step"] for record in one] == [record["step"] for record in two]
        for key in ("loss", "grad_norm", "tokens"):
            assert two[0][key] == pytest.approx(one[0][key], rel=1e-3, abs=1e-5), (name, key)
    for name in ("round-1/rollout-partner", "round-0/evaluate-target"):
        one, two = (actions_of(tmp_path / out / "seed-0/coevolving_agents" / name) for out in ("one", "two"))
        turns = [pair for episodes in zip(one, two, strict=True) for pair in zip_longest(*episodes)]
        same = sum(a == b for a, b in turns)
        assert turns and same >= 0.8 * len(turns)  # Adam makes much of little: a drawn token may differ
    results = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("one", "two")]
    assert results[0]["arms"].keys() == results[1]["arms"].keys()


def test_adapters_over_ranks_play_on_a_server(recipe: Path, tmp_path: Path) -> None:
    """After each training the learner's log-probabilities are compared with the server's, or the run would end."""
    with ModelServer(recipe.parent / "model") as server:
        served = ("--sampler.kind", "vllm", "--vllm.base-urls", server.url)
        run(recipe, tmp_path / "run", *LORA, *served, ranks=2)
    assert (tmp_path / "run/seed-0/coevolving_agents/round-1/train-target/checkpoint/adapter_config.json").exists()
    assert any(map(len, actions_of(tmp_path / "run/seed-0/coevolving_agents/round-1/evaluate-target")))


@pytest.mark.parametrize("ranks", [3, 0])
def test_a_killed_rank_ends_the_run_and_others_go_on(recipe: Path, tmp_path: Path, ranks: int) -> None:
    """Killed in the middle of cloning, a run goes on with three ranks or none, and ends as one that never had any."""
    only = ("--arms", "coevolving_agents", "--sft.epochs", "40", "--sft.save-every-s", "1")
    with started(recipe, tmp_path / "run", *only, ranks=2) as (torchrun, pids):
        os.kill(pids[1], signal.SIGKILL)
        begun = time.monotonic()
        _, said = torchrun.communicate(timeout=120)
        assert time.monotonic() - begun < 60 and torchrun.returncode != 0
    assert [line for line in said.splitlines() if line.startswith("sparring: ")] == [
        "sparring: rank 1 died, or was stopped: no heartbeat. All ranks end. Nothing that was saved is lost: the same "
        "command goes on where it stopped."
    ]
    done = len(log_of(tmp_path / "run/seed-0/coevolving_agents/sft-target"))
    assert 0 < done < 3 * 40
    run(recipe, tmp_path / "run", *only, ranks=ranks)
    run(recipe, tmp_path / "whole", *only)
    weights = [
        load_file(tmp_path / out / "seed-0/coevolving_agents/sft-target/checkpoint/model.safetensors")
        for out in ("run", "whole")
    ]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_ends_the_run_within_a_minute(recipe: Path, tmp_path: Path, rank: int) -> None:
    with started(recipe, tmp_path / "run", "--sft.epochs", "2000", ranks=2) as (torchrun, pids):
        os.kill(pids[rank], signal.SIGSTOP)
        begun = time.monotonic()
        _, said = torchrun.communicate(timeout=120)
        assert time.monotonic() - begun < 65 and torchrun.returncode != 0
    (line,) = [line for line in said.splitlines() if line.startswith("sparring: ")]
    assert line.startswith(f"sparring: rank {rank} died, or was stopped") and line.endswith(f"{ENDED}.")


def test_an_interrupted_run_is_saved(recipe: Path, tmp_path: Path) -> None:
    more = ("--sft.epochs", "2000", "--sft.save-every-s", "1000", "--arms", "coevolving_agents")
    with started(recipe, tmp_path / "run", *more, ranks=2) as (torchrun, _):
        torchrun.send_signal(signal.SIGINT)
        _, said = torchrun.communicate(timeout=120)
    (line,) = [line for line in said.splitlines() if line.startswith("sparring: ")]
    assert "interrupted. The same command goes on" in line and "torchrun" in line
    (state,) = (tmp_path / "run/seed-0/coevolving_agents/sft-target/state").glob("step-*")
    assert int(state.name.removeprefix("step-")) == len(log_of(tmp_path / "run/seed-0/coevolving_agents/sft-target"))


@pytest.mark.parametrize(
    ("function", "message"),
    [("hung", "rank 1 hung: nothing moved for 8 s"), ("failing", "rank 1: no room for this batch.")],
)
def test_a_rank_that_hangs_or_fails_is_named(tmp_path: Path, function: str, message: str) -> None:
    done = ranked.run("3", function, tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("sparring: ")]
    assert done.returncode and message in line and line.endswith(f"{ENDED}.")
