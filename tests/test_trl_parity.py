"""TRL's DPOTrainer as an oracle: on the same masked pairs, the same losses, gradients and course of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.core.types import PairKind
from sparring.data.batches import Group, cut
from sparring.data.chat import Encoded
from sparring.engines.scoring import Forward
from sparring.learning.objectives import LossConfig, PreferenceObjective
from sparring.learning.trainer import TrainConfig
from tests.tiny_models import tiny_tokenizer
from tests.training_toys import action_mask, edge, fit, qwen, task_groups

trl = pytest.importorskip("trl", reason="the oracle is a development dependency")
datasets = pytest.importorskip("datasets", reason="comes with trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

VOCABULARY = 420
"""TRL wants the tokenizer's pad token inside the vocabulary."""
PURE_DPO = {"expert_dpo": 1.0, "expert_sft": 0.0, "failure_dpo": 1.0, "failure_sft": 0.0}


def masked_pairs(groups: Sequence[Group]) -> list[tuple[Encoded, Encoded]]:
    """Cut out both sides of every pair, as a trainer needs them that knows no groups."""
    return [
        (cut(group.nodes[e.chosen], e.chosen_turns), cut(group.nodes[e.rejected], e.rejected_turns))
        for group in groups
        for e in group.edges
    ]


class MaskedPairs:
    """Collate rows, which only carry a pair's index, into TRL's batch, observations masked."""

    def __init__(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> None:
        self.pairs = pairs

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [self.pairs[row["index"]][side] for side in (0, 1) for row in rows]
        width = max(len(encoded.ids) for encoded in sides)

        def padded(values: Sequence[Sequence[int]]) -> Tensor:
            return torch.tensor([[*row, *[0] * (width - len(row))] for row in values])

        batch = {
            "input_ids": padded([encoded.ids for encoded in sides]),
            "attention_mask": padded([[1] * len(encoded.ids) for encoded in sides]),
            "completion_mask": padded([action_mask(encoded) for encoded in sides]),
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


def make_oracle(
    model: torch.nn.Module, groups: Sequence[Group], folder: Path, *, peft_config: Any = None, **options: Any
) -> Any:
    """Make a DPOTrainer whose reference, precomputed, is the model as it comes in."""
    pairs = masked_pairs(groups)
    rows = {
        name: [text] * len(pairs) for name, text in (("prompt", "press"), ("chosen", " red"), ("rejected", " blue"))
    }
    config = {
        "output_dir": str(folder),
        "per_device_train_batch_size": len(pairs),
        "precompute_ref_log_probs": True,
        "remove_unused_columns": False,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(**(config | options)),
        train_dataset=datasets.Dataset.from_dict(rows | {"index": list(range(len(pairs)))}),
        data_collator=MaskedPairs(pairs),
        processing_class=tiny_tokenizer(),
        peft_config=peft_config,
    )


def ours(model: torch.nn.Module, start: torch.nn.Module, groups: Sequence[Group], config: LossConfig) -> Tensor:
    nodes = [node for group in groups for node in group.nodes]
    with torch.no_grad():
        reference = Forward(start, max_tokens=2048)(nodes)
    objective = PreferenceObjective(config=config)
    loss, _ = objective(groups, Forward(model, max_tokens=2048)(nodes), reference)
    return loss / sum(map(objective.weight, groups))


@pytest.mark.parametrize(
    ("trl_loss", "config"),
    [
        ({"loss_type": ["sigmoid"], "beta": 0.1}, LossConfig(**PURE_DPO)),
        ({"loss_type": ["sigmoid"], "beta": 0.5}, LossConfig(beta=0.5, **PURE_DPO)),
        ({"loss_type": ["ipo"], "beta": 0.2}, LossConfig(variant="ipo", beta=0.2, length_normalise=True, **PURE_DPO)),
        ({"loss_type": ["sigmoid_norm"], "beta": 2.0}, LossConfig(beta=2.0, length_normalise=True, **PURE_DPO)),
    ],
    ids=["dpo", "larger-beta", "ipo", "length-normalised"],
)
def test_losses_and_gradients_equal_trls(tmp_path, trl_loss, config):
    groups = task_groups(3)
    start, moved = qwen(0, vocab_size=VOCABULARY), qwen(1, vocab_size=VOCABULARY)
    policy = qwen(0, vocab_size=VOCABULARY)
    oracle = make_oracle(policy, groups, tmp_path, **trl_loss)
    policy.load_state_dict(moved.state_dict())
    batch = oracle.data_collator([oracle.train_dataset[i] for i in range(len(oracle.train_dataset))])
    theirs = oracle.compute_loss(policy, batch)
    mine = ours(moved, start, groups, config)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-4, rel=1e-5)
    theirs.backward()
    mine.backward()
    expected = dict(policy.named_parameters())
    for name, parameter in moved.named_parameters():
        assert parameter.grad is not None and expected[name].grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-4, msg=name)


def test_eq_9_on_one_expert_pair_equals_trls_sigmoid_plus_sft(tmp_path):
    """TRL's SFT term is a mean over the batch's tokens, ours over each pair's: on one pair they are the same."""
    group = task_groups(1)[0]
    groups = [Group(task_id="t", nodes=group.nodes, edges=(edge(PairKind.EXPERT_TARGET, 0, 1, 3, 4),))]
    policy, moved = qwen(0, vocab_size=VOCABULARY), qwen(1, vocab_size=VOCABULARY)
    oracle = make_oracle(policy, groups, tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[0.5, 0.5], beta=0.1)
    policy.load_state_dict(moved.state_dict())
    theirs = oracle.compute_loss(policy, oracle.data_collator([oracle.train_dataset[0]]))
    mine = ours(moved, qwen(0, vocab_size=VOCABULARY), groups, LossConfig(sft_reduction="mean"))
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-4)


def test_a_course_of_training_equals_trls(tmp_path):
    """Four AdamW steps over all pairs, clipped, at a constant rate."""
    groups = task_groups(3)
    oracle = make_oracle(
        qwen(0, vocab_size=VOCABULARY),
        groups,
        tmp_path / "trl",
        loss_type=["sigmoid"],
        beta=0.1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_steps=4,
        max_grad_norm=1.0,
        optim="adamw_torch",
        weight_decay=0.0,
    )
    oracle.train()
    theirs = [entry for entry in oracle.state.log_history if "loss" in entry]
    log: list[dict[str, Any]] = []
    fit(
        qwen(0, vocab_size=VOCABULARY),
        groups,
        PreferenceObjective(config=LossConfig(**PURE_DPO)),
        TrainConfig(lr=1e-3, epochs=4, batch_size=99, schedule="constant", warmup_ratio=0, clip_norm=1.0),
        seed=0,
        state_dir=tmp_path / "ours",
        log=log.append,
    )
    assert [r["loss"] for r in log] == pytest.approx([r["loss"] for r in theirs], abs=1e-3)
    assert [r["grad_norm"] for r in log] == pytest.approx([r["grad_norm"] for r in theirs], rel=1e-2)
    kinds = [e.kind for group in groups for e in group.edges]
    for name, theirs_name in (("accuracy", "rewards/accuracies"), ("margin", "rewards/margins")):
        scale = 1 if name == "accuracy" else 0.1  # TRL's margins have beta in them
        mean = [sum(r[f"{kind}/{name}"] for kind in kinds) / len(kinds) * scale for r in log[1:]]
        assert mean == pytest.approx([r[theirs_name] for r in theirs[1:]], abs=5e-3)
