"""The engine that holds weights in this process, on one device.

Learners stay alive between phases: an agent that has just been trained plays with the weights that were trained, and is
trained on where it stands. A checkpoint is read only where no learner holds it: at the start, after a resumption, and
where an agent goes back to weights that have been trained away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparring.data.chat import Chat
from sparring.engines.learner import LocalLearner
from sparring.models.loading import ModelConfig, check_context, is_bfloat16, load_model, resolve_device
from sparring.models.rope import fix_rope

if TYPE_CHECKING:
    from sparring.policies.base import Policy
    from sparring.policies.factory import Sampling

MAX_LEARNERS = 3
"""Learners that stay alive: both agents', and one that they are compared with."""


@dataclass(slots=True)
class _Held:
    learner: LocalLearner
    checkpoint: str
    """Whose weights it holds."""
    chat: Chat


class LocalEngine:
    """Learners and policies over models in this process."""

    def __init__(self, model: ModelConfig, make_chat: Callable[[Any, Any], Chat]) -> None:
        """Args:
        model: how models are loaded; each learner has a path of its own.
        make_chat: from a model and its tokenizer.
        """
        self._config, self._make_chat = model, make_chat
        self._device = resolve_device(model.device)
        self._plays_in_half = is_bfloat16(model, self._device)
        self._held: list[_Held] = []
        """The one that was used last stands last."""
        self.num_loads = 0
        """Checkpoints that were read."""

    def learner(self, checkpoint: str, *, moments: Path | None = None) -> tuple[LocalLearner, Chat]:
        """Return the learner that holds a checkpoint's weights, in float32, and the chat of its tokenizer.

        Args:
            checkpoint: a folder, a Hub id or a bundled model's name.
            moments: where the optimizer's state lies that a continued training goes on from, if anywhere.
        """
        held = self._find(checkpoint)
        if held is None:
            held = self._load(checkpoint, moments)
        else:
            self._held.remove(held)
        self._held.append(held)
        self._rest_others(held)
        return held.learner, held.chat

    def trained(self, learner: LocalLearner, checkpoint: str) -> None:
        """Take note that a learner holds another checkpoint's weights now."""
        self.forget(checkpoint)
        for held in self._held:
            if held.learner is learner:
                held.checkpoint = checkpoint

    def forget(self, checkpoint: str) -> None:
        """Let the learner go that holds a checkpoint's weights, or did so until a training that failed."""
        self._held = [held for held in self._held if held.checkpoint != checkpoint]

    def policy(self, checkpoint: str, sampling: Sampling) -> Policy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them.

        Where agents play in float32 it plays with the learner's own weights. Elsewhere it has a copy in bfloat16.
        """
        from sparring.policies.factory import local_policy

        held = self._find(checkpoint)
        if self._plays_in_half and held is None:
            model, tokenizer = self._read(replace(self._config, path=checkpoint))
            return local_policy(model, self._make_chat(model, tokenizer), sampling)
        learner, chat = self.learner(checkpoint)
        model = learner.model
        if self._plays_in_half:
            model = copy.deepcopy(model).to(torch.bfloat16).eval()
        return local_policy(model, chat, sampling)

    def _find(self, checkpoint: str) -> _Held | None:
        return next((one for one in self._held if one.checkpoint == checkpoint), None)

    def _load(self, checkpoint: str, moments: Path | None) -> _Held:
        while len(self._held) >= MAX_LEARNERS:
            self._held.pop(0)
        model, tokenizer = self._read(replace(self._config, path=checkpoint, dtype="float32"))
        chat = self._make_chat(model, tokenizer)
        check_context(model.config, chat.config.max_context)
        fix_rope(model, chat.config.max_context)
        learner = LocalLearner(model, tokenizer, path=checkpoint, moments=moments, plays_in_half=self._plays_in_half)
        return _Held(learner, checkpoint, chat)

    def _read(self, config: ModelConfig) -> tuple[Any, Any]:
        self.num_loads += 1
        return load_model(config)

    def _rest_others(self, held: _Held) -> None:
        """Keep only the learner in use on a GPU."""
        if self._device.type != "cpu":
            for other in self._held:
                other.learner.move(self._device if other is held else torch.device("cpu"))
