"""GRPO and PPO as whole runs on the toy world: they learn, a stop leaves no trace, what is kept is what is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparring.core.errors import ConfigError, DataError, TrainingError
from sparring.core.folder import Run
from sparring.core.journal import read_json, read_jsonl
from sparring.core.phases import Phase
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.chat import ChatConfig
from sparring.engines.local import FullEngine
from sparring.learning.advantages import Spread, advantages_by_task
from sparring.learning.phase import TrainingPhase, grpo_training
from sparring.learning.policy_gradient import PolicyGradientObjective
from sparring.learning.trainer import TrainConfig
from sparring.methods.base import Agent
from sparring.models.loading import ModelConfig, save_model
from sparring.policies.factory import Prompt
from sparring.runs.config import Recipe
from sparring.runs.phase_runner import PhaseRunner
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict
from sparring.runs.session import Session
from sparring.runs.world import World
from tests.methods.test_methods import DeadlyProgress, Killed, outcome
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyWorld

ARMS = {
    "grpo": {"method": "grpo"},
    "ppo": {"method": "ppo"},
    "ppo_offline": {"method": "ppo", "ppo": {"kind": "offline"}},
}
BASE = {"grpo_base": {"method": "grpo", "grpo": {"start": "base", "kl_weight": 0.0}}}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml"), folder)
    return folder


def make_recipe(model_folder: Path, *arms: str, **sections: dict[str, Any]) -> Recipe:
    values: dict[str, Any] = {
        "name": "toy",
        "model": {"path": str(model_folder)},
        "env": {"id": "tests.toy_world:ToyWorld", "num_envs": 8, "options": {"num_turns": 5}},
        "chat": {"format": "action", "instruction": "", "max_context": 512},
        "rollout": {"max_new_tokens": 6, "wave_size": 16, "temperature": 1.0},
        "sft": {"lr": 3e-3, "epochs": 15, "batch_size": 4},
        "rl": {"lr": 2e-3, "batch_size": 12},
        "grpo": {"rounds": 3, "num_tasks": 6, "num_per_task": 4, "evaluate_every": 2},
        "ppo": {"rounds": 2, "num_per_task": 2},
        "eval": {"num_resamples": 50},
        "arms": {name: (ARMS | BASE)[name] for name in arms},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return recipe_from_dict(values)


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "all"
    notes: list[str] = []
    run_recipe(make_recipe(model_folder, *ARMS), out, SilentProgress(notes.append))
    assert not any("another probability" in note for note in notes), notes
    return out


def test_every_method_finishes_and_reports(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    for name in ARMS:
        found = results["arms"][name]["seeds"]["0"]
        assert [e["round"] for e in found["evaluations"]] == ([0, 2, 3] if "grpo" in name else [0, 1, 2])
        assert [e["round"] for e in found["training"]] == ([1, 2, 3] if "grpo" in name else [1, 2])
    assert (finished / "report.html").stat().st_size > 10_000


def test_a_round_plays_groups_of_drawn_tasks_and_keeps_log_probabilities(finished: Path) -> None:
    drawn = []
    for number in (1, 2, 3):
        played = read_trajectories(finished / f"seed-0/grpo/round-{number}/rollout-target/trajectories.jsonl")
        tasks = [trajectory.task.id for trajectory in played]
        assert {tasks.count(task) for task in tasks} == {4} and len(set(tasks)) == 6
        assert all(len(turn.logprobs) == len(turn.token_ids) > 0 for t in played for turn in t.turns)
        drawn.append(frozenset(tasks))
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("name", ARMS)
def test_training_begins_with_a_ratio_of_one(finished: Path, name: str) -> None:
    for log in sorted(finished.glob(f"seed-0/{name}/round-*/train-target/log.jsonl")):
        first, *rest = read_jsonl(log)
        assert first["pg/ratio"] == pytest.approx(1, abs=1e-3) == pytest.approx(first["pg/ratio_max"], abs=1e-3)
        assert first["pg/log_ratio"] < 1e-5 and first["pg/log_ratio_max"] < 1e-4
        assert all(record["pg/ratio_max"] > 1.0001 for record in rest)
        if name == "grpo":
            played = read_trajectories(log.parent.parent / "rollout-target/trajectories.jsonl")
            for line in (first, *rest, read_json(log.parent / "done.json")):
                assert Spread.of(played).record().items() <= line.items() and line["groups"] == 6


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_a_mismatch_of_playing_and_training_is_warned_of(finished: Path, tmp_path: Path, temperature: float) -> None:
    """Played at temperature 1. The mean ratio hardly shows it: over samples of the old policy its expectation is 1."""
    arm, notes = finished / "seed-0/grpo", []
    played = read_trajectories(arm / "round-1/rollout-target/trajectories.jsonl")
    training = grpo_training(
        PolicyGradientObjective(temperature=temperature),
        TrainConfig(lr=1e-4, batch_size=24, epochs=1),
        played,
        advantages_by_task(played),
        None,
        tmp_path / "scores.safetensors",
    )
    chat = ChatConfig(format="action", instruction="", max_context=512)
    engine = FullEngine(ModelConfig(), Prompt(config=chat, instruction=ToyWorld.instruction).chat)
    learner, encoder = engine.learner(str(arm / "sft-target/checkpoint"))
    phase = TrainingPhase(learner=learner, chat=encoder, phase=Phase(tmp_path), name="train", warn=notes.append)
    phase.run(training, seed=0, bar=SilentProgress())
    (record,) = read_jsonl(tmp_path / "log.jsonl")
    assert abs(record["pg/ratio"] - 1) < 0.1
    assert [note[:42] for note in notes] == ([] if temperature == 1 else ["train: in the first step the sampled token"])


def test_a_run_that_earns_nothing_ends_and_says_so(model_folder: Path, tmp_path: Path) -> None:
    message = r"grpo_base, round-1/train-target: nothing to learn from in 6 of 6 groups \(all rewards 0\).*grpo\.start"
    with pytest.raises(TrainingError, match=message):
        run_recipe(make_recipe(model_folder, "grpo_base"), tmp_path / "run", SilentProgress(), with_report=False)


class Inexpert(ToyWorld):
    """A world that knows no solution."""

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        return {}


def test_a_world_without_experts_is_refused_only_where_they_are_needed(model_folder: Path, tmp_path: Path) -> None:
    env = {"id": f"{__name__}:Inexpert"}
    with pytest.raises(DataError, match="no expert trajectories for the 12 training tasks"):
        run_recipe(make_recipe(model_folder, "grpo", env=env), tmp_path / "a", SilentProgress(), with_report=False)
    with pytest.raises(DataError, match="no expert trajectories"):
        shown = make_recipe(model_folder, "grpo_base", env=env, chat={"num_examples": 1})
        run_recipe(shown, tmp_path / "b", SilentProgress(), with_report=False)
    with pytest.raises(TrainingError, match="nothing to learn from"):  # it came as far as playing
        run_recipe(make_recipe(model_folder, "grpo_base", env=env), tmp_path / "c", SilentProgress(), with_report=False)


def played_alike(number: int, reward: float) -> list[Trajectory]:
    turn = Turn(observation="a", text="x", action="x", reward=reward, token_ids=(1,), logprobs=(-1.0,))
    end = {"agent": "target", "final_observation": "", "reward": reward, "stop": StopReason.DONE}
    tasks = [Task(id=name, kind="k") for name in "stu"]
    return [Trajectory(id=f"{number}/{t.id}/{i}", task=t, turns=(turn,), **end) for t in tasks for i in (0, 1)]


def test_rounds_without_spread_change_no_weight(tmp_path: Path) -> None:
    config = make_recipe(tmp_path, "grpo_base").arms["grpo_base"].config
    pool: Any = None
    world = World(benchmark=ToyWorld(), pool=pool, train_tasks=(), eval_tasks=(), experts=())
    notes: list[str] = []
    with Run.open(tmp_path / "run", {}, {}) as run:
        session = Session(PhaseRunner(run, world, config, arm="a", seed=0, progress=SilentProgress(notes.append)))
        agent = session.base("target")

        def improve(number: int, reward: float) -> Agent:
            played = played_alike(number, reward)
            return session.improve(agent, played, advantages_by_task(played), number, reference=agent)

        for number, reward in enumerate((0.1, 0.1, 0.0), start=1):
            for _ in range(2):  # the second time as a run that is resumed: nothing is said again
                assert improve(number, reward) == agent
            done = read_json(run.folder / f"seed-0/a/round-{number}/train-target/done.json")
            assert (done["steps"], done["groups"], done["groups_flat"]) == (0, 3, 3)
            assert (done["pairs"], done["metrics"]) == ({}, {}), "what a run's results are collected from"
        said = "nothing to learn from in 3 of 3 groups"
        assert notes == [
            f"a: round-1/train-target: {said} (all rewards alike).",
            f"a: round-2/train-target: {said} (all rewards alike).",
            f"a: round-3/train-target: {said} (all rewards 0).",
        ]


def test_offline_ppo_plays_once(finished: Path) -> None:
    assert len(list(finished.glob("seed-0/ppo/round-*/rollout-target"))) == 2
    assert len(list(finished.glob("seed-0/ppo_offline/round-*/rollout-target"))) == 1


def test_what_starts_alike_is_shared(finished: Path) -> None:
    seed = finished / "seed-0"
    assert (seed / "grpo/sft-target").resolve() == (seed / "ppo/sft-target").resolve()
    assert not (seed / "grpo_base/sft-target").exists()
    assert (seed / "ppo/round-1/rollout-target").resolve() == (seed / "ppo_offline/round-1/rollout-target").resolve()


def test_weights_are_kept_where_they_were_evaluated_and_moments_for_the_next_round(finished: Path) -> None:
    grpo = finished / "seed-0/grpo"
    assert [path.parts[-3] for path in sorted(grpo.glob("round-*/train-target/checkpoint"))] == ["round-2", "round-3"]
    assert [path.parts[-3] for path in grpo.glob("round-*/train-target/optimizer.safetensors")] == ["round-3"]
    assert not list(finished.glob("seed-0/**/state"))


def test_the_value_head_goes_on_from_round_to_round(finished: Path) -> None:
    heads = [
        load_file(finished / f"seed-0/ppo/round-{number}/train-target/checkpoint/value_head.safetensors")["weight"]
        for number in (1, 2)
    ]
    first, second = (head.abs().max().item() for head in heads)
    assert 0 < first < second < 3 * first
    weights = load_file(finished / "seed-0/ppo/round-2/train-target/checkpoint/model.safetensors")
    assert not any("value" in name for name in weights if "proj" not in name)
    assert not list((finished / "seed-0/grpo").rglob("value_head.safetensors"))


@pytest.fixture(scope="module")
def half_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, in bfloat16: its checkpoints are rounded, and what it learns is finer than that."""
    folder = tmp_path_factory.mktemp("half")
    save_model(tiny_model("qwen3", scale=1.0).to(torch.bfloat16), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "stops"), [("grpo", (7, 30, 9, 25)), ("ppo", (9, 33, 12, 4))])
def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(
    model_folder: Path, half_folder: Path, tmp_path: Path, name: str, stops: tuple[int, ...], is_half: bool
) -> None:
    folder = half_folder if is_half else model_folder
    recipe, out = make_recipe(folder, name), tmp_path / "stopped"
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=False)
    for num_signs in stops:  # within a wave, within training, between phases
        with pytest.raises(Killed):
            run_recipe(recipe, out, DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, out, SilentProgress(), with_report=False)
    whole, stopped = outcome(tmp_path / "whole"), outcome(out)
    assert stopped == whole and any(file.endswith("model.safetensors") for file in whole)
    moments = [sorted(folder.glob("seed-0/*/*/*/*.safetensors")) for folder in (tmp_path / "whole", out)]
    assert [path.read_bytes() for path in moments[0]] == [path.read_bytes() for path in moments[1]] != []


def test_greedy_groups_are_refused(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"arms\.grpo_base\.rollout\.temperature: grpo samples, .*above 0"):
        make_recipe(model_folder, "grpo_base", rollout={"temperature": 0.0})


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("grpo", {"num_per_task": 1}, "grpo.num_per_task: expected a whole number from 2 to"),
        ("grpo", {"kl_weight": -1.0}, "grpo.kl_weight: expected a finite number from 0 to"),
        ("ppo", {"rounds": 0}, "ppo.rounds: expected a whole number from 1 to"),
        ("ppo", {"value_lr": -0.1}, "ppo.value_lr: expected a finite number from 0 to"),
    ],
)
def test_nonsense_is_refused(model_folder: Path, section: str, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe(model_folder, "grpo", **{section: value})


def rewards_of(out: Path, arm: str, *rounds: int) -> list[float]:
    files = [out / f"seed-0/{arm}/round-{number}/rollout-target/trajectories.jsonl" for number in rounds]
    return [trajectory.reward for file in files for trajectory in read_trajectories(file)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lr"), [("grpo", 2e-3), ("ppo", 1e-3)])
def test_it_learns(model_folder: Path, tmp_path: Path, name: str, lr: float) -> None:
    """From a half-trained clone: the sampled reward of the last two rounds over the first two, by standard errors."""
    size = {"rounds": 12, "num_tasks": 12, "num_per_task": 8, "evaluate_every": 12}
    recipe = make_recipe(
        model_folder,
        name,
        sft={"epochs": 60},
        env={"num_envs": 16},
        rollout={"wave_size": 32},
        rl={"lr": lr, "batch_size": 32 if name == "grpo" else 16},
        grpo={**size, "kl_weight": 0.0},
        ppo={**size, "kl_weight": 0.01},
    )
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    before, after = rewards_of(tmp_path, name, 1, 2), rewards_of(tmp_path, name, 11, 12)
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    assert mean(after) - mean(before) > 3 * error, (mean(before), mean(after), error)
