"""What the first of some ranks does in tests, beside a learner of one process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from sparring.core.errors import ModelError
from sparring.data.batches import Group
from sparring.engines.base import Compute, Learner, NotFiniteError, Objective
from sparring.engines.fsdp import watch
from sparring.engines.fsdp.engine import FsdpEngine, FsdpLearner, Leader
from sparring.engines.fsdp.forward import ShardedForward
from sparring.engines.learner import LocalLearner
from sparring.engines.local import make_engine
from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
from sparring.models.loading import ModelConfig, load_model, save_model
from sparring.models.lora import LoraConfig
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.training_toys import lone_groups, qwen, sampled_groups, task_groups

NUM_STEPS = 2
LR = 1e-3
LORA = LoraConfig(rank=4)
FULL = LoraConfig()
CHAT: Any = SimpleNamespace(config=SimpleNamespace(max_context=512))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training of some steps."""

    objective: Objective
    groups: Callable[[Any], Sequence[Group]]
    """From the model."""
    lora: LoraConfig = FULL
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

FEWER = ("preferences", "one group", "ppo, adapters")
"""Those that three ranks do too: two of them have nothing to do in one, and rows don't come out even."""


def prepare(folder: Path) -> None:
    """Save the models that learners begin at."""
    if not (folder / "tied").exists():
        save_model(qwen(vocab_size=400), tiny_tokenizer(), folder / "tied")
        save_model(tiny_model("llama", scale=1.0), tiny_tokenizer(), folder / "untied")  # pyright: ignore
        save_model(qwen(vocab_size=400).bfloat16(), tiny_tokenizer(), folder / "half")


def sharded_engine(leader: Leader, path: Path, lora: LoraConfig = FULL) -> FsdpEngine:
    config = ModelConfig(path=str(path), dtype="float32", device="cpu")
    return FsdpEngine(leader, config, lora, lambda *_: CHAT, max_context=512, computes_in_half=False)


def both(leader: Leader, path: Path, lora: LoraConfig = FULL) -> tuple[FsdpLearner, LocalLearner]:
    """Return a learner on all ranks and one in this process, which begin at the same weights."""
    sharded, _ = sharded_engine(leader, path, lora).learner(str(path), seed=5)
    config = ModelConfig(path=str(path), dtype="float32", device="cpu")
    local, _ = make_engine(config, lora, lambda *_: CHAT).learner(str(path), seed=5)
    return sharded, local


def everything(leader: Leader, folder: Path) -> dict[str, Any]:
    """Do all of the following: each start of a group costs more than what it does."""
    found = {"equality": equality(leader, folder), "states": states(leader, folder)}
    return found if leader.group.world == 2 else found | {"broken": broken(leader, folder)}


def equality(leader: Leader, folder: Path) -> dict[str, Any]:
    """Train on all ranks and in this process side by side; return the differences."""
    cases = CASES if leader.group.world == 2 else {name: CASES[name] for name in FEWER}
    return {name: _train(leader, folder, case) for name, case in cases.items()}


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
            gaps["loss"] = max(gaps["loss"], abs(loss - own_loss) / max(1.0, abs(own_loss)))
            for name, (value, num) in own_metrics.items():
                if name.endswith("/accuracy"):  # at the first step margins are zero but for rounding
                    continue
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


def states(leader: Leader, folder: Path) -> dict[str, Any]:
    """Two ranks train and save; three go on from there. Both return what their next step finds."""
    sharded, local = both(leader, folder / "half")
    groups, objective = task_groups(3), SFTObjective()
    compute = Compute(max_tokens_per_batch=150, peak_lr=LR)
    nodes = [node for group in groups for node in group.nodes]
    denominator = sum(map(objective.weight, groups))
    found: dict[str, Any] = {}

    def step(learner: Learner) -> tuple[float, float]:
        loss, _ = learner.forward_backward(groups, objective, None, denominator)
        return loss, learner.step(LR, 1.0)

    if leader.group.world == 2:
        with sharded.training(compute, nodes[0]), local.training(compute, nodes[0]):
            for learner in (sharded, local):
                step(learner)
                step(learner)
                learner.save_state(folder / f"kept-{type(learner).__name__}", 2, {"epoch": 1})
            found["next"], found["expected"] = step(sharded), step(local)
        for learner in (sharded, local):
            learner.check_savable()
            place = folder / type(learner).__name__
            learner.publish(place / "checkpoint", moments=place / "moments.safetensors")
        return found
    with sharded.training(compute, nodes[0]), local.training(compute, nodes[0]):
        found["saved"] = sharded.load_state(folder / "kept-FsdpLearner"), local.load_state(folder / "kept-FsdpLearner")
        found["next"], found["on one device"] = step(sharded), step(local)
    with sharded.training(compute, nodes[0]):
        sharded.load_state(folder / "kept-LocalLearner")
        found["from one device"] = step(sharded)
    moments = folder / "FsdpLearner/moments.safetensors"
    sharded, local = both(leader, folder / "FsdpLearner/checkpoint")
    for learner in (sharded, local):
        learner.go_on_from(moments)
    with sharded.training(compute, nodes[0], is_continued=True), local.training(compute, nodes[0], is_continued=True):
        found["continued"], found["expected"] = step(sharded), step(local)
        sharded.save_state(folder / "state", NUM_STEPS, {})
        local.save_state(folder / "own-state", NUM_STEPS, {})
    found["gaps"] = _state_gap(folder)
    return found


def broken(leader: Leader, folder: Path) -> dict[str, Any]:
    """Losses that are not finite change nothing; what a rank refuses is raised here, and the ranks go on."""
    sharded, _ = both(leader, folder / "tied")
    groups, compute = sampled_groups(3, load_model(str(folder / "tied"))[0]), Compute(peak_lr=LR)
    endless = replace(groups[1].samples[0], advantages=(float("inf"),) * len(groups[1].samples[0].advantages))
    groups[1] = replace(groups[1], samples=(endless,))
    nodes = [node for group in groups for node in group.nodes]
    before, _ = sharded.score(nodes, compute)
    said: list[str] = []
    with sharded.training(compute, nodes[0]):
        try:
            sharded.forward_backward(groups, PolicyGradientObjective(), None, 1.0)
        except NotFiniteError as error:
            said += [str(error), *(group.task_id for group in error.groups)]
        norm = sharded.step(LR, None)
    after, _ = sharded.score(nodes, compute)
    shutil.copytree(folder / "tied", folder / "torn", dirs_exist_ok=True)
    (folder / "torn/model.safetensors").write_bytes((folder / "untied/model.safetensors").read_bytes())
    try:
        sharded_engine(leader, folder / "torn").learner(str(folder / "torn"))
    except ModelError as error:
        said.append(str(error))
    return {"said": said, "norm": norm, "gap": _gap(before, after)}


def spoil(rank: int, function: str) -> None:
    """Let the second rank hang, or fail, in the middle of what all do together."""
    if function in ("hung", "failing"):
        watch.STALL_S = 8.0
    if rank != 1:
        return
    if function == "hung":
        ShardedForward.run = lambda *_: time.sleep(600)  # type: ignore[assignment, return-value]
    if function == "failing":

        def run_out(*_: Any) -> Any:
            raise MemoryError("no room for this batch")

        ShardedForward.run = run_out


def hung(leader: Leader, folder: Path) -> dict[str, Any]:
    """Score, which needs all ranks."""
    sharded, _ = both(leader, folder / "tied")
    sharded.score([lone_groups(1)[0].nodes[0]], Compute())
    return {}


failing = hung


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
