"""Open episodes in, sampled actions out, from a server that speaks the Tinker API, token for token.

As with vLLM servers, an episode's own ids are sent, and the ids that were sampled come back with the log-probabilities
that they were sampled at (at temperature 1): nothing is tokenized again.
"""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError, Future, InvalidStateError

from sparring.core.errors import ConfigError, SparringError
from sparring.core.types import StopReason
from sparring.data.chat import Chat
from sparring.policies.base import LOGPROB_DIGITS, Episode, Reply
from sparring.policies.openai import request_seed
from sparring.policies.prompts import Prompts
from sparring.policies.tinker.client import Sampler
from sparring.policies.vllm.client import Draw, Sampled

log = logging.getLogger(__name__)


class TinkerPolicy:
    """Samples actions from an adapter, or from the base model, on a server."""

    def __init__(self, sampler: Sampler, chat: Chat, draw: Draw, *, keep_logprobs: bool = False) -> None:
        """Args:
        sampler: draws with the agent's weights.
        chat: how episodes become tokens.
        draw: how actions are drawn; its `end_ids` are the chat's.
        keep_logprobs: replies carry each sampled token's log-probability; greedy ones have none.
        """
        if draw.temperature < 0 or draw.max_tokens < 1:
            raise ConfigError("rollout: temperature must be at least 0, and max_new_tokens at least 1.")
        self._sampler, self._chat, self._draw = sampler, chat, draw
        self._keep_logprobs = keep_logprobs and draw.temperature > 0
        self._room = chat.config.max_context - draw.max_tokens
        self._prompts = Prompts(chat)

    def submit(self, episode: Episode) -> Future[Reply]:
        """Answer an episode's current observation; see `policies.base.FreePolicy`."""
        answer: Future[Reply] = Future()
        ids = self._prompts.of(episode)
        if len(ids) > self._room:
            answer.set_result(Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT))
        else:
            asked = self._sampler.sample(ids, self._draw, request_seed(episode))
            asked.add_done_callback(lambda done: self._take(answer, done))
        return answer

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        self._prompts.forget(episode_id)

    def _take(self, answer: Future[Reply], done: Future[Sampled]) -> None:
        """Give the answer on. What goes wrong would go wrong for every episode: the client has tried again already."""
        try:
            try:
                answer.set_result(self._reply(done.result()))
            except CancelledError:
                answer.cancel()
            except SparringError as error:
                answer.set_exception(error)
        except InvalidStateError:  # the rollout has ended meanwhile
            return

    def _reply(self, sampled: Sampled) -> Reply:
        text, action = self._chat.parse(sampled.ids)
        kept = tuple(round(value, LOGPROB_DIGITS) for value in sampled.logprobs) if self._keep_logprobs else ()
        return Reply(text=text, action=action, token_ids=sampled.ids, logprobs=kept)
