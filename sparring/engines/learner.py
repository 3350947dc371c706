"""A learner in this process: one model on one device, its forward passes, gradients and optimizer.

What it trains is all of the model's weights, or one adapter on a model that others may share.
"""

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
from sparring.engines.recomputation import is_recomputed, recompute_layers, restore_layers
from sparring.engines.routing import Balance
from sparring.engines.scoring import Forward, autocast_dtype
from sparring.models import lora
from sparring.models.loading import save_model
from sparring.models.saving import came_in_half, check_savable, round_weights
from sparring.models.threads import is_small, one_thread

if TYPE_CHECKING:
    from sparring.data.chat import Encoded


class LocalLearner:
    """Trains a transformers model in place; see `engines.base.Learner` for what each call means.

    The model stays in evaluation mode (no dropout but an adapter's own). Where all weights are trained, half-precision
    ones become float32. Between trainings the model may play: nothing of a training is left on it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        path: str = "",
        adapter: str = "",
        base: str = "",
        plays_in_half: bool = False,
    ) -> None:
        """Args:
        model: a transformers causal language model.
        tokenizer: its own.
        path: where the weights came from.
        adapter: the name of the adapter that is trained; empty: all weights are.
        base: the base model's path, which the adapter's folders name.
        plays_in_half: the agent plays in bfloat16.
        """
        self.model, self.tokenizer, self.path, self.adapter, self._base = model, tokenizer, path, adapter, base
        self._plays_in_half = plays_in_half
        self._moments: Path | None = None
        self._head: value_head.ValueHead | None = None
        self._optimizer: torch.optim.AdamW | None = None
        self._forward: Forward | None = None
        self._num_steps = 0

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def num_embeddings(self) -> int:
        """Rows of the language-model head: tokens that the model can give a probability."""
        return self.model.get_output_embeddings().weight.shape[0]

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return what is trained, by names that do not depend on what the adapter is called."""
        if not self.adapter:
            return checkpoint.trainable(self.model)
        head = getattr(self.model, "value_head", None)
        own = {} if head is None else {f"value_head.{name}": one for name, one in head.named_parameters()}
        return {**lora.parameters(self.model, self.adapter), **own}

    def activate(self) -> None:
        """Let the learner's own adapter take part in the model's forward."""
        if self.adapter and lora.active(self.model) != self.adapter:
            lora.use(self.model, self.adapter)

    # ── Between trainings ─────────────────────────────────────────────────────────────────────────────────────────────

    def score(self, nodes: Sequence[Encoded], compute: Compute) -> Scored:
        """Compute log π of each node's action tokens, and values where there is a value head, without gradients."""
        self._prepare(recompute=False)
        forward = self._make_forward(compute)
        if nodes:
            forward.check(nodes[0])
        with torch.no_grad():
            return forward.with_values(nodes)

    def go_on_from(self, moments: Path) -> None:
        """Remember where the last training left the optimizer's state; take the unrounded weights that lie beside it.

        Raises:
            DataError: the file is unreadable.
        """
        if self._optimizer is None and self._moments != moments:
            self._moments = moments
            checkpoint.load_single(moments, self.parameters())

    def attach_value_head(self, *, lr: float, expected: float) -> None:
        """Go on with the value head that the weights came with, or with a new one."""
        if self._head is None:
            self._head = value_head.load(self.model, Path(self.path), lr=lr)
            if self._head.is_new:
                self._head.expect(expected)
        self.model.add_module("value_head", self._head)

    def detach_value_head(self) -> None:
        """Take the value head off the model, which can play then."""
        if hasattr(self.model, "value_head"):
            del self.model.value_head

    def check_savable(self) -> None:
        """Find out before training whether the result can be saved."""
        if not self.adapter:
            check_savable(self.model, self.tokenizer, self.path)

    def is_rounded(self, autocast: Literal["auto", "off"]) -> bool:
        """Say whether the agent plays, trains or is saved in half precision."""
        return self._plays_in_half or came_in_half(self.model) or autocast_dtype(self.device, autocast) is not None

    def publish(self, folder: Path, *, moments: Path | None = None) -> None:
        """Write the weights as a checkpoint: an ordinary model folder, or an adapter's.

        All weights that came in half precision are rounded, also here. With moments they go on unrounded, since small
        steps would be lost, and are kept beside the moments.
        """
        is_kept_single = not self.adapter and came_in_half(self.model)
        if moments is not None:
            assert self._optimizer is not None, "there was no training"
            checkpoint.save_moments(moments, self.parameters(), self._optimizer, with_weights=is_kept_single)
        self.detach_value_head()
        if self.adapter:
            lora.save(self.model, self.adapter, folder, self._base, self.tokenizer)
        else:
            save_model(self.model, self.tokenizer, folder)
        if self._head is not None:
            value_head.save(self._head, folder)
        if moments is None:
            self._optimizer = self._moments = None
            if is_kept_single:
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
        """Make ready for the calls below, with an optimizer of its own, until the context ends."""
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._prepare(recompute=is_recomputed(compute.recompute, num_parameters))
        forward = self._forward = self._make_forward(compute)
        self._compute, self._num_steps = compute, 0
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
        """Compute log π of each node's action tokens with the weights as they are, without gradients."""
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
        """Add the gradients of the groups' loss, and return the loss and its metrics."""
        metrics: Metrics = {}
        loss = 0.0
        with lora.dropping(self.model, self.adapter, self._num_steps) if self.adapter else nullcontext():
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
        """Take an optimizer step, and return the norm of the gradient before clipping."""
        assert self._optimizer is not None, "outside a training"
        parameters = list(self.parameters().values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf).item()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, ())
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._num_steps += 1
        return norm

    def save_state(self, folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
        """Write all that resuming this training needs, in the place of what was written before."""
        assert self._optimizer is not None, "outside a training"
        checkpoint.save_state(folder, step, self.parameters(), self._optimizer, dict(numbers))

    def load_state(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """Go on from the newest whole state in a folder: return its step and numbers; none where there is none."""
        assert self._optimizer is not None, "outside a training"
        saved = checkpoint.newest_state(folder)
        if saved is None:
            return None
        checkpoint.load_state(saved, self.parameters(), self._optimizer)
        self._num_steps = saved.step
        return saved.step, saved.numbers

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, *, recompute: bool) -> None:
        self.activate()
        prepare(self.model, recompute=recompute, keeps_dtype=bool(self.adapter))

    def _make_forward(self, compute: Compute) -> Forward:
        forward = Forward(
            self.model,
            max_tokens=compute.max_tokens_per_batch,
            autocast=autocast_dtype(self.device, compute.autocast),
            temperature=compute.temperature,
        )
        if self.adapter and lora.drops(self.model, self.adapter):
            forward.threads = None  # what is dropped depends on the order of the passes
        return forward

    def _begin_optimizer(self, compute: Compute, *, is_continued: bool) -> None:
        parameters = self.parameters()
        before, self._optimizer = self._optimizer, make_optimizer(self.model, parameters, compute)
        if not is_continued:
            return
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


def prepare(model: Any, *, recompute: bool = False, keeps_dtype: bool = False) -> None:
    """Make `model` ready for training: float32 weights, no noise, activations recomputed if asked for.

    Args:
        model: a transformers model.
        recompute: recompute activations in the backward pass.
        keeps_dtype: leave weights in half precision: none of them is trained.
    """
    if not keeps_dtype and any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model.float()
    model.eval()
    if recompute:
        recompute_layers(model)


def make_optimizer(
    model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter], compute: Compute
) -> torch.optim.AdamW:
    """Make AdamW with decay on matrices alone, fused where that exists; a value head has a learning rate of its own."""
    head = getattr(model, "value_head", None)
    own = set() if head is None else set(head.parameters())
    plain = [one for one in parameters.values() if one not in own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in plain if p.dim() >= 2], "weight_decay": compute.weight_decay, "scale": 1.0},
        {"params": [p for p in plain if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
    ]
    if head is not None:
        groups.append({"params": list(head.parameters()), "weight_decay": 0.0, "scale": head.lr / compute.peak_lr})
    return torch.optim.AdamW(groups, lr=compute.peak_lr, fused=plain[0].device.type in ("cpu", "cuda"))
