"""Pivot pairs. What must hold:

- a near miss is cut where it went wrong; what never gained, or gained last of all, is left alone;
- where an expert began in the same way its rest is preferred, else the first try that succeeds;
- a whole run plays on from near misses, is resumed to the same numbers, and says where there was nothing to learn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.journal import read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import pair_to_json, pairs_from_json, read_trajectories
from sparring.core.types import PairKind, StopReason
from sparring.data.pairs import PairConfig
from sparring.data.pivots import PivotConfig, find_pivots, given, pivot_pairs, turning_point
from sparring.models.loading import save_model
from sparring.runs.recipe import run_recipe
from tests.methods.test_methods import DeadlyProgress, Killed, make_recipe, outcome
from tests.test_pairs import played
from tests.tiny_models import tiny_model, tiny_tokenizer

CONFIG, PAIRS = PivotConfig(num=8), PairConfig()


def near_miss(rewards: str, actions: str = "abcdefgh", task: str = "t", agent: str = "target"):
    """Return an episode with a reward in hundredths after each turn."""
    values = [int(one) / 100 for one in rewards.split()]
    one = played(agent, task, values[-1], actions[: len(values)])
    turns = [replace(turn, reward=value) for turn, value in zip(one.turns, values, strict=True)]
    return replace(one, turns=tuple(turns), stop=StopReason.DONE)


@pytest.mark.parametrize(
    ("rewards", "turn"),
    [("25 75 75 75", 2), ("0 25 25", 2), ("0 0 0", 0), ("25 75", 2), ("25 25 75 75", 3)],
)
def test_a_near_miss_went_wrong_after_its_last_gain(rewards: str, turn: int) -> None:
    one = near_miss(rewards)
    assert turning_point(one, (), "last-gain") == turn
    found = find_pivots([one], (), CONFIG, PAIRS)
    assert [pivot.turn for pivot in found] == ([turn] if 0 < turn < len(one.turns) and one.reward >= 0.25 else [])


def test_a_near_miss_left_the_way_where_it_did_something_else() -> None:
    one, way = near_miss("25 25 75 75", "abxy"), near_miss("25 25 75 100", "abcd", agent="expert")
    config = replace(CONFIG, turn="left-the-way")
    (pivot,) = find_pivots([one], [way], config, PAIRS)
    assert (pivot.turn, pivot.rest) == (2, way)
    assert not find_pivots([one], [], config, PAIRS)


def test_the_nearest_misses_come_first_and_no_more_than_asked_for() -> None:
    ones = [near_miss(f"25 {value} {value}", task=f"t{value}") for value in (30, 80, 20, 50)]
    found = find_pivots(ones, (), replace(CONFIG, num=2), PAIRS)
    assert [pivot.near_miss.task.id for pivot in found] == ["t80", "t50"]
    assert not find_pivots([near_miss("10 20 20")], (), CONFIG, PAIRS), "below pivot.min_reward"
    assert not find_pivots([near_miss("25 100 100")], (), CONFIG, PAIRS), "a success is none"


def test_the_experts_rest_is_preferred_where_it_began_in_the_same_way() -> None:
    one, way = near_miss("25 75 75", "abx"), near_miss("25 75 100", "abc", agent="expert")
    pivots = find_pivots([one], [way], CONFIG, PAIRS)
    (pair,) = pivot_pairs(pivots, {}, CONFIG, PAIRS)
    assert pair.kind is PairKind.PIVOT
    assert (pair.chosen, pair.rejected) == (given(way, 2), given(one, 2))
    assert pairs_from_json([pair_to_json(pair)], {one.id: one, way.id: way}) == [pair]
    for wrong in (f"{one.id}@9", f"{one.id}@x", "@2", 7):
        with pytest.raises(DataError, match="no field or trajectory"):
            pairs_from_json([pair_to_json(pair) | {"rejected": wrong}], {one.id: one, way.id: way})


@pytest.mark.parametrize(("accept", "chosen"), [("success", "b"), ("better", "a")])
def test_else_the_first_try_that_is_good_enough(accept: str, chosen: str) -> None:
    config = replace(CONFIG, accept=accept)
    one = near_miss("25 75 75", "abx")
    tries = [
        replace(near_miss(f"25 75 {reward}", "abz"), id=name, num_given=2, stop=stop)
        for name, reward, stop in (
            ("fault", 100, StopReason.ENV_FAULT),
            ("worse", 75, StopReason.DONE),
            ("a", 90, StopReason.DONE),
            ("b", 100, StopReason.DONE),
        )
    ]
    (pair,) = pivot_pairs(find_pivots([one], (), config, PAIRS), {one.id: tries}, config, PAIRS)
    assert (pair.chosen.id, pair.rejected.id) == (chosen, f"{one.id}@2")
    assert not pivot_pairs(find_pivots([one], (), config, PAIRS), {one.id: tries[:2]}, config, PAIRS)


def test_tries_that_end_lower_may_be_rejected_too() -> None:
    one, config = near_miss("25 75 75", "abx"), replace(CONFIG, reject="all")
    tries = [
        replace(near_miss(f"25 75 {reward}", actions), id=name, num_given=2)
        for name, reward, actions in (("a", 75, "aby"), ("b", 100, "abz"), ("c", 75, "aby"), ("d", 90, "abw"))
    ]
    pivots = find_pivots([one], (), config, PAIRS)
    found = [(pair.chosen.id, pair.rejected.id) for pair in pivot_pairs(pivots, {one.id: tries}, config, PAIRS)]
    assert found == [("b", f"{one.id}@2"), ("b", "a"), ("b", "d")], "equal actions once, and no success"
    assert not pivot_pairs(pivots, {one.id: [tries[0], tries[3]]}, config, PAIRS), "nothing to choose"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


@pytest.mark.parametrize("arm", ["eto", "coevolving_agents"])
def test_a_run_plays_on_from_near_misses_and_is_resumed_to_the_same_numbers(
    model_folder: Path, tmp_path: Path, arm: str
) -> None:
    pivot = {"num": 6, "num_tries": 3, "accept": "better", "min_reward": 0.2}
    sft, expert = {"lr": 1e-2, "epochs": 30, "batch_size": 4}, {"num_tasks": 3}  # no way of an expert for the others
    rollout = {"max_new_tokens": 6, "wave_size": 8, "temperature": 1.0, "num_per_task": 4}
    recipe = make_recipe(model_folder, arm, pivot=pivot, sft=sft, expert=expert, rollout=rollout)
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=True)
    folder = tmp_path / "whole/seed-0" / arm
    branches = [
        one for file in folder.glob("round-*/branch-target/trajectories.jsonl") for one in read_trajectories(file)
    ]
    assert branches and all(0 < one.num_given < len(one.turns) for one in branches if one.stop is StopReason.DONE)
    kinds = [one["kind"] for file in folder.glob("round-*/train-target/pairs.jsonl") for one in read_jsonl(file)]
    assert "pivot" in kinds
    num_kills = 0
    while True:
        try:
            run_recipe(recipe, tmp_path / "torn", DeadlyProgress(40), with_report=True)
            break
        except Killed:
            num_kills += 1
    assert num_kills >= 2
    assert outcome(tmp_path / "torn") == outcome(tmp_path / "whole")


def test_a_round_without_near_misses_says_so(model_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = make_recipe(model_folder, "eto", pivot={"num": 4, "min_reward": 0.99})
    run_recipe(recipe, tmp_path / "run", SilentProgress(notes.append), with_report=False)
    assert any("no pivot pairs, of 0 near misses" in note for note in notes)
