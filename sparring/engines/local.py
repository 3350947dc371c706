"""Engines that hold weights in this process, on one device: each agent's own, or adapters on one base.

Learners stay alive between phases: an agent that has just been trained plays with the weights that were trained, and is
trained on where it stands. A checkpoint is read only where no learner holds it: at the start, after a resumption, and
where an agent goes back to weights that have been trained away.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparring.engines.holder import MAX_LEARNERS, Held, Holder, MakeChat
from sparring.engines.learner import LocalLearner
from sparring.engines.starts import base_of
from sparring.models import lora
from sparring.models.loading import (
    ModelConfig,
    check_context,
    is_bfloat16,
    load_model,
    resolve_device,
)
from sparring.models.lora import LoraConfig
from sparring.models.rope import fix_rope
from sparring.models.threads import is_small

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparring.data.chat import Chat
    from sparring.policies.base import Episode, Policy, Reply
    from sparring.policies.factory import Sampling


class FullEngine(Holder):
    """Each learner has a model of its own, all of whose weights are trained in float32."""

    def __init__(self, model: ModelConfig, make_chat: MakeChat) -> None:
        """Args:
        model: how models are loaded; each learner has a path of its own.
        make_chat: lays out what agents read first.
        """
        super().__init__()
        self._config, self._make_chat = model, make_chat
        self._device = resolve_device(model.device)
        self._plays_in_half = is_bfloat16(model, self._device)

    def learner(self, checkpoint: str, *, seed: int = 0, moments: Path | None = None) -> tuple[LocalLearner, Chat]:
        """See `engines.base.Engine`."""
        held = self._find(checkpoint)
        for other in self._held:  # those that are not at work rest in the computer's own memory
            other.learner.move(self._device if other is held else torch.device("cpu"))
        if held is None:
            self._make_room()
            held = self._load(checkpoint)
        return self._hold(held, moments)

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> Policy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them.

        Where agents play in float32 it plays with the learner's own weights. Elsewhere it has a copy in bfloat16.
        """
        from sparring.policies.factory import local_policy

        if self._plays_in_half and self._find(checkpoint) is None:
            model, tokenizer = load_model(replace(self._config, path=checkpoint))
            return local_policy(model, self._make_chat(model, tokenizer), sampling)
        learner, chat = self.learner(checkpoint, moments=moments)
        model = learner.model
        if self._plays_in_half:
            model = copy.deepcopy(model).to(torch.bfloat16).eval()
        return local_policy(model, chat, sampling)

    def _room(self) -> int:
        """Return how many learners may stay alive: of large models, as many as the method needs by turns."""
        is_large = bool(self._held) and not is_small(self._held[0].learner.model)
        return min(self._num_large, MAX_LEARNERS) if is_large else MAX_LEARNERS

    def _load(self, checkpoint: str) -> Held:
        model, tokenizer = load_model(replace(self._config, path=checkpoint, dtype="float32"))
        chat = self._make_chat(model, tokenizer)
        check_context(model.config, chat.config.max_context)
        fix_rope(model, chat.config.max_context)
        learner = LocalLearner(model, tokenizer, path=checkpoint, plays_in_half=self._plays_in_half)
        return Held(learner, checkpoint, chat)


class LoraEngine(Holder):
    """All learners are adapters on one base model, which is read once and never changes."""

    def __init__(self, model: ModelConfig, config: LoraConfig, make_chat: MakeChat) -> None:
        """Args:
        model: how the base is loaded. Its path may be an adapter's folder: every agent then begins at that adapter.
        config: with a rank.
        make_chat: lays out what agents read first.
        """
        super().__init__()
        self._lora, self._make_chat = config, make_chat
        self._device = resolve_device(model.device)
        self._base = base_of(model)
        self._model: Any = None
        self._num_adapters = 0

    def learner(self, checkpoint: str, *, seed: int = 0, moments: Path | None = None) -> tuple[LocalLearner, Chat]:
        """See `engines.base.Engine`. What begins at the base gets an adapter of its own, drawn from the seed."""
        held = self._find(checkpoint) if checkpoint != self._base.path else None
        return self._hold(held or self._make(checkpoint, seed), moments)

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> Policy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them."""
        from sparring.policies.factory import local_policy

        learner, chat = self.learner(checkpoint, moments=moments)
        return _WithAdapter(learner, local_policy(learner.model, chat, sampling))

    def _make(self, checkpoint: str, seed: int) -> Held:
        model = self._loaded()
        self._num_adapters += 1
        name = f"agent_{self._num_adapters}"
        if checkpoint == self._base.path:
            lora.attach(model, name, self._lora, seed)
        else:
            lora.load(model, name, Path(checkpoint))
        learner = LocalLearner(
            model,
            self._tokenizer,
            path=checkpoint,
            adapter=name,
            base=self._base.path,
            plays_in_half=model.dtype != torch.float32,
        )
        return Held(learner, checkpoint, self._chat)

    def _loaded(self) -> Any:
        """Return the base model, which is read once."""
        if self._model is None:
            self._model, self._tokenizer = load_model(self._base, **lora.quantization(self._lora, self._device))
            self._chat = self._make_chat(self._model, self._tokenizer)
            check_context(self._model.config, self._chat.config.max_context)
            fix_rope(self._model, self._chat.config.max_context)
        return self._model

    def _let_go(self, held: Held) -> None:
        super()._let_go(held)
        name, others = held.learner.adapter, [one.learner for one in self._held]
        if lora.active(self._model) == name and others:
            others[-1].activate()
        if others or len(lora.names(self._model)) == 1:
            lora.drop(self._model, name)


class _WithAdapter:
    """A policy whose own adapter is active whenever it acts."""

    def __init__(self, learner: LocalLearner, policy: Policy) -> None:
        self._learner, self._policy = learner, policy

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> Sequence[Reply | None]:
        """See `policies.base.Policy`."""
        self._learner.activate()
        return self._policy.act(episodes, lane=lane)

    def close(self, episode_id: str) -> None:
        """See `policies.base.Policy`."""
        self._policy.close(episode_id)


def make_engine(model: ModelConfig, config: LoraConfig, make_chat: MakeChat) -> FullEngine | LoraEngine:
    """Return the engine that trains what a config asks for."""
    return FullEngine(model, make_chat) if config.rank is None else LoraEngine(model, config, make_chat)
