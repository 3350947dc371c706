"""Whole runs whose agents live behind the Tinker API, on a stand-in for the package. What must hold:

- Co-Evolving Agents and GRPO go through, and both agents are adapters on one base;
- a run whose client and server are killed again and again ends with what was asked for;
- what a server can't do is refused before anything is asked of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ConfigError
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.engines.tinker.states import PUBLISHED
from sparring.runs.config import Recipe
from sparring.runs.play import evaluate_models
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe, play_config
from tests.methods import test_methods, test_reinforcement_methods
from tests.methods.test_methods import DeadlyProgress, Killed
from tests.tinker_service import TinkerService

TINKER: dict[str, Any] = {"engine": {"kind": "tinker"}, "lora": {"rank": 4}}
RATES = {"sft": {"lr": 1.5e-2, "epochs": 4, "batch_size": 4}, "dpo": {"lr": 1e-3, "epochs": 1, "batch_size": 4}}


@pytest.fixture
def service(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> TinkerService:
    found = TinkerService(model_folder)
    found.install(monkeypatch)
    return found


def preference_recipe(folder: Path, *arms: str, **sections: Any) -> Recipe:
    return test_methods.make_recipe(folder, *arms, **(TINKER | RATES | sections))


def grpo_recipe(folder: Path, **sections: Any) -> Recipe:
    grpo = {"rounds": 2, "num_tasks": 4, "num_per_task": 4, "evaluate_every": 2}
    more = {"env": {"kinds": ["short"]}, "sft": {"lr": 1e-4, "epochs": 1}, "grpo": grpo}
    return test_reinforcement_methods.make_recipe(folder, "grpo", **(TINKER | more | sections))


def learnt(folder: Path, out: Path) -> Path:
    """Make a base that knows the toy world, so that there are rewards to learn from."""
    sections = {"env": {"kinds": ["short"]}, "sft": {"lr": 1e-2}, "grpo": {"rounds": 1}}
    run(test_reinforcement_methods.make_recipe(folder, "grpo", **sections), out)
    return (out / "seed-0/grpo/sft-target/checkpoint").resolve()


def run(recipe: Recipe, out: Path, progress: SilentProgress | None = None) -> None:
    run_recipe(recipe, out, progress or SilentProgress(), with_report=False)


def weights(out: Path, phase: str) -> dict[str, torch.Tensor]:
    return load_file(out / "seed-0" / phase / "checkpoint/adapter_model.safetensors")


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[key], other[key]) for key in one)


def test_both_agents_are_adapters_on_one_server_and_stopped_runs_go_on(service: TinkerService, tmp_path: Path) -> None:
    recipe = preference_recipe(service.folder, "coevolving_agents", loop={"rounds": 1})
    for num_signs in (9, 14):
        with pytest.raises(Killed):
            run(recipe, tmp_path, DeadlyProgress(num_signs))
        service.restart()
    run(recipe, tmp_path)
    target, partner = (weights(tmp_path, f"coevolving_agents/sft-{name}") for name in ("target", "partner"))
    assert differ(target, partner)
    assert differ(weights(tmp_path, "coevolving_agents/round-1/train-target"), target)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["arms"]["coevolving_agents"]
    assert not service.live, "the run gives its places back"
    assert not list(tmp_path.rglob("tinker-state.json")), "what only an unfinished training needs is gone"


def test_policy_gradient_samples_and_learns_on_the_server(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = TinkerService(learnt(model_folder, tmp_path / "learnt"))
    service.install(monkeypatch)
    notes: list[str] = []
    out = tmp_path / "run"
    run(grpo_recipe(service.folder), out, SilentProgress(notes.append))
    assert not any("another probability" in note for note in notes), notes
    first = (out / "seed-0/grpo/round-1/train-target/log.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["pg/log_ratio"] < 1e-4, "the server samples with the weights that it trains"
    records = [json.loads(path.read_text()) for path in sorted(out.rglob(PUBLISHED))]
    assert {record["with_optimizer"] for record in records} == {False, True}, "GRPO's optimizer goes on, SFT's does not"
    assert "load whole" not in service.calls, "learners stay alive between phases"


def test_a_trained_agent_plays_here_as_there(service: TinkerService, tmp_path: Path) -> None:
    run(preference_recipe(service.folder, "sft"), tmp_path)
    agent = tmp_path / "seed-0/sft/sft-target/checkpoint"
    config = play_config(tmp_path)
    here = evaluate_models(config, [str(agent)], None, SilentProgress())[str(agent)]
    there = read_trajectories(tmp_path / "seed-0/sft/round-0/evaluate-target/trajectories.jsonl")
    assert [[turn.action for turn in one.turns] for one in here] == [
        [turn.action for turn in one.turns] for one in there
    ]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "all weights": ({"lora": {}}, r"lora\.rank: engine\.kind tinker trains adapters alone"),
    "another scale": ({"lora": {"rank": 4, "alpha": 8.0}}, r"lora\.alpha: a Tinker server scales adapters by 32"),
    "targets": ({"lora": {"rank": 4, "targets": ["q_proj"]}}, r"lora\.targets: "),
    "four bits": ({"lora": {"rank": 4, "quantize": "4bit"}}, r"lora\.quantize: "),
    "another sampler": (
        {"sampler": {"kind": "vllm"}, "vllm": {"launch": True}},
        r"sampler\.kind: engine\.kind tinker samples on its own server",
    ),
    "a mixture's balance": ({"sft": {"router_balance": 0.01}}, r"sft\.router_balance: not with engine\.kind tinker"),
    "decay": ({"dpo": {"weight_decay": 0.1}}, r"dpo\.weight_decay: not with engine\.kind tinker"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_can_not_do_is_refused(service: TinkerService, name: str) -> None:
    sections, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        preference_recipe(service.folder, "eto", **sections)
    assert not service.calls


def test_a_critic_and_another_temperature_are_refused(service: TinkerService) -> None:
    with pytest.raises(ConfigError, match=r"PPO's critic needs a value head"):
        test_reinforcement_methods.make_recipe(service.folder, "ppo", **TINKER)
    with pytest.raises(ConfigError, match=r"rollout\.temperature: is 0\.7, .* Set it to 1"):
        grpo_recipe(service.folder, rollout={"temperature": 0.7})


def test_an_address_stands_on_the_command_line_alone(service: TinkerService, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\nmethod = "sft"\n[tinker]\nbase_url = "http://127.0.0.1:1"\n')
    with pytest.raises(ConfigError, match=r"'tinker\.base_url' stands on the command line alone"):
        load_recipe(recipe)
