"""A whole run on SkyRL's Tinker server and the real ScienceWorld: three tasks, the bundled model.

Co-Evolving Agents and GRPO go through on one server, although the client and the server are killed on the way; all
adapters are trained. The last command does both arms side by side. Episodes of fewer turns would be cheaper, but all
of them end with the same reward, and then there is nothing to learn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.journal import read_jsonl
from sparring.models.loading import BUNDLED
from sparring.policies.tinker.config import KEY_VARIABLE
from tests.command_line import ENVIRONMENT, ROOT
from tests.processes import wait_until
from tests.skyrl import SkyRL

pytestmark = [pytest.mark.tinker, pytest.mark.slow]

RECIPE = """
name = "slice"
[model]
path = "sparring-worlds"
[env]
id = "scienceworld"
kinds = ["find-animal"]
num_envs = 2
num_train = 3
[chat]
format = "action"
instruction = ""
max_context = 1024
[rollout]
temperature = 1.0
max_new_tokens = 16
[lora]
rank = 8
[engine]
kind = "tinker"
[sft]
lr = 1e-3
epochs = 1
batch_size = 1
save_every_s = 0
[dpo]
lr = 1e-4
epochs = 1
batch_size = 2
save_every_s = 0
[rl]
lr = 1e-4
batch_size = 4
[partner]
start = "shared"
[fail]
min_pairs = 1
pair_scope = "all"
[loop]
rounds = 1
accept_tasks = 0
[grpo]
rounds = 1
num_tasks = 2
num_per_task = 4
[eval]
num_tasks = 2
num_resamples = 50
[arms.coevolving_agents]
method = "coevolving_agents"
[arms.grpo]
method = "grpo"
"""
TIMEOUT_S = 1800
"""Seconds that one phase may take on a busy machine: most of it is compiling."""


@pytest.fixture
def server(skyrl_python: str, tmp_path: Path) -> Iterator[SkyRL]:
    found = SkyRL(skyrl_python, BUNDLED["sparring-worlds"], tmp_path)
    found.start()
    yield found
    found.kill()


class Client:
    """`sparring run`, again and again into the same folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.out, self.recipe = folder / "run", folder / "slice.toml"
        self.recipe.write_text(RECIPE)
        self.url = url

    def start(self, *more: str) -> subprocess.Popen[str]:
        words = ["run", str(self.recipe), "--out", str(self.out), "--tinker.base-url", self.url, "-q", *more]
        key = {KEY_VARIABLE: "tml-none", "NO_PROXY": "127.0.0.1,localhost"}
        return subprocess.Popen(
            [sys.executable, "-m", "sparring", *words, "--tinker.lost-after-s", "20"],
            cwd=ROOT,
            env=ENVIRONMENT | key,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def phase(self, name: str) -> Path:
        return self.out / "seed-0" / name

    def wait_for_a_step(self, run: subprocess.Popen[str], phase: str) -> None:
        """Wait until a training has logged a step."""
        log = self.phase(phase) / "log.jsonl"
        wait_until(lambda: (log.exists() and log.stat().st_size > 0) or run.poll() is not None, TIMEOUT_S)
        assert run.poll() is None, run.stderr and run.stderr.read()

    def weights(self, phase: str) -> dict[str, torch.Tensor]:
        return load_file(self.phase(phase) / "checkpoint/adapter_model.safetensors")


def is_trained(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(after[name], before[name]) for name in before)


def test_a_slice_of_scienceworld_whose_client_and_server_are_killed(server: SkyRL, tmp_path: Path) -> None:
    client, started = Client(tmp_path, server.url), time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s: {what}")

    run = client.start()
    client.wait_for_a_step(run, "coevolving_agents/sft-target")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    tell("the client is killed in the imitation")

    run = client.start()
    client.wait_for_a_step(run, "coevolving_agents/round-1/train-target")
    server.kill()
    killed = time.monotonic()
    _, said = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode != 0 and "Traceback" not in said, said
    assert "no sign of life for 20 s" in said or "does not answer" in said, said
    tell(f"the server is killed in the target agent's training; told after {time.monotonic() - killed:.0f} s")
    done = list(read_jsonl(client.phase("coevolving_agents/round-1/train-target") / "log.jsonl"))

    server.start()
    run = client.start("--jobs", "2")
    _, said = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0 and "Traceback" not in said, said
    assert not list(client.out.glob("worker-*.log")), "workers end well"
    tell("both arms have ended, side by side")

    results: dict[str, Any] = json.loads((client.out / "results.json").read_text())
    assert set(results["arms"]) == {"coevolving_agents", "grpo"}
    start = client.weights("coevolving_agents/sft-target")
    for phase in ("coevolving_agents/round-1/train-target", "coevolving_agents/round-1/train-partner"):
        assert is_trained(client.weights(phase), start), phase
    assert is_trained(client.weights("grpo/round-1/train-target"), client.weights("grpo/sft-target"))
    log = list(read_jsonl(client.phase("coevolving_agents/round-1/train-target") / "log.jsonl"))
    assert [one["step"] for one in log] == list(range(1, len(log) + 1))
    tell(f"{len(done)} of {len(log)} steps were done before")
