"""What the first of some ranks does in tests, beside a learner of one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from sparring.data.batches import Group
from sparring.engines.base import Compute, Objective
from sparring.engines.fsdp.engine import FsdpEngine, FsdpLearner, Leader
from sparring.engines.learner import LocalLearner
from sparring.engines.local import make_engine
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
from sparring.models.loading import ModelConfig, load_model, save_model
from sparring.models.lora import LoraConfig
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training_toys import lone_groups, qwen, sampled_groups, task_groups

NUM_STEPS = 3
LR = 1e-3
LORA = LoraConfig(rank=4)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training of some steps."""

    objective: Objective
    groups: Callable[[Any], Sequence[Group]]
    """From the model."""
    lora: LoraConfig = LoraConfig()
    model: str = "tied"
    recompute: bool = False
    value_lr: float | None = None
    max_tokens: int = 150
    """So few that a step has several passes."""


CRITIC = ActorCriticObjective(policy=PolicyGradientObjective(temperature=0.7), value_weight=0.5)
WEIGHED = PreferenceObjective(config=LossConfig(variant="dpop", failure_sft=0.25, from_first_difference=True))
CASES = {
    "sft": Case(objective=SFTObjective(), groups=lambda _: lone_groups(7), model="untied"),
    "preferences": Case(objective=PreferenceObjective(), groups=lambda _: task_groups(5)),
    "weighed, adapters": Case(objective=WEIGHED, groups=lambda _: task_groups(3), lora=LORA, recompute=True),
    "one group": Case(objective=PreferenceObjective(), groups=lambda _: task_groups(1), recompute=True),
    "grpo": Case(
        objective=PolicyGradientObjective(kl_weight=0.1, average="sequence"), groups=lambda m: sampled_groups(6, m)
    ),
    "ppo": Case(objective=CRITIC, groups=lambda m: sampled_groups(6, m), value_lr=0.01),
    "ppo, adapters": Case(objective=CRITIC, groups=lambda m: sampled_groups(5, m), value_lr=0.01, lora=LORA),
}


def prepare(folder: Path) -> None:
    """Save the models that learners begin at."""
    if not (folder / "tied").exists():
        save_model(qwen(vocab_size=400), tiny_tokenizer(), folder / "tied")
        save_model(tiny_model("llama", scale=1.0), tiny_tokenizer(), folder / "untied")  # pyright: ignore
        save_model(qwen(vocab_size=400).bfloat16(), tiny_tokenizer(), folder / "half")


FULL = LoraConfig()
CHAT: Any = SimpleNamespace(config=SimpleNamespace(max_context=512))


def sharded_engine(leader: Leader, path: Path, lora: LoraConfig = FULL) -> FsdpEngine:
    config = ModelConfig(path=str(path), dtype="float32", device="cpu")
    return FsdpEngine(leader, config, lora, lambda *_: CHAT, max_context=512, computes_in_half=False)


def both(leader: Leader, path: Path, lora: LoraConfig = FULL) -> tuple[FsdpLearner, LocalLearner]:
    """Return a learner on all ranks and one in this process, which begin at the same weights."""
    sharded, _ = sharded_engine(leader, path, lora).learner(str(path), seed=5)
    config = ModelConfig(path=str(path), dtype="float32", device="cpu")
    local, _ = make_engine(config, lora, lambda *_: CHAT).learner(str(path), seed=5)
    return sharded, local


def equality(leader: Leader, folder: Path) -> dict[str, Any]:
    """Train on all ranks and in this process side by side; return the differences."""
    return {name: _train(leader, folder, case) for name, case in CASES.items()}


def _train(leader: Leader, folder: Path, case: Case) -> dict[str, float]:
    sharded, local = both(leader, folder / case.model, case.lora)
    fresh, _ = load_model(ModelConfig(path=str(folder / case.model), dtype="float32", device="cpu"))
    groups, objective = case.groups(fresh), case.objective
    compute = Compute(
        max_tokens_per_batch=case.max_tokens, peak_lr=LR, recompute=case.recompute, temperature=objective.temperature
    )
    nodes = [node for group in groups for node in group.nodes]
    for learner in (sharded, local):
        if case.value_lr:
            learner.attach_value_head(lr=case.value_lr, expected=0.5)
    gaps = dict.fromkeys(("score", "values", "loss", "norm", "metrics", "weights"), 0.0)
    scored, values = sharded.score(nodes, compute)
    expected, expected_values = local.score(nodes, compute)
    gaps["score"] = _gap(scored, expected)
    assert (values is None) == (expected_values is None) == (not case.value_lr)
    gaps["values"] = _gap(values or (), expected_values or ())
    parts = iter(expected)
    reference = [[next(parts) for _ in group.nodes] for group in groups] if objective.needs_reference else None
    denominator = sum(map(objective.weight, groups))
    with sharded.training(compute, nodes[0]), local.training(compute, nodes[0]):
        for _ in range(NUM_STEPS):
            loss, metrics = sharded.forward_backward(groups, objective, reference, denominator)
            own_loss, own_metrics = local.forward_backward(groups, objective, reference, denominator)
            assert metrics.keys() == own_metrics.keys()
            gaps["loss"] = max(gaps["loss"], abs(loss - own_loss) / abs(own_loss))
            for name, (value, num) in own_metrics.items():
                assert metrics[name][1] == num or abs(metrics[name][1] - num) < 1e-5 * num
                gaps["metrics"] = max(gaps["metrics"], abs(metrics[name][0] - value) / max(1.0, abs(value)))
            norm, own_norm = sharded.step(LR, 0.5), local.step(LR, 0.5)
            gaps["norm"] = max(gaps["norm"], abs(norm - own_norm) / own_norm)
        assert own_norm > 0.5, "nothing is clipped"
        gaps["logprobs"] = _gap(sharded.logprobs(nodes), local.logprobs(nodes))
        sharded.save_state(folder / "state", NUM_STEPS, {"ranks": leader.group.world})
        local.save_state(folder / "own-state", NUM_STEPS, {})
    gaps["weights"], gaps["moments"] = _state_gap(folder)
    return gaps


def _state_gap(folder: Path) -> tuple[float, float]:
    """Compare the states of both: names, shapes and dtypes are the same."""
    from safetensors.torch import load_file

    gaps = []
    for file in ("weights.safetensors", "optimizer.safetensors"):
        one, other = (load_file(folder / kind / f"step-{NUM_STEPS}" / file) for kind in ("state", "own-state"))
        assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in other.items()}
        gaps.append(_gap([one[key] for key in other], list(other.values())))
    for kind in ("state", "own-state"):
        shutil.rmtree(folder / kind)
    return gaps[0], gaps[1]


def _gap(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    pairs = list(zip(some, others, strict=True))
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
