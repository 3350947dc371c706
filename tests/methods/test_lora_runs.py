"""Runs whose agents are adapters on one base: they never touch each other or the base, and go on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ConfigError
from sparring.core.fingerprints import fingerprints
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.data.chat import ChatConfig
from sparring.engines import local
from sparring.engines.base import Compute
from sparring.engines.local import FullEngine, LoraEngine
from sparring.learning.objectives import SFTObjective
from sparring.models.loading import ModelConfig, load_model
from sparring.models.lora import LoraConfig
from sparring.policies.base import Episode
from sparring.policies.factory import Prompt, Sampling
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from tests.methods import test_methods, test_reinforcement_methods
from tests.methods.test_methods import DeadlyProgress, Killed, outcome
from tests.toy_world import ToyWorld
from tests.training_toys import lone_groups

LORA = {"rank": 4, "alpha": 16.0}
RATES = {
    "sft": {"lr": 3e-2, "epochs": 8, "batch_size": 4},
    "dpo": {"lr": 1e-2, "epochs": 1, "batch_size": 4},
}


def preference_recipe(model_folder: Path, *arms: str, **sections: dict[str, Any]) -> Recipe:
    return test_methods.make_recipe(model_folder, *arms, lora=LORA, **(RATES | sections))


def grpo_recipe(model_folder: Path, **sections: dict[str, Any]) -> Recipe:
    return test_reinforcement_methods.make_recipe(model_folder, "grpo", "ppo", lora=LORA, sft={"lr": 3e-2}, **sections)


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ETO and Co-Evolving Agents; the base's files are the same before and after it."""
    before = fingerprints(model_folder, sorted(model_folder.iterdir()))
    out = tmp_path_factory.mktemp("run") / "lora"
    run_recipe(preference_recipe(model_folder, "eto", "coevolving_agents"), out, SilentProgress(), with_report=False)
    assert fingerprints(model_folder, sorted(model_folder.iterdir())) == before
    return out


def adapter(run: Path, phase: str) -> dict[str, torch.Tensor]:
    return load_file(run / "seed-0" / phase / "checkpoint/adapter_model.safetensors")


def test_checkpoints_are_adapters_that_name_their_base(finished: Path, model_folder: Path) -> None:
    folders = [path.parent for path in finished.glob("seed-0/*/**/checkpoint/adapter_config.json")]
    assert folders and not list(finished.glob("seed-0/**/model.safetensors"))
    for folder in folders:
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model_folder)


def test_two_agents_begin_as_two_adapters_and_stay_two(finished: Path) -> None:
    target, partner = (adapter(finished, f"coevolving_agents/sft-{name}") for name in ("target", "partner"))
    assert all(not torch.equal(target[name], partner[name]) for name in target)
    later = adapter(finished, "coevolving_agents/round-2/train-target")
    assert any(not torch.equal(later[name], target[name]) for name in target)


def test_agents_play_with_their_adapters_and_not_with_the_base(finished: Path, model_folder: Path) -> None:
    """Greedy play of the saved adapter gives the actions of the run, and greedy play of the base gives others."""
    arm = finished / "seed-0/coevolving_agents"
    chat = ChatConfig(format="action", instruction="", max_context=512)
    engine = FullEngine(ModelConfig(), Prompt(config=chat, instruction=ToyWorld.instruction).chat)
    played = read_trajectories(arm / "round-2/evaluate-target/trajectories.jsonl")
    first_actions = [one.turns[0].action for one in played]

    def again(checkpoint: Path) -> list[str]:
        policy = engine.policy(str(checkpoint), Sampling(temperature=0.0, max_new_tokens=6, num_envs=len(played)))
        episodes = [Episode(id=t.id, task=t.task, seed=t.seed, observation=t.turns[0].observation) for t in played]
        replies: dict[str, str] = {}
        while waiting := [one for one in episodes if one.id not in replies]:
            found = zip(waiting, policy.act(waiting), strict=True)
            replies |= {one.id: reply.action for one, reply in found if reply is not None}
        return [replies[one.id] for one in episodes]

    assert again(arm / "round-2/train-target/checkpoint") == first_actions != again(model_folder)


def test_the_base_is_read_once_and_a_round_reads_nothing(
    learnt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(local, "load_model", lambda config, **more: loads.append(config.path) or load_model(config))
    run_recipe(grpo_recipe(learnt_folder), tmp_path / "run", SilentProgress(), with_report=False)
    assert loads == [str(learnt_folder)]


@pytest.mark.parametrize("stops", [(9, 5, 13, 11, 7), (21, 3, 17, 8, 19)])
def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(
    finished: Path, model_folder: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    recipe = preference_recipe(model_folder, "eto", "coevolving_agents")
    for num_signs in stops:
        with pytest.raises(Killed):
            run_recipe(recipe, tmp_path, DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    whole = outcome(finished)
    assert outcome(tmp_path) == whole and any(file.endswith("adapter_model.safetensors") for file in whole)


def test_policy_gradient_goes_on_from_adams_memory_after_a_stop(learnt_folder: Path, tmp_path: Path) -> None:
    recipe, out = grpo_recipe(learnt_folder), tmp_path / "stopped"
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=False)
    for num_signs in (30, 21, 14, 26):
        with pytest.raises(Killed):
            run_recipe(recipe, out, DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, out, SilentProgress(), with_report=False)
    whole = outcome(tmp_path / "whole")
    assert outcome(out) == whole
    assert [path for path in whole if "ppo/round-2" in path and path.endswith("adapter_model.safetensors")]


def test_an_adapter_may_be_the_start_of_a_run(finished: Path, model_folder: Path, tmp_path: Path) -> None:
    start = finished / "seed-0/eto/sft-target/checkpoint"
    recipe = preference_recipe(start, "eto", sft={"lr": 1e-9, "epochs": 1, "batch_size": 64}, loop={"rounds": 1})
    run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    before = load_file(start / "adapter_model.safetensors")
    after = load_file(tmp_path / "run/seed-0/eto/sft-target/checkpoint/adapter_model.safetensors")
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)
    assert any(before[name].abs().max() > 0 for name in before if "lora_B" in name)
    config = tmp_path / "run/seed-0/eto/sft-target/checkpoint/adapter_config.json"
    assert json.loads(config.read_text())["base_model_name_or_path"] == str(model_folder)


def test_an_adapter_is_not_stacked_and_not_trained_in_full(finished: Path, tmp_path: Path) -> None:
    start = finished / "seed-0/eto/sft-target/checkpoint"
    with pytest.raises(ConfigError, match="rank 4; adapters are not stacked"):
        run_recipe(test_methods.make_recipe(start, "eto", lora={"rank": 2}), tmp_path / "a", SilentProgress())
    with pytest.raises(ConfigError, match=r"model\.path: .* is an adapter.*lora\.rank"):
        run_recipe(test_methods.make_recipe(start, "eto"), tmp_path / "b", SilentProgress())
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4, "targets": ["nothing_proj"]}, r"lora\.targets: .*no linear layer 'nothing_proj'.*q_proj"),
        ({"rank": 4, "quantize": "4bit"}, "needs a GPU"),
        ({"rank": 0}, r"lora\.rank: expected a whole number from 1"),
        ({"alpha": 8.0}, r"lora\.rank: is not set"),
    ],
)
def test_what_can_not_be_trained_so_is_refused_before_anything_is_written(
    model_folder: Path, tmp_path: Path, lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_recipe(test_methods.make_recipe(model_folder, "eto", lora=lora), tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_learners_share_a_base_and_nothing_else(model_folder: Path) -> None:
    """Reference, start and the other agent's adapter stay as they are while one learns, and so does the base."""
    chat = ChatConfig(format="action", instruction="", max_context=512)
    make_chat = Prompt(config=chat, instruction=ToyWorld.instruction).chat
    engine = LoraEngine(ModelConfig(path=str(model_folder)), LoraConfig(rank=4), make_chat)
    (one, _), (other, _) = (engine.learner(str(model_folder), seed=seed) for seed in (1, 2))
    assert one.model is other.model and one.adapter != other.adapter
    frozen = {name: p.detach().clone() for name, p in one.model.named_parameters() if ".lora_" not in name}
    before = {name: p.detach().clone() for name, p in other.parameters().items()}
    groups = lone_groups(4)
    with one.training(Compute(peak_lr=1.0), groups[0].nodes[0]):
        one.forward_backward(groups, SFTObjective(), None, 10.0)
        assert {name for name, p in one.model.named_parameters() if p.grad is not None} == {
            name for name, p in one.model.named_parameters() if f".{one.adapter}." in name
        }
        one.step(0.1, None)
    assert all(torch.equal(p, before[name]) for name, p in other.parameters().items())
    assert all(torch.equal(p, frozen[name]) for name, p in one.model.named_parameters() if name in frozen)
    assert any(not torch.equal(p, before[name]) for name, p in one.parameters().items())
