"""Sampled log-probabilities: of the distribution that was drawn from, kept for the asking; nothing else changes.

The theorem that policy gradient stands on: what training recomputes is what sampling saw.
"""

from __future__ import annotations

import json

import pytest
import torch

from sparring.core.records import trajectory_from_json, trajectory_to_json
from sparring.core.types import Trajectory
from sparring.data.chat import Chat, ChatConfig
from sparring.engines.scoring import Forward
from sparring.envs.base import EnvConfig
from sparring.envs.pool import EnvPool
from sparring.policies.base import LOGPROB_DIGITS
from sparring.policies.local.decoding import pick
from sparring.policies.local.policy import LocalPolicy
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyWorld

WORLD = EnvConfig(id="tests.toy_world:ToyWorld", num_envs=4)


def played(
    temperature: float, keep_logprobs: bool, *, num_tokens: int = 400
) -> tuple[list[Trajectory], Chat, torch.nn.Module]:
    """Play two episodes of each toy task with a random model."""
    benchmark, model = ToyWorld(size=3), tiny_model(num_tokens=num_tokens, scale=2.0)
    chat = Chat(tiny_tokenizer(), ChatConfig(format="action", max_context=512), instruction=benchmark.instruction)
    policy = LocalPolicy(
        model, chat, temperature=temperature, max_new_tokens=6, num_slots_per_lane=4, keep_logprobs=keep_logprobs
    )
    specs = episode_specs("x", benchmark.tasks("train"), agent="target", seed=1, num_per_task=2)
    with EnvPool.of(WORLD) as pool:
        return rollout(policy, pool, benchmark, cut_waves(specs, 6), num_slots=4), chat, model


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_training_recomputes_what_was_sampled_at(temperature: float) -> None:
    trajectories, chat, model = played(temperature, True)
    forward = Forward(model, max_tokens=2048, temperature=temperature)
    with torch.no_grad():
        again = forward([chat.encode(trajectory) for trajectory in trajectories])
    num = 0
    for trajectory, recomputed_N in zip(trajectories, again, strict=True):
        assert all(len(turn.logprobs) == len(turn.token_ids) for turn in trajectory.turns)
        sampled_N = torch.tensor([value for turn in trajectory.turns for value in turn.logprobs])
        torch.testing.assert_close(recomputed_N, sampled_N, rtol=0, atol=1e-4)
        assert ((recomputed_N - sampled_N).exp() - 1).abs().max() < 1e-4, "the importance ratio is 1"
        num += len(sampled_N)
    assert num > 200 and {len(turn.token_ids) for t in trajectories for turn in t.turns} > {6}


def test_at_another_temperature_they_are_others() -> None:
    trajectories, chat, model = played(0.5, True)
    with torch.no_grad():
        (recomputed_N,) = Forward(model, max_tokens=2048)([chat.encode(trajectories[0])])
    sampled_N = torch.tensor([value for turn in trajectories[0].turns for value in turn.logprobs])
    assert (recomputed_N - sampled_N).abs().max() > 0.1


def test_keeping_them_changes_nothing_else() -> None:
    kept, _, _ = played(0.9, True)
    bare, _, _ = played(0.9, False)
    for a, b in zip(kept, bare, strict=True):
        assert [turn.token_ids for turn in a.turns] == [turn.token_ids for turn in b.turns]
        record = trajectory_to_json(a)
        assert all(turn.pop("logprobs") for turn in record["turns"])
        assert record == trajectory_to_json(b)


def test_greedy_actions_have_none() -> None:
    trajectories, _, _ = played(0.0, True)
    assert all(turn.logprobs == () and turn.token_ids for t in trajectories for turn in t.turns)


def test_they_survive_a_run_folder_exactly() -> None:
    trajectories, _, _ = played(1.0, True)
    for trajectory in trajectories:
        assert trajectory_from_json(json.loads(json.dumps(trajectory_to_json(trajectory)))) == trajectory
        assert all(value == round(value, LOGPROB_DIGITS) <= 0 for turn in trajectory.turns for value in turn.logprobs)


def test_the_probability_is_the_softmax_s_at_the_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(64, 40, generator=generator)
    token_B, probability_B = pick(logits_BV, 0.6, torch.rand(64, generator=generator))
    expected_B = torch.softmax(logits_BV / 0.6, -1)[torch.arange(64), token_B]
    assert torch.equal(probability_B, expected_B)


def test_padding_of_the_embedding_is_no_part_of_the_distribution() -> None:
    """Its tokens are never sampled, but training's normaliser has them: what they weigh, the ratio falls short of 1."""
    trajectories, chat, model = played(1.0, True, num_tokens=420)
    with torch.no_grad():
        (recomputed_N,) = Forward(model, max_tokens=2048)([chat.encode(trajectories[0])])
    sampled_N = torch.tensor([value for turn in trajectories[0].turns for value in turn.logprobs])
    assert (sampled_N - recomputed_N).min() > -1e-4
