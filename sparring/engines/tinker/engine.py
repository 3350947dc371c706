"""Gives out agents that are adapters on a server which speaks the Tinker API: trained there, and played from there.

Learners stay alive between phases, as in this process. After each publish a probe compares what the server's sampler
says of a fixed text with what the learner says of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError, TrainingError
from sparring.engines.holder import MAX_LEARNERS, Held, Holder, MakeChat
from sparring.engines.probe import difference, probe_of, say
from sparring.engines.tinker.learner import Remote, TinkerLearner
from sparring.engines.tinker.states import read_published
from sparring.models.loading import check_context, load_tokenizer
from sparring.policies.tinker.client import Service
from sparring.policies.tinker.policy import TinkerPolicy
from sparring.policies.vllm.client import Draw

if TYPE_CHECKING:
    from sparring.data.chat import Chat
    from sparring.engines.base import Learner
    from sparring.models.loading import ModelConfig
    from sparring.models.lora import LoraConfig
    from sparring.policies.factory import Sampling
    from sparring.policies.tinker.client import Sampler
    from sparring.policies.tinker.config import TinkerConfig


@dataclass(slots=True)
class _Held(Held):
    sampler: Sampler | None = None
    """Draws with its weights, once a policy was asked for."""


class TinkerEngine(Holder):
    """See `engines.base.Engine`."""

    def __init__(self, model: ModelConfig, lora: LoraConfig, config: TinkerConfig, make_chat: MakeChat) -> None:
        """Find the key and the package; nothing is sent yet.

        Args:
            model: its folder gives the tokenizer and the config; the weights are the server's.
            lora: with a rank.
            config: where the server is.
            make_chat: lays out what agents read first.
        """
        assert lora.rank is not None
        super().__init__()
        self._model, self._rank, self._config, self._make_chat = model, lora.rank, config, make_chat
        self._service = Service(config)
        self._remote: Remote | None = None
        self._said: deque[list[float]] = deque(maxlen=2 * MAX_LEARNERS)
        """What the base and earlier weights said of the probe."""

    def learner(self, checkpoint: str, *, seed: int = 0, moments: Path | None = None) -> tuple[TinkerLearner, Chat]:
        """See `engines.base.Engine`. What begins at the base gets an adapter of its own, drawn from the seed."""
        held = self._held_by(checkpoint, seed)
        return held.learner, self._chat

    def trained(self, learner: Learner, checkpoint: str) -> None:
        """See `engines.base.Engine`."""
        super().trained(learner, checkpoint)
        for held in self._held:
            if isinstance(held, _Held) and held.learner is learner:
                held.sampler = None

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> TinkerPolicy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them.

        Raises:
            TrainingError: the server's sampler has other weights than the learner.
        """
        remote = self._connect()
        if checkpoint == self._model.path:
            sampler = remote.service.sampler(base=remote.base)
        else:
            held = self._held_by(checkpoint, 0)
            if held.sampler is None:
                held.sampler = self._publish(remote, held.learner)
            sampler = held.sampler
        draw = Draw(
            temperature=sampling.temperature, max_tokens=sampling.max_new_tokens, end_ids=sorted(self._chat.end_ids)
        )
        return TinkerPolicy(sampler, self._chat, draw, keep_logprobs=sampling.keep_logprobs)

    def close(self) -> None:
        """Give the adapters' places on the server back."""
        for held in list(self._held):
            self._let_go(held)

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> Remote:
        """Find the base model on the server, the first time."""
        if self._remote is None:
            described, tokenizer = load_tokenizer(self._model)
            self._chat = self._make_chat(described, tokenizer)
            check_context(described.config, self._chat.config.max_context)
            self._remote = Remote(
                service=self._service,
                base=find_base(self._service, self._model.path, self._config.base_model),
                model=self._model.path,
                rank=self._rank,
                num_concurrent=self._config.num_concurrent,
                download=self._config.download,
                tokenizer=tokenizer,
            )
        return self._remote

    def _held_by(self, checkpoint: str, seed: int) -> _Held:
        """Return the learner that holds a checkpoint's weights; what begins at the base is a new one each time."""
        remote, is_new = self._connect(), checkpoint == self._model.path
        held = None if is_new else self._find(checkpoint)
        if held is None:
            start = None if is_new else read_published(Path(checkpoint))
            held = _Held(TinkerLearner(remote, seed=seed, start=start), checkpoint, self._chat)
        assert isinstance(held, _Held)
        self._use(held)
        return held

    def _let_go(self, held: Held) -> None:
        super()._let_go(held)
        held.learner.unload()

    def _publish(self, remote: Remote, learner: TinkerLearner) -> Sampler:
        """Give the sampler a learner's weights, and see that it has them.

        Raises:
            TrainingError: it plays others; the message has both figures.
        """
        service, node = remote.service, probe_of(self._chat)
        if not self._said:  # an adapter that the sampler does not apply looks like the base
            self._said.append(service.sampler(base=remote.base).logprobs(node.ids))
        sampler, own = service.sampler(path=learner.save_for_sampling()), say(learner, node)
        found = difference(sampler.logprobs(node.ids), own, self._said, self._config.tolerance, key="tinker.tolerance")
        if found:
            raise TrainingError(f"{service.where} samples with other weights than were trained: {found}")
        self._said.append(own)
        return sampler


def find_base(service: Service, path: str, name: str | None) -> str:
    """Return what a server calls the run's base model.

    Raises:
        ConfigError: it does not have it.
    """
    names = service.base_models()
    if name is not None and name in names:
        return name
    same = [one for one in names if one == path or _place(one) == _place(path)]
    if name is None and same:
        return same[0]
    asked = f"tinker.base_model is {name}" if name else f"model.path is {path}"
    raise ConfigError(
        f"{service.where} has {', '.join(names) or 'no model'}, and {asked}. Ids of another tokenizer would be other "
        "words: serve the run's own model, or name it as the server does (tinker.base_model)."
    )


def _place(name: str) -> Any:
    """Return what tells whether two names are one model: a bundled model's or a folder's place, else the name."""
    from sparring.models.loading import BUNDLED

    folder = BUNDLED.get(name) or Path(name).expanduser()
    return folder.resolve() if folder.is_dir() else name
