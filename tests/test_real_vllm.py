"""A real vLLM server, its CPU build. What must hold:

- greedy episodes are those of this process, token for token, but for near-ties of the two best tokens;
- the server's log-probabilities are the learner's, for the base and for two adapters;
- whole runs of Co-Evolving Agents and GRPO go through, whatever is killed on the way.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import Trajectory
from sparring.data.chat import ChatConfig, Encoded
from sparring.engines.base import Compute
from sparring.engines.local import LoraEngine
from sparring.engines.served import ServedEngine, Serving
from sparring.envs.base import load_benchmark
from sparring.envs.pool import EnvPool
from sparring.models.loading import ModelConfig, save_model
from sparring.models.lora import LoraConfig
from sparring.policies.factory import Prompt, Sampling
from sparring.policies.vllm.config import SamplerConfig, VllmConfig
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import rollout
from sparring.runs.recipe import run_recipe
from tests.methods import test_lora_runs, test_reinforcement_methods
from tests.methods.test_methods import DeadlyProgress, Killed
from tests.methods.test_vllm_runs import served_by
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

NEAR_TIE = 1e-3
NUM_ENVS = 8


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("SPARRING_VLLM_MODEL")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=1.0, head_dim=32), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


@pytest.fixture
def config(vllm_python: str, monkeypatch: pytest.MonkeyPatch) -> VllmConfig:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    return VllmConfig(launch=True, python=vllm_python)


def engine_of(folder: Path, config: VllmConfig, tmp_path: Path, *, deterministic: bool = False) -> ServedEngine:
    model, lora = ModelConfig(path=str(folder), dtype="float32"), LoraConfig(rank=8)
    chat = ChatConfig(format="action", instruction="", max_context=1024)
    serving = Serving(
        sampler=SamplerConfig(kind="vllm", deterministic=deterministic),
        vllm=config,
        max_context=1024,
        num_envs=NUM_ENVS,
        log_file=tmp_path / "vllm.log",
    )
    return ServedEngine(LoraEngine(model, lora, Prompt(config=chat, instruction="").chat), model, lora, serving)


def adapters(engine: ServedEngine, folder: Path, tmp_path: Path) -> list[str]:
    """Publish two agents that are not the base, nor each other."""
    found = []
    for seed in (1, 2):
        learner, _ = engine.learner(str(folder), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in learner.parameters().values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        learner.publish(tmp_path / f"agent-{seed}")
        engine.trained(learner, str(tmp_path / f"agent-{seed}"))
        found.append(str(tmp_path / f"agent-{seed}"))
    return found


def test_greedy_episodes_and_log_probabilities_are_those_of_this_process(
    model_folder: Path, config: VllmConfig, tmp_path: Path
) -> None:
    engine = engine_of(model_folder, config, tmp_path)
    benchmark = load_benchmark("intercode_sql")
    tasks = benchmark.tasks("dev")[: 4 if "SPARRING_VLLM_MODEL" in os.environ else 2 * NUM_ENVS]
    specs = episode_specs("real", tasks, agent="target", seed=0, num_per_task=1)
    num_equal, num, largest = 0, 0, 0.0
    try:
        with EnvPool("intercode_sql", {}, num_envs=NUM_ENVS) as pool:
            for agent in [str(model_folder), *adapters(engine, model_folder, tmp_path)]:
                greedy = Sampling(temperature=0.0, max_new_tokens=24, num_envs=NUM_ENVS)
                there = rollout(engine.policy(agent, greedy), pool, benchmark, [specs], num_slots=NUM_ENVS)
                here = rollout(engine._inner.policy(agent, greedy), pool, benchmark, [specs], num_slots=NUM_ENVS)
                for one, other in zip(there, here, strict=True):
                    num, num_equal = num + 1, num_equal + (one.turns == other.turns)
                    if one.turns != other.turns:
                        assert gap_where_they_part(engine, agent, one, other) < NEAR_TIE
                sampled = replace(greedy, temperature=0.7, keep_logprobs=True)
                played = rollout(engine.policy(agent, sampled), pool, benchmark, [specs[:NUM_ENVS]], num_slots=NUM_ENVS)
                largest = max(largest, largest_gap(engine, agent, played, temperature=0.7))
    finally:
        engine.close()
    print(f"{num_equal} of {num} greedy episodes are equal; log-probabilities differ by {largest:.1e} at most")
    assert largest < 1e-3 and num_equal > num / 2


def test_deterministic_rollouts_are_the_same_on_two_servers(
    model_folder: Path, config: VllmConfig, tmp_path: Path
) -> None:
    benchmark = load_benchmark("intercode_sql")
    specs = episode_specs("real", benchmark.tasks("dev")[:NUM_ENVS], agent="target", seed=0, num_per_task=1)
    sampling = Sampling(temperature=0.7, max_new_tokens=24, num_envs=1, keep_logprobs=True)
    found = []
    for _ in range(2):
        engine = engine_of(model_folder, config, tmp_path, deterministic=True)
        try:
            with EnvPool("intercode_sql", {}, num_envs=1) as pool:
                found.append(rollout(engine.policy(str(model_folder), sampling), pool, benchmark, [specs], num_slots=1))
        finally:
            engine.close()
    assert found[0] == found[1]
    assert all(turn.logprobs for one in found[0] for turn in one.turns)


def gap_where_they_part(engine: ServedEngine, agent: str, one: Trajectory, other: Trajectory) -> float:
    """Return by how much the two best logits differ at the first token in which two episodes differ."""
    learner, chat = engine.learner(agent)
    a, b = chat.encode(one).ids, chat.encode(other).ids
    at = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    learner.activate()
    with torch.no_grad():
        best = learner.model(torch.tensor([a[:at]])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def largest_gap(engine: ServedEngine, agent: str, played: list[Trajectory], temperature: float) -> float:
    learner, chat = engine.learner(agent)
    nodes: list[Encoded] = [chat.encode(one) for one in played if one.turns]
    own, _ = learner.score(nodes, Compute(temperature=temperature))
    said = [[value for turn in one.turns for value in turn.logprobs] for one in played if one.turns]
    return max(float((a - torch.tensor(b)).abs().max()) for a, b in zip(own, said, strict=True))


def test_co_evolving_agents_goes_on_through_kills_of_the_run_and_of_the_server(
    model_folder: Path, config: VllmConfig, tmp_path: Path
) -> None:
    rates = {name: {**rate, "save_every_s": 0} for name, rate in test_lora_runs.RATES.items()}
    recipe = served_by(test_lora_runs.preference_recipe(model_folder, "coevolving_agents", **rates), config)
    out, num_runs, num_servers = tmp_path / "run", 0, 0
    while True:
        progress = ServerKiller(6) if num_servers < 5 else DeadlyProgress(12)
        try:
            run_recipe(recipe, out, progress, with_report=False)
            break
        except Killed:
            num_runs += 1
        num_servers += isinstance(progress, ServerKiller) and progress.has_killed
    print(f"{num_runs} kills of the run, {num_servers} of the server")
    assert num_runs >= 10 and num_servers >= 5
    for file in out.glob("seed-0/**/trajectories.jsonl"):
        assert not [one for one in read_trajectories(file) if one.error]
    assert json.loads((out / "results.json").read_text())


class ServerKiller(DeadlyProgress):
    """Kills the server, and some time later the run."""

    def __init__(self, num_signs: int) -> None:
        super().__init__(2 * num_signs)
        self.at, self.has_killed = num_signs, False

    def advance(self, num: float = 1) -> None:
        if self.left == self.at:
            for child in psutil.Process().children(recursive=True):
                if "VLLM" in child.name() or "vllm.entrypoints.cli.main" in child.cmdline():
                    child.kill()
                    self.has_killed = True
        super().advance(num)


def test_grpo_on_the_servers_log_probabilities(model_folder: Path, config: VllmConfig, tmp_path: Path) -> None:
    sections = {"grpo": {"rounds": 3, "kl_weight": 1e-3}, "rollout": {"temperature": 0.4}}
    first = test_reinforcement_methods.make_recipe(model_folder, "grpo", grpo={"rounds": 1})
    run_recipe(first, tmp_path / "learnt", SilentProgress(), with_report=False)  # a base that earns something
    learnt = (tmp_path / "learnt/seed-0/grpo/sft-target/checkpoint").resolve()
    recipe = test_lora_runs.grpo_recipe(learnt, **sections)
    recipe = served_by(replace(recipe, arms={"grpo": recipe.arms["grpo"]}), config)
    run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    for number in (1, 2, 3):
        log = tmp_path / f"run/seed-0/grpo/round-{number}/train-target/log.jsonl"
        assert 0 < json.loads(log.read_text().splitlines()[0])["pg/log_ratio_max"] < 1e-3
