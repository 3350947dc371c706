"""A rank's part of a learner: its rows of the weights, its share of a step, its part in what all ranks do together.

The weights of the model are sharded; an adapter's and a value head's are whole on every rank, and their gradients are
added up here. Every method is called on all ranks at the same time, with the same arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from sparring.core.errors import DataError
from sparring.engines import checkpoint, value_head
from sparring.engines.base import Compute, Metrics, Objective, add_metrics
from sparring.engines.fsdp.files import Entry, Rows, Stream, open_rows
from sparring.engines.fsdp.forward import ShardedForward
from sparring.engines.fsdp.plan import plan_batches, plan_passes
from sparring.engines.fsdp.sharding import Layout, like
from sparring.engines.learner import LocalLearner
from sparring.engines.scoring import autocast_dtype
from sparring.models import lora
from sparring.models.saving import DTYPES, came_in_half

if TYPE_CHECKING:
    from sparring.data.batches import Group
    from sparring.data.chat import Encoded

Kind = Literal["weights", "moments", "moments and weights"]
"""What is written of a learner's state."""


@dataclass(slots=True)
class Share:
    """What a rank found in its share of a step."""

    loss: float = 0.0
    metrics: Metrics = field(default_factory=dict)
    not_finite: tuple[float, list[int]] | None = None
    """The first loss that is not finite, and its groups' indices."""


class ShardedLearner(LocalLearner):
    """See `engines.base.Learner` for what each call means; what differs is said here."""

    def __init__(self, model: Any, tokenizer: Any, layout: Layout, **keywords: Any) -> None:
        """Args:
        model: sharded, perhaps with an adapter that is whole.
        tokenizer: its own.
        layout: where it is sharded.
        keywords: as for `LocalLearner`.
        """
        super().__init__(model, tokenizer, **keywords)
        self._layout = layout
        self._locals: dict[str, Parameter] = {}
        self._has_moments = False

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._layout.device

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._layout.mesh.get_local_rank()

    def wholes(self) -> dict[str, Parameter]:
        """Return what is trained, sharded or whole."""
        return super().parameters()

    def parameters(self) -> dict[str, Parameter]:
        """Return what is trained, of what is sharded this rank's rows."""
        found: dict[str, Parameter] = {}
        for name, whole in self.wholes().items():
            if not isinstance(whole, DTensor):
                found[name] = whole
                continue
            rows, known = whole._local_tensor, self._locals.get(name)
            if known is None or known.data_ptr() != rows.data_ptr() or known.shape != rows.shape:
                known = Parameter(rows.detach())
            found[name] = self._locals[name] = known
        return found

    # ── Scoring ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def score_share(self, nodes: Sequence[Encoded], compute: Compute) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Score this rank's share of nodes: return their indices, log-probabilities and values."""
        self._prepare(recompute=False)
        forward = self._make_forward(compute)
        if nodes:
            forward.check(nodes[0])
        forward.agree()
        return self._share_of(nodes, forward)

    def logprobs_share(self, nodes: Sequence[Encoded]) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Do the same within a training."""
        return self._share_of(nodes, self._sharded_forward())

    def _share_of(
        self, nodes: Sequence[Encoded], forward: ShardedForward
    ) -> tuple[list[int], list[Tensor], list[Tensor]]:
        batch = plan_passes([len(node.ids) for node in nodes], self._layout.mesh.size(), forward.cut)[self.rank]
        with torch.no_grad():
            logprobs, values, _ = forward.run([nodes[index] for index in batch.items], batch.num_passes)
        self._forget_gathered()
        return list(batch.items), logprobs, values or []

    # ── A training ────────────────────────────────────────────────────────────────────────────────────────────────────

    def step_share(
        self,
        groups: Sequence[Group],
        objective: Objective,
        reference: Sequence[Sequence[Tensor]] | None,
        denominator: float,
    ) -> Share:
        """Add the gradients of this rank's share of the groups' loss. A loss that is not finite is told, not raised."""
        forward, share = self._sharded_forward(), Share()
        lengths = [[len(node.ids) for node in group.nodes] for group in groups]
        plan = plan_batches(lengths, self._layout.mesh.size(), self._compute.max_tokens_per_batch, forward.cut)
        seed = self._num_steps * self._layout.mesh.size() + self.rank
        with lora.dropping(self.model, self.adapter, seed) if self.adapter else nullcontext():
            for batch in plan[self.rank]:
                part = [groups[index] for index in batch.items]
                nodes = [node for group in part for node in group.nodes]
                logprobs, values, zero = forward.run(nodes, batch.num_passes)
                total = zero
                if part:
                    known = None
                    if reference is not None:
                        known = [node.to(self.device) for index in batch.items for node in reference[index]]
                    loss, metrics = objective(part, logprobs, known, values)
                    value = loss.item() / denominator
                    if not math.isfinite(value) and share.not_finite is None:
                        share.not_finite = value, list(batch.items)
                    share.loss += value
                    add_metrics(share.metrics, metrics)
                    total = loss / denominator if zero is None else loss / denominator + zero
                assert total is not None, "a batch without a pass"
                total.backward()
        return share

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in (*self.wholes().values(), *self.parameters().values()):
            parameter.grad = None

    def step(self, lr: float, clip_norm: float | None) -> float:
        """Take an optimizer step, and return the norm of the gradient before clipping.

        Where it is not finite, weights stay, and gradients are forgotten.
        """
        assert self._optimizer is not None, "outside a training"
        norm = self._add_up_gradients()
        if not math.isfinite(norm):
            self.clear()
            return norm
        if clip_norm is not None:
            factor = min(1.0, clip_norm / (norm + 1e-6))
            for parameter in self.parameters().values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self._optimizer.step()
        self.clear()
        self._num_steps += 1
        self._has_moments = True
        return norm

    def _add_up_gradients(self) -> float:
        """Give parameters the gradients of all ranks, and return their norm."""
        own, squares = self.parameters(), torch.zeros((), dtype=torch.float64, device=self.device)
        replicated: list[Parameter] = []
        for name, whole in self.wholes().items():
            if not isinstance(whole, DTensor):
                replicated.append(own[name])
            elif isinstance(whole.grad, DTensor):
                own[name].grad = whole.grad._local_tensor
                squares += whole.grad._local_tensor.double().square().sum()
        dist.all_reduce(squares)
        if replicated:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in replicated]
            joined = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(joined)
            squares += joined.double().square().sum()
            for parameter, grad in zip(replicated, joined.split([p.numel() for p in replicated]), strict=True):
                parameter.grad = grad.view_as(parameter)
        return float(squares.sqrt())

    # ── States and checkpoints ────────────────────────────────────────────────────────────────────────────────────────

    def write_state(self, path: Path, kind: Kind) -> None:
        """Write weights or moments to a file, which the first rank does."""
        entries: list[Entry] = []
        parts: list[tuple[Parameter, Tensor]] = []
        own = self.parameters()
        for name, whole in self.wholes().items():
            for key, value in self._state_of(own[name], kind):
                shape = () if key == "/step" else tuple(whole.shape)
                entries.append(Entry(name=f"{name}{key}", shape=shape, dtype=value.dtype))
                parts.append((whole, value))
        self._write(path, entries, (self._gathered(whole, value) for whole, value in parts))

    def _state_of(self, own: Parameter, kind: Kind) -> Iterator[tuple[str, Tensor]]:
        assert self._optimizer is not None, "there was no training"
        if kind == "weights":
            yield "", own
            return
        if self._has_moments:
            state = self._optimizer.state[own]
            yield "/step", state["step"]
            yield "/exp_avg", state["exp_avg"]
            yield "/exp_avg_sq", state["exp_avg_sq"]
        if kind == "moments and weights":
            yield f"/{checkpoint.SINGLE}", own

    def write_checkpoint(self, folder: Path, files: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write the model's weights as an ordinary folder has them; all of what came in half precision is rounded.

        Args:
            folder: where to.
            files: per file, its name and those of its tensors.
        """
        tensors, dtype = dict(checkpoint_tensors(self.model)), self._stored_dtype()
        for file, names in files:
            entries = [
                Entry(name=name, shape=tuple(tensors[name].shape), dtype=_saved(self.model, name, tensors[name], dtype))
                for name in names
            ]
            whole = (self._gathered(tensors[e.name], _local(tensors[e.name])).to(e.dtype) for e in entries)
            self._write(folder / file, entries, whole)

    def save_value_head(self, folder: Path) -> None:
        """Write the value head, where there is one, into a checkpoint's folder."""
        if self._head is not None:
            value_head.save(self._head, folder)

    def publish_rest(self, folder: Path, *, keeps_moments: bool) -> None:
        """Stand where a checkpoint was written."""
        if not keeps_moments:
            self._optimizer = self._moments = None
            self._has_moments, self._locals = False, {}
            if not self.adapter and came_in_half(self.model):
                dtype = self._stored_dtype()
                for name, tensor in checkpoint_tensors(self.model):
                    rows = _local(tensor)
                    rows.copy_(rows.to(_saved(self.model, name, tensor, dtype)))
        self.path = str(folder)

    def read_state(self, path: Path, step: int) -> None:
        """Go on from a saved state."""
        weights_file, moments_file = checkpoint.state_files(path)
        with open_rows(weights_file, moments_file) as files:
            for name, whole in self.wholes().items():
                if name not in files or files.shape(name) != tuple(whole.shape):
                    raise DataError(f"{path}: weights of another model. Delete {path.parent} to train anew.")
                files.copy(name, self._rows(whole), _local(whole))
            self._read_moments(files)
        self._num_steps = step

    def go_on_from(self, moments: Path) -> None:
        """See `LocalLearner.go_on_from`."""
        if self._optimizer is None and self._moments != moments:
            self._moments = moments
            with open_rows(moments) as files:
                self._read_single(files)

    def _begin_optimizer(self, compute: Compute, *, is_continued: bool) -> None:
        self._sharded_forward().agree()
        self._forget_gathered()  # else the model shows what was gathered for the comparison before
        moments, self._moments = self._moments, None
        try:
            super()._begin_optimizer(compute, is_continued=is_continued)
        finally:
            self._moments = moments
        self._has_moments = is_continued and self._has_moments
        if is_continued and not self._has_moments and moments is not None:
            with open_rows(moments) as files:
                self._read_moments(files)
                self._read_single(files)

    def _read_single(self, files: Rows) -> None:
        for name, whole in self.wholes().items():
            if (key := f"{name}/{checkpoint.SINGLE}") in files:
                files.copy(key, self._rows(whole), _local(whole))

    def _read_moments(self, files: Rows) -> None:
        assert self._optimizer is not None
        own, moments = self.parameters(), dict[str, Tensor]()
        for name, whole in self.wholes().items():
            for key in ("exp_avg", "exp_avg_sq", "step"):
                if (full_name := f"{name}/{key}") in files:
                    moments[full_name] = files.read(full_name, None if key == "step" else self._rows(whole))
        checkpoint.set_moments(moments, own, self._optimizer)
        self._has_moments = bool(moments)

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_forward(self, compute: Compute) -> ShardedForward:
        forward = ShardedForward(
            self.model,
            max_tokens=compute.max_tokens_per_batch,
            autocast=autocast_dtype(self.device, compute.autocast),
            temperature=compute.temperature,
        )
        forward.tick = self._layout.tick
        return forward

    def _sharded_forward(self) -> ShardedForward:
        assert isinstance(self._forward, ShardedForward), "outside a training"
        return self._forward

    def _forget_gathered(self) -> None:
        """Free the root's gathered weights, which stay until a backward pass otherwise, and grow stale."""
        self.model.reshard()

    def _gathered(self, whole: Tensor, local: Tensor) -> Tensor:
        """Return a whole tensor of which each rank has rows, or the same."""
        self._layout.tick()
        if isinstance(whole, DTensor) and local.dim() > 0:
            return like(whole, local.detach()).full_tensor()
        return local

    def _rows(self, whole: Tensor) -> slice | None:
        return self._layout.rows(whole.shape[0]) if isinstance(whole, DTensor) else None

    def _write(self, path: Path, entries: list[Entry], tensors: Iterator[Tensor]) -> None:
        stream = Stream(path, entries) if self.rank == 0 else None
        for tensor in tensors:
            if stream is not None:
                stream.add(tensor)
        if stream is not None:
            stream.close()
            if stream.error is not None:
                raise stream.error

    def _stored_dtype(self) -> torch.dtype | None:
        """Return the dtype in which a checkpoint is written; none: each tensor's own."""
        name = DTYPES.get(getattr(self.model, "stored_dtype", ""))
        dtype = None if name is None else getattr(torch, name)
        if dtype is None or dtype == torch.bfloat16:
            return dtype
        locals_ = [_local(tensor) for _, tensor in checkpoint_tensors(self.model)]
        largest = max((float(one.abs().max()) for one in locals_ if one.numel()), default=0.0)
        fits = torch.tensor(float(largest <= torch.finfo(dtype).max), device=self.device)
        dist.all_reduce(fits, dist.ReduceOp.MIN)
        return dtype if fits else None


def checkpoint_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield a model's weights and stored buffers by name, tied ones once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _local(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor.detach()


def _saved(model: Any, name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return the dtype in which a checkpoint has a tensor."""
    kept = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    kept |= {*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())}
    is_rounded = dtype is not None and tensor.dtype == torch.float32 and not kept & set(name.split("."))
    return dtype if is_rounded and dtype is not None and isinstance(tensor, Parameter) else tensor.dtype
