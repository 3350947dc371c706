"""IPR. What must hold:

- a step is worth the mean final reward of what is played on from it; broken and diverged episodes say nothing;
- a pair comes of a step where step and outcome speak for the same side, cut where expert and agent part;
- an action that is the expert's, and a branch that ended as the expert did, cost no further episodes;
- a whole run pairs what is worse with what is better, asks the scorer once for an expert's step, and is resumed to the
  same bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.core.filters import actions
from sparring.core.journal import read_jsonl
from sparring.core.progress import SilentProgress
from sparring.core.records import pairs_from_json, read_trajectories
from sparring.core.types import PairKind, StopReason, Trajectory
from sparring.data.pairs import PairConfig
from sparring.data.pivots import given
from sparring.data.steps import Compared, Step, draw_steps, expert_steps, may_pair, step_pairs, step_reward
from sparring.methods.ipr import ipr_loss
from sparring.models.loading import save_model
from sparring.report.folder import list_phases
from sparring.runs.recipe import run_recipe
from tests.methods.test_methods import DeadlyProgress, Killed, RecordingProgress, make_recipe, outcome
from tests.test_pairs import brief, played
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyWorld

PAIRS = PairConfig()
EXPERT = played("expert", "t", 1.0, "abcd")
STEP = Step(expert=EXPERT, turn=2)


def tried(word: str, reward: float, *, stop: StopReason = StopReason.DONE, turn: int = 2) -> Trajectory:
    """Return an episode in which the agent acted after some turns of the expert's."""
    return replace(played("target", "t", reward, word, stop=stop), num_given=turn)


def compared(one: Trajectory, expert_reward: float | None, agent_reward: float | None) -> Compared:
    return Compared(step=STEP, tried=one, expert_reward=expert_reward, agent_reward=agent_reward)


def test_a_step_is_worth_the_mean_of_what_follows() -> None:
    rewards = [played("target", "t", reward, "ab") for reward in (1.0, 0.25, 0.25)]
    fault = played("target", "t", 0.0, "ab", stop=StopReason.ENV_FAULT)
    diverged = replace(fault, stop=StopReason.DIVERGED)
    silent = replace(played("target", "t", 0.5, "ab", stop=StopReason.CONTEXT_LIMIT), num_given=2)
    assert step_reward(rewards) == step_reward([fault, *rewards, diverged]) == 0.5
    assert step_reward([rewards[0], silent]) == 0.75, "an agent that could not go on earned what it had"
    assert step_reward([fault, diverged]) is None


def test_every_step_but_the_first_is_compared() -> None:
    one, other = EXPERT, played("expert", "u", 1.0, "ab")
    fault, short = played("expert", "t", 0.0, "abc", stop=StopReason.ENV_FAULT), played("expert", "t", 1.0, "a")
    steps = expert_steps([one, other, fault, short], [one.task])
    assert [(step.expert.id, step.turn) for step in steps] == [(one.id, turn) for turn in (1, 2, 3)]
    assert len(expert_steps([one, other], [one.task, other.task])) == 4
    assert not expert_steps([one], [])


def test_steps_are_drawn_by_the_seed_alone_and_evenly() -> None:
    steps = expert_steps([played("expert", "t", 1.0, "abcdefghijk")], [EXPERT.task])
    assert draw_steps(steps, None, key="0") == draw_steps(steps, 10, key="0") == draw_steps(steps, 99, key="0") == steps
    drawn = draw_steps(steps, 3, key="0/1")
    assert drawn == draw_steps(steps, 3, key="0/1") and len(drawn) == 3
    assert [step.turn for step in drawn] == sorted({step.turn for step in drawn}), "in order, none twice"
    counts = Counter(step.turn for i in range(2000) for step in draw_steps(steps, 3, key=f"{i}"))
    assert len(counts) == 10 and all(abs(num - 600) < 100 for num in counts.values()), counts


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (tried("abx", 0.5), True),
        (tried("abcx", 0.5), False),  # the expert's action; what it did later is another step's matter
        (tried("abx", 1.0), False),  # another way to the same end
        (tried("abx", 0.995), False),
        (tried("ab", 0.5, stop=StopReason.CONTEXT_LIMIT), False),
        (tried("abx", 0.5, stop=StopReason.ENV_FAULT), False),
        (tried("ab", 0.0, stop=StopReason.DIVERGED), False),
        (tried("a", 0.0, stop=StopReason.DIVERGED, turn=1), False),
    ],
)
def test_only_where_the_agent_did_otherwise_and_ended_otherwise_is_it_scored(one: Trajectory, expected: bool) -> None:
    assert may_pair(STEP, one, PAIRS) is expected
    assert bool(step_pairs([compared(one, 0.9, 0.1)], 0.01, PAIRS)) is expected


@pytest.mark.parametrize(
    ("expert_reward", "agent_reward", "min_gap", "expected"),
    [
        (0.8, 0.4, 0.01, True),
        (0.29, 0.28, 0.01, False),  # the gap must exceed it, whatever its last bit says
        (0.3, 0.28, 0.01, True),
        (0.8, 0.4, 0.5, False),
        (0.4, 0.4, 0.0, False),
        (0.4, 0.8, 0.01, False),
        (None, 0.4, 0.01, False),
        (0.8, None, 0.01, False),
    ],
)
def test_the_experts_rest_is_preferred_where_its_step_is_worth_more(
    expert_reward: float | None, agent_reward: float | None, min_gap: float, expected: bool
) -> None:
    one = tried("abxyz", 0.5)
    found = step_pairs([compared(one, expert_reward, agent_reward)], min_gap, PAIRS)
    assert brief(found) == ([("pivot", "abcd", "abxyz")] if expected else [])
    for pair in found:
        assert (pair.chosen, pair.rejected) == (given(EXPERT, 2), one)
        assert pair.chosen.num_given == pair.rejected.num_given == 2
        assert actions(pair.chosen)[:2] == actions(pair.rejected)[:2]
        assert (pair.chosen_turns, pair.rejected_turns) == (4, 5)


def test_a_long_rest_of_the_agents_is_cut() -> None:
    (pair,) = step_pairs([compared(tried("ab" + "x" * 30, 0.5), 0.8, 0.4)], 0.01, replace(PAIRS, max_extra_turns=3))
    assert (pair.chosen_turns, pair.rejected_turns) == (4, 7)


def test_an_agent_that_beats_the_expert_is_preferred_or_skipped() -> None:
    poor = Step(expert=replace(EXPERT, reward=0.6), turn=2)
    one = replace(compared(tried("abx", 0.9), 0.3, 0.7), step=poor)
    assert brief(step_pairs([one], 0.01, PAIRS)) == [("pivot", "abx", "abcd")]
    assert not step_pairs([one], 0.5, PAIRS)
    assert not step_pairs([replace(one, expert_reward=0.7, agent_reward=0.3)], 0.01, PAIRS), "step and outcome differ"
    skip = replace(PAIRS, expert_beaten="skip")
    assert not may_pair(poor, one.tried, skip) and not step_pairs([one], 0.01, skip)


def test_the_loss_is_the_sum_of_its_three_terms() -> None:
    weights = {"outcome_weight": 2.0, "step_weight": 3.0, "sft_weight": 0.5}
    recipe = make_recipe(Path("m"), arms={"ipr": {"method": "ipr", "ipr": weights}})
    loss = ipr_loss(recipe.arms["ipr"].config)
    for kind in (PairKind.EXPERT_TARGET, PairKind.TARGET_EXPERT):
        assert loss.weights(kind) == (2.0, 0.5)
    assert loss.weights(PairKind.PIVOT) == (3.0, 0.5)
    with pytest.raises(ConfigError, match=r"ipr\.num_samples"):
        make_recipe(Path("m"), arms={"ipr": {"method": "ipr", "ipr": {"num_samples": 0}}})


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3"), tiny_tokenizer("chatml"), folder)  # pyright: ignore
    return folder


def make_ipr_recipe(model_folder: Path, **values: object):
    """Return a recipe whose agent leaves the experts' way now and then; its trainings are resumed at any step."""
    sft = {"lr": 1e-2, "epochs": 12, "batch_size": 4, "save_every_s": 0}
    dpo = {"lr": 1e-3, "epochs": 1, "batch_size": 4, "save_every_s": 0}
    arms = {"ipr": {"method": "ipr", "ipr": values}}
    return make_recipe(model_folder, sft=sft, dpo=dpo, arms=arms)


def test_a_run_prefers_what_is_better_from_where_the_agent_left_the_expert(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_ipr_recipe(model_folder, num_samples=3)
    run_recipe(recipe, tmp_path, SilentProgress(), with_report=True)
    arm = tmp_path / "seed-0/ipr"
    listed = {phase.name for phase in list_phases(tmp_path, ["0"], ["ipr"]) if phase.act == "branch"}
    assert listed >= {f"round-{number}/branch-target-steps" for number in (1, 2)}, "and so counted among the costs"
    assert "round-1/branch-target-scores" in listed
    experts = {one.id: one for one in read_trajectories(tmp_path / "experts.jsonl")}
    scores: list[Trajectory] = []
    for number in (1, 2):
        folder = arm / f"round-{number}"
        tried_ones = {one.id: one for one in read_trajectories(folder / "branch-target-steps/trajectories.jsonl")}
        assert len(tried_ones) == 12, "every expert step but the first: one of two presses, three of four"
        scores += read_trajectories(folder / "branch-target-scores/trajectories.jsonl")
        explored = {one.id: one for one in read_trajectories(folder / "rollout-target/trajectories.jsonl")}
        records = read_jsonl(folder / "train-target/pairs.jsonl")
        assert {record["kind"] for record in records} == {"expert>target", "pivot"}
        for pair in pairs_from_json(records, experts | tried_ones | explored):
            if pair.kind is PairKind.PIVOT:
                check_step_pair(pair.chosen, pair.rejected, scores)
    ways = {actions(one) for one in experts.values()}
    begun = Counter((one.task.id, *actions(one)[: one.num_given]) for one in scores)
    asked = [num for (_, *first), num in begun.items() if any(way[: len(first)] == tuple(first) for way in ways)]
    assert asked and set(asked) == {3}, "what an expert's step is worth is estimated once a run"


def check_step_pair(chosen: Trajectory, rejected: Trajectory, scores: list[Trajectory]) -> None:
    """Replay both sides in the world and compare what they earn; the step's worth is told by what was played on."""
    turn = rejected.num_given
    assert 0 < turn == chosen.num_given
    assert actions(chosen)[:turn] == actions(rejected)[:turn]
    assert actions(chosen)[turn] != actions(rejected)[turn]
    assert replayed(chosen) > replayed(rejected)
    worth: list[float] = []
    for side in (chosen, rejected):
        begun = actions(side)[: turn + 1]
        rewards = [one.reward for one in scores if one.task == side.task and actions(one)[: turn + 1] == begun]
        if len(side.turns) == turn + 1:
            rewards = [side.reward]
        worth.append(sum(rewards) / len(rewards))
    assert worth[0] > worth[1] + 0.01


def replayed(one: Trajectory) -> float:
    env, reward = ToyWorld().make_env(), 0.0
    env.reset(one.task, 0)
    for action in actions(one):
        reward = max(reward, env.step(action).reward)
    return reward


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(model_folder: Path, tmp_path: Path) -> None:
    recipe = make_ipr_recipe(model_folder, num_samples=2, num_steps=8)
    run_recipe(recipe, tmp_path / "whole", SilentProgress(), with_report=True)
    for number in (1, 2):
        steps = tmp_path / f"whole/seed-0/ipr/round-{number}/branch-target-steps/trajectories.jsonl"
        assert len(read_trajectories(steps)) == 8
    num_kills = 0
    while True:
        try:
            run_recipe(recipe, tmp_path / "torn", DeadlyProgress(30), with_report=True)
            break
        except Killed:
            num_kills += 1
    assert num_kills >= 3
    assert outcome(tmp_path / "torn") == outcome(tmp_path / "whole")
    progress = RecordingProgress()
    run_recipe(recipe, tmp_path / "whole", progress, with_report=False)
    assert len(progress.phases) == 1, "a finished run plays nothing"


def test_a_round_without_step_pairs_says_so(model_folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    recipe = make_ipr_recipe(model_folder, min_gap=1.0)
    run_recipe(recipe, tmp_path, SilentProgress(notes.append), with_report=False)
    assert any("no step pairs, of 12 steps" in note for note in notes)
