"""What a rank can be asked to do: its learners, and the calls on them. All ranks have the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparring.core.convert import from_dict
from sparring.engines.base import Compute
from sparring.engines.fsdp.codec import Kinds, Message, from_plain, groups_of, nodes_of
from sparring.engines.fsdp.learner import ShardedLearner
from sparring.engines.fsdp.sharding import Layout, folder_of, load_sharded
from sparring.models import lora
from sparring.models.loading import ModelConfig, check_context, is_bfloat16
from sparring.models.lora import LoraConfig
from sparring.models.rope import fix_rope

if TYPE_CHECKING:
    from sparring.engines.fsdp.group import Group


class Host:
    """Does calls on this rank."""

    def __init__(self, group: Group, kinds: Kinds) -> None:
        """Args:
        group: all ranks.
        kinds: objectives, and what they consist of.
        """
        self._group, self._kinds = group, kinds
        self._learners: dict[int, ShardedLearner] = {}
        self._bases: dict[int, tuple[Any, Any]] = {}
        self._trainings: dict[int, ExitStack] = {}

    def __call__(self, name: str, message: Message) -> Message:
        """Do a call."""
        call: Callable[[Message], Message | None] = getattr(self, f"do_{name}")
        return call(message) or Message()

    def learner(self, number: int) -> ShardedLearner:
        """Return a learner by its number."""
        return self._learners[number]

    def model(self, number: int) -> tuple[Any, Any]:
        """Return a base model and its tokenizer, by their number."""
        return self._bases[number]

    # ── Learners come and go ──────────────────────────────────────────────────────────────────────────────────────────

    def do_open(self, message: Message) -> None:
        """Load a model; it is a learner, or the base of adapters."""
        values = message.values
        config = from_dict(ModelConfig(), values["model"], source="the first rank")
        with self._group.watch.alone():
            folder_of(config)
        mesh, device = self._group.place(values["device"])
        plays_in_half, is_base = is_bfloat16(config, device), values["is_base"]
        layout = Layout(
            mesh=mesh,
            device=device,
            computes_in_half=values["computes_in_half"] and device.type == "cuda" and not is_base,
            tick=self._group.watch.tick,
        )
        dtype = torch.bfloat16 if is_base and plays_in_half else torch.float32
        model, tokenizer = load_sharded(config, layout, dtype=dtype, is_frozen=is_base)
        check_context(model.config, values["max_context"])
        with torch.no_grad():
            model.unshard()
            fix_rope(model, values["max_context"])
            model.reshard()
        if is_base:
            self._bases[values["number"]] = model, tokenizer
            model.layout = layout
        else:
            options = {"path": config.path, "plays_in_half": plays_in_half}
            self._learners[values["number"]] = ShardedLearner(model, tokenizer, layout, **options)

    def do_adapt(self, message: Message) -> None:
        """Put an adapter on a base: a new one, or a checkpoint's."""
        values = message.values
        model, tokenizer = self._bases[values["base"]]
        name = f"agent_{values['number']}"
        if values["is_new"]:
            config = from_dict(LoraConfig(), values["lora"], source="the first rank")
            lora.attach(model, name, config, values["seed"])
        else:
            lora.load(model, name, Path(values["path"]))
        for parameter in lora.parameters(model, name).values():
            parameter.data = parameter.data.to(model.layout.device)
        self._learners[values["number"]] = ShardedLearner(
            model,
            tokenizer,
            model.layout,
            path=values["path"],
            adapter=name,
            base=values["base_path"],
            plays_in_half=model.dtype != torch.float32,
        )

    def do_drop(self, message: Message) -> None:
        """Let a learner go; of adapters, another one stays active where there is one."""
        learner = self._learners.pop(message.values["number"])
        others = [one for one in self._learners.values() if one.model is learner.model]
        if not learner.adapter:
            return
        if others:
            others[-1].activate()
        lora.drop(learner.model, learner.adapter)

    # ── Calls on a learner ────────────────────────────────────────────────────────────────────────────────────────────

    def do_activate(self, message: Message) -> None:
        """See `LocalLearner.activate`."""
        self._of(message).activate()

    def do_go_on_from(self, message: Message) -> None:
        """See `LocalLearner.go_on_from`."""
        self._of(message).go_on_from(Path(message.values["moments"]))

    def do_attach_value_head(self, message: Message) -> None:
        """See `engines.base.Learner`."""
        self._of(message).attach_value_head(lr=message.values["lr"], expected=message.values["expected"])

    def do_score(self, message: Message) -> Message:
        """Score this rank's share of nodes."""
        compute = Compute(**message.values["compute"])
        return _scores(*self._of(message).score_share(nodes_of(message), compute))

    def do_logprobs(self, message: Message) -> Message:
        """Do so within a training."""
        return _scores(*self._of(message).logprobs_share(nodes_of(message)))

    def do_begin(self, message: Message) -> None:
        """Begin a training."""
        values, (sample,) = message.values, nodes_of(message)
        stack = ExitStack()
        training = self._of(message).training(Compute(**values["compute"]), sample, is_continued=values["is_continued"])
        stack.enter_context(training)
        self._trainings[values["learner"]] = stack

    def do_finish(self, message: Message) -> None:
        """End a training, if it has begun."""
        if stack := self._trainings.pop(message.values["learner"], None):
            stack.close()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for a server on the same GPUs

    def do_step_share(self, message: Message) -> Message:
        """Add this rank's share of gradients."""
        groups, values = groups_of(message), message.values
        reference = None
        if "reference" in message.tensors:
            parts = iter(message.tensors["reference"].split(values["reference_counts"]))
            reference = [[next(parts) for _ in group.nodes] for group in groups]
        objective = from_plain(values["objective"], self._kinds)
        share = self._of(message).step_share(groups, objective, reference, values["denominator"])
        return Message(asdict(share))

    def do_clear(self, message: Message) -> None:
        """Forget gradients."""
        self._of(message).clear()

    def do_step(self, message: Message) -> Message:
        """Take an optimizer step."""
        return Message({"norm": self._of(message).step(message.values["lr"], message.values["clip_norm"])})

    def do_write_state(self, message: Message) -> None:
        """Write weights or moments to a file."""
        self._of(message).write_state(Path(message.values["path"]), message.values["kind"])

    def do_read_state(self, message: Message) -> None:
        """Go on from a saved state."""
        self._of(message).read_state(Path(message.values["path"]), message.values["step"])

    def do_write_checkpoint(self, message: Message) -> None:
        """Write a model's weights."""
        self._of(message).write_checkpoint(Path(message.values["folder"]), message.values["files"])

    def do_publish_rest(self, message: Message) -> None:
        """Stand where a checkpoint was written."""
        values = message.values
        self._of(message).detach_value_head()
        self._of(message).publish_rest(Path(values["folder"]), keeps_moments=values["keeps_moments"])

    def do_detach_value_head(self, message: Message) -> None:
        """See `LocalLearner`."""
        self._of(message).detach_value_head()

    def _of(self, message: Message) -> ShardedLearner:
        return self._learners[message.values["learner"]]


def _scores(indices: list[int], logprobs: Sequence[Tensor], values: Sequence[Tensor]) -> Message:
    tensors = {"logprobs": torch.cat(list(logprobs)) if logprobs else torch.empty(0)}
    if values:
        tensors["values"] = torch.cat(list(values))
    return Message({"indices": indices, "has_values": bool(values)}, tensors)
