"""Runs whose first tasks come of exploration: arms share them, a stop leaves no trace, evaluation data is not read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import read_json, read_jsonl
from sparring.core.phases import Phase
from sparring.core.progress import SilentProgress
from sparring.core.records import read_trajectories
from sparring.core.types import Task
from sparring.models.loading import save_model
from sparring.policies.base import Episode
from sparring.policies.scripted import ScriptedPolicy
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import recipe_from_dict
from sparring.synthesis.curriculum import SynthesisResult
from tests.methods.test_methods import DeadlyProgress, Killed
from tests.serving import PolicyServer
from tests.synthesis.growing_world import GrowingWorld
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import COLOURS

NUM = 6
CANARY = "KANARIENVOGEL-4711"
ARMS = {
    "grpo": {"method": "grpo"},
    "coevolve": {"method": "coevolve"},
    "replay": {"method": "coevolve", "synthesis": {"kind": "replay"}, "validation": {"checks": []}},
}


class CanaryWorld(GrowingWorld):
    """The growable world, with a word in all that evaluation tasks consist of, and nowhere else."""

    def tasks(self, split: str) -> Sequence[Task]:
        found = super().tasks(split)
        if split == "train":
            return found
        return [
            Task(id=f"{one.id}-{CANARY}", kind=one.kind, data={**one.data, "told": [*one.data["goal"], CANARY]})
            for one in found
        ]


class DullWorld(GrowingWorld):
    """Where an explorer only looks."""

    class Looking(type(GrowingWorld.synthesis)):
        def explore(self, *_: object) -> str | None:
            return "look"

    synthesis = Looking()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", scale=1.0), tiny_tokenizer("chatml"), folder)
    return folder


def make_recipe(model_folder: Path, *arms: str, **sections: dict[str, Any]) -> Recipe:
    values: dict[str, Any] = {
        "name": "toy",
        "model": {"path": str(model_folder)},
        "env": {"id": "tests.methods.test_bootstrap_runs:CanaryWorld", "num_envs": 8, "kinds": ["short"]}
        | {"options": {"num_turns": 4}},
        "chat": {"format": "action", "instruction": "", "max_context": 512},
        "rollout": {"max_new_tokens": 6, "wave_size": 16, "temperature": 1.0},
        "sft": {"lr": 1e-2, "epochs": 12, "batch_size": 4},
        "rl": {"lr": 1e-3, "batch_size": 12},
        "grpo": {"rounds": 2, "num_tasks": 4, "num_per_task": 4},
        "bootstrap": {"num": NUM, "num_places": 2, "checks": ["duplicate", "replay", "change", "empty"]},
        "synthesis": {"every": 1, "num_flags": 4, "num_proposals": 4},
        "validation": {"checks": ["replay", "change", "duplicate", "empty"]},
        "pool": {"min_active": 2},
        "eval": {"num_resamples": 50},
        "arms": {name: ARMS[name] for name in arms},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return recipe_from_dict(values)


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "all"
    run_recipe(make_recipe(model_folder, *ARMS), out, SilentProgress())
    return out


def result_of(folder: Path) -> SynthesisResult:
    return SynthesisResult.from_json(read_json(folder / "round-0/synthesis/synthesis.json"))


def initial(folder: Path) -> set[str]:
    """The tasks that exploration let in, as many as were wanted."""
    passed = [one.proposal.task.id for one in result_of(folder).verdicts if one.is_accepted]
    return set(passed[:NUM])


def test_arms_share_one_exploration_however_they_differ(finished: Path) -> None:
    folders = {(finished / f"seed-0/{arm}/round-0/synthesis").resolve() for arm in ARMS}
    assert len(folders) == 1 and folders.pop().parent.name == "shared"


def test_what_is_played_first_comes_of_exploration(finished: Path) -> None:
    made, split = initial(finished / "seed-0/grpo"), {task.id for task in CanaryWorld().tasks("train")}
    assert len(made) == NUM and not made & split
    for arm in ARMS:
        played = read_trajectories(finished / f"seed-0/{arm}/round-1/rollout-target/trajectories.jsonl")
        assert {one.task.id for one in played} <= made
    for arm in ("coevolve", "replay"):
        events = read_jsonl(finished / f"seed-0/{arm}/round-0/pool.jsonl")
        assert {(event["change"], event["task_id"]) for event in events} == {("started", task) for task in made}


def test_every_episode_is_written_down_and_counted(finished: Path) -> None:
    folder = finished / "seed-0/grpo"
    played = read_trajectories(folder / "round-0/synthesis/trajectories.jsonl")
    result = result_of(folder)
    assert len({one.id for one in played}) == len(played) == sum(result.episodes.values())
    assert result.episodes["explore"] > 0
    done = Phase(folder / "round-0/synthesis").result()
    assert (done["num"], done["refusals"]) == (len(played), result.refusals())


def test_results_and_report_tell_of_it_where_they_tell_of_syntheses(finished: Path) -> None:
    arms = read_json(finished / "results.json")["arms"]
    for name in ARMS:
        first = arms[name]["seeds"]["0"]["synthesis"][0]
        assert (first["round"], first["rollouts"]) == (0, 0)
        assert first["outcomes"] == result_of(finished / f"seed-0/{name}").refusals()
    assert not arms["grpo"]["seeds"]["0"]["pool"]
    page = (finished / "report.html").read_text("utf-8")
    assert all(task in page for task in sorted(initial(finished / "seed-0/grpo"))[:1])


def test_a_run_killed_again_and_again_explores_to_the_same_bytes(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "replay", grpo={"rounds": 1, "start": "base"})
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=False)
    num = result_of(tmp_path / "whole/seed-0/replay").episodes
    before = 6 + 3  # experts and evaluation
    for num_signs in (before + sum(num.values()) // 2, 14, 9, 5, sum(num.values()) // 3):
        with pytest.raises(Killed):
            run_recipe(recipe, tmp_path / "stopped", DeadlyProgress(num_signs), with_report=False)
    run_recipe(recipe, tmp_path / "stopped", SilentProgress(), with_report=False)
    whole, stopped = (tmp_path / name / "seed-0/replay/round-0/synthesis" for name in ("whole", "stopped"))
    for name in ("synthesis.json", "trajectories.jsonl", "done.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert not (stopped / "state").exists()


def test_a_world_that_is_not_to_be_explored_says_so_at_once(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(model_folder, "grpo", env={"id": "tests.toy_world:ToyWorld"})
    with pytest.raises(ConfigError, match="offers no synthesis"):
        run_recipe(recipe, tmp_path / "toy", SilentProgress(), with_report=False)
    with pytest.raises(ConfigError, match=r"bootstrap\.explorer: a language model is asked"):
        make_recipe(model_folder, "grpo", engine={"kind": "fsdp"}, bootstrap={"explorer": "language-model"})


def test_an_exploration_that_makes_nothing_says_why(model_folder: Path, tmp_path: Path) -> None:
    env = {"id": "tests.methods.test_bootstrap_runs:DullWorld"}
    recipe = make_recipe(model_folder, "grpo", grpo={"start": "base"}, env=env, bootstrap={"max_tries": 2})
    with pytest.raises(DataError, match=r"bootstrap\.num: exploration made no task.*ungrounded"):
        run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)


# ── The canary ────────────────────────────────────────────────────────────────────────────────────────────────────────


def answer(episode: Episode) -> str:
    """Answer every stage as a good model would, and play as an agent."""
    first = episode.turns[0].observation if episode.turns else episode.observation
    if '"from_turn"' in first:
        return json.dumps({"diagnosis": "Colours.", "from_turn": 0, "guidance": "Press others."})
    if '"tasks"' in first:
        pairs = pairwise(COLOURS)
        ideas = [{"intent": "x", "query": f"{a} {b}", "actions": [f"press {a}", f"press {b}"]} for a, b in pairs]
        return json.dumps({"tasks": ideas})
    return '{"action": "press white"}'


@pytest.mark.parametrize("kind", ["programmatic", "language-model"])
def test_no_evaluation_data_reaches_a_prompt_a_proposal_or_a_task(
    model_folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with PolicyServer(lambda temperature, max_tokens: ScriptedPolicy(answer)) as server:
        recipe = make_recipe(
            model_folder,
            "coevolve",
            bootstrap={"explorer": kind},
            synthesis={"kind": kind, "guidance": "random"},
            openai={"base_url": server.base_url, "model": "tiny"},
        )
        run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
        asked = json.dumps([request.body for request in server.seen])
    arm = tmp_path / "seed-0/coevolve"
    assert CANARY in (arm / "round-0/evaluate-target/trajectories.jsonl").read_text("utf-8"), "it was not planted"
    if kind == "language-model":
        assert "does not master" in asked and "nothing was asked of the explorer" in asked
    assert CANARY not in asked
    for number in (0, 1):
        folder = arm / f"round-{number}/synthesis"
        assert read_json(folder / "synthesis.json")["verdicts"]
        for name in ("synthesis.json", "trajectories.jsonl"):
            assert CANARY not in (folder / name).read_text("utf-8"), f"{folder.parent.name}/{name}"
    for path in [*arm.glob("round-*/pool.jsonl"), *arm.glob("round-*/rollout-*/trajectories.jsonl")]:
        assert CANARY not in path.read_text("utf-8"), path


@pytest.mark.parametrize("answers", ["json", "plain"])
def test_the_runs_base_makes_tasks_in_this_process(model_folder: Path, tmp_path: Path, answers: str) -> None:
    """What a model of this size writes is mostly dropped; each answer is counted, and so are its tokens."""
    recipe = make_recipe(
        model_folder,
        "coevolve",
        synthesis={"kind": "language-model", "guidance": "random"},
        explorer={"answers": answers, "max_tokens": 6, "explore_turns": 2, "num_flags": 4},
        chat={"max_context": 2048},
    )
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=False)
    counts = read_json(tmp_path / "seed-0/coevolve/round-1/synthesis/synthesis.json")["counts"]
    asked, dropped = counts["reflect: requests"], counts.get("reflect: malformed", 0)
    assert 0 < asked <= 4 and 0 < counts["reflect: tokens written"] <= 6 * asked < counts["reflect: tokens read"]
    assert dropped == asked if answers == "json" else dropped <= asked
    assert ("explore: tokens written" in counts) == (dropped < asked)
