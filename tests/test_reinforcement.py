"""Policy gradient in the trainer: recorded curves, resumption to the bit, Adam's memory between rounds, value heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.core.errors import DataError
from sparring.data.batches import Group
from sparring.engines import value_head as critic
from sparring.engines.base import Objective
from sparring.engines.checkpoint import trainable
from sparring.engines.learner import LocalLearner, make_optimizer
from sparring.engines.scoring import Forward
from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
from sparring.learning.trainer import FitResult, TrainConfig, compute_of
from tests.training_toys import attach_value_head, fit, newest_moments, node, plain_logprobs, qwen, sampled_groups

RL = TrainConfig(lr=2e-3, epochs=2, batch_size=4, schedule="constant", warmup_ratio=0, max_tokens_per_batch=100)
GRPO = PolicyGradientObjective(kl_weight=0.01)
PPO = ActorCriticObjective(policy=PolicyGradientObjective(clip_high=0.2), value_weight=0.1)


def actor_critic(lr: float = 0.01) -> torch.nn.Module:
    model = qwen()
    attach_value_head(model, lr=lr)
    return model


def trained(
    folder: Path,
    objective: Objective,
    *,
    model: torch.nn.Module | None = None,
    config: TrainConfig = RL,
    groups: list[Group] | None = None,
    moments: Path | None = None,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> tuple[torch.nn.Module, FitResult, list[dict[str, Any]]]:
    log: list[dict[str, Any]] = []

    def keep(record: dict[str, Any]) -> None:
        on_step(record)
        log.append(record)

    model = model or (actor_critic() if isinstance(objective, ActorCriticObjective) else qwen())
    groups = groups or sampled_groups(16, qwen())
    return model, fit(model, groups, objective, config, seed=3, state_dir=folder, moments=moments, log=keep), log


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


GOLDEN_GRPO = [0.622, -0.0297, -0.0193, -0.3276, 0.2634, -1.1063, 0.0677, 0.6075]
GOLDEN_PPO = [0.6659, -0.0134, 0.0094, -0.3061, 0.307, -1.0906, 0.0937, 0.645]


@pytest.mark.parametrize(("objective", "golden"), [(GRPO, GOLDEN_GRPO), (PPO, GOLDEN_PPO)], ids=["grpo", "ppo"])
def test_recorded_curves(tmp_path, objective, golden):
    """Losses recorded once; another CPU may differ in the last digits, another computation differs in the first."""
    _, _, log = trained(tmp_path, objective, config=replace(RL, lr=5e-4))
    assert [r["loss"] for r in log] == pytest.approx(golden, abs=2e-3)


def test_first_step_is_on_policy_and_the_next_ones_are_not(tmp_path):
    _, _, log = trained(tmp_path, GRPO)
    assert log[0]["pg/ratio"] == pytest.approx(1, abs=1e-5) == pytest.approx(log[0]["pg/ratio_max"], abs=1e-4)
    assert log[0]["pg/clipped"] == 0 and log[0]["pg/kl"] > 0
    assert log[-1]["pg/ratio_max"] > 1.1 and log[-1]["pg/clipped"] > 0


def test_what_was_better_than_expected_grows_likelier(tmp_path):
    groups = sampled_groups(16, qwen())
    model, _, _ = trained(tmp_path, GRPO, groups=groups)
    for group in groups:
        (encoded,), (sample,) = group.nodes, group.samples
        gain = (plain_logprobs(model, encoded) - torch.tensor(sample.logprobs)).mean().item()
        assert gain * sample.advantages[0] > 0


def test_the_clip_holds_the_policy_back(tmp_path):
    """Many steps on the same samples: with narrow bounds it stays where it was sampled, without it runs away."""
    config = replace(RL, lr=5e-3, epochs=6)
    spread = {}
    for clip in (0.05, 1e9):
        objective = PolicyGradientObjective(clip_low=min(clip, 1.0), clip_high=clip)
        _, _, log = trained(tmp_path / str(clip), objective, config=config)
        spread[clip] = log[-1]["pg/ratio_max"]
    assert spread[0.05] < 0.2 * spread[1e9]


def test_groups_whose_rewards_are_alike_are_not_computed_and_count_in_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three teach nothing, and in the third step of each epoch none does: Adam moves on there all the same."""
    forwarded: list[int] = []
    forward_backward = LocalLearner.forward_backward

    def counted(self: LocalLearner, groups: Sequence[Group], *rest: Any) -> Any:
        forwarded.append(len(groups))
        return forward_backward(self, groups, *rest)

    monkeypatch.setattr(LocalLearner, "forward_backward", counted)
    groups = sampled_groups(15, qwen())
    flat = [
        group
        if number % 3 == 0
        else replace(group, samples=(replace(sample, advantages=(0.0,) * len(sample.logprobs)),))
        for number, group in enumerate(groups)
        for sample in group.samples
    ]
    objective = PolicyGradientObjective()
    quick, result, log = trained(tmp_path / "quick", objective, groups=flat)
    monkeypatch.setattr(PolicyGradientObjective, "teaches", lambda self, group: True)
    slow, _, slow_log = trained(tmp_path / "slow", objective, groups=flat)
    assert result.steps == 8 and forwarded[:8] == [1, 2, 4, 2, 2, 1, 4, 2]
    assert sum(forwarded[8:]) == 30
    for a, b in zip(*(model.state_dict().values() for model in (quick, slow)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(log, slow_log, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6) and mine["tokens"] == theirs["tokens"]


class Killed(BaseException):
    """Stands for a process that ends on the spot."""


@pytest.mark.parametrize("objective", [GRPO, PPO], ids=["grpo", "ppo"])
def test_after_kills_at_every_step_in_turn(tmp_path, objective):
    config = replace(RL, save_every_s=0)
    model, result, whole = trained(tmp_path / "whole", objective, config=config)
    for step in range(2, 9):

        def kill(record: dict[str, Any], step: int = step) -> None:
            if record["step"] == step:
                raise Killed

        with pytest.raises(Killed):
            trained(tmp_path / "killed", objective, config=config, on_step=kill)
    again, result_again, log = trained(tmp_path / "killed", objective, config=config)
    assert same_weights(model, again) and result == result_again and log == whole[7:]


@pytest.mark.parametrize("objective", [GRPO, PPO], ids=["grpo", "ppo"])
def test_two_rounds_that_hand_on_adams_memory_are_one(tmp_path, objective):
    """Over the same samples, unshuffled at a constant rate; and without the memory they are not."""
    one = replace(RL, epochs=1, shuffle=False)
    whole, _, _ = trained(tmp_path / "whole", objective, config=replace(one, epochs=2))
    half, _, _ = trained(tmp_path / "first", objective, config=one)
    forgetful = qwen() if objective is GRPO else actor_critic()
    forgetful.load_state_dict(half.state_dict())
    moments = newest_moments(tmp_path / "first")
    trained(tmp_path / "second", objective, model=half, config=one, moments=moments)
    trained(tmp_path / "other", objective, model=forgetful, config=one)
    assert same_weights(whole, half) and not same_weights(whole, forgetful)


def test_memory_of_another_model_is_refused(tmp_path):
    trained(tmp_path / "first", PPO)
    with pytest.raises(DataError, match="for another model"):
        trained(tmp_path / "second", GRPO, moments=newest_moments(tmp_path / "first"))


def optimizer_of(model: torch.nn.Module) -> torch.optim.AdamW:
    return make_optimizer(model, trainable(model), compute_of(RL, 1.0))


class TestValueHead:
    def test_a_new_one_expects_nothing_and_is_found_by_the_forward(self):
        model, nodes = actor_critic(), [node(1, 3), node(2, 2)]
        logprobs, values = Forward(model, max_tokens=500).with_values(nodes)
        assert values is not None and [v.shape for v in values] == [x.shape for x in logprobs]
        assert all(bool((v == 0).all()) for v in values)
        assert Forward(qwen(), max_tokens=500).with_values(nodes)[1] is None

    def test_values_are_those_of_the_state_before_the_token(self):
        """A change of an action token changes the values after it, not its own; on the fast path and the full one."""
        model, one = actor_critic(), node(1, 3)
        torch.nn.init.normal_(model.value_head.weight)
        start, _ = one.spans[1]
        other = replace(one, ids=(*one.ids[:start], one.ids[start] ^ 1, *one.ids[start + 1 :]))
        first = sum(e - s for s, e in one.spans[:1])
        for is_fast in (True, False):
            forward = Forward(model, max_tokens=500)
            forward.is_fast = is_fast
            (a, b), (c, d) = (
                forward.with_values([one, other])[1],
                Forward(model, max_tokens=500).with_values([one, other])[1],
            )
            torch.testing.assert_close(a, c)
            torch.testing.assert_close(b, d)
            torch.testing.assert_close(a[: first + 1], b[: first + 1])
            assert (a[first + 1 :] - b[first + 1 :]).abs().min() > 1e-6

    def test_learns_what_is_to_be_expected(self, tmp_path):
        config = replace(RL, lr=1e-5, epochs=10)
        objective = replace(PPO, value_weight=1.0, value_clip=10.0)
        _, _, log = trained(tmp_path, objective, model=actor_critic(lr=0.5), config=config)
        errors = [r["value/error"] for r in log]
        assert sum(errors[-4:]) / 4 < 0.2 < 0.25 < sum(errors[:4]) / 4, "the best constant makes an error of 0.25"

    def test_has_a_rate_of_its_own(self):
        groups = optimizer_of(actor_critic(lr=0.02)).param_groups
        assert [group["scale"] for group in groups] == [1, 1, pytest.approx(10)]
        assert sum(len(group["params"]) for group in groups) == len(list(actor_critic().parameters()))
        assert [group["scale"] for group in optimizer_of(qwen()).param_groups] == [1, 1]

    def test_is_saved_beside_the_model_and_comes_back(self, tmp_path):
        model, _, _ = trained(tmp_path / "fit", PPO)
        names = set(qwen().state_dict())
        head = model.value_head
        del model.value_head
        assert set(model.state_dict()) == names and not hasattr(model, "value_head")
        critic.save(head, tmp_path)
        assert [path.name for path in tmp_path.glob("*.safetensors")] == ["value_head.safetensors"]
        again = attach_value_head(model, tmp_path)
        assert head.weight.abs().max() > 0 and torch.equal(again.weight, head.weight)
        assert torch.equal(again.bias, head.bias)

    def test_of_another_width_is_refused(self, tmp_path):
        critic.save(critic.ValueHead(7, lr=0.1), tmp_path)
        with pytest.raises(DataError, match="value head of another model"):
            attach_value_head(qwen(), tmp_path)
