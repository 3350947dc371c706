"""Open episodes in, sampled actions out, from vLLM servers, token for token.

What is sent is the episode's own token sequence as `Chat` lays it out, and what comes back are the ids that were
sampled, with the log-probabilities that they were sampled at: nothing is tokenized again, so what was sampled is
what is trained on. An answer is cut, ended and read as one of the model in this process.
"""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field

from sparring.core.errors import ConfigError, EnvFault, SparringError
from sparring.core.types import StopReason
from sparring.data.chat import Chat
from sparring.policies.base import LOGPROB_DIGITS, Episode, Reply
from sparring.policies.openai import request_seed
from sparring.policies.prompts import Prompts
from sparring.policies.transport import ContextFull, Failure
from sparring.policies.vllm.client import Draw, Sampled
from sparring.policies.vllm.servers import Servers

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often an action is asked for, with the servers mended in between; each time has tries of its own."""


@dataclass(slots=True)
class _Request:
    """An episode's question, until it is answered."""

    episode: Episode
    ids: list[int]
    answer: Future[Reply] = field(default_factory=Future)
    num_tries: int = 0


class VllmPolicy:
    """Samples actions from a model or an adapter behind vLLM servers."""

    def __init__(
        self,
        servers: Servers,
        model: str,
        chat: Chat,
        draw: Draw,
        *,
        keep_logprobs: bool = False,
    ) -> None:
        """Args:
        servers: who has the model.
        model: its name there, or its adapter's.
        chat: how episodes become tokens.
        draw: how actions are drawn; its `end_ids` are the chat's.
        keep_logprobs: replies carry each sampled token's log-probability; greedy ones have none.
        """
        if draw.temperature < 0 or draw.max_tokens < 1:
            raise ConfigError("rollout: temperature must be at least 0, and max_new_tokens at least 1.")
        self._servers, self._model, self._chat, self._draw = servers, model, chat, draw
        self._keep_logprobs = keep_logprobs and draw.temperature > 0
        self._room = chat.config.max_context - draw.max_tokens
        self._prompts = Prompts(chat)
        self._mender = ThreadPoolExecutor(1, thread_name_prefix="mending")

    def submit(self, episode: Episode) -> Future[Reply]:
        """Answer an episode's current observation; see `policies.base.FreePolicy`.

        An episode whose next action might not fit `chat.max_context` gets `CONTEXT_LIMIT`.
        """
        request = _Request(episode, self._prompts.of(episode))
        if len(request.ids) > self._room:
            request.answer.set_result(Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT))
        else:
            self._send(request)
        return request.answer

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        self._prompts.forget(episode_id)
        self._servers.forget(episode_id)

    def _send(self, request: _Request) -> None:
        request.num_tries += 1
        client = self._servers.client_for(request.episode.id)
        asked = client.sample(self._model, request.ids, self._draw, request_seed(request.episode))
        asked.add_done_callback(lambda done: self._take(request, done))

    def _take(self, request: _Request, asked: Future[Sampled | Failure]) -> None:
        """Give the answer on, or have the servers mended and ask again. Called by the connection's thread."""
        try:
            outcome = asked.result()
        except CancelledError:
            request.answer.cancel()
            return
        except SparringError as error:  # every request would fail: an adapter that the server has lost is one such case
            outcome = error
        if isinstance(outcome, Sampled):
            _set(request.answer, self._reply(outcome))
        elif isinstance(outcome, ContextFull):
            _set(request.answer, Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT))
        elif request.num_tries < MAX_TRIES:
            self._mender.submit(self._mend, request)
        elif isinstance(outcome, EnvFault):
            error = f"{type(outcome).__name__}: {outcome}"
            log.warning("%s: broken off. %s", request.episode.id, error)
            _set(request.answer, Reply(text="", action="", stop=StopReason.ENV_FAULT, error=error))
        else:
            _fail(request.answer, outcome)

    def _mend(self, request: _Request) -> None:
        """See to it that the episode's server is there and has the model, then ask again."""
        try:
            self._servers.mend(request.episode.id, self._model)
            self._send(request)
        except Exception as beyond_help:  # the boundary to the rollout's thread, which raises it
            _fail(request.answer, beyond_help)

    def _reply(self, sampled: Sampled) -> Reply:
        text, action = self._chat.parse(sampled.ids)
        kept = tuple(round(value, LOGPROB_DIGITS) for value in sampled.logprobs) if self._keep_logprobs else ()
        return Reply(text=text, action=action, token_ids=sampled.ids, logprobs=kept)


def _set(answer: Future[Reply], reply: Reply) -> None:
    """Answer, unless the rollout has ended meanwhile."""
    try:
        answer.set_result(reply)
    except InvalidStateError:
        return


def _fail(answer: Future[Reply], error: BaseException) -> None:
    try:
        answer.set_exception(error)
    except InvalidStateError:
        return
