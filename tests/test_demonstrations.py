"""Demonstrations are read strictly: what is wrong is named by file, line and field, and nothing is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import StopReason, Task
from sparring.envs.pool import EnvPool
from sparring.rollouts.demonstrations import ExpertConfig, expert_actions, expert_trajectories, read_demonstrations
from tests.toy_world import COLOURS, ToyWorld

TASKS = [Task(id=f"walk/{i}", kind="walk") for i in range(3)]
GOOD: dict[str, Any] = {
    "task_id": "walk/1",
    "reward": 0.75,
    "turns": [
        {"observation": "A door.", "thought": "It is shut.", "action": "open door", "reward": 0.5},
        {"observation": "It is open.", "thought": "Now I can go.", "action": "go"},
    ],
    "final_observation": "A garden.",
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}


def with_turn(**changes: Any) -> dict[str, Any]:
    turn = {key: value for key, value in {**GOOD["turns"][1], **changes}.items() if value is not ...}
    return changed(turns=[GOOD["turns"][0], turn])


def test_react_demonstrations_become_trajectories(tmp_path: Path) -> None:
    (trajectory,) = read_demonstrations(write(tmp_path / "d.jsonl", GOOD), TASKS, "react")
    assert trajectory.id == "expert/walk/1"
    assert trajectory.task is TASKS[1]
    assert (trajectory.agent, trajectory.stop, trajectory.reward) == ("expert", StopReason.DONE, 0.75)
    assert trajectory.final_observation == "A garden."
    assert [turn.text for turn in trajectory.turns] == [
        "Thought: It is shut.\nAction: open door",
        "Thought: Now I can go.\nAction: go",
    ]
    assert [turn.action for turn in trajectory.turns] == ["open door", "go"]
    assert [turn.reward for turn in trajectory.turns] == [0.5, 0.75]
    assert all(not turn.token_ids for turn in trajectory.turns)


def test_action_only_leaves_thoughts_out(tmp_path: Path) -> None:
    (trajectory,) = read_demonstrations(write(tmp_path / "d.jsonl", GOOD), TASKS, "action")
    assert [turn.text for turn in trajectory.turns] == ["open door", "go"]


def test_action_only_needs_no_thoughts_and_no_rewards_by_turn(tmp_path: Path) -> None:
    record = {"task_id": "walk/0", "reward": 1, "turns": [{"observation": "a", "action": " go "}] * 2}
    (trajectory,) = read_demonstrations(write(tmp_path / "d.jsonl", record), TASKS, "action")
    assert [turn.reward for turn in trajectory.turns] == [0.0, 1.0]
    assert trajectory.turns[0].action == "go"
    assert trajectory.final_observation == ""


def test_code_may_have_many_lines(tmp_path: Path) -> None:
    record = {"task_id": "walk/0", "reward": 1, "turns": [{"observation": "a", "action": "x = 1\nprint(x)"}]}
    path = write(tmp_path / "d.jsonl", record)
    (trajectory,) = read_demonstrations(path, TASKS, "code")
    assert trajectory.turns[0].action == trajectory.turns[0].text == "x = 1\nprint(x)"
    world = ToyWorld()
    known = expert_actions(ExpertConfig(path=str(path)), world, TASKS)
    assert known == {"walk/0": ["x = 1\nprint(x)"]}


def test_order_is_that_of_the_tasks_and_known_tasks_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", changed(task_id="walk/2"), GOOD, changed(task_id="walk/0"))
    chosen = read_demonstrations(path, TASKS[:2], "react", known=TASKS)
    assert [trajectory.task.id for trajectory in chosen] == ["walk/0", "walk/1"]
    with pytest.raises(DataError, match="no training task is called 'walk/2'"):
        read_demonstrations(path, TASKS[:2], "react")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], ":2: expected an object, found list"),
        (changed(task_id="walk/9"), r":2: task_id: no training task is called 'walk/9'\. Did you mean 'walk/2'"),
        (changed(task_id=3), ":2: task_id: expected text, found 3"),
        (changed(task_id="walk/0"), ":2: task_id: a second demonstration of 'walk/0'; the first is in line 1"),
        (changed(turns=...), ":2: no field 'turns'"),
        (changed(score=1), ":2: unknown field 'score'"),
        (changed(reward=1.5), ":2: reward: expected a number from 0 to 1, found 1.5"),
        (changed(reward=True), ":2: reward: expected a number from 0 to 1, found True"),
        (changed(reward=float("nan")), ":2: reward: expected a number"),
        (changed(reward=0.2), ":2: reward: is 0.2, but the turns reach 0.5"),
        (changed(turns=[]), ":2: turns: expected a list of at least one turn"),
        (changed(turns=["go"]), r":2: turns\[0\]: expected an object"),
        (with_turn(action=...), r":2: turns\[1\]: no field 'action'"),
        (with_turn(thougt="x"), r":2: turns\[1\]: unknown field 'thougt'\. Did you mean 'thought'\?"),
        (with_turn(action="go\nstop"), r":2: turns\[1\]\.action: must be one line"),
        (with_turn(action="  "), r":2: turns\[1\]\.action: must be one line"),
        (with_turn(action=5), r":2: turns\[1\]\.action: expected text, found 5"),
        (with_turn(observation=None), r":2: turns\[1\]\.observation: expected text, found None"),
        (with_turn(thought=...), r":2: turns\[1\]\.thought: missing.*none are invented.*chat\.format"),
        (with_turn(thought="  "), r":2: turns\[1\]\.thought: missing"),
        (with_turn(thought="a\nAction: b"), r":2: turns\[1\]: would be read back as 'b'"),
        (with_turn(reward=-0.1), r":2: turns\[1\]\.reward: expected a number from 0 to 1"),
        (changed(final_observation=7), ":2: final_observation: expected text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path / "d.jsonl", changed(task_id="walk/0"), record)
    with pytest.raises(DataError, match=r"d\.jsonl" + message):
        read_demonstrations(path, TASKS, "react")


def test_missing_empty_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        read_demonstrations(tmp_path / "none.jsonl", TASKS, "action")
    with pytest.raises(DataError, match=r"d\.jsonl: holds no demonstration"):
        read_demonstrations(write(tmp_path / "d.jsonl"), TASKS, "action")
    (tmp_path / "d.jsonl").write_text('{"task_id": \n')
    with pytest.raises(DataError, match=r"d\.jsonl:1: not JSON"):
        read_demonstrations(tmp_path / "d.jsonl", TASKS, "action")


def test_a_worlds_own_experts_are_played_before_they_are_believed():
    """One solves its task, one jams the machine half way, one stops half way, and one task has no expert."""
    world = ToyWorld(size=2)
    tasks = [task for task in world.tasks("train") if task.kind == "long"] + [world.tasks("train")[0]]
    solved, jammed, _ = tasks
    goal = [f"press {colour}" for colour in jammed.data["goal"]]
    wrong = next(f"press {colour}" for colour in COLOURS if colour != jammed.data["goal"][2])

    class Partial(ToyWorld):
        def __init__(self, actions):
            super().__init__(size=2)
            self.actions = actions

        def expert_actions(self, tasks):
            return self.actions

    def experts(actions, **config):
        with EnvPool("tests.toy_world:ToyWorld", {"size": 2}, num_envs=2) as pool:
            options = {"format": "action", "num_slots": 2}
            return expert_trajectories(ExpertConfig(**config), Partial(actions), pool, tasks, **options)

    whole = world.expert_actions([solved])
    (found,) = experts({**whole, jammed.id: [*goal[:2], wrong, *goal[2:]]})
    assert (found.id, found.agent, found.task, found.reward) == (f"expert/{solved.id}", "expert", solved, 1.0)
    assert [turn.action for turn in found.turns] == [turn.text for turn in found.turns] == whole[solved.id]
    assert (found.stop, found.turns[0].token_ids) == (StopReason.DONE, ())

    _, stopped = experts({**whole, jammed.id: goal[:2]}, min_reward=0.5)
    assert [turn.action for turn in stopped.turns] == goal[:2]
    assert stopped.reward == 0.5 and "button clicks" in stopped.final_observation
    assert experts({jammed.id: goal[:2]}) == []
    assert experts({}) == []
    with pytest.raises(ConfigError, match="no thoughts"), EnvPool("tests.toy_world:ToyWorld", num_envs=1) as pool:
        expert_trajectories(ExpertConfig(), world, pool, tasks, format="react", num_slots=1)
