"""CoEvolve as whole runs on the growable toy world: its pool grows where the agent is weak; a stop leaves no trace."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.journal import read_json, read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.models.loading import save_model
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict
from sparring.synthesis.curriculum import SynthesisResult
from tests.methods.test_methods import DeadlyProgress, Killed, outcome
from tests.synthesis.growing_world import GrowingWorld
from tests.tiny_models import tiny_model, tiny_tokenizer

ARMS = {
    "coevolve": {"method": "coevolve"},
    "random": {"method": "coevolve", "synthesis": {"guidance": "random"}},
    "replay": {"method": "coevolve", "synthesis": {"kind": "replay"}},
    "cloned": {"method": "coevolve", "synthesis": {"kind": "exploration", "clone_solutions": True}},
}
OTHERS = {"grpo": {"method": "grpo"}, "coevolving_agents_and_tasks": {"method": "coevolving_agents_and_tasks"}}
ROUNDS = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml"), folder)
    return folder


def make_recipe(model_folder: Path, *arms: str, **sections: dict[str, Any]) -> Recipe:
    values: dict[str, Any] = {
        "name": "toy",
        "model": {"path": str(model_folder)},
        "env": {"id": "tests.synthesis.growing_world:GrowingWorld", "num_envs": 8, "kinds": ["short"]}
        | {"options": {"num_turns": 4}},
        "chat": {"format": "action", "instruction": "", "max_context": 512},
        "rollout": {"max_new_tokens": 6, "wave_size": 16, "temperature": 1.0},
        "sft": {"lr": 1e-2, "epochs": 12, "batch_size": 4},
        "rl": {"lr": 1e-3, "batch_size": 12},
        "grpo": {"rounds": len(ROUNDS), "num_tasks": 5, "num_per_task": 4, "evaluate_every": 2},
        "synthesis": {"every": 2, "num_flags": 8, "num_proposals": 6},
        "validation": {"checks": ["replay", "change", "duplicate", "empty"]},
        "pool": {"min_active": 2, "max_synthetic_share": 0.8},
        "eval": {"num_resamples": 50},
        "arms": {name: (ARMS | OTHERS)[name] for name in arms},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return recipe_from_dict(values)


class Unexplored(GrowingWorld):
    """Makes tasks, and has no explorer."""

    class Own(type(GrowingWorld.synthesis)):
        place = None

    synthesis = Own()


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "all"
    run_recipe(make_recipe(model_folder, *ARMS), out, SilentProgress())
    return out


def growth_of(folder: Path, number: int) -> SynthesisResult:
    return SynthesisResult.from_json(read_json(folder / f"round-{number}/synthesis/synthesis.json"))


def drawn_tasks(folder: Path, number: int) -> set[str]:
    played = read_trajectories(folder / f"round-{number}/rollout-target/trajectories.jsonl")
    return {trajectory.task.id for trajectory in played}


def test_new_tasks_are_made_and_played(finished: Path) -> None:
    arm = finished / "seed-0/coevolve"
    accepted = [one.proposal for one in growth_of(arm, 2).verdicts if one.is_accepted]
    assert accepted and all(one.origin.signal is not None for one in accepted)
    assert not (arm / "round-1/synthesis").exists() and not (arm / "round-3/synthesis").exists()
    made = {one.task.id for one in accepted}
    assert made & (drawn_tasks(arm, 3) | drawn_tasks(arm, 4)), "no new task was ever drawn"
    assert not made & (drawn_tasks(arm, 1) | drawn_tasks(arm, 2))


def test_every_episode_of_a_synthesis_is_written_down_and_counted(finished: Path) -> None:
    for name in ("coevolve", "random"):
        for number in (2, 4):
            folder = finished / f"seed-0/{name}"
            played = read_trajectories(folder / f"round-{number}/synthesis/trajectories.jsonl")
            assert len(played) == sum(growth_of(folder, number).episodes.values())
            assert played or number == 4


def test_no_evaluation_task_enters(finished: Path) -> None:
    held_out = {task.id for split in ("dev", "test") for task in GrowingWorld().tasks(split)}
    for number in ROUNDS:
        assert drawn_tasks(finished / "seed-0/coevolve", number).isdisjoint(held_out)


def test_the_pool_is_recorded_round_by_round(finished: Path) -> None:
    arm = finished / "seed-0/coevolve"
    events = {number: read_jsonl(arm / f"round-{number}/pool.jsonl") for number in (0, *ROUNDS)}
    assert {event["change"] for event in events[0]} == {"started"}
    added = {event["task_id"] for event in events[2] if event["change"] == "added"}
    accepted = {one.proposal.task.id for one in growth_of(arm, 2).verdicts if one.is_accepted}
    assert added and added <= accepted
    assert not any(event["change"] == "added" for number in (1, 3) for event in events[number])


def test_the_control_arm_makes_nothing(finished: Path) -> None:
    arm = finished / "seed-0/replay"
    assert not list(arm.glob("round-*/synthesis"))
    initial = {task.id for task in GrowingWorld().tasks("train")}
    assert all(drawn_tasks(arm, number) <= initial for number in ROUNDS)


def test_random_synthesis_answers_no_flag(finished: Path) -> None:
    verdicts = growth_of(finished / "seed-0/random", 2).verdicts
    assert verdicts and {one.proposal.origin.signal for one in verdicts} == {"unguided"}


def test_solutions_of_new_tasks_are_cloned_beside_the_experts(finished: Path) -> None:
    arm, num_experts = finished / "seed-0/cloned", len(read_jsonl(finished / "experts.jsonl"))
    solved = 0
    for number in (2, 4):
        growth = growth_of(arm, number)
        assert {one.proposal.origin.strategy for one in growth.verdicts} == {"explore"}
        assert growth.episodes["explore"] > 0
        solved += sum(one.is_accepted or one.is_quarantined for one in growth.verdicts)
        steps = read_json(arm / f"round-{number}/train-target/done.json")["steps"]
        assert steps == 12 * math.ceil((num_experts + solved) / 4)  # sft.epochs, sft.batch_size
    assert solved > 0
    assert all(read_json(arm / f"round-{number}/train-target/done.json")["steps"] == 2 for number in (1, 3, 5))
    told = read_json(finished / "results.json")["arms"]["cloned"]["seeds"]["0"]["synthesis"]
    assert all(kind.startswith("explore/") for one in told for kind in one["kinds"])


def test_what_later_rounds_hold_on_to_is_kept_as_long_as_they_do(model_folder: Path, tmp_path: Path) -> None:
    grpo, run = {"kl_weight": 1e-3, "evaluate_every": 5}, {"keep": "last"}
    recipe = make_recipe(model_folder, "cloned", grpo=grpo, run=run)
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    kept = {path.parent.parent.name for path in tmp_path.glob("seed-0/cloned/round-*/train-target/checkpoint")}
    assert kept == {"round-2", "round-4", "round-5"}
    after = outcome(tmp_path)
    for name in ("round-5/train-target", "round-5/evaluate-target"):
        shutil.rmtree(tmp_path / "seed-0/cloned" / name)
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    assert outcome(tmp_path) == after


def test_an_agent_that_starts_at_the_base_model_has_no_experts_to_clone(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"clone_solutions: .* grpo\.start"):
        make_recipe(model_folder, "cloned", grpo={"start": "base"})


def test_a_world_without_synthesis_says_so(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "coevolve", env={"id": "tests.toy_world:ToyWorld"}, sft={"epochs": 1})
    with pytest.raises(ConfigError, match="offers no synthesis"):
        run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    recipe = make_recipe(model_folder, "cloned", env={"id": f"{__name__}:Unexplored"})
    with pytest.raises(ConfigError, match=r"can't be explored .* synthesis\.kind"):
        run_recipe(recipe, tmp_path / "unexplored", SilentProgress(), with_report=False)
    assert not (tmp_path / "unexplored/seed-0").exists()
    grpo = {"rounds": 2, "num_tasks": 2, "num_per_task": 2}
    recipe = make_recipe(model_folder, "replay", env={"id": "tests.toy_world:ToyWorld"}, sft={"epochs": 1}, grpo=grpo)
    run_recipe(recipe, tmp_path / "replayed", SilentProgress(), with_report=False)


def test_a_method_without_synthesis_has_no_pool(model_folder: Path, tmp_path: Path) -> None:
    grpo = {"rounds": 1, "num_tasks": 2, "num_per_task": 2, "start": "base"}
    env = {"id": "tests.toy_world:ToyWorld", "options": {"floor": 0.1}}  # where nothing is earned GRPO ends at once
    recipe = make_recipe(model_folder, "grpo", grpo=grpo, env=env)
    run_recipe(recipe, tmp_path, SilentProgress())
    assert (tmp_path / "seed-0/grpo/round-1/train-target").exists()
    assert not list(tmp_path.rglob("pool.jsonl"))
    assert not read_json(tmp_path / "results.json")["arms"]["grpo"]["seeds"]["0"].get("pool")
    assert 'id="pool"' not in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_a_run_stopped_again_and_again_ends_like_one_that_was_not(
    model_folder: Path, finished: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(model_folder, "coevolve", sft={"epochs": 8})
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=False)
    for num_signs in (40, 25, 12, 20, 9):  # within waves, within training, within a synthesis
        with pytest.raises(Killed):
            run_recipe(recipe, tmp_path / "stopped", DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, tmp_path / "stopped", SilentProgress(), with_report=False)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_results_and_report_tell_how_the_pool_went(finished: Path) -> None:
    seeds = {name: arm["seeds"]["0"] for name, arm in read_json(finished / "results.json")["arms"].items()}
    assert not seeds["replay"]["synthesis"]
    states, (first, second) = seeds["coevolve"]["pool"], seeds["coevolve"]["synthesis"]
    assert [state["round"] for state in states] == [0, *ROUNDS] and states[0]["synthetic_share"] == 0.0
    assert states[2]["synthetic_share"] > 0 and any(state["new"] for state in states[3:])
    growths = [growth_of(finished / "seed-0/coevolve", number) for number in (2, 4)]
    assert [one["outcomes"] for one in (first, second)] == [result.refusals() for result in growths]
    assert [one["rollouts"] for one in (first, second)] == [
        40,
        sum(s["old"]["episodes"] + (s["new"] or {"episodes": 0})["episodes"] for s in states[3:5]),
    ]
    page = (finished / "report.html").read_text("utf-8")
    made = [one.proposal.task.id for result in growths for one in result.verdicts if one.is_accepted]
    assert 'id="pool"' in page and made and all(task in page for task in made)
