"""What docs/your-environment.md tells is true: its world, demonstrations, recipe and Python run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.treasure import Treasure
from sparring.envs.base import Benchmark, Env
from sparring.envs.pool import EnvPool
from sparring.policies.scripted import ReplayPolicy
from sparring.rollouts.demonstrations import read_demonstrations
from sparring.rollouts.episodes import EpisodeSpec
from sparring.rollouts.loop import cut_waves, rollout
from sparring.runs.recipe_files import load_recipe

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your-environment.md").read_text(encoding="utf-8")
DEMONSTRATIONS = ROOT / "examples" / "treasure.jsonl"


def run_module(name: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", name]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_files_as_they_are() -> None:
    names = ("treasure", "train", "library")
    assert code_blocks("python") == [(ROOT / "examples" / f"{name}.py").read_text() for name in names]
    assert code_blocks("toml") == [(ROOT / "examples" / "treasure.toml").read_text()]


def test_the_world_is_about_forty_lines() -> None:
    lines = [line for line in code_blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 42


def test_the_world_keeps_the_protocols() -> None:
    world = Treasure()
    assert isinstance(world, Benchmark)
    assert isinstance(world.make_env(), Env)
    splits = [{task.id for task in world.tasks(split)} for split in ("train", "dev", "test")]
    assert [len(split) for split in splits] == [28, 14, 14]
    assert len(set.union(*splits)) == 56


def test_the_demonstrations_are_what_the_script_writes() -> None:
    assert run_module("examples.treasure_demonstrations") == DEMONSTRATIONS.read_text()


@pytest.mark.parametrize("format", ["react", "action"])
def test_the_world_answers_as_the_demonstrations_say(format: Any) -> None:
    world = Treasure()
    demonstrations = read_demonstrations(DEMONSTRATIONS, world.tasks("train"), format)
    assert len(demonstrations) == 28
    actions = {one.task.id: [turn.action for turn in one.turns] for one in demonstrations}
    specs = [EpisodeSpec(id=one.id, task=one.task, agent="expert", seed=0) for one in demonstrations]
    with EnvPool("examples.treasure:Treasure", num_envs=4) as pool:
        played = rollout(ReplayPolicy(actions), pool, world, cut_waves(specs), num_slots=4)
    for ours, theirs in zip(played, demonstrations, strict=True):
        assert [(turn.observation, turn.action) for turn in ours.turns] == [
            (turn.observation, turn.action) for turn in theirs.turns
        ]
        assert (ours.reward, ours.final_observation) == (theirs.reward, theirs.final_observation)
        assert ours.reward == 1.0


def test_failures_are_graded() -> None:
    env = Treasure().make_env()
    (task,) = [task for task in Treasure().tasks("train") if task.id == "oak-gate"]
    env.reset(task, 0)
    env.step("go right")
    assert env.step("sing").observation == "You can go left, go right and dig."
    assert env.step("dig").reward == 0.75


def test_the_ten_lines_of_python_run() -> None:
    out = run_module("examples.library")
    assert re.search(r"Summary\(mean=0\.\d+", out)
    num_pairs, better, worse = re.search(r"(\d+) pairs; the first prefers (0\.\d+) to (0\.\d+)", out).groups()  # type: ignore[union-attr]
    assert int(num_pairs) > 10
    assert float(better) > float(worse)


def test_react_works_with_the_same_demonstrations() -> None:
    recipe = load_recipe(ROOT / "examples" / "treasure.toml", {"chat.format": "react"})
    config = recipe.arms["sft"].config
    found = read_demonstrations(ROOT / str(config.expert.path), Treasure().tasks("train"), config.chat.format)
    assert found[0].turns[-1].text == "Thought: I am at the well, so I dig.\nAction: dig"
