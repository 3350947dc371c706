"""Task groups, an objective and a learner come in; its weights change, and a log of every step goes out.

The trainer keeps plan, schedule, log and resumption. It knows no method and no environment, and owns no weights. A run
that is killed at any moment and started again with the same arguments ends with the same weights and the same log, bit
for bit on the same kind of CPU (docs/speed.md; a GPU's kernels add in varying order).

Paper: arXiv 2511.22254, sections 3 and 4: behavioural cloning (Eq. 5), DPO (Eq. 7), the target agent's loss (Eq. 9).
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sparring.core.convert import check_values, decisive
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
from sparring.data.batches import Group, Step, num_action_tokens, plan_steps
from sparring.engines import checkpoint
from sparring.engines.base import Compute, Learner, Metrics, NotFiniteError, Objective, add_metrics

if TYPE_CHECKING:
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
    """Sequences per optimizer step in cloning, pairs in preference learning, trajectories in reinforcement learning."""
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
    """Multiply in bfloat16 on a GPU that does so natively; weights and their updates stay float32."""
    recompute: Annotated[bool | None, ADJUSTABLE_WITH_NOTE] = None
    """Recompute activations in the backward pass: less memory, a third more time. None given: from a billion
    parameters on."""
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
class RlConfig(TrainConfig):
    """How weights are updated from sampled trajectories."""

    max_server_ratio: Annotated[float, Range(at_least=1, at_most=LARGEST)] | None = None
    """With a server that samples: largest importance weight that corrects, token by token, for the difference between
    its probabilities and the learner's (2 is common); none: its probabilities are taken for the policy's."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a training begins, and where it keeps its states."""

    seed: int
    """Determines the order of groups."""
    state_dir: Path
    """Where states and the reference's log-probabilities are kept. Delete it to train anew."""
    is_continued: bool = False
    """The optimizer goes on from where the learner's last training left it. Policy gradient takes so few steps a round
    that Adam must not forget its averages between rounds."""
    saves_last: bool = True
    """Save a state after the last step, too. Who publishes the weights at once does without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told of a training's course."""

    resumed: Callable[[int], None] = lambda step: None
    """Told first of all how many steps will not be taken again, 0 at the start; later ones are logged again."""
    log: Callable[[dict[str, Any]], None] = lambda record: None
    """Gets one flat record per step: step, epoch, lr, loss, grad_norm, tokens and the objective's metrics per pair
    kind. Steps after the last saved state are logged again after a resumption, with the same values."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Gets steps done and steps in all."""


def fit(
    learner: Learner,
    groups: Sequence[Group],
    objective: Objective,
    config: TrainConfig,
    start: Start,
    watch: Watch | None = None,
) -> FitResult:
    """Train a learner's weights. As they come in, they are the reference, also when resuming.

    Args:
        learner: holds the weights from which the phase starts.
        groups: what to train on.
        objective: what to minimise.
        config: how to optimise.
        start: where training begins.
        watch: who is told.

    Raises:
        TrainingError: there is nothing to train on, or a loss or gradient is not finite; weights are not touched then.
        ConfigError: `start.state_dir` belongs to other data or another config.
        DataError: `fit.json` in it is damaged.
    """
    if not groups:
        raise TrainingError(
            "nothing to train on: there are no trajectories or pairs, or none fits into chat.max_context"
        )
    _claim(start.state_dir, _fingerprint(groups, objective, config, start.seed))
    compute = compute_of(config, objective.temperature)
    with learner.training(compute, groups[0].nodes[0], is_continued=start.is_continued):
        return _Fit(learner, groups, objective, config, start).run(watch or Watch())


def compute_of(config: TrainConfig, temperature: float) -> Compute:
    """Return what a learner must know of a training's settings."""
    return Compute(
        max_tokens_per_batch=config.max_tokens_per_batch,
        autocast=config.autocast,
        recompute=config.recompute,
        router_balance=config.router_balance,
        weight_decay=config.weight_decay,
        peak_lr=config.lr,
        temperature=temperature,
    )


class _Fit:
    """One call of `fit`, within the learner's training."""

    def __init__(
        self, learner: Learner, groups: Sequence[Group], objective: Objective, config: TrainConfig, start: Start
    ) -> None:
        self.learner, self.groups, self.objective = learner, groups, objective
        self.config, self.state_dir, self.saves_last = config, start.state_dir, start.saves_last
        self.steps = plan_steps(
            [objective.size(group) for group in groups],
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=start.seed,
            shuffle=config.shuffle,
        )
        self.reference = self._reference() if objective.needs_reference else None
        saved = learner.load_state(start.state_dir)
        self.progress = _Progress(**saved[1]) if saved else _Progress()
        self.saved_step = saved[0] if saved else None
        self.saved_at, self.save_interval = time.monotonic(), config.save_every_s
        self.is_whole = True
        """Whether weights, optimizer, progress and log are of one step, so that they may be saved."""

    def run(self, watch: Watch) -> FitResult:
        watch.resumed(self.progress.step)
        try:
            while self.progress.step < len(self.steps) and not self.progress.stopped:
                watch.log(self._step(self.steps[self.progress.step]))
                self.is_whole = True
                watch.progress(self.progress.step, len(self.steps))
                if time.monotonic() - self.saved_at >= self.save_interval:
                    self._save()
        except KeyboardInterrupt:
            if self.is_whole:
                self._save()
            raise
        if self.saves_last:
            self._save()
        metrics = {name: total / count for name, (total, count) in self.progress.sums.items() if count}
        return FitResult(steps=self.progress.step, metrics=metrics, stopped=self.progress.stopped)

    def _step(self, step: Step) -> dict[str, Any]:
        denominator = sum(self.objective.weight(self.groups[index]) for index in step.groups)
        indices = self._teaching(step)
        groups = [self.groups[index] for index in indices]
        reference = None if self.reference is None else [self.reference[index] for index in indices]
        lr = learning_rate(self.progress.step, len(self.steps), self.config)
        try:
            loss, metrics = self.learner.forward_backward(groups, self.objective, reference, denominator)
            self.is_whole = False
            norm = self.learner.step(lr, self.config.clip_norm)
        except NotFiniteError as error:
            raise self._not_finite(error, error.groups or groups) from None
        self._account(step, {"loss": (loss * denominator, denominator), "grad_norm": (norm, 1), **metrics})
        return self._record(step, lr, loss, norm, metrics)

    def _teaching(self, step: Step) -> Sequence[int]:
        """Leave out the groups whose forward and backward pass would bring nothing.

        All are computed where none teaches: what Adam remembers moves the weights in such a step, too. So they are
        where a router is kept even, which learns from every token.
        """
        teaching = [index for index in step.groups if self.objective.teaches(self.groups[index])]
        return step.groups if self.config.router_balance or not teaching else teaching

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

    def _not_finite(self, error: NotFiniteError, groups: Sequence[Group]) -> TrainingError:
        tasks = ", ".join(dict.fromkeys(group.task_id for group in groups))
        return TrainingError(
            f"{error} at step {self.progress.step + 1} of {len(self.steps)}, tasks {tasks}. The weights are those of "
            "the step before. Lower the learning rate, or check the starting weights for non-finite values."
        )

    def _reference(self) -> list[list[Tensor]]:
        """Score all nodes with the starting weights, once per phase."""
        import torch

        path = self.state_dir / "reference" / "logprobs.safetensors"
        nodes = [node for group in self.groups for node in group.nodes]
        counts = [num_action_tokens(node) for node in nodes]
        if (kept := checkpoint.kept_tensors(path)) is not None:
            parts = iter(kept["logprobs"].split(counts))
        else:
            scored = self.learner.logprobs(nodes)
            checkpoint.keep_tensors(path, {"logprobs": torch.cat(scored)})
            parts = iter(scored)
        return [[next(parts) for _ in group.nodes] for group in self.groups]

    def _save(self) -> None:
        if self.saved_step == self.progress.step:
            return
        started = time.monotonic()
        self.learner.save_state(self.state_dir, self.progress.step, asdict(self.progress))
        self.saved_at, self.saved_step = time.monotonic(), self.progress.step
        if self.save_interval > 0:
            self.save_interval = max(self.config.save_every_s, (self.saved_at - started) / SAVE_SHARE)


def _fingerprint(groups: Sequence[Group], objective: Objective, config: TrainConfig, seed: int) -> dict[str, str]:
    """Digest what must not change between a run and its resumption."""
    data = hashlib.sha256()
    for group in groups:
        data.update(repr((group.task_id, group.edges, [node.spans for node in group.nodes])).encode())
        if group.samples:
            data.update(repr(group.samples).encode())
        for node in group.nodes:
            data.update(array("q", node.ids).tobytes())
    course = decisive(config)
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
