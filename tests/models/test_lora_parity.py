"""PEFT under TRL's DPOTrainer as an oracle: on the same masked pairs, the same losses, gradients and steps of LoRA."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.engines.scoring import Forward
from sparring.learning.objectives import LossConfig, PreferenceObjective
from sparring.models import lora
from sparring.models.lora import LoraConfig
from tests.models.test_lora import stir
from tests.test_trl_parity import PURE_DPO, VOCABULARY, make_oracle
from tests.training_toys import qwen, task_groups

peft = pytest.importorskip("peft", reason="comes with sparring[lora]")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore:.*mergekit")

GROUPS = task_groups(3)
NODES = [node for group in GROUPS for node in group.nodes]
CONFIG = LoraConfig(rank=4, alpha=6.0)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
THEIRS: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
OBJECTIVE = PreferenceObjective(config=LossConfig(beta=0.1, **PURE_DPO))


def adapted(seed: int) -> Any:
    """Make the base with an adapter that has learnt something, or nothing yet (seed 0)."""
    model = qwen(0, vocab_size=VOCABULARY)
    lora.attach(model, "target", CONFIG, 3)
    if seed:
        stir(model, "target", seed)
    return model


def loss_of(model: Any, reference: list[Tensor]) -> Tensor:
    loss, _ = OBJECTIVE(GROUPS, Forward(model, max_tokens=2048)(NODES), reference)
    return loss / sum(map(OBJECTIVE.weight, GROUPS))


def reference_of(model: Any) -> list[Tensor]:
    with torch.no_grad():
        return Forward(model, max_tokens=2048)(NODES)


def their_parameters(model: Any) -> dict[str, Any]:
    named = dict(model.named_parameters()).items()
    return {name.replace(".default.", "."): p for name, p in named if ".default." in name}


def put(model: Any, tensors: dict[str, Tensor]) -> None:
    own = their_parameters(model)
    assert set(own) == set(tensors)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def oracle_for(start: Any, is_new: bool, folder: Path, **options: Any) -> Any:
    """Make TRL's trainer whose policy begins at the adapter of `start`, which is its reference too."""
    base, config = qwen(0, vocab_size=VOCABULARY), peft.LoraConfig(**THEIRS)
    if is_new:  # it is the base, adapters off
        oracle = make_oracle(base, GROUPS, folder, loss_type=["sigmoid"], beta=0.1, peft_config=config, **options)
        put(oracle.model, lora.state(start, "target"))
        return oracle
    begun = peft.get_peft_model(base, config)
    put(begun, lora.state(start, "target"))
    return make_oracle(begun, GROUPS, folder, loss_type=["sigmoid"], beta=0.1, **options)


@pytest.mark.parametrize("is_new", [True, False], ids=["from the base", "from an adapter"])
def test_losses_and_gradients_equal_pefts(tmp_path, is_new):
    start, moved = adapted(0 if is_new else 5), adapted(6)
    oracle = oracle_for(start, is_new, tmp_path)
    batch = oracle.data_collator([oracle.train_dataset[i] for i in range(len(oracle.train_dataset))])
    put(oracle.model, lora.state(moved, "target"))
    theirs = oracle.compute_loss(oracle.model.eval(), batch)
    mine = loss_of(moved, reference_of(start))
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-4, rel=1e-5) and abs(mine.item() - math.log(2)) > 0.01
    theirs.backward()
    mine.backward()
    expected = their_parameters(oracle.model)
    for name, parameter in lora.parameters(moved, "target").items():
        assert parameter.grad is not None and expected[name].grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)
    assert all(p.grad is None for name, p in moved.named_parameters() if ".lora_" not in name)


def test_steps_equal_pefts(tmp_path):
    """Four AdamW steps over all pairs, clipped, at a constant rate."""
    steps: dict[str, Any] = {"max_steps": 4, "max_grad_norm": 1.0, "weight_decay": 0.0, "optim": "adamw_torch"}
    start, mine = adapted(5), adapted(5)
    oracle = oracle_for(start, False, tmp_path, learning_rate=1e-2, lr_scheduler_type="constant", **steps)
    oracle.train()
    theirs = [entry for entry in oracle.state.log_history if "loss" in entry]
    reference, parameters = reference_of(start), list(lora.parameters(mine, "target").values())
    optimizer, losses, norms = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0), [], []
    for _ in range(4):
        loss = loss_of(mine, reference)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == pytest.approx([entry["loss"] for entry in theirs], abs=1e-3) and losses[-1] < losses[0] - 0.05
    assert norms == pytest.approx([entry["grad_norm"] for entry in theirs], rel=1e-2)
    for name, parameter in their_parameters(oracle.model).items():
        torch.testing.assert_close(lora.state(mine, "target")[name], parameter.detach(), rtol=0, atol=1e-4, msg=name)
