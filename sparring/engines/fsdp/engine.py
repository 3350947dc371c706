"""The first rank's engine and its learners: each call on them is done by all ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sparring.core.convert import to_dict
from sparring.core.errors import ConfigError
from sparring.core.journal import disk_errors, sync
from sparring.data.batches import num_action_tokens
from sparring.engines import checkpoint
from sparring.engines.base import Compute, Metrics, NotFiniteError, Objective, Scored, add_metrics
from sparring.engines.fsdp.codec import Kinds, Message, groups_message, nodes_message, to_plain
from sparring.engines.fsdp.host import Host
from sparring.engines.fsdp.learner import checkpoint_tensors
from sparring.engines.holder import MAX_LEARNERS, Held, Holder, MakeChat
from sparring.engines.local import make_engine
from sparring.engines.starts import base_of
from sparring.models.folders import INDEX, WEIGHTS
from sparring.models.loading import ModelConfig, resolve_device
from sparring.models.lora import LoraConfig
from sparring.models.saving import DTYPES, came_in_half, fresh_folder, write_folder
from sparring.models.threads import is_small

if TYPE_CHECKING:
    from sparring.data.batches import Group
    from sparring.data.chat import Chat, Encoded
    from sparring.engines.fsdp import group as ranks
    from sparring.engines.fsdp.learner import ShardedLearner
    from sparring.policies.base import Policy
    from sparring.policies.factory import Sampling

LARGEST_FILE = 5 * 10**9
"""Bytes of a checkpoint's weight file; a larger model has several, and an index."""


class Leader:
    """Sends calls to all ranks, this one among them."""

    def __init__(self, group: ranks.Group, kinds: Kinds) -> None:
        """Args:
        group: all ranks.
        kinds: objectives, and what they consist of.
        """
        self.group, self.kinds = group, kinds
        self.host = Host(group, kinds)
        self._num_things = 0

    def number(self) -> int:
        """Return a number for a new learner or base."""
        self._num_things += 1
        return self._num_things

    def call(self, name: str, message: Message | None = None, **values: Any) -> list[Message]:
        """Let all ranks do something, and return their answers."""
        message = message or Message()
        message.values |= values
        return self.group.call(self.host, name, message)


class FsdpLearner:
    """See `engines.base.Learner`. The weights are spread over all ranks."""

    def __init__(self, leader: Leader, number: int) -> None:
        """Args:
        leader: of all ranks.
        number: the learner's, under which each rank has its part.
        """
        self._leader, self.number = leader, number

    @property
    def own(self) -> ShardedLearner:
        """This rank's part."""
        return self._leader.host.learner(self.number)

    @property
    def num_embeddings(self) -> int:
        """Rows of the language-model head: tokens that the model can give a probability."""
        return self.own.num_embeddings

    def _call(self, name: str, message: Message | None = None, **values: Any) -> list[Message]:
        return self._leader.call(name, message, learner=self.number, **values)

    # ── Between trainings ─────────────────────────────────────────────────────────────────────────────────────────────

    def score(self, nodes: Sequence[Encoded], compute: Compute) -> Scored:
        """See `engines.base.Learner`."""
        answers = self._call("score", nodes_message(nodes), compute=asdict(compute)) if nodes else []
        values = _joined(answers, nodes, "values") if any(one.values["has_values"] for one in answers) else None
        return _joined(answers, nodes, "logprobs"), values

    def activate(self) -> None:
        """Let the learner's own adapter take part in the model's forward."""
        self._call("activate")

    def go_on_from(self, moments: Path) -> None:
        """See `LocalLearner.go_on_from`."""
        self._call("go_on_from", moments=str(moments.absolute()))

    def attach_value_head(self, *, lr: float, expected: float) -> None:
        """See `engines.base.Learner`."""
        self._call("attach_value_head", lr=lr, expected=expected)

    def check_savable(self) -> None:
        """See `engines.base.Learner`."""
        self.own.check_savable()

    def is_rounded(self, autocast: Literal["auto", "off"]) -> bool:
        """See `engines.base.Learner`."""
        return self.own.is_rounded(autocast)

    def publish(self, folder: Path, *, moments: Path | None = None) -> None:
        """See `engines.base.Learner`. Weights are gathered one tensor at a time."""
        own = self.own
        if own.adapter:
            own.publish(folder, moments=moments)
        else:
            if moments is not None:
                kind = "moments and weights" if came_in_half(own.model) else "moments"
                self._write_file(moments, kind)
            self._call("detach_value_head")
            self._write_folder(folder)
            own.save_value_head(folder)
        self._call("publish_rest", folder=str(folder), keeps_moments=moments is not None)

    def _write_folder(self, folder: Path) -> None:
        own = self.own
        with fresh_folder(folder) as fresh:
            write_folder(own.model, own.tokenizer, fresh, with_weights=False)
            for leftover in fresh.glob("*.safetensors*"):
                leftover.unlink()
            _name_dtype(fresh / "config.json", getattr(own.model, "stored_dtype", ""))
            files, num_bytes = _cut_into_files(own.model)
            self._call("write_checkpoint", folder=str(fresh.absolute()), files=files)
            if len(files) > 1:
                names = {name: file for file, names in files for name in names}
                index = {"metadata": {"total_size": num_bytes}, "weight_map": names}
                (fresh / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write_file(self, path: Path, kind: str) -> None:
        """Write a part of the state; whole under `path` or not there."""
        temporary = path.with_name(f"{path.name}.tmp")
        with disk_errors(path):
            self._call("write_state", path=str(temporary.absolute()), kind=kind)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)

    # ── A training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def training(self, compute: Compute, sample: Encoded, *, is_continued: bool = False) -> Iterator[None]:
        """See `engines.base.Learner`."""
        if compute.router_balance:
            raise ConfigError("router_balance: experts' routing is not balanced over ranks. Set it to 0.")
        self._call("begin", nodes_message([sample]), compute=asdict(compute), is_continued=is_continued)
        try:
            yield
        finally:
            self._call("finish")

    def logprobs(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """See `engines.base.Learner`."""
        return _joined(self._call("logprobs", nodes_message(nodes)), nodes, "logprobs") if nodes else []

    def forward_backward(
        self,
        groups: Sequence[Group],
        objective: Objective,
        reference: Sequence[Sequence[Tensor]] | None,
        denominator: float,
    ) -> tuple[float, Metrics]:
        """See `engines.base.Learner`. Groups are dealt out to ranks; what they find adds up."""
        message = groups_message(groups)
        message.values |= {"denominator": denominator, "objective": to_plain(objective, self._leader.kinds)}
        if reference is not None:
            nodes = [node for group in reference for node in group]
            message.tensors["reference"] = torch.cat(nodes)
            message.values["reference_counts"] = [len(node) for node in nodes]
        loss, metrics = 0.0, Metrics()
        for answer in (answers := self._call("step_share", message)):
            loss += answer.values["loss"]
            add_metrics(metrics, {name: (value, num) for name, (value, num) in answer.values["metrics"].items()})
        bad = [found for answer in answers if (found := answer.values["not_finite"])]
        if bad:
            self._call("clear")
            value, indices = bad[0]
            raise NotFiniteError("loss", value, [groups[index] for index in indices])
        return loss, metrics

    def step(self, lr: float, clip_norm: float | None) -> float:
        """See `engines.base.Learner`."""
        norm = self._call("step", lr=lr, clip_norm=clip_norm)[0].values["norm"]
        if not torch.isfinite(torch.tensor(norm)):
            raise NotFiniteError("gradient norm", norm, ())
        return norm

    def save_state(self, folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
        """See `engines.base.Learner`. Any number of ranks can go on from it, and the local engine too."""
        with checkpoint.new_state(folder, step, numbers) as (weights_file, moments_file):
            self._write_file(weights_file, "weights")
            self._write_file(moments_file, "moments")

    def load_state(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """See `engines.base.Learner`."""
        saved = checkpoint.newest_state(folder)
        if saved is None:
            return None
        self._call("read_state", path=str(saved.path.absolute()), step=saved.step)
        return saved.step, saved.numbers


class FsdpEngine(Holder):
    """See `engines.base.Engine`. Weights are trained by all ranks, and played by a copy on the first, or by servers."""

    def __init__(
        self,
        leader: Leader,
        model: ModelConfig,
        config: LoraConfig,
        make_chat: MakeChat,
        *,
        max_context: int,
        computes_in_half: bool,
    ) -> None:
        """Args:
        leader: of all ranks.
        model: what every agent begins at.
        config: with a rank where agents are adapters on one base.
        make_chat: lays out what agents read first.
        max_context: tokens that an episode may have.
        computes_in_half: all weights are trained, and their products may be computed in bfloat16.
        """
        super().__init__()
        self._leader, self._config, self._lora, self._make_chat = leader, model, config, make_chat
        self._base, self._max_context, self._computes_in_half = base_of(model), max_context, computes_in_half
        self._device = resolve_device(model.device).type
        self._base_number: int | None = None
        self._chat: Chat | None = None
        self._player = make_engine(model, config, make_chat)

    def learner(self, checkpoint: str, *, seed: int = 0, moments: Path | None = None) -> tuple[FsdpLearner, Chat]:
        """See `engines.base.Engine`."""
        is_new = self._lora.rank is not None and checkpoint == self._base.path
        held = None if is_new else self._find(checkpoint)
        if held is None:
            self._make_room()
            held = self._load(checkpoint) if self._lora.rank is None else self._adapt(checkpoint, seed, is_new=is_new)
        learner, chat = self._hold(held, moments)
        return learner, chat

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> Policy:
        """Return a policy that plays with the weights that a checkpoint's folder has, as one copy on the first rank."""
        if self._lora.rank is None:
            self._player.keep(checkpoint)
        return self._player.policy(checkpoint, sampling, moments=moments)

    def trained(self, learner: Any, checkpoint: str) -> None:
        """See `engines.base.Engine`."""
        super().trained(learner, checkpoint)
        self._player.forget(checkpoint)

    def forget(self, checkpoint: str) -> None:
        """See `engines.base.Engine`."""
        super().forget(checkpoint)
        self._player.forget(checkpoint)

    def _room(self) -> int:
        """Return how many learners may stay alive: of large models, as many as the method needs by turns."""
        is_full = self._lora.rank is None and bool(self._held)
        is_large = is_full and not is_small(self._held[0].learner.own.model)
        return min(self._num_large, MAX_LEARNERS) if is_large else MAX_LEARNERS

    def _load(self, checkpoint: str) -> Held:
        number = self._open(replace(self._config, path=checkpoint), is_base=False)
        own = self._leader.host.learner(number)
        return Held(FsdpLearner(self._leader, number), checkpoint, self._make_chat(own.model, own.tokenizer))

    def _adapt(self, checkpoint: str, seed: int, *, is_new: bool) -> Held:
        if self._base_number is None:
            self._base_number = self._open(self._base, is_base=True)
            self._chat = self._make_chat(*self._leader.host.model(self._base_number))
        assert self._chat is not None
        number = self._leader.number()
        self._leader.call(
            "adapt",
            number=number,
            base=self._base_number,
            base_path=self._base.path,
            path=checkpoint,
            is_new=is_new,
            lora=to_dict(self._lora),
            seed=seed,
        )
        return Held(FsdpLearner(self._leader, number), checkpoint, self._chat)

    def _open(self, model: ModelConfig, *, is_base: bool) -> int:
        number = self._leader.number()
        self._leader.call(
            "open",
            number=number,
            model=to_dict(model),
            device=self._device,
            is_base=is_base,
            max_context=self._max_context,
            computes_in_half=self._computes_in_half,
        )
        return number

    def _let_go(self, held: Held) -> None:
        super()._let_go(held)
        self._leader.call("drop", number=held.learner.number)


def _joined(answers: Sequence[Message], nodes: Sequence[Encoded], name: str) -> list[Tensor]:
    """Put the ranks' shares of scores back into the order of the nodes."""
    found: dict[int, Tensor] = {}
    for answer in answers:
        indices = answer.values["indices"]
        if indices:
            parts = answer.tensors[name].cpu().split([num_action_tokens(nodes[index]) for index in indices])
            found.update(zip(indices, parts, strict=True))
    return [found[index] for index in range(len(nodes))]


def _cut_into_files(model: Any) -> tuple[list[tuple[str, list[str]]], int]:
    """Return a checkpoint's files with the names of their tensors, and the bytes of all."""
    files: list[list[str]] = [[]]
    room, total = LARGEST_FILE, 0
    for name, tensor in checkpoint_tensors(model):
        size = tensor.numel() * tensor.dtype.itemsize
        if size > room and files[-1]:
            files.append([])
            room = LARGEST_FILE
        files[-1].append(name)
        room, total = room - size, total + size
    if len(files) == 1:
        return [(WEIGHTS, files[0])], total
    return [(f"model-{i:05}-of-{len(files):05}.safetensors", names) for i, names in enumerate(files, 1)], total


def _name_dtype(path: Path, stored: str) -> None:
    """Say in a config which dtype the weights have."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if stored in DTYPES and "dtype" in config:
        config["dtype"] = DTYPES[stored]
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
