"""TRL's GRPOTrainer as an oracle: on the same masked batch, the same loss and the same gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.data.batches import Group
from sparring.engines.scoring import Forward
from sparring.learning.policy_gradient import PolicyGradientObjective
from tests.tiny_models import tiny_tokenizer
from tests.training_toys import action_mask, qwen, sampled_groups

trl = pytest.importorskip("trl", reason="the oracle is a development dependency")
datasets = pytest.importorskip("datasets", reason="comes with trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

VOCABULARY = 420
"""TRL wants the tokenizer's pad token inside the vocabulary."""


def make_oracle(model: torch.nn.Module, folder: Path, **options: Any) -> Any:
    """Make a GRPOTrainer that never generates: it is only asked for the loss of a batch."""
    config = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 6,
        "num_generations": 2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(**(config | options)),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["press"] * 6}),
        processing_class=tiny_tokenizer(),
    )


def batch_of(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Lay groups out as TRL's batch: prompts padded on the left; what follows on the right, observations masked."""
    nodes = [group.nodes[0] for group in groups]
    starts = [node.spans[0][0] for node in nodes]
    before, after = max(starts), max(len(node.ids) - start for node, start in zip(nodes, starts, strict=True))

    def left(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[*[0] * (before - len(row)), *row] for row in rows])

    def right(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor([[*row, *[0] * (after - len(row))] for row in rows], dtype=dtype)

    def spread(name: str) -> Tensor:
        rows = []
        for group, node, start in zip(groups, nodes, starts, strict=True):
            column = iter(getattr(group.samples[0], name))
            rows.append([next(column) if is_action else 0.0 for is_action in action_mask(node)[start:]])
        return right(rows, torch.float32)

    return {
        "prompt_ids": left([node.ids[:start] for node, start in zip(nodes, starts, strict=True)]),
        "prompt_mask": left([[1] * start for start in starts]),
        "completion_ids": right([node.ids[start:] for node, start in zip(nodes, starts, strict=True)]),
        "completion_mask": right([[1] * (len(node.ids) - start) for node, start in zip(nodes, starts, strict=True)]),
        "tool_mask": right([action_mask(node)[start:] for node, start in zip(nodes, starts, strict=True)]),
        "advantages": torch.tensor([group.samples[0].advantages[0] for group in groups]),
        "old_per_token_logps": spread("logprobs"),
        "ref_per_token_logps": spread("reference"),
        "num_items_in_batch": torch.tensor(float(sum(len(group.samples[0].logprobs) for group in groups))),
    }


@pytest.mark.parametrize(
    ("loss_type", "average"), [("dapo", "token"), ("bnpo", "token"), ("grpo", "sequence")], ids=lambda name: name
)
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_losses_and_gradients_equal_trls(tmp_path, loss_type, average, kl_weight, temperature):
    """Away from the policy that sampled, so that ratios are clipped on both sides."""
    old, policy, moved = (qwen(seed, vocab_size=VOCABULARY) for seed in (0, 2, 2))
    with torch.no_grad():  # half way: ratios on both sides of both bounds
        for parameter, start in zip([*policy.parameters(), *moved.parameters()], [*old.parameters()] * 2, strict=True):
            parameter.copy_(0.9 * start + 0.1 * parameter)
    groups = sampled_groups(6, old, temperature=temperature)
    options = {"loss_type": loss_type, "epsilon": 0.2, "epsilon_high": 0.28, "use_bias_correction_kl": False}
    oracle = make_oracle(policy, tmp_path, temperature=temperature, **options)
    oracle.beta = kl_weight  # given to its constructor, it would look for a reference model on disk
    oracle.current_gradient_accumulation_steps = 1
    oracle.model.eval()
    theirs = oracle.compute_loss(oracle.model, batch_of(groups))
    objective = PolicyGradientObjective(average=average, kl_weight=kl_weight, temperature=temperature)
    forward = Forward(moved, max_tokens=2048, temperature=temperature)
    loss, metrics = objective(groups, forward([group.nodes[0] for group in groups]))
    mine = loss / sum(map(objective.weight, groups))
    total, num = metrics["pg/clipped"]
    assert 0.05 < total / num < 0.95, "the bounds must matter"
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-5, rel=1e-4)
    theirs.backward()
    mine.backward()
    expected = dict(oracle.model.named_parameters())
    for name, parameter in moved.named_parameters():
        assert parameter.grad is not None and expected[name].grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5, msg=name)
