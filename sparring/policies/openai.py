"""Open episodes in, next actions out, from any OpenAI-compatible server: vLLM, SGLang, a hosted model.

The model acts from the instruction and the worked examples, as the messages of one conversation per episode; there is
no training. The server keeps no state for us: every turn sends the whole episode, and `chat.max_context` is its own
business.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from sparring.core.errors import ConfigError, EnvFault
from sparring.core.types import StopReason
from sparring.data.chat import Dialogue
from sparring.policies.base import Episode, Reply
from sparring.policies.completions import Completion, CompletionClient, OpenAIConfig, Outcome, Request
from sparring.policies.transport import ContextFull

log = logging.getLogger(__name__)

MAX_FAULTS = 16
"""Faults of episodes, with no answer to any other between them, after which the server counts as gone."""


class OpenAIPolicy:
    """Samples actions from a model behind a server.

    A fault that hits one episode ends it as an infrastructure fault, without a reward. One that would hit them all is
    raised: a server that was never there or is gone, a key or a request that it refuses.
    """

    def __init__(
        self, config: OpenAIConfig, dialogue: Dialogue, *, temperature: float, max_new_tokens: int, own_key: str = ""
    ) -> None:
        """Args:
        config: the server, its model, and how it is asked.
        dialogue: how episodes become messages.
        temperature: 0 is greedy.
        max_new_tokens: where the server cuts an action.
        own_key: a key of our own making, in place of the variable's.

        Raises:
            ConfigError: no model is named, or the API key is malformed.
        """
        if temperature < 0 or max_new_tokens < 1:
            raise ConfigError("rollout: temperature must be at least 0, and max_new_tokens at least 1.")
        if dialogue.format.name == "tools":
            raise ConfigError(
                "chat.format: 'tools' is for models that are held here or sampled by ids (vLLM). A server of chat "
                'completions gets its answers as text: set chat.format = "action" or "react".'
            )
        self._client = CompletionClient(config, own_key=own_key)
        self._dialogue = dialogue
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        # Token ids that were sampled past a stop text would not spell the text.
        self._stop = () if config.extra.get("return_token_ids") else dialogue.format.stop
        self._has_answered = False
        self._has_warned = False
        self._num_faults = 0

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply]:
        """Answer the current observation of each episode, in order; all are asked for at once.

        Raises:
            ConfigError: the server refuses the key, the model or the very first requests.
            EnvFault: the server can't be reached, or has not answered for `MAX_FAULTS` episodes.
        """
        outcomes = self._client.complete([self._request(episode) for episode in episodes])
        self._check(outcomes)
        return [self._reply(episode, outcome) for episode, outcome in zip(episodes, outcomes, strict=True)]

    def close(self, episode_id: str) -> None:
        """Forget nothing: there is no memory."""

    def _request(self, episode: Episode) -> Request:
        return Request(
            messages=self._dialogue.messages(episode.turns, episode.observation),
            temperature=self._temperature,
            max_tokens=self._max_new_tokens,
            seed=request_seed(episode),
            stop=self._stop,
            template_kwargs=self._dialogue.config.template_kwargs,
        )

    def _check(self, outcomes: Sequence[Outcome]) -> None:
        """Raise a fault that hits all episodes, not one."""
        faults = [outcome for outcome in outcomes if isinstance(outcome, ConfigError | EnvFault)]
        if len(faults) < len(outcomes):
            self._has_answered, self._num_faults = True, 0
            return
        self._num_faults += len(faults)
        if faults and (not self._has_answered or self._num_faults >= MAX_FAULTS):
            raise faults[-1]

    def _reply(self, episode: Episode, outcome: Outcome) -> Reply:
        if isinstance(outcome, Completion):
            text = outcome.text.strip()
            return Reply(text=text, action=self._dialogue.format.parse(text), token_ids=outcome.token_ids)
        if isinstance(outcome, ContextFull):
            if not episode.turns and not self._has_warned:
                self._has_warned = True
                log.warning("%s: the first prompt does not fit. Fewer chat.num_examples? %s", episode.id, outcome)
            return Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT)
        error = f"{type(outcome).__name__}: {outcome}"
        log.warning("%s: broken off. %s", episode.id, error)
        return Reply(text="", action="", stop=StopReason.ENV_FAULT, error=error)


def request_seed(episode: Episode) -> int:
    """Return the seed that an episode's next request carries: 31 bits from its id, its seed and its turn alone."""
    key = f"{episode.id}\0{episode.seed}\0{len(episode.turns)}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little") >> 1
