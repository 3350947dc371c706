"""Training: gradients equal the plain computation, a killed run equals one that was not, and faults are named."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sparring.core.errors import ConfigError, DataError, SparringError, TrainingError
from sparring.core.types import PairKind
from sparring.data.batches import Group
from sparring.data.chat import Encoded
from sparring.engines import checkpoint
from sparring.engines.base import Objective
from sparring.engines.learner import prepare
from sparring.engines.routing import Balance
from sparring.engines.scoring import Forward
from sparring.learning import losses
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.trainer import FitResult, TrainConfig, learning_rate
from tests.crashes import crash_at
from tests.training_toys import VOCABULARY, edge, fit, lone_groups, node, plain_logprobs, qwen, task_groups

SFT = TrainConfig(lr=5e-3, epochs=2, batch_size=4, max_tokens_per_batch=200)
PREFERENCE = TrainConfig(lr=1e-3, epochs=2, batch_size=6, schedule="constant", warmup_ratio=0.1)


def trained(
    folder: Path,
    groups: list[Group],
    objective: Objective,
    config: TrainConfig,
    *,
    model: torch.nn.Module | None = None,
    seed: int = 0,
    on_step: Callable[[dict[str, Any]], None] = lambda record: None,
) -> tuple[torch.nn.Module, FitResult, list[dict[str, Any]]]:
    model = qwen() if model is None else model
    log: list[dict[str, Any]] = []

    def keep(record: dict[str, Any]) -> None:
        on_step(record)
        log.append(record)

    return model, fit(model, groups, objective, config, seed=seed, state_dir=folder, log=keep), log


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


def gradients(loss: Tensor, model: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def naive_eq_9(model: torch.nn.Module, start: torch.nn.Module, groups: list[Group], config: LossConfig) -> Tensor:
    """Forward both sides of every pair by themselves, cut, with full logits, and average Eq. 9 over pairs."""

    def side(network: torch.nn.Module, encoded: Encoded, turns: int) -> tuple[Tensor, int]:
        short = Encoded(ids=encoded.ids[: encoded.spans[turns - 1][1]], spans=encoded.spans[:turns])
        logprobs = plain_logprobs(network, short)
        return logprobs.sum(), len(logprobs)

    terms = []
    for group in groups:
        for e in group.edges:
            chosen, num_chosen = side(model, group.nodes[e.chosen], e.chosen_turns)
            rejected, _ = side(model, group.nodes[e.rejected], e.rejected_turns)
            with torch.no_grad():
                ref_chosen, _ = side(start, group.nodes[e.chosen], e.chosen_turns)
                ref_rejected, _ = side(start, group.nodes[e.rejected], e.rejected_turns)
            is_failure = e.kind is PairKind.FAILURE_FAILURE
            dpo_weight = config.failure_dpo if is_failure else config.expert_dpo
            sft_weight = config.failure_sft if is_failure else config.expert_sft
            margin = config.beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
            length = num_chosen if config.sft_reduction == "mean" else 1
            terms.append(dpo_weight * (1 + (-margin).exp()).log() - sft_weight * chosen / length)
    return torch.stack(terms).mean()


def shared_eq_9(
    model: torch.nn.Module, start: torch.nn.Module, groups: list[Group], config: LossConfig, max_tokens: int = 500
) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    nodes = [n for group in groups for n in group.nodes]
    with torch.no_grad():
        reference = Forward(start, max_tokens=max_tokens)(nodes)
    objective = PreferenceObjective(config=config)
    loss, metrics = objective(groups, Forward(model, max_tokens=max_tokens)(nodes), reference)
    return loss / sum(map(objective.weight, groups)), metrics


class TestGradients:
    """Sharing trajectories between pairs is exact."""

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
    def test_of_eq_9_equal_those_of_both_sides_of_every_pair(self, dtype, tolerance, reduction):
        model, start = qwen(1, dtype=dtype), qwen(0, dtype=dtype)
        groups, config = task_groups(3), LossConfig(sft_reduction=reduction, expert_dpo=0.4, expert_sft=0.6)
        ours, _ = shared_eq_9(model, start, groups, config)
        naive = naive_eq_9(model, start, groups, config)
        torch.testing.assert_close(ours, naive, rtol=1e-6, atol=1e-6)
        for a, b in zip(gradients(ours, model), gradients(naive, model), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=tolerance * max(1.0, b.abs().max().item()))

    def test_of_one_step_do_not_depend_on_the_token_budget(self, tmp_path):
        groups = task_groups(4)
        results = []
        for budget in (1, 150, 10**6):
            config = TrainConfig(lr=1e-3, epochs=1, batch_size=100, max_tokens_per_batch=budget)
            model, _, log = trained(
                tmp_path / str(budget), groups, PreferenceObjective(), config, model=qwen(1, dtype=torch.float64)
            )
            results.append((model, log))
        for model, log in results[1:]:
            for name, value in results[0][1][0].items():
                assert log[0][name] == pytest.approx(value, rel=1e-9, abs=1e-9)
            for a, b in zip(model.parameters(), results[0][0].parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-6)

    def test_norm_in_the_log_is_that_of_the_mean_over_pairs(self, tmp_path):
        groups, model = task_groups(3), qwen(0)
        naive = naive_eq_9(model, qwen(0), groups, LossConfig())
        expected = torch.cat([g.flatten() for g in gradients(naive, model)]).norm().item()
        config = TrainConfig(lr=1e-3, epochs=1, batch_size=99, max_tokens_per_batch=1)
        _, _, log = trained(tmp_path, groups, PreferenceObjective(), config)
        assert log[0]["grad_norm"] == pytest.approx(expected, rel=1e-3)

    def test_of_cloning_is_the_mean_over_the_steps_action_tokens(self):
        model, groups = qwen(dtype=torch.float64), lone_groups(5)
        objective = SFTObjective()
        loss, _ = objective(groups, Forward(model, max_tokens=500)([g.nodes[0] for g in groups]))
        naive = -torch.cat([plain_logprobs(model, g.nodes[0]) for g in groups]).mean()
        torch.testing.assert_close(loss / sum(map(objective.weight, groups)), naive)

    def test_sum_reduction_of_cloning_is_eq_5(self):
        objective, groups = SFTObjective(reduction="sum"), lone_groups(3)
        assert [objective.weight(g) for g in groups] == [1, 1, 1]

    def test_recomputing_activations_changes_nothing(self, tmp_path):
        logs = []
        for recompute in (False, True):
            config = TrainConfig(lr=1e-3, epochs=1, batch_size=6, recompute=recompute)
            model = qwen(1, dtype=torch.float64, attention_dropout=0.5)
            logs.append(
                trained(tmp_path / str(recompute), task_groups(4), PreferenceObjective(), config, model=model)[2]
            )
        assert [r["loss"] for r in logs[0]] == pytest.approx([r["loss"] for r in logs[1]], rel=1e-9)


class TestObjective:
    def test_at_the_reference_every_pair_loses_log_two(self):
        model = qwen()
        _, metrics = shared_eq_9(model, model, task_groups(2), LossConfig(expert_dpo=1, expert_sft=0))
        for kind in (PairKind.EXPERT_TARGET, PairKind.EXPERT_PARTNER, PairKind.FAILURE_FAILURE):
            total, count = metrics[f"{kind}/loss"]
            assert total / count == pytest.approx(math.log(2), abs=1e-6)
            for name in ("margin", "delta_chosen", "delta_rejected", "kl"):
                assert metrics[f"{kind}/{name}"][0] == pytest.approx(0, abs=1e-4)
        assert not any(name.startswith("target>expert") for name in metrics)

    def test_metrics_of_one_pair(self):
        """2 turns of 2 tokens over 1 turn of 2; log-probs -1 and -2 a token, under the reference -1.5 and -1."""
        nodes = (Encoded(ids=tuple(range(8)), spans=((2, 4), (6, 8))), Encoded(ids=(0, 1, 2, 3), spans=((2, 4),)))
        group = Group(task_id="t", nodes=nodes, edges=(edge(PairKind.EXPERT_TARGET, 0, 1, 2, 1),))
        logprobs = [torch.full((4,), -1.0), torch.full((2,), -2.0)]
        reference = [torch.full((4,), -1.5), torch.full((2,), -1.0)]
        objective = PreferenceObjective(config=LossConfig(sft_reduction="mean"))
        loss, metrics = objective([group], logprobs, reference)
        expected = {
            "margin": 2.0 - (-2.0),
            "accuracy": 1.0,
            "delta_chosen": 2.0,
            "delta_rejected": -2.0,
            "nll": 1.0,
            "kl": math.exp(-1) - 1 + 1,
            "loss": 0.5 * math.log(1 + math.exp(-0.4)) + 0.5 * 1.0,
        }
        assert {name: metrics[f"expert>target/{name}"][0] for name in expected} == pytest.approx(expected, rel=1e-6)
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)

    @pytest.mark.parametrize("variant", ["dpo", "ipo", "dpop"])
    @pytest.mark.parametrize("normalise", [False, True])
    def test_variants_use_their_loss_on_sums_or_means(self, variant, normalise):
        nodes = (Encoded(ids=tuple(range(8)), spans=((2, 4), (6, 8))), Encoded(ids=(0, 1, 2, 3), spans=((2, 4),)))
        group = Group(task_id="t", nodes=nodes, edges=(edge(PairKind.FAILURE_FAILURE, 0, 1, 2, 1),))
        logprobs, reference = [torch.full((4,), -1.0), torch.full((2,), -2.0)], [torch.full((4,), -0.5), torch.zeros(2)]
        config = LossConfig(variant=variant, length_normalise=normalise, beta=0.3, dpop_lambda=2)
        loss, _ = PreferenceObjective(config=config)([group], logprobs, reference)
        values = [torch.tensor(v) for v in ((-1.0, -2.0, -0.5, 0.0) if normalise else (-4.0, -4.0, -2.0, 0.0))]
        expected = {
            "dpo": lambda: losses.dpo_loss(*values, beta=0.3),
            "ipo": lambda: losses.ipo_loss(*values, beta=0.3),
            "dpop": lambda: losses.dpop_loss(*values, beta=0.3, penalty=2),
        }[variant]()
        torch.testing.assert_close(loss, expected)

    def test_tokens_after_the_cut_do_not_matter(self):
        model, start = qwen(1), qwen(0)
        (group,) = task_groups(1)
        long = group.nodes[1]
        changed = Encoded(ids=(*long.ids[: long.spans[3][1]], *[5] * 9), spans=(*long.spans[:4], (len(long.ids), 0)))
        edges = group.edges[:1]
        assert edges[0].rejected_turns == 4
        changed = Encoded(ids=changed.ids, spans=(*long.spans[:4], (long.spans[3][1] + 5, long.spans[3][1] + 9)))
        before = Group(task_id="t", nodes=group.nodes, edges=edges)
        after = Group(task_id="t", nodes=(group.nodes[0], changed, group.nodes[2]), edges=edges)
        ours = [shared_eq_9(model, start, [g], LossConfig())[0] for g in (before, after)]
        torch.testing.assert_close(*ours, rtol=1e-6, atol=1e-6)

    def test_a_shared_prefix_cancels_in_dpo_and_counts_in_the_rest(self):
        a = node(0, 4)
        b = node(1, 3, prefix=a.ids[: a.spans[1][1] + 2])
        b = Encoded(ids=b.ids, spans=(*a.spans[:2], *b.spans))
        model, start = qwen(1, dtype=torch.float64), qwen(0, dtype=torch.float64)
        group = Group(task_id="t", nodes=(a, b), edges=(edge(PairKind.EXPERT_TARGET, 0, 1, 4, 5, 2),))
        for variant, dpo, sft, is_same in (
            ("dpo", 1.0, 0.0, True),
            ("ipo", 1.0, 0.0, True),
            ("dpop", 1.0, 0.0, False),
            ("dpo", 0.5, 0.5, False),
        ):
            found = [
                shared_eq_9(
                    model,
                    start,
                    [group],
                    LossConfig(variant=variant, expert_dpo=dpo, expert_sft=sft, from_first_difference=skip),
                )[0]
                for skip in (False, True)
            ]
            assert torch.allclose(*found, rtol=1e-9) is is_same, variant
            grads = [torch.cat([g.flatten() for g in gradients(loss, model)]) for loss in found]
            assert bool((grads[0] - grads[1]).norm() < 1e-6 * grads[0].norm()) is is_same, variant

    def test_beta_must_be_positive(self):
        with pytest.raises(ConfigError, match=r"beta: expected a finite number above 0"):
            LossConfig(beta=0)


class TestSchedule:
    def test_docstring(self):
        config = TrainConfig(lr=1.0, warmup_ratio=0.2, schedule="cosine")
        rates = [learning_rate(step, 10, config) for step in range(10)]
        assert rates[:4] == pytest.approx([0.5, 1.0, 1.0, 0.962], abs=1e-3)
        assert rates[-1] == pytest.approx(0.038, abs=1e-3)
        constant = TrainConfig(lr=1.0, warmup_ratio=0.2, schedule="constant")
        assert [learning_rate(step, 10, constant) for step in range(10)] == [0.5, *[1.0] * 9]

    def test_no_step_is_wasted_on_a_rate_of_zero(self):
        for schedule in ("cosine", "constant"):
            for ratio in (0.0, 0.03, 1.0):
                config = TrainConfig(lr=1.0, warmup_ratio=ratio, schedule=schedule)
                assert all(0 < learning_rate(step, n, config) <= 1 for n in (1, 2, 33) for step in range(n))

    @pytest.mark.parametrize(
        "change", [{"lr": 0}, {"epochs": 0}, {"batch_size": -1}, {"clip_norm": 0}, {"warmup_ratio": 2}]
    )
    def test_nonsense_is_refused(self, change):
        with pytest.raises(ConfigError, match=next(iter(change))):
            TrainConfig(**change)


NOISY = {
    "OPT": {"dropout": 0.5, "ffn_dim": 24, "word_embed_proj_dim": 8, "max_position_embeddings": 512},
    "Falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "Mixtral": {
        "router_jitter_noise": 0.5,
        "num_local_experts": 4,
        "intermediate_size": 24,
        "num_key_value_heads": 1,
    },
}
"""Models whose training mode is noisy, each in another way."""


class TestFit:
    def test_cloning_learns_what_it_is_shown(self, tmp_path):
        groups = lone_groups(4)
        config = TrainConfig(lr=2e-2, epochs=30, batch_size=4)
        model, result, log = trained(tmp_path, groups, SFTObjective(), config)
        assert log[0]["loss"] > 3.5 and log[-1]["loss"] < 0.5
        logprobs = torch.cat([plain_logprobs(model, g.nodes[0]) for g in groups])
        assert -logprobs.mean().item() < 0.5
        assert result.steps == len(log) == 30

    def test_preferences_are_learnt(self, tmp_path):
        groups = [Group(task_id=g.task_id, nodes=g.nodes, edges=g.edges[:1]) for g in task_groups(4)]
        config = TrainConfig(lr=3e-3, epochs=10, batch_size=4, schedule="constant")
        _, _, log = trained(tmp_path, groups, PreferenceObjective(), config)
        assert log[-1]["expert>target/accuracy"] == 1
        assert log[-1]["expert>target/margin"] > 5
        assert log[-1]["expert>target/kl"] > 0
        assert log[-1]["loss"] < log[0]["loss"]

    def test_first_step_starts_at_the_reference(self, tmp_path):
        _, _, log = trained(tmp_path, task_groups(2), PreferenceObjective(), PREFERENCE)
        assert log[0]["failure>failure/loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert log[0]["expert>target/margin"] == pytest.approx(0, abs=1e-3)

    def test_log_has_what_was_agreed(self, tmp_path):
        groups = task_groups(4)
        _, result, log = trained(tmp_path, groups, PreferenceObjective(), PREFERENCE)
        assert [r["step"] for r in log] == [1, 2, 3, 4] and [r["epoch"] for r in log] == [1, 1, 2, 2]
        for kind in ("expert>target", "expert>partner", "failure>failure"):
            assert [r[f"{kind}/num"] for r in log] == [2] * 4
            for name in ("loss", "nll", "accuracy", "margin", "delta_chosen", "delta_rejected", "kl"):
                values = [r[f"{kind}/{name}"] for r in log]
                assert result.metrics[f"{kind}/{name}"] == pytest.approx(sum(values[2:]) / 2, abs=1e-12)
        assert sum(r["tokens"] for r in log[:2]) == sum(g.num_tokens for g in groups)
        assert all(set(r) >= {"lr", "loss", "grad_norm", "action_tokens"} for r in log)
        assert result.metrics["loss"] == pytest.approx((log[2]["loss"] + log[3]["loss"]) / 2)
        json.dumps([log, result.metrics], allow_nan=False)

    def test_same_seed_same_weights_other_seed_other_weights(self, tmp_path):
        models = [
            trained(tmp_path / str(i), lone_groups(9), SFTObjective(), SFT, seed=seed)[0]
            for i, seed in enumerate((0, 0, 1))
        ]
        assert same_weights(models[0], models[1])
        assert not same_weights(models[0], models[2])

    def test_dropout_is_off_and_half_precision_becomes_single(self, tmp_path):
        model = qwen(dtype=torch.bfloat16, attention_dropout=0.5).train()
        trained(tmp_path, lone_groups(4), SFTObjective(), SFT, model=model)
        assert not model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_frozen_parameters_stay(self, tmp_path):
        model = qwen()
        frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
        before = frozen.clone()
        trained(tmp_path, lone_groups(4), SFTObjective(), SFT, model=model)
        assert torch.equal(frozen, before)

    def test_gradient_norm_is_clipped(self, tmp_path):
        """One AdamW step is blind to the gradient's scale, two of differing norms are not."""
        models = []
        for clip in (1e-3, 1e9):
            config = TrainConfig(lr=1e-2, epochs=2, batch_size=1, clip_norm=clip)
            models.append(trained(tmp_path / str(clip), lone_groups(3), SFTObjective(), config)[0])
        assert not same_weights(*models)

    def test_weight_decay_is_for_matrices_alone(self, tmp_path):
        models = []
        for decay in (0.0, 50.0):
            config = TrainConfig(lr=1e-3, epochs=1, batch_size=4, weight_decay=decay, warmup_ratio=0)
            models.append(trained(tmp_path / str(decay), lone_groups(4), SFTObjective(), config)[0])
        names = {n for n, p in models[0].named_parameters() if not torch.equal(p, models[1].get_parameter(n))}
        assert names == {n for n, p in models[0].named_parameters() if p.dim() >= 2}

    def test_nothing_to_train_on(self, tmp_path):
        with pytest.raises(TrainingError, match="nothing to train on"):
            trained(tmp_path, [], SFTObjective(), SFT)

    def test_progress_is_told(self, tmp_path):
        told: list[tuple[int, int]] = []
        fit(
            qwen(),
            lone_groups(8),
            SFTObjective(),
            SFT,
            seed=0,
            state_dir=tmp_path,
            progress=lambda done, total: told.append((done, total)),
        )
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_prepare_switches_no_noise_on(self):
        model = qwen(attention_dropout=0.5).train()
        prepare(model, recompute=True)
        assert not any(part.training for part in model.modules())
        prepare(model, recompute=True)
        calls: list[int] = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        model(torch.arange(8)[None]).logits.sum().backward()
        assert len(calls) == 2, "once forward, and once more on the way back"

    @pytest.mark.parametrize("name", NOISY)
    def test_recomputation_keeps_functional_dropout_and_jitter_off(self, tmp_path, name):
        """The first step of DPO stands at the reference: log 2."""
        torch.manual_seed(0)
        shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        shape |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **NOISY[name]}
        make = getattr(transformers, f"{name}ForCausalLM")
        model = make(getattr(transformers, f"{name}Config")(**shape))
        config = TrainConfig(lr=1e-3, epochs=1, batch_size=99, recompute=True)
        objective = PreferenceObjective(config=LossConfig(expert_dpo=1, expert_sft=0))
        *_, (record,) = trained(tmp_path, task_groups(2), objective, config, model=model)
        assert record["loss"] == pytest.approx(math.log(2), abs=1e-5)


class TestRouterBalance:
    """The auxiliary loss of mixtures of experts: transformers' own, without padding, and off unless asked for."""

    def mixtral(self) -> Any:
        torch.manual_seed(0)
        shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.MixtralConfig(**shape, **NOISY["Mixtral"], initializer_range=0.3)
        return transformers.MixtralForCausalLM(config).eval()

    @pytest.mark.parametrize("is_packed", [True, False])
    @pytest.mark.parametrize("recompute", [True, False])
    def test_gradients_are_those_of_the_models_own_loss(self, is_packed, recompute):
        model, groups = self.mixtral(), lone_groups(3)
        nodes = [group.nodes[0] for group in groups]
        width = max(len(node.ids) for node in nodes)
        ids = torch.tensor([[*node.ids, *[0] * (width - len(node.ids))] for node in nodes])
        mask = torch.tensor([[1] * len(node.ids) + [0] * (width - len(node.ids)) for node in nodes])
        expected = model(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss
        prepare(model, recompute=recompute)
        forward = Forward(model, max_tokens=5000)
        if not is_packed:
            forward.packing = None
        forward.balance, forward.threads = Balance(model), None
        forward.balance.is_open = True
        logprobs = torch.cat(forward(nodes))
        forward.balance.is_open = False
        ours = forward.balance.take()
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        router = model.model.layers[0].mlp.gate.weight
        (a,) = torch.autograd.grad(ours + 0 * logprobs.sum(), router)
        (b,) = torch.autograd.grad(expected, router)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert a.abs().max() > 0

    def test_it_is_logged_and_counts_in_the_loss(self, tmp_path):
        plain, balanced = (
            trained(
                tmp_path / str(weight),
                lone_groups(4),
                SFTObjective(),
                TrainConfig(lr=1e-3, epochs=1, batch_size=4, router_balance=weight),
                model=self.mixtral(),
            )[2][0]
            for weight in (0.0, 0.5)
        )
        assert "router_balance" not in plain
        assert balanced["loss"] == pytest.approx(plain["loss"] + 0.5 * balanced["router_balance"], rel=1e-5)

    def test_a_model_without_experts_is_refused_by_key(self, tmp_path):
        config = TrainConfig(lr=1e-3, epochs=1, router_balance=0.1)
        with pytest.raises(ConfigError, match="router_balance: Qwen3ForCausalLM has no routers"):
            trained(tmp_path, lone_groups(2), SFTObjective(), config)


class Killed(BaseException):
    """Stands for a process that ends on the spot."""


OBJECTIVES = {
    "sft": (lone_groups(9), SFTObjective(), SFT),
    "preference": (task_groups(6), PreferenceObjective(), PREFERENCE),
}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "shortened": lambda content: content[:-20],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "emptied": lambda _: b"{}",
}


def completed_steps(folder: Path) -> int:
    state = checkpoint.newest_state(folder)
    return state.step if state else 0


def kill_at(step: int) -> Callable[[dict[str, Any]], None]:
    def on_step(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise Killed

    return on_step


class TestResume:
    """A run killed at any moment and resumed equals one that was not, bit for bit."""

    @pytest.mark.parametrize("name", OBJECTIVES)
    @pytest.mark.parametrize("save_every_s", [0.0, 1e9])
    def test_after_a_kill_at_any_step(self, tmp_path, name, save_every_s):
        groups, objective, config = OBJECTIVES[name]
        config = TrainConfig(**{f: getattr(config, f) for f in config.__slots__} | {"save_every_s": save_every_s})
        model, result, log = trained(tmp_path / "whole", groups, objective, config)
        assert len(log) == 6
        for step in (1, 4, 6) if save_every_s == 0 else (1, 4):  # those between: see the next test
            folder = tmp_path / f"killed-{step}"
            with pytest.raises(Killed):
                trained(folder, groups, objective, config, on_step=kill_at(step))
            assert completed_steps(folder) == (step - 1 if save_every_s == 0 else 0)
            again, result_again, log_again = trained(folder, groups, objective, config)
            assert same_weights(model, again)
            assert result == result_again
            assert log[completed_steps(folder) - len(log_again) :] == log_again

    def test_after_kills_at_every_step_in_turn(self, tmp_path):
        groups, objective, config = (
            task_groups(6),
            PreferenceObjective(),
            TrainConfig(lr=1e-3, epochs=2, batch_size=6, save_every_s=0),
        )
        model, result, _ = trained(tmp_path / "whole", groups, objective, config)
        for step in range(2, 7):
            with pytest.raises(Killed):
                trained(tmp_path / "killed", groups, objective, config, on_step=kill_at(step))
        again, result_again, log = trained(tmp_path / "killed", groups, objective, config)
        assert same_weights(model, again) and result == result_again
        assert [r["step"] for r in log] == [6]

    @pytest.mark.parametrize("part", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 12))])
    def test_after_a_crash_at_a_file_operation(self, tmp_path, part):
        """Every twelfth operation by default, the others if slow tests run."""
        groups, objective = task_groups(3), PreferenceObjective()
        config = TrainConfig(lr=5e-3, epochs=1, batch_size=6, save_every_s=0)
        whole = []
        num = crash_at(None, tmp_path, lambda: whole.append(trained(tmp_path / "whole", groups, objective, config)))
        model, result, _ = whole[0]
        assert num > 50
        for number in range(1 + part, num + 1, 12):
            folder = tmp_path / f"killed-{number}"
            crash_at(number, folder, lambda folder=folder: trained(folder, groups, objective, config))
            again, result_again, _ = trained(folder, groups, objective, config)
            assert same_weights(model, again) and result == result_again, number
            assert completed_steps(folder) == result.steps == len(list(whole[0][2])), number

    def test_a_half_deleted_state_does_not_count_and_its_step_is_saved_again(self, tmp_path, caplog):
        groups, objective = lone_groups(3), SFTObjective()
        config = TrainConfig(lr=5e-3, epochs=1, batch_size=1, save_every_s=0)
        model, result, _ = trained(tmp_path, groups, objective, config)
        (tmp_path / "step-3" / "state.json").unlink()
        again, result_again, log = trained(tmp_path, groups, objective, config)
        assert same_weights(model, again) and result == result_again and len(log) == 3
        assert "step-3 is left out" in caplog.text

    def test_interrupt_saves_the_last_whole_step(self, tmp_path):
        groups, objective, config = OBJECTIVES["sft"]
        steps = 0

        def interrupt(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        def count(record: dict[str, Any]) -> None:
            nonlocal steps
            steps += 1

        with pytest.raises(KeyboardInterrupt):
            fit(qwen(), groups, objective, config, seed=0, state_dir=tmp_path / "a", log=count, progress=interrupt)
        assert completed_steps(tmp_path / "a") == steps == 3
        again, _, log = trained(tmp_path / "a", groups, objective, config)
        assert [r["step"] for r in log] == [4, 5, 6]
        assert same_weights(again, trained(tmp_path / "b", groups, objective, config)[0])

    def test_interrupt_before_the_log_is_written_takes_the_step_again(self, tmp_path):
        groups, objective, config = OBJECTIVES["sft"]

        def interrupt(record: dict[str, Any]) -> None:
            if record["step"] == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, groups, objective, config, on_step=interrupt)
        assert completed_steps(tmp_path) == 0
        assert [r["step"] for r in trained(tmp_path, groups, objective, config)[2]] == [1, 2, 3, 4, 5, 6]

    def test_a_finished_training_is_not_repeated(self, tmp_path):
        groups, objective, config = OBJECTIVES["preference"]
        model, result, _ = trained(tmp_path, groups, objective, config)
        again, result_again, log = trained(tmp_path, groups, objective, config)
        assert same_weights(model, again) and result == result_again and log == []

    def test_reference_is_scored_once(self, tmp_path, monkeypatch):
        groups, objective, config = OBJECTIVES["preference"]
        with pytest.raises(Killed):
            trained(tmp_path, groups, objective, config, on_step=kill_at(1))
        path = tmp_path / "reference" / "logprobs.safetensors"
        before = path.stat().st_mtime_ns
        flat = checkpoint.read_tensors(path)["logprobs"]
        plain = torch.cat([plain_logprobs(qwen(), n) for g in groups for n in g.nodes])
        torch.testing.assert_close(flat, plain, rtol=0, atol=1e-4)
        trained(tmp_path, groups, objective, config)
        assert path.stat().st_mtime_ns == before

    @pytest.mark.parametrize("change", ["seed", "config", "data", "objective"])
    def test_state_of_another_training_is_refused(self, tmp_path, change):
        trained(tmp_path, task_groups(3), PreferenceObjective(), PREFERENCE)
        other = {
            "seed": lambda: trained(tmp_path, task_groups(3), PreferenceObjective(), PREFERENCE, seed=1),
            "config": lambda: trained(tmp_path, task_groups(3), PreferenceObjective(), SFT),
            "data": lambda: trained(tmp_path, task_groups(4), PreferenceObjective(), PREFERENCE),
            "objective": lambda: trained(
                tmp_path, task_groups(3), PreferenceObjective(config=LossConfig(beta=0.2)), PREFERENCE
            ),
        }[change]
        with pytest.raises(ConfigError, match=f"with other {change}"):
            other()

    @pytest.mark.parametrize(
        ("file", "damage"),
        [
            ("weights.safetensors", "flipped"),
            ("optimizer.safetensors", "shortened"),
            ("state.json", "emptied"),
            pytest.param("optimizer.safetensors", "flipped", marks=pytest.mark.slow),
            pytest.param("state.json", "flipped", marks=pytest.mark.slow),
        ],
    )
    def test_a_damaged_state_is_left_out_with_a_notice(self, tmp_path, file, damage, caplog):
        groups, objective, config = lone_groups(3), SFTObjective(), TrainConfig(lr=5e-3, epochs=1, batch_size=1)
        model, result, _ = trained(tmp_path, groups, objective, config)
        path = tmp_path / "step-3" / file
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        again, result_again, _ = trained(tmp_path, groups, objective, config)
        assert same_weights(model, again) and result == result_again
        assert f"step-3 is left out: {path}" in caplog.text
        assert [path.name for path in tmp_path.glob("step-*")] == ["step-3-2"], "the broken one goes last"

    def test_damaged_scores_of_the_reference_are_computed_again(self, tmp_path, caplog):
        groups, objective = task_groups(2), PreferenceObjective()
        config = TrainConfig(lr=5e-3, epochs=1, batch_size=3)
        model, *_ = trained(tmp_path / "whole", groups, objective, config)
        with pytest.raises(Killed):
            trained(tmp_path / "killed", groups, objective, config, on_step=kill_at(1))
        path = tmp_path / "killed/reference/logprobs.safetensors"
        path.write_bytes(DAMAGES["flipped"](path.read_bytes()))
        assert same_weights(model, trained(tmp_path / "killed", groups, objective, config)[0])
        assert f"{path} is computed again" in caplog.text

    @pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"data": 1, "seal": 2}'])
    def test_a_damaged_claim_is_named(self, tmp_path, content):
        groups, objective, config = OBJECTIVES["sft"]
        (tmp_path / "fit.json").write_text(content)
        with pytest.raises(DataError, match=r"fit\.json.* Delete .* to train anew"):
            trained(tmp_path, groups, objective, config)

    def test_state_of_another_model_is_refused(self, tmp_path):
        groups, objective, config = OBJECTIVES["sft"]
        trained(tmp_path, groups, objective, config)
        with pytest.raises(DataError, match="another model"):
            trained(tmp_path, groups, objective, config, model=qwen(intermediate_size=48))

    def test_state_holds_no_pickle(self, tmp_path):
        groups, objective, config = OBJECTIVES["preference"]
        trained(tmp_path, groups, objective, config)
        files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
        assert files == {
            "fit.json",
            "reference/logprobs.safetensors",
            "reference/logprobs.json",
            "step-6/weights.safetensors",
            "step-6/optimizer.safetensors",
            "step-6/state.json",
        }

    def test_full_disk_is_named(self, tmp_path, monkeypatch):
        def full(path: Path) -> None:
            raise OSError(28, "No space left on device")

        groups, objective, config = OBJECTIVES["sft"]
        monkeypatch.setattr(checkpoint, "sync", full)
        with pytest.raises(SparringError, match="no space left"):
            trained(tmp_path, groups, objective, config)


class TestWhatGoesWrong:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_non_finite_loss_names_step_and_tasks_before_weights_change(self, tmp_path, bad):
        """Only one task contains the token whose embedding is broken; its step fails, those before it stand."""
        token = VOCABULARY
        model = qwen(vocab_size=VOCABULARY + 1, tie_word_embeddings=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[token] = bad
        groups = lone_groups(4)
        groups[2] = Group(
            task_id="broken", nodes=(Encoded(ids=(token, *groups[2].nodes[0].ids[1:]), spans=groups[2].nodes[0].spans),)
        )
        config = TrainConfig(lr=1e-3, epochs=1, batch_size=1, shuffle=False)
        snapshots: list[dict[str, Tensor]] = []
        with pytest.raises(TrainingError, match="step 3 of 4, tasks broken"):
            trained(
                tmp_path,
                groups,
                SFTObjective(),
                config,
                model=model,
                on_step=lambda r: snapshots.append(copy.deepcopy(model.state_dict())),
            )
        assert len(snapshots) == 2
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, snapshots[-1][name], rtol=0, atol=0, equal_nan=True)

    def test_non_finite_gradient_is_refused_too(self, tmp_path):
        class Steep:
            """The square root of zero: a finite loss with an infinite slope."""

            needs_reference = False
            temperature = 1.0

            def size(self, group: Group) -> int:
                return 1

            def weight(self, group: Group) -> float:
                return 1.0

            def teaches(self, group: Group) -> bool:
                return True

            def __call__(self, groups: Any, logprobs: Any, reference: Any, values: Any) -> Any:
                total = torch.cat(list(logprobs)).sum()
                return (total - total.detach()).sqrt(), {}

        model, before = qwen(), qwen()
        with pytest.raises(TrainingError, match=r"gradient norm is (nan|inf) at step 1"):
            trained(tmp_path, lone_groups(2), Steep(), SFT, model=model)
        assert same_weights(model, before)

    def runaway(self, **changes: Any) -> tuple[list[Group], TrainConfig]:
        config = TrainConfig(lr=1e-2, epochs=6, batch_size=2, schedule="constant", warmup_ratio=0, **changes)
        groups = [Group(task_id=g.task_id, nodes=g.nodes, edges=g.edges[:1]) for g in task_groups(4)]
        return groups, config

    class Unlearning(LossConfig):
        """Lowers log π(chosen) for sure, as no config may."""

        def weights(self, kind):
            return 0.0, -1.0

    unlearning = PreferenceObjective(config=Unlearning())

    def test_displacement_is_warned_of_once(self, tmp_path):
        groups, config = self.runaway()
        with pytest.warns(UserWarning, match="likelihood displacement") as caught:
            _, result, log = trained(tmp_path, groups, self.unlearning, config)
        assert min(r["expert>target/delta_chosen"] for r in log) < -3
        assert len([w for w in caught if "displacement" in str(w.message)]) == 1
        assert result.stopped == "" and result.steps == 12

    def test_displacement_can_stop_and_stays_stopped(self, tmp_path):
        groups, config = self.runaway(stop_on_displacement=3.0)
        with pytest.warns(UserWarning, match="likelihood displacement"):
            model, result, log = trained(tmp_path, groups, self.unlearning, config)
        assert result.steps == len(log) < 12 and "log π(chosen)" in result.stopped
        assert log[-1]["stopped"] == result.stopped
        again, result_again, rest = trained(tmp_path, groups, self.unlearning, config)
        assert (result_again, rest) == (result, []) and same_weights(model, again)

    def test_failure_pairs_are_not_guarded(self, tmp_path):
        groups, config = self.runaway(stop_on_displacement=0.001)
        groups = [
            Group(task_id=g.task_id, nodes=g.nodes, edges=(edge(PairKind.FAILURE_FAILURE, 0, 1, 3, 4),)) for g in groups
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, result, log = trained(tmp_path, groups, self.unlearning, config)
        assert result.steps == 12 and min(r["failure>failure/delta_chosen"] for r in log) < -1


GOLDEN_SFT = [4.1843, 4.2689, 4.2435, 4.2514, 3.5681, 3.7526, 3.8101, 3.8361]
GOLDEN_EQ_9 = [1.8462, 1.8356, 1.8295, 1.898, 1.7392, 1.5193, 1.4542, 1.5841]


class TestRecordedCurves:
    """Losses recorded once; another CPU may differ in the last digits, another computation differs in the first."""

    def test_cloning(self, tmp_path):
        config = TrainConfig(lr=5e-3, epochs=2, batch_size=4)
        _, _, log = trained(tmp_path, lone_groups(16), SFTObjective(), config, seed=3)
        assert [r["loss"] for r in log] == pytest.approx(GOLDEN_SFT, abs=2e-3)

    def test_eq_9(self, tmp_path):
        config = TrainConfig(lr=2e-3, epochs=2, batch_size=6, schedule="constant", warmup_ratio=0.1)
        objective = PreferenceObjective(config=LossConfig(sft_reduction="mean"))
        _, _, log = trained(tmp_path, task_groups(8), objective, config, seed=3)
        assert [r["loss"] for r in log] == pytest.approx(GOLDEN_EQ_9, abs=2e-3)
