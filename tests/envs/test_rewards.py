"""How step rewards become an episode's: the three rules, the range, and what is said of rewards that look wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.records import read_trajectories
from sparring.envs.base import EnvConfig
from sparring.envs.pool import EnvPool
from sparring.envs.rewards import Rewards, Score
from tests.test_cli import called, model, recipe  # noqa: F401

WORLD = "tests.broken_worlds:ScoredWorld"


@pytest.mark.parametrize(
    ("rule", "steps", "so_far"),
    [
        ("so_far", [0.25, 0.5, 0.25, 1.0], [0.25, 0.5, 0.5, 1.0]),
        ("so_far", [-1.0, 0.5], [0.0, 0.5]),
        ("sum", [0.25, 0.25, 0.25, 0.25], [0.25, 0.5, 0.75, 1.0]),
        ("sum", [-0.5, 1.0, 0.25], [0.0, 0.5, 0.75]),
        ("last", [1.0, 0.0, 0.5], [1.0, 0.0, 0.5]),
    ],
)
def test_a_rule_makes_the_reward_so_far(rule: Any, steps: list[float], so_far: list[float]) -> None:
    score = Score(Rewards(world="w", rule=rule, is_said=True))
    assert [score.add(step, "here") for step in steps] == so_far
    assert score.value == so_far[-1]


def test_a_range_is_scaled_and_what_lies_beyond_is_clamped() -> None:
    games = Rewards(world="w", rule="last", low=-1, high=1)
    assert [Score(games).add(reward, "here") for reward in (-1, 0, 0.5, 1, 3)] == [0, 0.5, 0.75, 1, 1]
    percent = Score(Rewards(world="w", rule="sum", high=100))
    assert [percent.add(25, "here") for _ in range(4)] == [0.25, 0.5, 0.75, 1]
    assert percent.end("there") == ()


@pytest.mark.parametrize(
    ("rewards", "steps", "odd"),
    [
        (Rewards(world="w"), [0.0, 0.5, 1.0], ()),
        (Rewards(world="w"), [0.5, 0.25], ("fell",)),
        (Rewards(world="w", is_said=True), [0.5, 0.25], ()),
        (Rewards(world="w"), [100.0], ("outside",)),
        (Rewards(world="w"), [0.25] * 4, ("adds_up",)),
        (Rewards(world="w", rule="sum"), [0.25] * 4, ()),
        (Rewards(world="w", rule="sum"), [0.5] * 4, ("outside",)),
        (Rewards(world="w", rule="sum"), [-0.5, 1.5], ()),
        (Rewards(world="w", rule="last"), [7.0, 1.0], ()),
    ],
)
def test_what_looks_like_a_mistake_is_noted(rewards: Rewards, steps: list[float], odd: tuple[str, ...]) -> None:
    score = Score(rewards)
    for step in steps:
        score.add(step, "here")
    assert score.end("there") == odd


def test_a_recipe_overrules_the_world_and_a_rule_that_is_none_is_refused() -> None:
    options = {"rewards": [1], "rule": "sum"}
    with EnvPool.of(EnvConfig(id=WORLD, options=options)) as pool:
        assert (pool.rewards.rule, pool.rewards.is_said) == ("sum", True)
    with EnvPool.of(EnvConfig(id=WORLD, options=options, reward="last", reward_range=(0, 9))) as pool:
        assert (pool.rewards.rule, pool.rewards.high) == ("last", 9)
    with pytest.raises(ConfigError, match="attribute `reward` is 'mean'; it may be one of so_far, sum, last"):
        EnvPool.of(EnvConfig(id=WORLD, options={**options, "rule": "mean"}))
    with pytest.raises(ValueError, match="low below high"):
        EnvConfig(reward_range=(1, 1))


def rollout(tmp_path: Path, capsys: pytest.CaptureFixture[str], rewards: list[float], *words: str) -> tuple[str, str]:
    out = tmp_path / "t.jsonl"
    world = ["--env.id", WORLD, "--env.options", json.dumps({"rewards": rewards, "size": 3})]
    code, said, notes = called(["rollout", "--policy", "expert", "--out", str(out), "-q", *world, *words], capsys)
    assert code == 0, notes
    assert len(read_trajectories(out)) == 3
    return said, notes


def test_rollout_names_rewards_per_step_and_the_field_that_adds_them_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, _ = rollout(tmp_path, capsys, [0.25])
    assert "mean reward 0.250" in said
    assert "in 3 episodes the experts' rewards stay below 1" in said and 'set env.reward = "sum"' in said
    (tmp_path / "t.jsonl").unlink()
    said, notes = rollout(tmp_path, capsys, [0.25], "--env.reward", "sum")
    assert "mean reward 1.000" in said and "sum" not in said and not notes


def test_rollout_names_rewards_out_of_range_once_and_how_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, notes = rollout(tmp_path, capsys, [0, 0, 0, 100])
    assert "mean reward 1.000" in said
    assert f"{WORLD}: the rewards of 3 of 3 episodes left their range and were clamped" in said
    assert notes.count("step gave the reward 100 (") == 1 and "env.reward_range" in notes
    (tmp_path / "t.jsonl").unlink()
    said, notes = rollout(tmp_path, capsys, [0, 0, 0, 50], "--env.reward_range", "0", "100")
    assert "mean reward 0.500" in said and "range" not in said and not notes


def test_a_runs_results_and_report_name_odd_rewards(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = json.dumps({"rewards": [0.5, 0.25, 0.75, 1], "size": 2})
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "-q", "--arms", "sft"]
    code, out, errors = called([*words, "--env.id", WORLD, "--env.options", options], capsys)
    assert code == 0, errors
    assert errors.count("the reward fell from 0.5 to 0.25 (") == 1
    odd = json.loads((tmp_path / "run/results.json").read_text())["odd_rewards"]
    assert odd["world"] == WORLD and odd["fell"] >= 2 and odd["episodes"] >= odd["fell"]
    line = f"{WORLD}: the rewards of {odd['fell']} of {odd['episodes']} episodes fell"
    assert line in " ".join(out.split())
    assert line in (tmp_path / "run/report.html").read_text()
