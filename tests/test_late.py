"""Late starts of the failure agent, and scripted mistakes. What must hold:

- a late start lies within an expert's last turns, and its failures share all that came before;
- pairs for the failure agent compare failures of one start; the target gets those that it finds likeliest;
- a mistake is another action than the expert's, taken from other tasks of the type;
- whole runs do both, are resumed to the same numbers, and say where there was nothing to learn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.filters import actions
from sparring.core.journal import read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import pairs_from_json, read_trajectories
from sparring.core.types import PairKind, StopReason, Trajectory
from sparring.data.late import LateConfig, LateStart, draw_starts, failed, late_failure_pairs, late_target_pairs
from sparring.data.mistakes import draw_mistakes
from sparring.data.pairs import PairConfig
from sparring.data.pivots import given
from sparring.models.loading import save_model
from sparring.runs.recipe import run_recipe
from tests.methods.test_methods import DeadlyProgress, Killed, make_recipe, outcome
from tests.test_pairs import played
from tests.tiny_models import tiny_model, tiny_tokenizer

CONFIG, PAIRS = LateConfig(num=8), PairConfig()


def expert(task: str, did: str, reward: float = 1.0) -> Trajectory:
    return played("expert", task, reward, did)


def way(task: str, *did: str, kind: str = "find") -> Trajectory:
    """Return an expert's success in a task of a type."""
    one = expert(task, "x" * len(did))
    turns = [replace(turn, action=action) for turn, action in zip(one.turns, did, strict=True)]
    return replace(one, task=replace(one.task, kind=kind), turns=tuple(turns))


def test_a_late_start_lies_within_the_last_turns_of_an_expert_that_succeeds() -> None:
    ways = [expert("long", "abcdefgh"), expert("two", "ab"), expert("one", "a"), expert("poor", "abcd", 0.8)]
    tasks = [way.task for way in ways]
    turns: dict[str, set[int]] = {}
    for number in range(60):
        for start in draw_starts(ways, tasks, CONFIG, PAIRS, key=f"0/{number}"):
            turns.setdefault(start.way.task.id, set()).add(start.turn)
    assert turns == {"long": {4, 5, 6, 7}, "two": {1}}
    assert draw_starts(ways, tasks, CONFIG, PAIRS, key="x") == draw_starts(ways, tasks, CONFIG, PAIRS, key="x")
    assert not draw_starts(ways, [ways[2].task], CONFIG, PAIRS, key="x"), "tasks of the round alone"
    assert len(draw_starts(ways, tasks, replace(CONFIG, num=1), PAIRS, key="x")) == 1


def start_with(*rewards: float) -> LateStart:
    way = expert("t", "abcd")
    tries = [given(played("partner", "t", reward, f"abx{i}"), 2) for i, reward in enumerate(rewards)]
    named = [replace(one, id=f"late/{i}") for i, one in enumerate(tries)]
    return LateStart(way=way, turn=2, failures=failed(named, PAIRS))


def test_failures_of_one_start_are_compared_and_successes_are_none() -> None:
    start = start_with(0.5, 1.0, 0.5, 0.75)
    pairs = late_failure_pairs([start, start_with(0.9)], PAIRS)
    assert [(pair.chosen.id, pair.rejected.id) for pair in pairs] == [("late/3", "late/0"), ("late/3", "late/2")]
    assert {pair.kind for pair in pairs} == {PairKind.FAILURE_FAILURE}
    assert all(pair.chosen.num_given == pair.rejected.num_given == 2 for pair in pairs)


def test_equal_and_broken_tries_count_once_or_never() -> None:
    one = given(played("partner", "t", 0.5, "abx"), 2)
    assert len(failed([one, replace(one, id="again")], PAIRS)) == 1
    assert not failed([replace(one, stop=StopReason.DIVERGED), replace(one, stop=StopReason.ENV_FAULT)], PAIRS)
    assert not failed([given(played("partner", "t", 0.5, "ab"), 2)], PAIRS), "no turn of its own"


def test_the_target_gets_the_failures_that_it_finds_likeliest() -> None:
    start = start_with(0.5, 0.6, 0.7)
    known = {"late/0": -2.0, "late/1": -0.5, "late/2": -1.0}
    (pair,) = late_target_pairs([start], known, CONFIG, PAIRS)
    assert (pair.kind, pair.chosen, pair.rejected.id) == (PairKind.PIVOT, given(start.way, 2), "late/1")
    two = late_target_pairs([start], known, replace(CONFIG, keep=2), PAIRS)
    assert [one.rejected.id for one in two] == ["late/1", "late/2"]
    assert not late_target_pairs([start], {}, CONFIG, PAIRS), "what does not fit the context has no likelihood"


def test_a_mistake_is_what_experts_do_late_in_other_tasks_of_the_type() -> None:
    ways = [
        way("a", "look", "take egg", "go hall", "move egg to red"),
        way("b", "look", "take stone", "go yard", "move stone to blue"),
        way("c", "look", "sing", "move hat to pink", kind="other"),
    ]
    seen = set[tuple[int, tuple[str, ...]]]()
    for number in range(60):
        for one in draw_mistakes(ways, [ways[0].task], PAIRS, key=f"0/{number}"):
            assert one.way is ways[0]
            seen.add((one.turn, one.actions))
    assert seen == {
        (1, ("take stone", "go hall", "move egg to red")),
        (2, ("go yard", "move egg to red")),
        (3, ("move stone to blue",)),
        *((0, (wrong, "take egg", "go hall", "move egg to red")) for wrong in actions(ways[1])[1:]),
    }, "with the same verb; where there is none, anything"
    assert not draw_mistakes(ways, [ways[2].task], PAIRS, key="x"), "no other task of the type"
    assert not draw_mistakes(ways[1:], [ways[0].task], PAIRS, key="x"), "nobody solves the task"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)
    return folder


SECTIONS = {
    "late": {"late": {"num": 6, "num_tries": 4}},
    "scripted": {"partner": {"kind": "scripted"}, "loop": {"rounds": 2, "refresh_failure_rollouts": True}},
}


@pytest.mark.parametrize("what", SECTIONS)
def test_a_run_is_resumed_to_the_same_numbers(model_folder: Path, tmp_path: Path, what: str) -> None:
    sft = {"lr": 1e-2, "epochs": 20, "batch_size": 4}
    recipe = make_recipe(model_folder, "coevolving_agents", sft=sft, **SECTIONS[what])
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=True)
    folder = tmp_path / "whole/seed-0/coevolving_agents"
    files = sorted(folder.glob("round-*/branch-partner*/trajectories.jsonl"))
    assert len(files) == (2 if what == "late" else 4)
    episodes = [one for file in files for one in read_trajectories(file)]
    assert episodes and {one.agent for one in episodes} == {"partner"}
    assert StopReason.DIVERGED not in {one.stop for one in episodes}
    kinds = {one["kind"] for file in folder.glob("round-*/train-target/pairs.jsonl") for one in read_jsonl(file)}
    assert ("pivot" if what == "late" else "expert>partner") in kinds
    known = {one.id: one for file in folder.parent.rglob("trajectories.jsonl") for one in read_trajectories(file)}
    known |= {one.id: one for one in read_trajectories(tmp_path / "whole/experts.jsonl")}
    for file in folder.glob("round-*/train-*/pairs.jsonl"):
        for pair in pairs_from_json(read_jsonl(file), known):
            assert pair.chosen.reward > pair.rejected.reward
            assert pair.chosen.num_given == pair.rejected.num_given
    num_kills = 0
    while True:
        try:
            run_recipe(recipe, tmp_path / "torn", DeadlyProgress(60), with_report=True)
            break
        except Killed:
            num_kills += 1
    assert num_kills >= 2
    assert outcome(tmp_path / "torn") == outcome(tmp_path / "whole")


def test_a_round_without_a_late_start_or_mistake_says_so(model_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = make_recipe(model_folder, "coevolving_agents", partner={"kind": "scripted"}, expert={"num_tasks": 1})
    run_recipe(recipe, tmp_path / "run", SilentProgress(notes.append), with_report=False)
    assert any("no expert's episode in which a mistake" in note for note in notes)


def test_a_scripted_partner_has_no_weights(model_folder: Path) -> None:
    for partner, key in (({"checkpoint": "x"}, "checkpoint"), ({"evaluate": True}, "evaluate")):
        with pytest.raises(ConfigError, match=rf"partner\.{key}: a scripted partner has no weights"):
            make_recipe(model_folder, "coevolving_agents", partner={"kind": "scripted", **partner})
    with pytest.raises(ConfigError, match=r"late\.num: a scripted partner has no weights"):
        make_recipe(model_folder, "coevolving_agents", partner={"kind": "scripted"}, late={"num": 2})
