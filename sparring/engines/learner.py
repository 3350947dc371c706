"""A learner in this process: one model on one device, its forward passes, gradients and optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sparring.data.batches import Group, cut_to_budget
from sparring.engines import checkpoint, value_head
from sparring.engines.base import Compute, Metrics, NotFiniteError, Objective, Scored, add_metrics
from sparring.engines.recomputation import recompute_layers, restore_layers
from sparring.engines.routing import Balance
from sparring.engines.scoring import Forward, autocast_dtype
from sparring.models.loading import save_model
from sparring.models.saving import came_in_half, check_savable, round_weights
from sparring.models.threads import is_small, one_thread

if TYPE_CHECKING:
    from sparring.data.chat import Encoded


class LocalLearner:
    """Trains a transformers model in place.

    The model stays in evaluation mode (no dropout), and half-precision weights become float32. Between trainings it may
    play: nothing of a training is left on it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        path: str = "",
        moments: Path | None = None,
        plays_in_half: bool = False,
    ) -> None:
        """Args:
        model: a transformers causal language model.
        tokenizer: its own.
        path: where the weights came from.
        moments: where the last training left the optimizer's state, for one that goes on from it.
        plays_in_half: the agent plays in bfloat16.
        """
        self.model, self.tokenizer, self.path = model, tokenizer, path
        self._moments = moments
        self._plays_in_half = plays_in_half
        self._head: value_head.ValueHead | None = None
        self._optimizer: torch.optim.AdamW | None = None
        self._forward: Forward | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    # ── Between trainings ─────────────────────────────────────────────────────────────────────────────────────────────

    def score(self, nodes: Sequence[Encoded], compute: Compute) -> Scored:
        """Compute log π of each node's action tokens, and values where there is a value head, without gradients."""
        prepare(self.model)
        forward = self._make_forward(compute)
        if nodes:
            forward.check(nodes[0])
        with torch.no_grad():
            return forward.with_values(nodes)

    def attach_value_head(self, *, lr: float, expected: float) -> None:
        """See `engines.base.Learner`."""
        if self._head is None:
            self._head = value_head.load(self.model, Path(self.path), lr=lr)
            if self._head.is_new:
                self._head.expect(expected)
        self.model.add_module("value_head", self._head)

    def check_savable(self) -> None:
        """See `engines.base.Learner`."""
        check_savable(self.model, self.tokenizer, self.path)

    def is_rounded(self, autocast: Literal["auto", "off"]) -> bool:
        """See `engines.base.Learner`."""
        return self._plays_in_half or came_in_half(self.model) or autocast_dtype(self.device, autocast) is not None

    def publish(self, folder: Path, *, moments: Path | None = None) -> None:
        """See `engines.base.Learner`. Weights that came in half precision are rounded, also here, unless moments go on.

        With moments the weights go on unrounded, since small steps would be lost; they are kept beside the moments.
        """
        if moments is not None:
            assert self._optimizer is not None, "there was no training"
            parameters = checkpoint.trainable(self.model)
            checkpoint.save_moments(moments, parameters, self._optimizer, with_weights=came_in_half(self.model))
        if hasattr(self.model, "value_head"):
            del self.model.value_head
        save_model(self.model, self.tokenizer, folder)
        if self._head is not None:
            value_head.save(self._head, folder)
        if moments is None:
            self._optimizer = self._moments = None
            round_weights(self.model)
        self.path = str(folder)

    def move(self, device: torch.device) -> None:
        """Move the weights, and the optimizer's state, to another device."""
        if self.device.type == device.type:
            return
        self.model.to(device)
        if self._optimizer is not None:
            for state in self._optimizer.state.values():
                state.update({key: value.to(device) for key, value in state.items() if isinstance(value, Tensor)})

    # ── A training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def training(self, compute: Compute, sample: Encoded, *, is_continued: bool = False) -> Iterator[None]:
        """See `engines.base.Learner`."""
        prepare(self.model, recompute=compute.recompute)
        forward = self._forward = self._make_forward(compute)
        self._compute = compute
        with one_thread() if is_small(self.model) else nullcontext():  # beside the forward's own
            try:
                forward.check(sample)
                if compute.router_balance:
                    forward.balance, forward.threads = Balance(self.model), None
                self._begin_optimizer(compute, is_continued=is_continued)
                yield
            finally:
                if forward.balance is not None:
                    forward.balance.close()
                restore_layers(self.model)
                self._forward = None

    def logprobs(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """See `engines.base.Learner`."""
        assert self._forward is not None, "outside a training"
        with torch.no_grad():
            return self._forward(nodes)

    def forward_backward(
        self,
        groups: Sequence[Group],
        objective: Objective,
        reference: Sequence[Sequence[Tensor]] | None,
        denominator: float,
    ) -> tuple[float, Metrics]:
        """See `engines.base.Learner`."""
        metrics: Metrics = {}
        loss = 0.0
        for batch in cut_to_budget([group.num_tokens for group in groups], self._compute.max_tokens_per_batch):
            part = [groups[index] for index in batch]
            known = None
            if reference is not None:
                known = [node.to(self.device) for index in batch for node in reference[index]]
            part_loss, part_metrics = self._balanced(part, objective, known)
            value = part_loss.item() / denominator
            if not math.isfinite(value):
                raise self._not_finite("loss", value, part)
            (part_loss / denominator).backward()
            loss += value
            add_metrics(metrics, part_metrics)
        return loss, metrics

    def step(self, lr: float, clip_norm: float | None) -> float:
        """See `engines.base.Learner`."""
        assert self._optimizer is not None, "outside a training"
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm or math.inf).item()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, ())
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = lr * parameters["scale"]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def save_state(self, folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
        """See `engines.base.Learner`."""
        assert self._optimizer is not None, "outside a training"
        checkpoint.save_state(folder, step, checkpoint.trainable(self.model), self._optimizer, dict(numbers))

    def load_state(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """See `engines.base.Learner`."""
        assert self._optimizer is not None, "outside a training"
        saved = checkpoint.newest_state(folder)
        if saved is None:
            return None
        checkpoint.load_state(saved, checkpoint.trainable(self.model), self._optimizer)
        return saved.step, saved.numbers

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_forward(self, compute: Compute) -> Forward:
        return Forward(
            self.model,
            max_tokens=compute.max_tokens_per_batch,
            autocast=autocast_dtype(self.device, compute.autocast),
            temperature=compute.temperature,
        )

    def _begin_optimizer(self, compute: Compute, *, is_continued: bool) -> None:
        before, self._optimizer = self._optimizer, make_optimizer(self.model, compute)
        if not is_continued:
            return
        parameters = checkpoint.trainable(self.model)
        if before is not None:
            checkpoint.set_moments(checkpoint.moments_of(parameters, before), parameters, self._optimizer)
        elif self._moments is not None:
            checkpoint.load_moments(self._moments, parameters, self._optimizer)

    def _balanced(
        self, groups: Sequence[Group], objective: Objective, reference: Sequence[Tensor] | None
    ) -> tuple[Tensor, Metrics]:
        """Return the objective's loss, with that of uneven routing where it counts."""
        assert self._forward is not None, "outside a training"
        balance = self._forward.balance
        if balance is None:
            return self._loss(groups, objective, reference)
        balance.is_open = True
        try:
            loss, metrics = self._loss(groups, objective, reference)
        finally:
            balance.is_open = False
        weight, uneven = sum(map(objective.weight, groups)), balance.take()
        part = {"router_balance": (uneven.item() * weight, weight)}
        return loss + self._compute.router_balance * weight * uneven, metrics | part

    def _loss(
        self, groups: Sequence[Group], objective: Objective, reference: Sequence[Tensor] | None
    ) -> tuple[Tensor, Metrics]:
        assert self._forward is not None, "outside a training"
        logprobs, values = self._forward.with_values([node for group in groups for node in group.nodes])
        return objective(groups, logprobs, reference, values)

    def _not_finite(self, what: str, value: float, groups: Sequence[Group]) -> NotFiniteError:
        assert self._optimizer is not None
        self._optimizer.zero_grad(set_to_none=True)
        return NotFiniteError(what, value, groups)


def prepare(model: Any, *, recompute: bool = False) -> None:
    """Make `model` ready for training: float32 weights, no noise, activations recomputed if asked for."""
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        model.float()
    model.eval()
    if recompute:
        recompute_layers(model)


def make_optimizer(model: torch.nn.Module, compute: Compute) -> torch.optim.AdamW:
    """Make AdamW with decay on matrices alone, fused where that exists; a value head has a learning rate of its own."""
    head = getattr(model, "value_head", None)
    own = set() if head is None else set(head.parameters())
    parameters = [p for p in checkpoint.trainable(model).values() if p not in own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": compute.weight_decay, "scale": 1.0},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
    ]
    if head is not None:
        groups.append({"params": list(head.parameters()), "weight_decay": 0.0, "scale": head.lr / compute.peak_lr})
    return torch.optim.AdamW(groups, lr=compute.peak_lr, fused=parameters[0].device.type in ("cpu", "cuda"))
