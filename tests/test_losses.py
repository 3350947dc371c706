"""Losses: the hand-worked numbers of their docstrings, limits, and gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from sparring.engines.head import token_logprobs
from sparring.learning import losses

ONE = {"chosen": -10.0, "rejected": -12.0, "ref_chosen": -11.0, "ref_rejected": -11.0}


def sides(**values: float) -> list[torch.Tensor]:
    return [torch.tensor([float(value)], dtype=torch.float64) for value in values.values()]


def head(num_tokens: int, width: int = 6, vocabulary: int = 11, *, bias: bool = False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(num_tokens, width, generator=generator, dtype=dtype)
    weight_VD = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    bias_V = torch.randn(vocabulary, generator=generator, dtype=dtype) if bias else None
    targets_N = torch.randint(vocabulary, (num_tokens,), generator=generator)
    return hidden_ND, weight_VD, targets_N, bias_V


class TestTokenLogprobs:
    def test_docstring(self):
        weight = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
        logprob = token_logprobs(torch.tensor([[1.0, 0.0]]), weight, torch.tensor([0]))
        assert logprob.item() == pytest.approx(-0.2877, abs=1e-4)

    @pytest.mark.parametrize("chunk", [1, 3, 7, 100])
    @pytest.mark.parametrize("bias", [False, True])
    def test_values_and_gradients_equal_log_softmax_in_any_chunk(self, chunk, bias):
        hidden_ND, weight_VD, targets_N, bias_V = head(7, bias=bias)
        inputs = [t.clone().requires_grad_() for t in (hidden_ND, weight_VD, bias_V) if t is not None]
        weights_N = torch.linspace(-1, 2, 7, dtype=torch.float64)
        ours_N = token_logprobs(inputs[0], inputs[1], targets_N, chunk=chunk, bias=inputs[2] if bias else None)
        logits_NV = torch.nn.functional.linear(inputs[0], inputs[1], inputs[2] if bias else None)
        theirs_N = logits_NV.log_softmax(-1).gather(-1, targets_N[:, None]).squeeze(-1)
        torch.testing.assert_close(ours_N, theirs_N, rtol=1e-12, atol=1e-12)
        ours = torch.autograd.grad((ours_N * weights_N).sum(), inputs)
        theirs = torch.autograd.grad((theirs_N * weights_N).sum(), inputs)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)

    def test_gradients_against_finite_differences(self):
        hidden_ND, weight_VD, targets_N, bias_V = head(5, width=3, vocabulary=4, bias=True)

        def function(hidden, weight, bias):
            return token_logprobs(hidden, weight, targets_N, chunk=2, bias=bias)

        assert bias_V is not None
        assert gradcheck(function, [t.requires_grad_() for t in (hidden_ND, weight_VD, bias_V)])

    def test_probabilities_of_all_targets_sum_to_one(self):
        hidden_ND, weight_VD, _, _ = head(1)
        logprobs = token_logprobs(hidden_ND.expand(11, -1), weight_VD, torch.arange(11), chunk=4)
        assert logprobs.exp().sum().item() == pytest.approx(1)

    def test_large_logits_do_not_overflow(self):
        hidden_ND, weight_VD, targets_N, _ = head(4, dtype=torch.float32)
        logprobs = token_logprobs((hidden_ND * 1e4).requires_grad_(), weight_VD, targets_N)
        logprobs.sum().backward()
        assert logprobs.isfinite().all()

    def test_frozen_head_and_frozen_body(self):
        hidden_ND, weight_VD, targets_N, _ = head(4)
        token_logprobs(hidden_ND.requires_grad_(), weight_VD, targets_N).sum().backward()
        assert hidden_ND.grad is not None and weight_VD.grad is None
        token_logprobs(hidden_ND.detach(), weight_VD.requires_grad_(), targets_N).sum().backward()
        assert weight_VD.grad is not None

    def test_no_action_tokens(self):
        hidden_ND, weight_VD, targets_N, _ = head(0)
        assert token_logprobs(hidden_ND.requires_grad_(), weight_VD, targets_N).shape == (0,)

    def test_bfloat16_autocast_multiplies_in_bfloat16_and_answers_in_float32(self):
        hidden_ND, weight_VD, targets_N, _ = head(6, dtype=torch.float32)
        exact = token_logprobs(hidden_ND, weight_VD, targets_N)
        weight_VD.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = token_logprobs(hidden_ND, weight_VD, targets_N)
        rounded.sum().backward()
        assert rounded.dtype == torch.float32 and weight_VD.grad is not None and weight_VD.grad.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


class TestPreferenceLosses:
    def test_docstrings(self):
        assert losses.dpo_loss(*sides(**ONE), beta=0.1).item() == pytest.approx(0.5981, abs=1e-4)
        assert losses.ipo_loss(*sides(**ONE), beta=0.1).item() == pytest.approx(9.0)
        fallen = sides(chosen=-12, rejected=-15, ref_chosen=-11, ref_rejected=-11)
        assert losses.dpop_loss(*fallen, beta=0.1, penalty=5).item() == pytest.approx(0.7981, abs=1e-4)

    @pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 5.0])
    def test_policy_at_the_reference_gives_log_two(self, beta):
        same = sides(chosen=-40, rejected=-70, ref_chosen=-40, ref_rejected=-70)
        assert losses.dpo_loss(*same, beta=beta).item() == pytest.approx(math.log(2))
        assert losses.dpop_loss(*same, beta=beta, penalty=50).item() == pytest.approx(math.log(2))
        assert losses.ipo_loss(*same, beta=beta).item() == pytest.approx((1 / (2 * beta)) ** 2)

    def test_limits_of_dpo(self):
        far = 1e4
        sure = sides(chosen=far, rejected=0, ref_chosen=0, ref_rejected=0)
        wrong = sides(chosen=-far, rejected=0, ref_chosen=0, ref_rejected=0)
        assert losses.dpo_loss(*sure, beta=1).item() == 0
        assert losses.dpo_loss(*wrong, beta=1).item() == pytest.approx(far)

    def test_dpo_depends_on_the_margin_alone(self):
        """A prefix that both sides share adds the same to chosen and rejected, and so cancels."""
        shared = sides(chosen=-10 - 7.5, rejected=-12 - 7.5, ref_chosen=-11 - 6, ref_rejected=-11 - 6)
        torch.testing.assert_close(
            losses.dpo_loss(*shared, beta=0.1), losses.dpo_loss(*sides(**ONE), beta=0.1), rtol=1e-12, atol=0
        )

    def test_dpop_equals_dpo_where_the_chosen_side_has_not_fallen(self):
        torch.testing.assert_close(
            losses.dpop_loss(*sides(**ONE), beta=0.1, penalty=50), losses.dpo_loss(*sides(**ONE), beta=0.1)
        )

    @pytest.mark.parametrize("name", ["dpo", "ipo", "dpop"])
    def test_gradients_against_finite_differences(self, name):
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True) * 3 for _ in range(4)]
        function = {
            "dpo": lambda *x: losses.dpo_loss(*x, beta=0.3),
            "ipo": lambda *x: losses.ipo_loss(*x, beta=0.3),
            "dpop": lambda *x: losses.dpop_loss(*x, beta=0.3, penalty=2.0),
        }[name]
        assert gradcheck(function, inputs)

    def test_gradient_of_dpo_at_the_reference(self):
        """−β/2 on the chosen side, β/2 on the rejected one: σ(0) = ½."""
        chosen, rejected, *reference = sides(chosen=-4, rejected=-4, ref_chosen=-4, ref_rejected=-4)
        losses.dpo_loss(chosen.requires_grad_(), rejected.requires_grad_(), *reference, beta=0.5).backward()
        assert chosen.grad is not None and rejected.grad is not None
        assert (chosen.grad.item(), rejected.grad.item()) == (-0.25, 0.25)


class TestOtherTerms:
    def test_nll(self):
        logprob, tokens = torch.tensor([-6.0]), torch.tensor([4.0])
        assert losses.nll(logprob, tokens).item() == 1.5
        assert losses.nll(logprob, tokens, reduction="sum").item() == 6.0

    def test_mix_is_eq_9(self):
        mixed = losses.mix(
            torch.tensor([0.6, 0.6]), torch.tensor([1.5, 1.5]), torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0])
        )
        torch.testing.assert_close(mixed, torch.tensor([1.05, 0.6]))

    def test_kl_estimate(self):
        assert losses.kl_estimate(torch.tensor(-1.0), torch.tensor(-1.5)).item() == pytest.approx(0.1487, abs=1e-4)
        assert losses.kl_estimate(torch.tensor(-1.0), torch.tensor(-1.0)).item() == 0

    def test_kl_estimate_is_unbiased_under_the_reference(self):
        reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        policy = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
        expected = (reference * losses.kl_estimate(policy.log(), reference.log())).sum()
        torch.testing.assert_close(expected, (reference * (reference / policy).log()).sum())
