"""Policy gradient: the docstrings' numbers, limits, gradients against finite differences, what objectives sum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from sparring.data.batches import Group, Sample, groups_from_samples, num_action_tokens
from sparring.data.chat import Encoded
from sparring.engines.base import Metrics, add_metrics
from sparring.engines.scoring import Forward
from sparring.learning import losses
from sparring.learning.policy_gradient import EXACT, ROUNDED, ActorCriticObjective, PolicyGradientObjective, mismatch
from tests.training_toys import node, qwen, sampled_groups


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestGroupAdvantages:
    def test_docstring(self):
        torch.testing.assert_close(
            losses.group_advantages(tensor(0, 0, 1, 1)), tensor(-0.8659, -0.8659, 0.8659, 0.8659), atol=1e-4, rtol=0
        )
        unscaled = losses.group_advantages(tensor(0, 0, 1, 1), is_scaled=False)
        assert unscaled.tolist() == [-0.5, -0.5, 0.5, 0.5]

    @pytest.mark.parametrize("rewards", [(0.3,), (0.3, 0.3), (1.0,) * 8])
    def test_a_group_of_one_and_a_tie_teach_nothing(self, rewards):
        assert losses.group_advantages(tensor(*rewards)).abs().max() < 1e-9

    def test_neither_an_offset_nor_a_scale_of_the_rewards_matters(self):
        rewards = tensor(0.1, 0.25, 0.25, 0.9)
        torch.testing.assert_close(
            losses.group_advantages(rewards, epsilon=0), losses.group_advantages(3 * rewards + 7, epsilon=0)
        )


class TestTruncatedWeights:
    def test_docstring(self):
        own, sampled = tensor(0.5, 0.5).log(), tensor(0.4, 0.1).log()
        torch.testing.assert_close(losses.truncated_weights(own, sampled, largest=3.0), tensor(1.25, 3.0))

    def test_without_truncation_the_expectation_is_that_under_the_own_policy(self):
        own, sampled, values = tensor(0.1, 0.2, 0.7), tensor(0.5, 0.3, 0.2), tensor(1, -2, 3)
        weights = losses.truncated_weights(own.log(), sampled.log(), largest=math.inf)
        torch.testing.assert_close((sampled * weights * values).sum(), (own * values).sum())


class TestSurrogate:
    def test_docstring(self):
        ratios, advantages = tensor(1.5, 1.5, 0.5, 0.5), tensor(1, -1, 1, -1)
        logprobs = ratios.log().requires_grad_()
        loss = losses.clipped_surrogate(logprobs, torch.zeros_like(ratios), advantages)
        torch.testing.assert_close(loss.detach(), tensor(-1.28, 1.5, -0.5, 0.8))
        (grad,) = torch.autograd.grad(loss.sum(), logprobs)
        torch.testing.assert_close(grad, tensor(0, 1.5, -0.5, 0))

    def test_on_policy_its_gradient_is_that_of_reinforce(self):
        old = tensor(-0.4, -2.0, -7.0)
        logprobs, advantages = old.clone().requires_grad_(), tensor(1.5, -0.3, 0.0)
        loss = losses.clipped_surrogate(logprobs, old, advantages)
        torch.testing.assert_close(loss.detach(), -advantages)
        (grad,) = torch.autograd.grad(loss.sum(), logprobs)
        torch.testing.assert_close(grad, -advantages)

    def test_bounds_are_their_own_on_each_side(self):
        ratios = tensor(1.25, 0.75)
        loss = losses.clipped_surrogate(ratios.log(), tensor(0, 0), tensor(1, -1), clip_low=0.1, clip_high=0.3)
        torch.testing.assert_close(loss, tensor(-1.25, 0.9))

    def test_without_bounds_it_is_importance_sampling(self):
        """The expectation under the old policy equals that under the new one."""
        old, new, advantages = tensor(0.5, 0.3, 0.2), tensor(0.1, 0.2, 0.7), tensor(1, -2, 3)
        loss = losses.clipped_surrogate(new.log(), old.log(), advantages, clip_low=1, clip_high=math.inf)
        torch.testing.assert_close((old * loss).sum(), -(new * advantages).sum())

    def test_gradients_against_finite_differences(self):
        generator = torch.Generator().manual_seed(0)
        logprobs, old, advantages = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(3))
        ratio = (logprobs - old).exp()
        assert {bool(r > 1.28) for r in ratio} == {bool(r < 0.8) for r in ratio} == {True, False}
        assert gradcheck(
            lambda x: losses.clipped_surrogate(x, old, advantages) + 0.3 * losses.kl_penalty(x, old),
            [logprobs.requires_grad_()],
        )


class TestKlPenalty:
    def test_docstring(self):
        assert losses.kl_penalty(tensor(-1), tensor(-1.5)).item() == pytest.approx(0.1065, abs=1e-4)
        assert losses.kl_penalty(tensor(-1), tensor(-1)).item() == 0

    def test_is_unbiased_under_the_policy(self):
        policy, reference = tensor(0.6, 0.1, 0.3), tensor(0.2, 0.5, 0.3)
        expected = (policy * losses.kl_penalty(policy.log(), reference.log())).sum()
        torch.testing.assert_close(expected, (policy * (policy / reference).log()).sum())

    def test_gradient_of_the_docstring(self):
        logprob = tensor(-1).requires_grad_()
        (grad,) = torch.autograd.grad(losses.kl_penalty(logprob, tensor(-1.5)).sum(), logprob)
        assert grad.item() == pytest.approx(1 - math.exp(-0.5))


class TestCritic:
    def test_value_loss_of_the_docstring(self):
        values = tensor(0.9, 0.6).requires_grad_()
        loss = losses.clipped_value_loss(values, tensor(0.5, 0.5), tensor(1, 1))
        torch.testing.assert_close(loss.detach(), tensor(0.045, 0.08))
        (grad,) = torch.autograd.grad(loss.sum(), values)
        torch.testing.assert_close(grad, tensor(0, -0.4))

    def test_value_loss_without_a_bound_is_half_the_square(self):
        loss = losses.clipped_value_loss(tensor(3), tensor(0), tensor(1), clip=math.inf)
        assert loss.item() == 2.0

    def test_value_loss_against_finite_differences(self):
        generator = torch.Generator().manual_seed(1)
        values, old, returns = (torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(3))
        assert gradcheck(lambda v: losses.clipped_value_loss(v, old, returns), [values.requires_grad_()])

    def test_advantages_of_the_docstring(self):
        rewards, values = tensor(0, 0, 1), tensor(0.2, 0.4, 0.7)
        for lam, expected in ((0.5, (0.425, 0.45, 0.3)), (1.0, (0.8, 0.6, 0.3)), (0.0, (0.2, 0.3, 0.3))):
            torch.testing.assert_close(losses.discounted_advantages(rewards, values, lam=lam), tensor(*expected))

    def test_with_lambda_one_they_are_discounted_returns_less_values(self):
        generator = torch.Generator().manual_seed(2)
        rewards, values = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
        advantages = losses.discounted_advantages(rewards, values, gamma=0.9, lam=1.0)
        for t in range(7):
            rest = sum(0.9 ** (s - t) * rewards[s] for s in range(t, 7))
            assert advantages[t].item() == pytest.approx((rest - values[t]).item())

    def test_a_critic_that_knows_leaves_no_advantage(self):
        values = tensor(1, 1, 1)
        for lam in (0.0, 0.5, 1.0):
            advantages = losses.discounted_advantages(tensor(0, 0, 1), values, lam=lam)
            assert advantages.abs().max() == 0


def two_groups() -> list[Group]:
    """Two trajectories, of four action tokens and of two."""
    long = Encoded(ids=tuple(range(8)), spans=((2, 4), (6, 8)))
    short = Encoded(ids=(0, 1, 2, 3), spans=((2, 4),))
    common = {"values": (0.5,), "returns": (1.0,)}
    rows = (
        ("t", long, {"advantages": (1.0,), "logprobs": (-1.0,), "reference": (-1.0,), **common}),
        ("t", short, {"advantages": (-1.0,), "logprobs": (-2.0,), "reference": (-1.5,), **common}),
    )
    return groups_from_samples(
        (task, n, Sample(**{name: value * num_action_tokens(n) for name, value in columns.items()}))
        for task, n, columns in rows
    )


class TestObjectives:
    logprobs = (torch.full((4,), -0.5), torch.full((2,), -2.0))

    @pytest.mark.parametrize(("average", "surrogate"), [("token", (4 * -1.28 + 2 * 1) / 6), ("sequence", -0.14)])
    def test_loss_and_metrics_by_hand(self, average, surrogate):
        """The long side's ratio is e^.5 and clipped at 1.28, the short one's is 1; KL 0.1065 and 0.1487 by tokens."""
        groups = two_groups()
        objective = PolicyGradientObjective(average=average, kl_weight=0.5)
        loss, metrics = objective(groups, self.logprobs)
        kl_long, kl_short = math.exp(-0.5) - 1 + 0.5, math.exp(0.5) - 1 - 0.5
        kl = (4 * kl_long + 2 * kl_short) / 6 if average == "token" else (kl_long + kl_short) / 2
        assert loss.item() / sum(map(objective.weight, groups)) == pytest.approx(surrogate + 0.5 * kl, rel=1e-5)
        means = {name: total / count for name, (total, count) in metrics.items()}
        assert means["pg/surrogate"] == pytest.approx(surrogate, rel=1e-5)
        assert means["pg/ratio"] == pytest.approx((4 * math.exp(0.5) + 2) / 6, rel=1e-5)
        assert means["pg/ratio_max"] == pytest.approx(math.exp(0.5), rel=1e-5)
        assert means["pg/log_ratio"] == pytest.approx(4 * 0.5 / 6) and means["pg/log_ratio_max"] == 0.5
        assert means["pg/clipped"] == pytest.approx(4 / 6)
        assert means["pg/entropy"] == pytest.approx((4 * 0.5 + 2 * 2.0) / 6)
        assert means["pg/kl"] == pytest.approx((4 * kl_long + 2 * kl_short) / 6, rel=1e-5)

    def test_a_servers_samples_are_corrected_up_to_a_bound(self):
        """The server gave the long side's tokens a third of the learner's probability, the short one's the same."""
        groups = two_groups()
        by_server = iter([(-1.0 - math.log(3),) * 4, (-2.0,) * 2])
        told = [
            replace(group, samples=tuple(replace(one, sampled=next(by_server)) for one in group.samples))
            for group in groups
        ]
        objective = PolicyGradientObjective(max_server_ratio=2.0)
        loss, metrics = objective(told, self.logprobs)
        assert loss.item() == pytest.approx(2 * 4 * -1.28 + 2, rel=1e-5)
        means = {name: total / count for name, (total, count) in metrics.items()}
        assert means["pg/server_gap"] == pytest.approx(4 * math.log(3) / 6)
        assert means["pg/server_gap_max"] == pytest.approx(math.log(3)) and means["pg/truncated"] == pytest.approx(
            4 / 6
        )
        with pytest.raises(AssertionError, match="sampled"):
            objective(groups, self.logprobs)

    def test_without_weight_the_reference_is_not_missed(self):
        bare = [
            Group(task_id=g.task_id, nodes=g.nodes, samples=(Sample(advantages=s.advantages, logprobs=s.logprobs),))
            for g in two_groups()
            for s in g.samples
        ]
        loss, metrics = PolicyGradientObjective()(bare, self.logprobs)
        assert loss.item() == pytest.approx(4 * -1.28 + 2) and "pg/kl" not in metrics
        with pytest.raises(AssertionError, match="reference"):
            PolicyGradientObjective(kl_weight=1.0)(bare, self.logprobs)

    def test_the_critic_adds_its_loss(self):
        groups, values = two_groups(), (torch.full((4,), 0.6), torch.full((2,), 0.9))
        actor = PolicyGradientObjective()
        objective = ActorCriticObjective(policy=actor, value_weight=2.0, value_clip=0.2)
        loss, metrics = objective(groups, self.logprobs, None, values)
        alone, _ = actor(groups, self.logprobs)
        assert loss.item() - alone.item() == pytest.approx(2 * (4 * 0.08 + 2 * 0.045), rel=1e-5)
        assert metrics["value/error"] == (pytest.approx(4 * 0.16 + 2 * 0.01, rel=1e-5), 6)
        assert metrics["value/mean"] == (pytest.approx(4 * 0.6 + 2 * 0.9, rel=1e-5), 6)

    def test_a_maximum_is_a_maximum_over_micro_batches(self):
        total: Metrics = {}
        for part in ({"a_max": (2.0, 1), "b": (2.0, 1)}, {"a_max": (5.0, 1), "b": (5.0, 1)}, {"a_max": (3.0, 1)}):
            add_metrics(total, part)
        assert total == {"a_max": (5.0, 1), "b": (7.0, 2)}

    def test_gradients_through_a_model_equal_the_plain_policy_gradient(self):
        """At the policy that sampled, token by token −A ∇ log π, averaged."""
        model = qwen(dtype=torch.float64)
        groups = sampled_groups(5, model)
        nodes = [g.nodes[0] for g in groups]
        objective = PolicyGradientObjective()
        loss, metrics = objective(groups, Forward(model, max_tokens=200)(nodes))
        assert metrics["pg/ratio_max"][0] == pytest.approx(1, abs=1e-4)
        parameters = list(model.parameters())
        ours = torch.autograd.grad(loss / sum(map(objective.weight, groups)), parameters)
        advantages_N = torch.tensor([a for g in groups for a in g.samples[0].advantages], dtype=torch.float64)
        plain_N = torch.cat(Forward(model, max_tokens=10**6)(nodes))
        plain = torch.autograd.grad(-(advantages_N * plain_N).mean(), parameters)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 0.7, 2.0])
    def test_log_probabilities_are_those_of_divided_logits(self, temperature):
        model, encoded = qwen(dtype=torch.float64), node(3, 4)
        ids = torch.tensor([encoded.ids])
        logits = model(input_ids=ids).logits[0, :-1] / temperature
        plain = logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        expected = torch.cat([plain[start - 1 : end - 1] for start, end in encoded.spans])
        forward = Forward(model, max_tokens=500, temperature=temperature)
        forward.check(encoded)
        assert forward.is_fast
        torch.testing.assert_close(forward([encoded])[0], expected, rtol=1e-9, atol=1e-9)
        forward.is_fast = False
        torch.testing.assert_close(forward([encoded])[0], expected.float(), rtol=1e-5, atol=1e-5)


class TestMismatch:
    """What a first step's record says where training gives tokens another probability than sampling did."""

    @staticmethod
    def record(groups: list[Group], model: torch.nn.Module, *, temperature: float = 1.0) -> dict[str, float]:
        forward = Forward(model, max_tokens=200, temperature=temperature)
        with torch.no_grad():
            _, metrics = PolicyGradientObjective()(groups, forward([group.nodes[0] for group in groups]))
        return {name: total / count for name, (total, count) in metrics.items()}

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_a_healthy_step_is_silent(self, temperature):
        model = qwen(initializer_range=0.3)
        record = self.record(sampled_groups(12, model, temperature=temperature), model, temperature=temperature)
        assert mismatch(record, EXACT) == "" and 0 < record["pg/log_ratio"] < EXACT.mean / 100

    def test_bfloat16_is_within_its_own_bounds(self):
        model = qwen(initializer_range=0.3)
        record = self.record(sampled_groups(12, qwen(initializer_range=0.3).bfloat16()), model)
        assert mismatch(record, ROUNDED) == "" and mismatch(record, EXACT) != ""

    @pytest.mark.parametrize("bounds", [EXACT, ROUNDED], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("fault", ["temperature", "weights", "tokens"])
    def test_a_real_one_rings(self, fault, bounds):
        model = qwen(initializer_range=0.3)
        groups = sampled_groups(12, model)
        if fault == "tokens":  # each token has its neighbour's log-probability
            shifted = [[replace(s, logprobs=(*s.logprobs[1:], s.logprobs[0])) for s in g.samples] for g in groups]
            groups = [replace(g, samples=tuple(s)) for g, s in zip(groups, shifted, strict=True)]
        other = qwen(1, initializer_range=0.3) if fault == "weights" else model
        record = self.record(groups, other, temperature=0.8 if fault == "temperature" else 1.0)
        assert "another probability in training" in mismatch(record, bounds)

    @pytest.mark.parametrize("name", ["log_ratio", "log_ratio_max", "clipped"])
    def test_each_measure_rings_alone(self, name):
        calm = {"pg/log_ratio": 0.04, "pg/log_ratio_max": 1.4, "pg/clipped": 0.01, "pg/ratio": 1.0}
        assert mismatch(calm, ROUNDED) == ""
        assert mismatch(calm | {f"pg/{name}": 3 * calm[f"pg/{name}"]}, ROUNDED) != ""

    def test_what_is_no_policy_gradient_has_none(self):
        assert mismatch({"step": 1, "loss": 0.7}, EXACT) == ""
