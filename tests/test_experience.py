"""From trajectories to samples: advantages by task, credit token by token, and who is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparring.core.errors import DataError
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.chat import Encoded
from sparring.learning.advantages import (
    Credit,
    Scores,
    Spread,
    advantages_by_task,
    groups_with_advantages,
    groups_with_critic,
    mean_reward,
)


def episode(name: str, task: str, reward: float, stop: StopReason = StopReason.DONE) -> Trajectory:
    """Make an episode of two turns, of two action tokens and of one."""
    turns = (
        Turn(observation="a", text="x", action="x", reward=0.0, token_ids=(1, 2), logprobs=(-1.0, -2.0)),
        Turn(observation="b", text="y", action="y", reward=reward, token_ids=(3,), logprobs=(-0.5,)),
    )
    task_ = Task(id=task, kind="k")
    return Trajectory(id=name, task=task_, agent="target", turns=turns, final_observation="", reward=reward, stop=stop)


def encode(trajectory: Trajectory) -> Encoded | None:
    return Encoded(ids=(9, 1, 2, 8, 3), spans=((1, 3), (4, 5)))


GRADED = [episode("a", "t", 0.0), episode("b", "t", 1.0), episode("c", "u", 0.5), episode("d", "u", 0.5)]
BROKEN = episode("e", "t", 0.0, StopReason.ENV_FAULT)
EMPTY = replace(episode("f", "u", 0.0, StopReason.CONTEXT_LIMIT), turns=())


def test_advantages_compare_within_a_task() -> None:
    advantages = advantages_by_task([GRADED[0], GRADED[2], GRADED[1], GRADED[3]])
    assert advantages == pytest.approx({"a": -0.7071, "b": 0.7071, "c": 0.0, "d": 0.0}, abs=1e-3)
    assert advantages_by_task(GRADED, is_scaled=False) == {"a": -0.5, "b": 0.5, "c": 0.0, "d": 0.0}


def test_rewards_that_are_alike_teach_exactly_nothing() -> None:
    """Three times 0.1 have a mean that is not 0.1."""
    alike = [episode(name, "t", 0.1) for name in "abc"]
    assert set(advantages_by_task(alike).values()) == {0.0} == set(advantages_by_task(alike, is_scaled=False).values())
    assert advantages_by_task([episode("a", "t", 1.0)]) == {"a": 0.0}


def test_groups_without_spread_are_counted() -> None:
    failed = [episode(name, "v", 0.0) for name in "ghi"]
    spread = Spread.of([*GRADED, *failed, episode("j", "w", 1.0), BROKEN, EMPTY])
    assert spread.record() == {"groups": 4, "groups_flat": 3, "groups_failed": 1}
    assert str(spread) == "nothing to learn from in 3 of 4 groups (all rewards 0 in 1, all rewards alike in 2)"
    assert str(Spread.of([*GRADED, *failed])).endswith("in 2 of 3 groups (all rewards 0 in 1, all rewards alike in 1)")
    assert str(Spread.of(failed)) == "nothing to learn from in 1 of 1 groups (all rewards 0)"
    assert str(Spread.of(GRADED)) == "nothing to learn from in 1 of 2 groups (all rewards alike)"
    assert Spread.of([BROKEN]).num_groups == 0


def test_what_infrastructure_broke_and_what_never_acted_is_no_part_of_a_group() -> None:
    assert advantages_by_task([*GRADED, BROKEN, EMPTY]) == advantages_by_task(GRADED)
    assert mean_reward([*GRADED, BROKEN, EMPTY]) == 0.5
    assert mean_reward([BROKEN]) == 0.0


def test_every_token_has_its_trajectorys_grade_and_sampled_log_probability() -> None:
    reference = Scores(logprobs={t.id: torch.tensor([-3.0, -2.0, -1.0]) for t in GRADED}, values={})
    groups = groups_with_advantages([*GRADED, BROKEN], {"a": -0.7, "b": 0.7}, encode, reference)
    assert [group.task_id for group in groups] == ["t", "t"]
    sample = groups[1].samples[0]
    assert (sample.advantages, sample.logprobs) == ((0.7,) * 3, (-1.0, -2.0, -0.5))
    assert sample.reference == (-3.0, -2.0, -1.0) and sample.values == ()
    assert groups_with_advantages(GRADED, {"a": 1.0}, encode, None)[0].samples[0].reference == ()


def test_what_exceeds_the_context_is_left_out() -> None:
    assert (
        groups_with_advantages(GRADED, {"a": 1.0, "b": 1.0}, lambda t: None if t.id == "a" else encode(t), None)[0]
        == (groups_with_advantages(GRADED[1:], {"b": 1.0}, encode, None)[0])
    )


def test_a_trajectory_without_log_probabilities_is_named() -> None:
    bare = replace(GRADED[0], turns=tuple(replace(turn, logprobs=()) for turn in GRADED[0].turns))
    with pytest.raises(DataError, match="'a' has 0 sampled log-probabilities for 3 action tokens"):
        groups_with_advantages([bare], {"a": 1.0}, encode, None)


def test_credit_by_hand() -> None:
    """KL weight 0.1, λ 1, values 0.4 throughout; old − reference is 0, 1, −2: rewards 0, −0.1, 0.2 + R."""
    scores = Scores(
        logprobs={name: torch.tensor([-1.0, -2.0, -0.5]) for name in "ab"},
        values={name: torch.full((3,), 0.4) for name in "ab"},
    )
    reference = Scores(logprobs={name: torch.tensor([-1.0, -3.0, 1.5]) for name in "ab"}, values={})
    credit = Credit(kl_weight=0.1, lam=1.0)
    samples = [group.samples[0] for group in groups_with_critic(GRADED[:2], encode, scores, reference, credit)]
    raw = torch.tensor([-0.3, -0.3, -0.2, 0.7, 0.7, 0.8], dtype=torch.float64)
    expected = ((raw - raw.mean()) / raw.std(correction=0)).tolist()
    assert [*samples[0].advantages, *samples[1].advantages] == pytest.approx(expected, abs=1e-5)
    assert samples[1].returns == pytest.approx((1.1, 1.1, 1.2), abs=1e-6)
    assert samples[1].values == pytest.approx((0.4,) * 3, abs=1e-6)
    assert samples[1].reference == (-1.0, -3.0, 1.5)
    plain = groups_with_critic(GRADED[:2], encode, scores, None, replace(credit, kl_weight=0.0))
    assert plain[1].samples[0].returns == pytest.approx((1.0,) * 3)


@pytest.mark.parametrize(("is_sampled", "expected"), [(True, (-1.0, -2.0, -0.5)), (False, (-7.0, -8.0, -9.0))])
def test_the_old_policy_is_the_sampler_or_the_agent_as_training_begins(is_sampled, expected) -> None:
    scores = Scores(logprobs={"a": torch.tensor([-7.0, -8.0, -9.0])}, values={"a": torch.zeros(3)})
    (group,) = groups_with_critic(GRADED[:1], encode, scores, None, Credit(kl_weight=0.0, is_sampled=is_sampled))
    assert group.samples[0].logprobs == expected


def test_nothing_to_learn_from_is_no_group() -> None:
    assert groups_with_critic([BROKEN], encode, Scores(logprobs={}, values={}), None, Credit()) == []
