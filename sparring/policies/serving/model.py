"""The model that is served: one thread acts for all requests that wait, in batches."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sparring.core.errors import SparringError
from sparring.data.chat import Chat
from sparring.policies.base import LOGPROB_DIGITS, Episode, Reply
from sparring.policies.local.policy import LocalPolicy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

MAX_POLICIES = 4
"""Most pairs of a temperature and a length for which caches are kept."""


class ServedChat(Chat):
    """Lays out whatever messages come: the first turn's observation is a conversation's opening, as JSON."""

    def prefix(self) -> list[int]:
        """Return none: conversations need not begin alike."""
        return []

    def _encode_first(self, observation: str) -> tuple[int, ...]:
        cleaned = [
            {
                "role": role,
                "content": self._controls.break_in_agent(text)
                if role == "assistant"
                else self._controls.break_in_world(text),
            }
            for role, text in json.loads(observation)
        ]
        return tuple(self._tokenize(self._template.render(cleaned)))


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its answer."""

    episode: Episode
    temperature: float
    max_tokens: int
    wants_logprobs: bool
    answer: Future[Reply]


@dataclass(slots=True)
class _Acting:
    """A policy, and the episodes whose rows it holds, the one that acted longest ago first."""

    policy: LocalPolicy
    open: OrderedDict[str, None] = field(default_factory=OrderedDict)


class ServedModel:
    """Answers requests with a model in this process. Those of one temperature and length share batches."""

    def __init__(self, model: PreTrainedModel, chat: Chat, *, num_slots: int) -> None:
        """Start the thread that acts. `num_slots`: most requests in a batch, and conversations in a cache."""
        self.chat = chat
        self._model, self._num_slots = model, num_slots
        self._policies: OrderedDict[tuple[float, int], _Acting] = OrderedDict()
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        self._thread.start()
        self.most_at_once = 0
        """Most requests that shared a batch."""

    def submit(
        self, episode: Episode, *, temperature: float, max_tokens: int, wants_logprobs: bool = False
    ) -> Future[Reply]:
        """Ask for the answer to an episode's observation; log-probabilities of greedy answers come where wanted."""
        answer = Future[Reply]()
        with self._changed:
            if self._is_closed:
                answer.set_exception(SparringError("The server is shutting down."))
            else:
                self._waiting.append(_Waiting(episode, temperature, max_tokens, wants_logprobs, answer))
                self._changed.notify()
        return answer

    def close(self) -> None:
        """Finish the batch under way, and refuse what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        for one in self._waiting:
            one.answer.set_exception(SparringError("The server is shutting down."))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting)
                if self._is_closed:
                    return
                first = self._waiting[0]
                key = (first.temperature, first.max_tokens)
                batch = [one for one in self._waiting if (one.temperature, one.max_tokens) == key][: self._num_slots]
            try:
                replies = self._act(key, batch)
            except Exception as error:  # the thread's boundary: whatever failed is these requests' answer
                log.exception("A batch failed.") if not isinstance(error, SparringError) else None
                self._policies.pop(key, None)
                replies = [error] * len(batch)
            with self._changed:
                over = {id(one) for one, reply in zip(batch, replies, strict=True) if reply is not None}
                self._waiting = [one for one in self._waiting if id(one) not in over]
            for one, reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    one.answer.set_exception(reply)
                elif reply is not None:
                    one.answer.set_result(reply)

    def _act(self, key: tuple[float, int], batch: Sequence[_Waiting]) -> Sequence[Reply | Exception | None]:
        self.most_at_once = max(self.most_at_once, len(batch))
        acting = self._acting(key)
        for one in batch:
            acting.open[one.episode.id] = None
            acting.open.move_to_end(one.episode.id)
        while len(acting.open) > self._num_slots:  # the batch stands at the end, and is no larger
            episode_id, _ = acting.open.popitem(last=False)
            acting.policy.close(episode_id)
        replies = list(acting.policy.act([one.episode for one in batch]))
        for number, (one, reply) in enumerate(zip(batch, replies, strict=True)):
            if reply is not None and reply.stop is not None:
                acting.open.pop(one.episode.id, None)
            elif reply is not None and one.wants_logprobs and not reply.logprobs:
                context = self.chat.history(one.episode.turns, one.episode.observation)
                replies[number] = replace(reply, logprobs=_logprobs(self._model, context, reply.token_ids))
        return replies

    def _acting(self, key: tuple[float, int]) -> _Acting:
        if key not in self._policies:
            temperature, max_tokens = key
            policy = LocalPolicy(
                self._model,
                self.chat,
                temperature=temperature,
                max_new_tokens=max_tokens,
                num_slots_per_lane=self._num_slots,
                keep_logprobs=True,
                returns_early=True,
            )
            self._policies[key] = _Acting(policy)
            while len(self._policies) > MAX_POLICIES:
                self._drop_oldest(key)
        self._policies.move_to_end(key)
        return self._policies[key]

    def _drop_oldest(self, kept: tuple[float, int]) -> None:
        """Drop a policy that nobody waits for, the one that acted longest ago."""
        with self._changed:
            wanted = {(one.temperature, one.max_tokens) for one in self._waiting} | {kept}
        found = next((key for key in self._policies if key not in wanted), next(iter(self._policies)))
        del self._policies[found]


def _logprobs(model: Any, context: Sequence[int], ids: Sequence[int]) -> tuple[float, ...]:
    """Return the log-probabilities of tokens that were not sampled, under the model at temperature 1."""
    import torch

    with torch.no_grad():
        all_1T = torch.tensor([[*context, *ids]], device=model.device)
        logits_NV = model(input_ids=all_1T).logits[0, len(context) - 1 : -1].float()
        logprobs_N = torch.log_softmax(logits_NV, dim=-1).gather(1, all_1T[0, len(context) :, None])[:, 0]
    return tuple(round(value, LOGPROB_DIGITS) for value in logprobs_N.tolist())
