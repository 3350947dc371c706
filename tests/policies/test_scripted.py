"""Policies without a model."""

from __future__ import annotations

from collections import Counter

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task, Turn
from sparring.policies.base import Episode
from sparring.policies.scripted import RandomPolicy, ReplayPolicy, ScriptedPolicy


def episode(id="a", *, task="short/0", num_turns=0, seed=0):
    turn = Turn(observation="", text="", action="", reward=0.0)
    return Episode(id=id, task=Task(id=task, kind="short"), seed=seed, observation="o", turns=[turn] * num_turns)


def test_scripted_plays_the_function():
    policy = ScriptedPolicy(lambda one: f"{one.task.id} {len(one.turns)}")
    assert [reply.action for reply in policy.act([episode(), episode(num_turns=2)])] == ["short/0 0", "short/0 2"]
    assert policy.act([episode()])[0].text == "short/0 0"
    policy.close("a")


def test_replay_plays_turn_by_turn_and_then_what_it_is_told():
    policy = ReplayPolicy({"short/0": ["one", "two"], "short/1": ["three"]}, then="wait")
    batch = [episode(), episode(task="short/1"), episode(num_turns=1), episode(num_turns=2)]
    assert [reply.action for reply in policy.act(batch)] == ["one", "three", "two", "wait"]
    with pytest.raises(ConfigError, match="no recorded actions for task 'short/9'"):
        policy.act([episode(task="short/9")])


def test_random_draws_depend_on_seed_episode_and_turn_alone():
    actions = [str(i) for i in range(1000)]
    policy = RandomPolicy(0, actions)
    variants = [episode(), episode("b"), episode(seed=1), episode(num_turns=1)]
    drawn = [reply.action for reply in policy.act(variants)]
    assert [policy.act([variant])[0].action for variant in reversed(variants)] == drawn[::-1]
    assert len({*drawn, RandomPolicy(1, actions).act([episode()])[0].action}) == 5


def test_random_is_uniform():
    policy = RandomPolicy(0, lambda one: ["x", "y", "z"])
    counts = Counter(reply.action for reply in policy.act([episode(str(i)) for i in range(3000)]))
    assert all(abs(counts[action] - 1000) < 100 for action in "xyz")  # four standard deviations


def test_random_needs_actions():
    with pytest.raises(ConfigError, match="no action to choose from"):
        RandomPolicy(0, []).act([episode()])
