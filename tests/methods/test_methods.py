"""Whole methods on the toy world with a tiny random model: what they learn from, and that a stop leaves no trace."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sparring.core.errors import ConfigError, TrainingError
from sparring.core.journal import read_jsonl
from sparring.core.progress import Bar, SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import PreferencePair, Task, Trajectory
from sparring.engines.local import FullEngine
from sparring.methods.base import Agent
from sparring.methods.coevolving_agents import coevolving_agents
from sparring.methods.eto import eto
from sparring.models.loading import save_model
from sparring.runs.config import Config, Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict
from tests.test_pairs import played
from tests.tiny_models import tiny_model, tiny_tokenizer

ARMS = {
    "zero_shot": {"method": "zero_shot"},
    "sft": {"method": "sft"},
    "rft": {"method": "rft", "rft": {"num_samples": 2}},
    "eto": {"method": "eto"},
    "ipr": {"method": "ipr"},
    "coevolving_agents": {"method": "coevolving_agents"},
    "frozen": {"method": "coevolving_agents", "partner": {"kind": "frozen", "start": "shared"}},
    "positive": {"method": "coevolving_agents", "partner": {"kind": "positive"}},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)
    return folder


def make_recipe(model_folder: Path, *arms: str, **sections: Any) -> Recipe:
    values = {
        "name": "toy",
        "model": {"path": str(model_folder)},
        "env": {"id": "tests.toy_world:ToyWorld", "num_envs": 8, "options": {"size": 3, "num_turns": 5}},
        "chat": {"format": "action", "instruction": "", "max_context": 512},
        "rollout": {"max_new_tokens": 6, "wave_size": 8, "temperature": 1.0},
        "sft": {"lr": 1e-2, "epochs": 8, "batch_size": 4},
        "dpo": {"lr": 1e-3, "epochs": 1, "batch_size": 4},
        "fail": {"min_pairs": 1},
        "loop": {"rounds": 2},
        "eval": {"num_resamples": 50},
        "arms": {name: ARMS[name] for name in arms},
    } | sections
    return recipe_from_dict(values)


class Killed(Exception):
    """Stands for a kill: nothing catches it."""


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    """Return a recipe with other sections, in every arm."""
    arms = {
        name: dataclasses.replace(arm, config=dataclasses.replace(arm.config, **sections))
        for name, arm in recipe.arms.items()
    }
    return dataclasses.replace(recipe, arms=arms)


class DeadlyProgress(SilentProgress):
    """Dies at the n-th sign of progress."""

    def __init__(self, num_signs: int) -> None:
        super().__init__()
        self.left = num_signs

    def advance(self, num: float = 1) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self.advance()


class RecordingProgress(SilentProgress):
    """Remembers which phases were worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[str] = []

    def phase(self, name: str, total: float | None = None) -> AbstractContextManager[Bar]:
        self.phases.append(name)
        return super().phase(name, total)


def outcome(out: Path) -> dict[str, bytes]:
    """Return what a run ends with: its numbers, its trajectories and its weights."""
    names = ("results.json", "trajectories.jsonl", "model.safetensors", "adapter_model.safetensors")
    files = [path for name in names for path in out.rglob(name)]
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    return {
        name: b"\n".join(sorted(content.splitlines())) if name.endswith("jsonl") else content
        for name, content in found.items()
    }


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "all"
    run_recipe(make_recipe(model_folder, *ARMS), out, SilentProgress())
    return out


def test_every_method_finishes_and_reports(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert list(results["arms"]) == list(ARMS)
    for name, arm in results["arms"].items():
        rounds = {entry["round"] for entry in arm["seeds"]["0"]["evaluations"] if entry["agent"] == "target"}
        assert rounds == ({0} if name in ("zero_shot", "sft") else {0, 1} if name == "rft" else {0, 1, 2}), name
    assert (finished / "report.html").stat().st_size > 10_000


def test_the_failure_agent_learns_from_failures_alone(finished: Path) -> None:
    arm = finished / "seed-0" / "coevolving_agents"
    files = [arm / f"round-1/rollout-{agent}/trajectories.jsonl" for agent in ("target", "partner")]
    rewards = {trajectory.id: trajectory.reward for file in files for trajectory in read_trajectories(file)}
    pairs = read_jsonl(arm / "round-1/train-partner/pairs.jsonl")
    assert pairs
    for pair in pairs:
        assert pair["kind"] == "failure>failure"
        assert 1 > rewards[pair["chosen"]] > rewards[pair["rejected"]]


def test_the_target_learns_from_all_three_sets(finished: Path) -> None:
    pairs = read_jsonl(finished / "seed-0/coevolving_agents/round-1/train-target/pairs.jsonl")
    assert {pair["kind"] for pair in pairs} == {"expert>target", "expert>partner", "failure>failure"}
    eto = read_jsonl(finished / "seed-0/eto/round-1/train-target/pairs.jsonl")
    assert {pair["kind"] for pair in eto} == {"expert>target"}


def test_the_partner_kinds_differ_in_what_the_partner_learns(finished: Path) -> None:
    seed = finished / "seed-0"
    assert not (seed / "frozen/round-1/train-partner").exists()
    positive = read_jsonl(seed / "positive/round-1/train-partner/pairs.jsonl")
    assert {pair["kind"] for pair in positive} == {"expert>partner"}


def test_the_base_model_learns_nothing_before_it_is_measured(finished: Path) -> None:
    arm = finished / "seed-0/zero_shot"
    assert not list(arm.rglob("checkpoint"))
    played = (arm / "round-0/evaluate-target").resolve()
    assert played != (finished / "seed-0/sft/round-0/evaluate-target").resolve()


def test_arms_share_what_starts_from_the_same_agent(finished: Path) -> None:
    seed = finished / "seed-0"
    starts = {(seed / name / "sft-target").resolve() for name in ARMS if name != "zero_shot"}
    assert len(starts) == 1
    assert (seed / "eto/round-1/rollout-target").resolve() == (seed / "frozen/round-1/rollout-target").resolve()
    assert (seed / "eto/round-2/rollout-target").resolve() != (seed / "frozen/round-2/rollout-target").resolve()


def test_target_and_partner_start_as_two_agents(finished: Path) -> None:
    arm = finished / "seed-0/coevolving_agents"
    weights = [(arm / f"sft-{name}/checkpoint/model.safetensors").read_bytes() for name in ("target", "partner")]
    assert weights[0] != weights[1]


def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(model_folder: Path, tmp_path: Path) -> None:
    sft, dpo = (
        {"lr": lr, "epochs": epochs, "batch_size": 4, "save_every_s": 0} for lr, epochs in ((1e-2, 8), (1e-3, 1))
    )
    recipe = make_recipe(model_folder, "coevolving_agents", sft=sft, dpo=dpo)
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    run_recipe(recipe, whole, SilentProgress(), with_report=False)
    for num_signs in (10, 20, 19, 12, 10):  # within a wave, within training, between phases
        with pytest.raises(Killed):
            run_recipe(recipe, out, DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, out, SilentProgress(), with_report=False)
    assert outcome(out) == outcome(whole)


def test_running_a_finished_run_again_plays_and_trains_nothing(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "eto")
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-0/**/*") if path.is_file()}
    progress = RecordingProgress()
    run_recipe(recipe, tmp_path, progress, with_report=False)
    assert progress.phases == [f"toy → {tmp_path}"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-0/**/*") if path.is_file()} == before


def test_arms_must_share_their_world(model_folder: Path, tmp_path: Path) -> None:
    arms = {"a": {"method": "sft"}, "b": {"method": "eto", "env": {"num_train": 3}}}
    with pytest.raises(ConfigError, match=r"arms\.b: \[env\] differs"):
        run_recipe(make_recipe(model_folder, arms=arms), tmp_path / "run", SilentProgress())


def test_a_round_without_pairs_is_an_error_with_a_remedy(model_folder: Path, tmp_path: Path) -> None:
    env = {"id": "tests.toy_world:ToyWorld", "num_envs": 8, "options": {"size": 3, "num_turns": 5, "floor": 0.5}}
    recipe = make_recipe(model_folder, "eto", pairs={"min_gap": 1.0}, env=env)
    with pytest.raises(TrainingError, match=r"no preference pairs.*pairs\.min_gap"):
        run_recipe(recipe, tmp_path / "run", SilentProgress())


def test_the_failure_agent_may_play_again_and_old_rollouts_may_be_kept(model_folder: Path, tmp_path: Path) -> None:
    loop = {"rounds": 2, "refresh_failure_rollouts": True, "buffer_rounds": 2}
    run_recipe(make_recipe(model_folder, "frozen", loop=loop), tmp_path, SilentProgress(), with_report=False)
    pairs = read_jsonl(tmp_path / "seed-0/frozen/round-2/train-target/pairs.jsonl")
    rejected = {"/".join(pair["rejected"].split("/")[:2]) for pair in pairs}
    assert {"round-1/rollout-target", "round-2/rollout-target"} <= rejected
    assert {"round-1/rollout-partner-refreshed", "round-2/rollout-partner-refreshed"} & rejected
    assert "round-2/rollout-partner" not in rejected
    results = json.loads((tmp_path / "results.json").read_text())["arms"]["frozen"]["seeds"]["0"]
    assert [(entry["round"], entry["agent"]) for entry in results["refreshed"]] == [(1, "partner"), (2, "partner")]


def test_a_round_may_start_over_and_the_partner_s_rate_is_its_own(model_folder: Path, tmp_path: Path) -> None:
    """With a later rate of next to nothing, round 2's target is the weights that round 2 started from."""
    loop, partner = {"rounds": 2, "restart": True, "later_lr": 1e-12}, {"kind": "positive", "lr": 1e-3}
    recipe = make_recipe(model_folder, "positive", loop=loop, partner=partner)
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)

    def distance(one: str, other: str) -> float:
        arm = tmp_path / "seed-0/positive"
        a, b = (load_file(arm / phase / "checkpoint/model.safetensors") for phase in (one, other))
        return max((a[name] - b[name]).abs().max().item() for name in a)

    assert distance("round-2/train-target", "sft-target") < 1e-6 < 1e-4 < distance("round-1/train-target", "sft-target")
    assert distance("round-2/train-partner", "sft-partner") > 1e-4


class Rehearsal:
    """A session whose agents play what they are told, and which remembers what they were to learn."""

    def __init__(self, config: Config, rollouts: dict[str, list[Trajectory]]) -> None:
        self.config, self.played = config, rollouts
        self.experts: list[Trajectory] = []
        self.learnt: list[PreferencePair] = []

    def imitate(self, name: str) -> Agent:
        return Agent(name=name, checkpoint="", lineage="")

    def draw_tasks(self, number: int, num: int | None) -> list[Task]:
        return []

    def rollout(self, agent: Agent, number: int, *, tasks: Sequence[Task] = ()) -> list[Trajectory]:
        return self.played[f"{agent.name} {number}"]

    def rollouts(self, agents: Sequence[Agent], number: int, *, tasks: Sequence[Task] = ()) -> list[list[Trajectory]]:
        return [self.rollout(agent, number, tasks=tasks) for agent in agents]

    def prefer(self, agent: Agent, pairs: list[PreferencePair], number: int, *, loss: object = None) -> Agent:
        self.learnt += pairs if agent.name == "target" else []
        return agent

    def evaluate(self, agent: Agent, number: int) -> None: ...
    def warn(self, message: str) -> None: ...


@pytest.mark.parametrize(("method", "winner"), [(eto, "target"), (coevolving_agents, "partner")])
def test_a_success_of_one_round_is_the_expert_of_the_next(model_folder: Path, method: Any, winner: str) -> None:
    won, lost = played(winner, "u", 1.0, "abc"), played("target", "u", 0.5, "ab")
    rollouts = {"target 1": [], "partner 1": [], "target 2": [lost], "partner 2": []} | {f"{winner} 1": [won]}
    for is_on in (True, False):
        loop = {"rounds": 2, "adopt_successes": is_on}
        config = make_recipe(model_folder, "eto", loop=loop).arms["eto"].config
        session = Rehearsal(config, rollouts)
        method(session)
        assert [(pair.chosen, pair.rejected) for pair in session.learnt] == [(won, lost)] * is_on


def test_a_round_may_explore_a_part_of_the_tasks(model_folder: Path, tmp_path: Path) -> None:
    rollout = {"num_tasks": 2, "max_new_tokens": 6, "wave_size": 8, "temperature": 1.0}
    run_recipe(make_recipe(model_folder, "frozen", rollout=rollout), tmp_path, SilentProgress(), with_report=False)
    played = {}
    for number in (1, 2):
        for agent in ("target", "partner"):
            file = tmp_path / f"seed-0/frozen/round-{number}/rollout-{agent}/trajectories.jsonl"
            played[number, agent] = {trajectory.task.id for trajectory in read_trajectories(file)}
    assert all(len(tasks) == 2 for tasks in played.values())
    assert played[1, "target"] == played[1, "partner"]
    assert played[1, "target"] != played[2, "target"]


@pytest.mark.parametrize(("num_cloned", "num_steps"), [(None, 6), (2, 2), (99, 6)])
def test_some_experts_may_serve_in_pairs_alone(
    model_folder: Path, tmp_path: Path, num_cloned: int | None, num_steps: int
) -> None:
    recipe = make_recipe(
        model_folder,
        "sft",
        expert={"num_cloned": num_cloned},
        sft={"epochs": 1, "batch_size": 1},
        eval={"num_tasks": 1},
    )
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    done = json.loads((tmp_path / "seed-0/sft/sft-target/done.json").read_text())
    assert done["steps"] == num_steps


def test_a_training_that_breaks_the_agent_is_taken_back(model_folder: Path, tmp_path: Path) -> None:
    sections = {"dpo": {"lr": 1.0, "epochs": 1, "batch_size": 4}, "loop": {"rounds": 1, "accept_drop": 0.0}}
    recipe = make_recipe(model_folder, "eto", **sections, sft={"lr": 1e-2, "epochs": 25, "batch_size": 4})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    results = run_recipe(recipe, whole, SilentProgress(), with_report=False)["arms"]["eto"]["seeds"]["0"]
    (check,) = results["checks"]
    assert (len(check["attempts"]), check["kept"]) == (3, None)
    assert all(tried["before"] > tried["after"] for tried in check["attempts"])
    before, after = [one["rewards"] for one in results["evaluations"]]
    assert after == before
    arm = whole / "seed-0/eto"
    weights = [
        (arm / f"{name}/checkpoint/model.safetensors").read_bytes() for name in ("sft-target", "round-1/train-target")
    ]
    assert weights[0] == weights[1]
    rates = [read_jsonl(arm / f"round-1/rejected-target-{n}/log.jsonl")[-1]["lr"] for n in (1, 2, 3)]
    assert rates == pytest.approx([1.0, 0.5, 0.25])

    with pytest.raises(Killed):
        run_recipe(recipe, stopped, DeadlyProgress(92), with_report=False)
    assert (stopped / "seed-0/eto/round-1/rejected-target-1").is_dir()  # killed between the attempts
    assert not (stopped / "seed-0/eto/round-1/rejected-target-3").exists()
    run_recipe(recipe, stopped, SilentProgress(), with_report=False)
    assert outcome(stopped) == outcome(whole)


def test_the_guard_can_be_turned_off(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "eto", loop={"rounds": 1, "accept_tasks": 0})
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    assert not [*tmp_path.rglob("check-*"), *tmp_path.rglob("accept-*"), *tmp_path.rglob("rejected-*")]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", [("partner", 1), ("partner", 2), ("target", 1), ("target", 2)]),
        ("evaluated", [("partner", 2), ("target", 1), ("target", 2)]),
        ("last", [("partner", 2), ("target", 2)]),
    ],
)
def test_a_run_keeps_the_checkpoints_that_it_is_told_to(
    model_folder: Path, tmp_path: Path, keep: str, kept: list[tuple[str, int]]
) -> None:
    recipe = make_recipe(model_folder, "coevolving_agents", run={"keep": keep})
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    arm = tmp_path / "seed-0/coevolving_agents"
    found = [path.parts[-3:-1] for path in arm.glob("round-*/train-*/checkpoint")]
    assert sorted((name.partition("-")[2], int(number[-1])) for number, name in found) == kept


def test_memory_that_runs_out_is_one_message_and_the_run_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    recipe = make_recipe(model_folder, "sft")
    with monkeypatch.context() as patched:
        patched.setattr("sparring.engines.learner.LocalLearner.forward_backward", full)
        with pytest.raises(TrainingError, match=r"sft, sft-target: memory ran out.*same command goes on.*lora\.rank"):
            run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    assert run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)["arms"]["sft"]


@pytest.mark.parametrize(("arm", "most"), [("eto", 1), ("positive", 2)])
def test_large_models_stay_alive_as_memory_is_estimated(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, most: int
) -> None:
    """Nor is one loaded before another has gone. Small models are cheap to keep: two arms share the agents' start."""
    alive: list[int] = []
    load = FullEngine._load  # pyright: ignore

    def counted(self: FullEngine, checkpoint: str) -> Any:
        alive.append(len(self._held) + 1)
        return load(self, checkpoint)

    monkeypatch.setattr("sparring.models.threads.SMALL_MODEL", 0)
    monkeypatch.setattr(FullEngine, "_load", counted)
    run_recipe(make_recipe(model_folder, "sft", arm), tmp_path, SilentProgress(), with_report=False)
    assert max(alive) == most


def test_arms_may_start_from_models_of_their_own(model_folder: Path, tmp_path: Path) -> None:
    """One larger agent beside two agents of the small model: nothing of one model's start is taken for the other's."""
    larger = tmp_path / "larger"
    save_model(tiny_model("qwen3", head_dim=32, seed=1), tiny_tokenizer("chatml"), larger)
    arms = {"coevolving_agents": ARMS["coevolving_agents"], "large": {"method": "sft", "model": {"path": str(larger)}}}
    recipe = make_recipe(model_folder, arms=arms, loop={"rounds": 1})
    run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=True)
    weights = {
        arm: load_file(tmp_path / f"run/seed-0/{arm}/sft-target/checkpoint/model.safetensors") for arm in recipe.arms
    }
    sizes = {arm: sum(tensor.numel() for tensor in found.values()) for arm, found in weights.items()}
    assert sizes["large"] > sizes["coevolving_agents"]
    alone = make_recipe(larger, "sft")
    run_recipe(alone, tmp_path / "alone", SilentProgress(), with_report=False)
    same = load_file(tmp_path / "alone/seed-0/sft/sft-target/checkpoint/model.safetensors")
    assert all(bool((same[name] == tensor).all()) for name, tensor in weights["large"].items())
