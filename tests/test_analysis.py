"""What the failures look like: summaries, histograms, shares and Figure 2, on a handful of trajectories."""

from __future__ import annotations

import json

import pytest

from sparring.analysis.failures import (
    Outcomes,
    compare_failures,
    count_loops,
    histogram,
    is_hard,
    outcomes,
    rewards_by_task,
    summarise_rollouts,
    to_json,
)
from sparring.core.types import StopReason, Task, Trajectory, Turn


def trajectory(task: str, reward: float, actions: str = "ab", observations: str = "", **fields) -> Trajectory:
    """A trajectory whose actions and observations are single letters."""
    turns = tuple(
        Turn(observation=(observations or "xyzuvw" * 9)[i], text=a, action=a, reward=reward)
        for i, a in enumerate(actions)
    )
    return Trajectory(
        id=f"{task}-{actions}-{reward}",
        task=Task(id=task, kind="k"),
        agent="target",
        turns=turns,
        final_observation="",
        reward=reward,
        stop=fields.pop("stop", StopReason.DONE),
        **fields,
    )


def test_hard_negative_is_a_failure_from_the_threshold_on():
    assert is_hard(0.6, 0.6)
    assert is_hard(0.1 + 0.5, 0.6) and is_hard(0.7 - 0.1, 0.6)
    assert not is_hard(0.59, 0.6)
    assert not is_hard(1.0, 0.6)


def test_summary_of_hand_worked_rewards():
    summary = summarise_rollouts([trajectory("a", r) for r in (1.0, 0.8, 0.5, 0.1)])
    assert summary.num == 4
    assert summary.mean == pytest.approx(0.6)
    assert summary.success == pytest.approx(0.25)
    assert summary.failures == 3
    assert summary.failure_mean == pytest.approx(1.4 / 3)
    assert summary.hard_share == {"0.6": pytest.approx(1 / 3), "0.7": pytest.approx(1 / 3), "0.8": pytest.approx(1 / 3)}
    assert summary.hard_share_of_all["0.6"] == pytest.approx(1 / 4)
    assert summary.turns == 2.0


def test_broken_episodes_are_counted_and_enter_nothing_else():
    broken = trajectory("b", 0.0, stop=StopReason.ENV_FAULT, num_retries=2)
    summary = summarise_rollouts([trajectory("a", 1.0, num_retries=1), broken])
    assert (summary.num, summary.mean, summary.failures, summary.faults, summary.retries) == (1, 1.0, 0, 1, 3)
    assert summary.stops == {"done": 1, "env_fault": 1}


def test_empty_set_has_none_where_there_is_nothing_to_average():
    summary = summarise_rollouts([])
    assert (summary.num, summary.mean, summary.failure_mean, summary.hard_share["0.6"]) == (0, None, None, None)
    json.dumps(to_json(summary), allow_nan=False)


def test_no_failures_leave_the_shares_of_failures_open():
    summary = summarise_rollouts([trajectory("a", 1.0)])
    assert summary.failure_mean is None
    assert summary.hard_share["0.6"] is None
    assert summary.hard_share_of_all["0.6"] == 0.0


def test_distinct_counts_action_sequences_per_task():
    same, other = trajectory("a", 0.1, "ab"), trajectory("a", 0.1, "ba")
    assert summarise_rollouts([same, same, other, trajectory("b", 0.1, "ab")]).distinct == 3


@pytest.mark.parametrize(
    ("actions", "observations", "loops"),
    [
        ("aaa", "xyy", 1),  # The second a still found something new.
        ("aaa", "yyy", 2),
        ("aba", "yyy", 0),
        ("aab", "xxx", 1),
        ("a", "x", 0),
        ("", "", 0),
    ],
)
def test_loop_is_an_action_repeated_upon_the_same_observation(actions, observations, loops):
    assert count_loops(trajectory("a", 0.1, actions, observations)) == loops


def test_looping_counts_episodes():
    summary = summarise_rollouts([trajectory("a", 0.1, "aaa", "yyy"), trajectory("b", 0.1, "ab", "yy")])
    assert (summary.loops, summary.looping) == (2, 1)


def test_histogram_bins_failures_and_leaves_successes_out():
    assert histogram([0.0, 0.24, 0.25, 0.99, 1.0, 1.0 - 1e-9], num_bins=4) == (2, 1, 0, 1)
    assert histogram([0.35], num_bins=20)[7] == 1  # 0.35 · 20 is 6.999… in floats
    assert histogram([], num_bins=3) == (0, 0, 0)


def test_outcomes_are_three_shares_of_one():
    assert outcomes([1.0, 0.83, 0.6, 0.2]) == Outcomes(success=0.25, failure=0.25, hard=0.5, num=4)
    assert outcomes([1.0, 0.83, 0.6, 0.2], threshold=0.7) == Outcomes(success=0.25, failure=0.5, hard=0.25, num=4)
    assert outcomes([]) is None


def test_figure_two_by_hand():
    """SFT solves z. On x both fail (.8 and .4); on y only B fails, with .6."""
    a = {"x": [0.8], "y": [1.0], "z": [0.0]}
    b = {"x": [0.4], "y": [0.6], "z": [0.0]}
    figure = compare_failures({"A": a, "B": b}, solved_by_sft={"z"})
    assert (figure.num_tasks, figure.num_shared) == (2, 1)
    assert (figure.methods["A"].num_failures, figure.methods["B"].num_failures) == (1, 2)
    assert figure.methods["A"].shared_mean == pytest.approx(0.8)
    assert figure.methods["B"].shared_mean == pytest.approx(0.4)


def test_figure_two_counts_all_episodes_of_a_task_and_skips_tasks_that_one_method_lacks():
    figure = compare_failures({"A": {"x": [0.2, 0.4, 1.0], "y": [0.0]}, "B": {"x": [0.5]}}, solved_by_sft=())
    assert figure.num_tasks == 1
    assert (figure.methods["A"].num_failures, figure.methods["A"].num_episodes) == (2, 3)
    assert figure.methods["A"].shared_mean == pytest.approx(0.3)


def test_figure_two_with_nothing_in_common():
    figure = compare_failures({"A": {"x": [1.0]}, "B": {"x": [0.5]}}, solved_by_sft=())
    assert figure.num_shared == 0
    assert figure.methods["A"].shared_mean is None
    assert compare_failures({}, solved_by_sft=()).num_tasks == 0


def test_rewards_by_task_leave_broken_episodes_out():
    episodes = [trajectory("a", 0.5), trajectory("a", 1.0), trajectory("b", 0.0, stop=StopReason.ENV_FAULT)]
    assert rewards_by_task(episodes) == {"a": [0.5, 1.0]}
