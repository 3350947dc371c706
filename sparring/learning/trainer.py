"""Task groups, an objective and a model come in; the model's weights change, and a log of every step goes out.

The trainer knows no method and no environment. A run that is killed at any moment and started again with the same
arguments ends with the same weights and the same log, bit for bit on the same kind of CPU (docs/speed.md; a GPU's
kernels add in varying order).

Paper: arXiv 2511.22254, sections 3 and 4: behavioural cloning (Eq. 5), DPO (Eq. 7), the target agent's loss (Eq. 9).
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparring.core.convert import check_values, without_adjustable
from sparring.core.errors import ConfigError, TrainingError
from sparring.core.fingerprints import read_sealed, write_sealed
from sparring.core.ranges import (
    ADJUSTABLE,
    ADJUSTABLE_WITH_NOTE,
    LARGEST,
    Count,
    LearningRate,
    PositiveWeight,
    Range,
    Repeats,
    Share,
    Weight,
)
from sparring.data.batches import Group, Step, cut_to_budget, num_action_tokens, plan_steps
from sparring.engines import checkpoint
from sparring.engines.base import Metrics, Objective, add_metrics
from sparring.engines.scoring import Forward, autocast_dtype

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DISPLACEMENT_WINDOW = 8
"""Steps over which the displacement guard averages."""
SAVE_SHARE = 0.1
"""Saving takes at most about this share of the time, however large the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How weights are updated; defaults are those of cloning in the paper's line of work (ETO)."""

    lr: LearningRate = 2e-5
    """Peak learning rate of AdamW."""
    epochs: Repeats = 3
    """Passes over the groups."""
    batch_size: Count = 64
    """Sequences per optimizer step in cloning, pairs in preference learning."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up; cosine falls to zero."""
    warmup_ratio: Share = 0.03
    """Share of the steps in which the rate rises linearly."""
    weight_decay: Annotated[float, Range(at_least=0, at_most=100)] = 0.0
    """Decoupled, on matrices alone."""
    clip_norm: Annotated[float, Range(above=0, at_most=LARGEST)] | None = 1.0
    """Largest global gradient norm; none: no clipping."""
    max_tokens_per_batch: Annotated[Count, ADJUSTABLE_WITH_NOTE] = 8192
    """Tokens whose activations are kept at once; a group of more is forwarded alone. Changes memory, not the result."""
    shuffle: bool = True
    """Order groups anew each epoch."""
    autocast: Literal["auto", "off"] = "auto"
    """Multiply in bfloat16 where the hardware does so natively; weights and their updates stay float32."""
    recompute: Annotated[bool, ADJUSTABLE_WITH_NOTE] = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    router_balance: Weight = 0.0
    """Weight of the auxiliary loss that makes a mixture of experts use its experts evenly (its own training had about
    0.001 to 0.02, `router_aux_loss_coef`); 0: none, also for models without experts."""
    save_every_s: Annotated[float, Range(at_least=0, at_most=LARGEST), ADJUSTABLE] = 30.0
    """Least seconds between two saved states, more where saving is slow; 0: after every step."""
    displacement_warning: Annotated[Weight, ADJUSTABLE] = 3.0
    """Warn once when log π(chosen) of expert pairs has fallen by this many nats against the reference."""
    stop_on_displacement: PositiveWeight | None = None
    """End training at such a fall, with the weights as they are; none: never."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What training did."""

    steps: int
    """Optimizer steps taken, those before a resumption included."""
    metrics: dict[str, float]
    """Means over the last epoch: pairs count equally, steps do for the gradient norm."""
    stopped: str = ""
    """Why it ended early, where it did."""


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What of the course so far is needed to go on as if nothing had happened."""

    step: int = 0
    epoch: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Sum and count per metric, over the current epoch."""
    displacements: list[list[float]] = field(default_factory=list)
    """Sum and count of Δ log π(chosen) of expert pairs in the last steps."""
    warned: bool = False
    stopped: str = ""

    def add(self, epoch: int, metrics: Metrics) -> None:
        if epoch != self.epoch:
            self.epoch, self.sums = epoch, {}
        sums: Metrics = {name: (total, count) for name, (total, count) in self.sums.items()}
        add_metrics(sums, metrics)
        self.sums = {name: list(entry) for name, entry in sums.items()}

    def displacement(self, metrics: Metrics) -> float | None:
        """Return the fall of log π(chosen) of expert pairs over the window, none where there are no such pairs."""
        expert = [value for name, value in metrics.items() if name.startswith("expert>") and "/delta_chosen" in name]
        self.displacements = [*self.displacements, [sum(v[0] for v in expert), sum(v[1] for v in expert)]]
        self.displacements = self.displacements[-DISPLACEMENT_WINDOW:]
        count = sum(entry[1] for entry in self.displacements)
        return -sum(entry[0] for entry in self.displacements) / count if count else None


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the rate of a step (from 0).

    10 steps, warm-up 0.2, peak 1: 0.5 and 1 in the warm-up, then 1 throughout, or by cosine 1, 0.962, … 0.038.
    """
    num_warmup = math.ceil(config.warmup_ratio * num_steps)
    if step < num_warmup:
        return config.lr * (step + 1) / num_warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))


def fit(
    model: Any,
    groups: Sequence[Group],
    objective: Objective,
    config: TrainConfig,
    *,
    seed: int,
    state_dir: Path,
    moments: Path | None = None,
    resumed: Callable[[int], None] = lambda step: None,
    log: Callable[[dict[str, Any]], None] = lambda record: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FitResult:
    """Train `model` in place.

    The policy as it comes in is the reference. The model is put into evaluation mode (no dropout), and half-precision
    weights become float32.

    Args:
        model: a transformers causal language model, at the weights from which the phase starts, also when resuming.
        groups: what to train on.
        objective: what to minimise.
        seed: determines the order of groups.
        state_dir: where states and the reference's log-probabilities are kept. Delete it to train anew.
        moments: the optimizer's state to start with, as a training before left it (`checkpoint.moments_path`); none:
            afresh. Policy gradient takes so few steps a round that Adam must not forget its averages between rounds.
        resumed: told first of all how many steps will not be taken again, 0 at the start; later ones are logged again.
        log: gets one flat record per step: step, epoch, lr, loss, grad_norm, tokens and the objective's metrics per
            pair kind. Steps after the last saved state are logged again after a resumption, with the same values.
        progress: gets steps done and steps in all.

    Raises:
        TrainingError: there is nothing to train on, or a loss or gradient is not finite; weights are not touched then.
        ConfigError: `state_dir` belongs to other data or another config.
        DataError: `fit.json` in it is damaged.
    """
    if not groups:
        raise TrainingError(
            "nothing to train on: there are no trajectories or pairs, or none fits into chat.max_context"
        )
    from sparring.models.threads import is_small, one_thread

    course = _Fit(model, groups, objective, config, seed, state_dir, moments)
    resumed(course.progress.step)
    with one_thread() if is_small(model) else nullcontext():  # beside the forward's own
        return course.run(log, progress)


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        model: Any,
        groups: Sequence[Group],
        objective: Objective,
        config: TrainConfig,
        seed: int,
        state_dir: Path,
        moments: Path | None,
    ) -> None:
        self.model, self.groups, self.objective = model, groups, objective
        self.config, self.state_dir = config, state_dir
        self.steps = plan_steps(
            [objective.size(group) for group in groups],
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=seed,
            shuffle=config.shuffle,
        )
        _claim(state_dir, _fingerprint(groups, objective, config, seed))
        prepare(model, recompute=config.recompute)
        self.forward = Forward(
            model,
            max_tokens=config.max_tokens_per_batch,
            autocast=autocast_dtype(next(model.parameters()).device, config.autocast),
            temperature=objective.temperature,
        )
        self.forward.check(groups[0].nodes[0])
        if config.router_balance:
            from sparring.engines.routing import Balance

            self.forward.balance, self.forward.threads = Balance(model), None
        self.reference = self._reference() if objective.needs_reference else None
        self.optimizer = make_optimizer(model, config)
        if moments is not None:
            checkpoint.load_moments(moments, model, self.optimizer)
        saved = checkpoint.newest_state(state_dir)
        if saved:
            checkpoint.load_state(saved, model, self.optimizer)
        self.progress = _Progress(**saved.numbers) if saved else _Progress()
        self.saved_step = saved.step if saved else None
        self.saved_at, self.save_interval = time.monotonic(), config.save_every_s
        self.is_whole = True
        """Whether weights, optimizer, progress and log are of one step, so that they may be saved."""

    def run(self, log: Callable[[dict[str, Any]], None], progress: Callable[[int, int], None]) -> FitResult:
        try:
            while self.progress.step < len(self.steps) and not self.progress.stopped:
                log(self._step(self.steps[self.progress.step]))
                self.is_whole = True
                progress(self.progress.step, len(self.steps))
                if time.monotonic() - self.saved_at >= self.save_interval:
                    self._save()
        except KeyboardInterrupt:
            if self.is_whole:
                self._save()
            raise
        self._save()
        metrics = {name: total / count for name, (total, count) in self.progress.sums.items() if count}
        return FitResult(steps=self.progress.step, metrics=metrics, stopped=self.progress.stopped)

    def _step(self, step: Step) -> dict[str, Any]:
        import torch

        groups = [self.groups[index] for index in step.groups]
        denominator = sum(map(self.objective.weight, groups))
        metrics: Metrics = {}
        loss = 0.0
        for batch in cut_to_budget([group.num_tokens for group in groups], self.config.max_tokens_per_batch):
            part, part_metrics = self._balanced([step.groups[index] for index in batch])
            value = part.item() / denominator
            if not math.isfinite(value):
                raise self._not_finite("loss", value, [groups[index] for index in batch])
            (part / denominator).backward()
            loss += value
            add_metrics(metrics, part_metrics)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf).item()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, groups)
        lr = learning_rate(self.progress.step, len(self.steps), self.config)
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = lr * parameter_group["scale"]
        self.is_whole = False
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._account(step, {"loss": (loss * denominator, denominator), "grad_norm": (norm, 1), **metrics})
        return self._record(step, lr, loss, norm, metrics)

    def _balanced(self, indices: Sequence[int]) -> tuple[Tensor, Metrics]:
        """Return the objective's loss, with that of uneven routing where it counts."""
        balance = self.forward.balance
        if balance is None:
            return self._loss(indices)
        balance.is_open = True
        try:
            loss, metrics = self._loss(indices)
        finally:
            balance.is_open = False
        weight, uneven = sum(self.objective.weight(self.groups[index]) for index in indices), balance.take()
        part = {"router_balance": (uneven.item() * weight, weight)}
        return loss + self.config.router_balance * weight * uneven, metrics | part

    def _loss(self, indices: Sequence[int]) -> tuple[Tensor, Metrics]:
        groups = [self.groups[index] for index in indices]
        logprobs, values = self.forward.with_values([node for group in groups for node in group.nodes])
        if values is not None:
            return self.objective(groups, logprobs, None, values)
        if self.reference is None:
            return self.objective(groups, logprobs, None)
        return self.objective(groups, logprobs, [node for index in indices for node in self.reference[index]])

    def _account(self, step: Step, metrics: Metrics) -> None:
        self.progress.step += 1
        self.progress.add(step.epoch, metrics)
        fall = self.progress.displacement(metrics)
        if fall is None:
            return
        cause = (
            f"log π(chosen) of expert pairs fell by {fall:.1f} nats against the reference at step {self.progress.step}"
        )
        if fall > self.config.displacement_warning and not self.progress.warned:
            self.progress.warned = True
            warnings.warn(f"{cause} (likelihood displacement): lower the learning rate or raise beta", stacklevel=4)
        if self.config.stop_on_displacement is not None and fall > self.config.stop_on_displacement:
            self.progress.stopped = cause

    def _record(self, step: Step, lr: float, loss: float, norm: float, metrics: Metrics) -> dict[str, Any]:
        nodes = [node for index in step.groups for node in self.groups[index].nodes]
        record: dict[str, Any] = {"step": self.progress.step, "epoch": step.epoch, "lr": lr, "loss": loss}
        record |= {"grad_norm": norm, "tokens": sum(len(node.ids) for node in nodes)}
        record["action_tokens"] = sum(map(num_action_tokens, nodes))
        record |= {name: total / count for name, (total, count) in metrics.items() if count}
        record |= {name.replace("/loss", "/num"): int(n) for name, (_, n) in metrics.items() if name.endswith("/loss")}
        if self.progress.stopped:
            record["stopped"] = self.progress.stopped
        return record

    def _not_finite(self, what: str, value: float, groups: Sequence[Group]) -> TrainingError:
        self.optimizer.zero_grad(set_to_none=True)
        tasks = ", ".join(dict.fromkeys(group.task_id for group in groups))
        return TrainingError(
            f"{what} is {value} at step {self.progress.step + 1} of {len(self.steps)}, tasks {tasks}. The weights are "
            "those of the step before. Lower the learning rate, or check the starting weights for non-finite values."
        )

    def _reference(self) -> list[list[Tensor]]:
        """Score all nodes with the starting weights, once per phase."""
        import torch

        path = self.state_dir / "reference" / "logprobs.safetensors"
        nodes = [node for group in self.groups for node in group.nodes]
        if (kept := checkpoint.kept_tensors(path)) is not None:
            flat_N = kept["logprobs"].to(self.forward.device)
        else:
            with torch.no_grad():
                flat_N = torch.cat(self.forward(nodes))
            checkpoint.keep_tensors(path, {"logprobs": flat_N})
        parts = iter(flat_N.split([num_action_tokens(node) for node in nodes]))
        return [[next(parts) for _ in group.nodes] for group in self.groups]

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        started = time.monotonic()
        checkpoint.save_state(self.state_dir, self.progress.step, self.model, self.optimizer, asdict(self.progress))
        self.saved_at, self.saved_step = time.monotonic(), self.progress.step
        if self.save_interval > 0:
            self.save_interval = max(self.config.save_every_s, (self.saved_at - started) / SAVE_SHARE)


def prepare(model: Any, *, recompute: bool = False) -> None:
    """Make `model` ready for training: float32 weights, no noise, activations recomputed if asked for."""
    import torch

    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model.float()
    model.eval()
    if recompute:
        from sparring.engines.recomputation import recompute_layers

        recompute_layers(model)


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW with decay on matrices alone, fused where that exists; a value head has a learning rate of its own."""
    import torch

    head = getattr(model, "value_head", None)
    own = set() if head is None else set(head.parameters())
    parameters = [p for p in checkpoint.trainable(model).values() if p not in own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay, "scale": 1.0},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
    ]
    if head is not None:
        groups.append({"params": list(head.parameters()), "weight_decay": 0.0, "scale": head.lr / config.lr})
    return torch.optim.AdamW(groups, lr=config.lr, fused=parameters[0].device.type in ("cpu", "cuda"))


def _fingerprint(groups: Sequence[Group], objective: Objective, config: TrainConfig, seed: int) -> dict[str, str]:
    """Digest what must not change between a run and its resumption."""
    data = hashlib.sha256()
    for group in groups:
        data.update(repr((group.task_id, group.edges, [node.spans for node in group.nodes])).encode())
        if group.samples:
            data.update(repr(group.samples).encode())
        for node in group.nodes:
            data.update(array("q", node.ids).tobytes())
    course = without_adjustable(config)
    return {"data": data.hexdigest(), "objective": repr(objective), "config": repr(course), "seed": str(seed)}


def _claim(state_dir: Path, fingerprint: dict[str, str]) -> None:
    """Write down whose state the folder holds, or refuse it if it is another's."""
    path = state_dir / "fit.json"
    if not path.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        write_sealed(path, fingerprint)
        return
    held = read_sealed(path, remedy=f"Delete {state_dir} to train anew.")
    changed = [key for key, value in fingerprint.items() if held.get(key) != value]
    if changed:
        raise ConfigError(f"{state_dir}: holds the state of a training with other {', '.join(changed)}. Delete it.")
