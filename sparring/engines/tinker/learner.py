"""A learner whose weights live on a server that speaks the Tinker API: one adapter on the server's base model.

The server gives log-probabilities; the loss and its gradient with regard to them are computed here, by the same
objectives as everywhere; the server takes that gradient back to its weights. So a step costs two forward passes and one
backward pass. Requests of a step are under way at the same time.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sparring.core.errors import ConfigError, DataError, TrainingError
from sparring.data.batches import Group
from sparring.engines.base import Compute, Metrics, NotFiniteError, Objective, Scored
from sparring.engines.tinker.states import (
    Saved,
    read_unfinished,
    unpack_adapter,
    write_published,
    write_unfinished,
)
from sparring.models.saving import fresh_folder
from sparring.policies.tinker.client import Adapter, Pull, Service

if TYPE_CHECKING:
    from sparring.data.chat import Encoded

MAX_SEQUENCES = 64
"""Sequences of one request. Servers cut it further as their memory wants."""
NO_CRITIC = "engine.kind: a Tinker server has no value heads, which PPO's critic needs. Use GRPO, or another engine."
NO_TEMPERATURE = (
    "rollout.temperature: a Tinker server gives log-probabilities at temperature 1 alone, which policy gradient "
    "compares with those of sampling. Set rollout.temperature = 1."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What all adapters of a run share."""

    service: Service
    base: str
    """What the server calls the base model."""
    model: str
    """What the run calls it: `model.path`."""
    rank: int
    num_concurrent: int
    """Requests under way at once."""
    download: bool
    """Fetch published adapters."""
    tokenizer: Any
    """Goes into the folder of a fetched adapter."""


class TinkerLearner:
    """Trains an adapter on a server; see `engines.base.Learner` for what each call means."""

    def __init__(self, remote: Remote, *, seed: int = 0, start: Saved | None = None) -> None:
        """Args:
        remote: where.
        seed: what a new adapter is drawn from.
        start: the state it begins at; none: it is new.
        """
        self._remote, self._seed, self._saved = remote, seed, start
        self._adapter: Adapter | None = None
        self._optimizer: Literal["new", "kept", "over"] = "kept" if start and start.with_optimizer else "new"
        """`over`: what the last training left on the server is of no use to the next."""
        self._unfinished = ""
        self._pulls: list[Pull] = []
        self._is_mean, self._num_besides = False, 0

    @property
    def adapter(self) -> Adapter:
        """The live weights; they are made or restored when they are first needed."""
        if self._adapter is None:
            self._adapter = self._restore(with_optimizer=self._optimizer == "kept")
        return self._adapter

    # ── Between trainings ─────────────────────────────────────────────────────────────────────────────────────────────

    def score(self, nodes: Sequence[Encoded], compute: Compute) -> Scored:
        """Compute log π of each node's action tokens.

        Raises:
            ConfigError: at another temperature than 1.
        """
        if compute.temperature != 1:
            raise ConfigError(NO_TEMPERATURE)
        return self.logprobs(nodes), None

    def attach_value_head(self, *, lr: float, expected: float) -> None:
        """Refuse: there is none on a server."""
        raise ConfigError(NO_CRITIC)

    def check_savable(self) -> None:
        """Find nothing against it: adapters can be saved."""

    def is_rounded(self, autocast: Literal["auto", "off"]) -> bool:
        """Say yes: what the server computes in is its own affair."""
        return True

    def publish(self, folder: Path, *, moments: Path | None = None) -> None:
        """Let the server save weights and optimizer, and write down where; fetch the adapter where that is possible."""
        path = self.adapter.save_state(_name("agent"))
        saved = self._record(path, with_optimizer=moments is not None)
        with fresh_folder(folder) as fresh:
            fresh.mkdir()
            write_published(fresh, saved)
            if self._remote.download:
                archive = self._remote.service.archive(self.save_for_sampling())
                if archive is not None:
                    unpack_adapter(archive, fresh, self._remote.model)
                    self._remote.tokenizer.save_pretrained(fresh)
        self._saved, self._optimizer = saved, "kept" if saved.with_optimizer else "over"
        self._forget_unfinished()

    def save_for_sampling(self) -> str:
        """Let the server save the weights for a sampler, and return where."""
        return self.adapter.save_for_sampling(_name("adapter"))

    def unload(self) -> None:
        """Let the live weights go."""
        if self._adapter is not None:
            self._adapter.unload()
            self._adapter = None

    # ── A training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def training(self, compute: Compute, sample: Encoded, *, is_continued: bool = False) -> Iterator[None]:
        """Make ready for the calls below, with an optimizer of its own, until the context ends."""
        check_compute(compute)
        if self._optimizer == "over" or (self._optimizer == "kept" and not is_continued):
            self._renew()
        self._pulls = []
        self._is_mean = self.adapter.reduction(sample.ids).result()
        self._num_besides = 1
        self._optimizer = "over"
        try:
            yield
        finally:
            self._pulls = []

    def logprobs(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """Compute log π of each node's action tokens with the weights as they are, without gradients."""
        return [_at_actions(torch.tensor(row_T), node) for row_T, node in zip(self._forward(nodes), nodes, strict=True)]

    def forward_backward(
        self,
        groups: Sequence[Group],
        objective: Objective,
        reference: Sequence[Sequence[Tensor]] | None,
        denominator: float,
    ) -> tuple[float, Metrics]:
        """Compute the loss and its gradient with regard to log-probabilities; `step` sends it.

        On a server that takes means it must be known how many sequences a step has.
        """
        nodes = [node for group in groups for node in group.nodes]
        rows = [torch.tensor(row_T, requires_grad=True) for row_T in self._forward(nodes)]
        known = None if reference is None else [one for group in reference for one in group]
        actions = [_at_actions(row_T, node) for row_T, node in zip(rows, nodes, strict=True)]
        loss, metrics = objective(groups, actions, known)
        value = loss.item() / denominator
        if not math.isfinite(value):
            self._pulls = []
            raise NotFiniteError("loss", value, groups)
        (loss / denominator).backward()
        self._pulls += [_pull(row_T, node) for row_T, node in zip(rows, nodes, strict=True)]
        return value, metrics

    def step(self, lr: float, clip_norm: float | None) -> float:
        """Send the gradients and take an optimizer step.

        Returns: the gradient's norm before clipping; 0 where the server does not tell it.

        Raises:
            TrainingError: the server's gradient was nothing, and that of the loss is not.
        """
        pulls, self._pulls = self._pulls, []
        num, self._num_besides = len(pulls) + self._num_besides, 0
        adapter, is_mean = self.adapter, self._is_mean
        parts = [[pulls[index] for index in part] for part in _parts([len(one.ids) for one in pulls])]
        asked = self._together([lambda part=part: adapter.backward(part, is_mean=is_mean, num=num) for part in parts])
        for one in asked:  # SkyRL may take a step before the passes that were asked for shortly before it
            one.result()
        norm = adapter.step(lr, clip_norm).result()
        if norm == 0 and any(any(pull.strengths) for pull in pulls):
            raise TrainingError(
                f"{self._remote.service.where} took an optimizer step without the gradients that it was sent. Start "
                "the same command again; it goes on from the last saved state."
            )
        if norm is not None and not math.isfinite(norm):
            raise NotFiniteError("gradient norm", norm, ())
        return norm or 0.0

    def save_state(self, folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
        """Let the server save all that resuming needs, and write down where, in the place of what was saved before."""
        path = self.adapter.save_state(_name(f"step-{step}"))
        write_unfinished(folder, path, step, numbers)
        self._forget_unfinished()
        self._unfinished = path

    def load_state(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """Go on from the state that was saved last: return its step and numbers; none where there is none."""
        if (known := read_unfinished(folder)) is None:
            return None
        path, step, numbers = known
        self._found(path, lambda: self.adapter.load_state(path, with_optimizer=True), folder)
        self._unfinished = path
        return step, numbers

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(self, nodes: Sequence[Encoded]) -> list[list[float]]:
        """Ask for log π of every token but the first, of each node; as many requests are under way as may be."""
        parts = _parts([len(node.ids) for node in nodes])
        adapter = self.adapter
        asked = self._together([lambda part=part: adapter.forward([nodes[i].ids for i in part]) for part in parts])
        found: dict[int, list[float]] = {}
        for part, one in zip(parts, asked, strict=True):
            found |= dict(zip(part, one.result(), strict=True))
        return [found[index] for index in range(len(nodes))]

    def _together(self, requests: Sequence[Callable[[], Future[Any]]]) -> list[Future[Any]]:
        """Send requests in order, no more at once than may be."""
        asked: list[Future[Any]] = []
        for number, request in enumerate(requests):
            if number >= self._remote.num_concurrent:
                asked[number - self._remote.num_concurrent].result()
            asked.append(request())
        return asked

    def _restore(self, *, with_optimizer: bool) -> Adapter:
        remote, saved = self._remote, self._saved
        if saved is None:
            return remote.service.create(remote.base, remote.rank, self._seed)

        def restore() -> Adapter:
            return remote.service.restore(saved.path, remote.base, remote.rank, with_optimizer=with_optimizer)

        return self._found(saved.path, restore, None)

    def _renew(self) -> None:
        """Go on with an optimizer that has seen nothing: the API can't clear one in its place."""
        before, self._adapter = self._adapter, self._restore(with_optimizer=False)
        self._optimizer = "new"
        if before is not None:
            before.unload()

    def _found(self, path: str, load: Callable[[], Any], folder: Path | None) -> Any:
        """Load a state; say what is to be done where the server does not have it any more."""
        try:
            return load()
        except ConfigError as error:
            if "not found" not in str(error).lower() and "404" not in str(error):
                raise
            remedy = f"Delete {folder}" if folder else "Delete the phases that follow the last one whose state it has"
            raise DataError(
                f"{self._remote.service.where} does not have the saved state {path} any more ({error}). {remedy}, to "
                "train anew from there."
            ) from None

    def _record(self, path: str, *, with_optimizer: bool) -> Saved:
        remote = self._remote
        where = remote.service.where
        return Saved(path=path, server=where, base=remote.base, rank=remote.rank, with_optimizer=with_optimizer)

    def _forget_unfinished(self) -> None:
        if self._unfinished:
            self._remote.service.forget(self._unfinished)
            self._unfinished = ""


def check_compute(compute: Compute) -> None:
    """Refuse settings of a training that servers do not have.

    Raises:
        ConfigError: the message names the key.
    """
    if compute.temperature != 1:
        raise ConfigError(NO_TEMPERATURE)
    if compute.weight_decay:
        raise ConfigError(
            "weight_decay: not with engine.kind tinker. SkyRL's servers decay the other agent's adapter with it."
        )
    if compute.router_balance:
        raise ConfigError("router_balance: a Tinker server has no such loss. Set it to 0.")


def _name(what: str) -> str:
    return f"sparring-{what}-{secrets.token_hex(6)}"


def _parts(lengths: Sequence[int]) -> list[list[int]]:
    """Return which sequences go into one request: those of similar length, since servers pad them to the longest."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + MAX_SEQUENCES] for start in range(0, len(order), MAX_SEQUENCES)]


def _at_actions(row_T: Tensor, node: Encoded) -> Tensor:
    """Choose the action tokens from what a row says of every token but the first."""
    return torch.cat([row_T[start - 1 : end - 1] for start, end in node.spans])


def _pull(row_T: Tensor, node: Encoded) -> Pull:
    counts = [False] * (len(node.ids) - 1)
    for start, end in node.spans:
        counts[start - 1 : end - 1] = [True] * (end - start)
    strengths_T = torch.zeros_like(row_T) if row_T.grad is None else -row_T.grad
    return Pull(ids=node.ids, logprobs=row_T.tolist(), strengths=strengths_T.tolist(), counts=counts)
