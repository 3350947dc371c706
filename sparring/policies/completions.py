"""Chat messages go in, what a model wrote comes out, from any server that speaks OpenAI's chat completions.

vLLM, SGLang, llama.cpp and hosted services all do. Whatever the model wrote is an answer, a strange one, too; what went
wrong with a request is no answer (`policies.transport`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.ranges import ADJUSTABLE, ADJUSTABLE_WITH_NOTE, Deadline, Name, Range, Retries, Text
from sparring.core.text import encodable
from sparring.policies.answers import text_of
from sparring.policies.transport import Connection, Failure, Remedies, Transport, check_address

MAX_TEXT = 32_768
"""Most characters of an answer that are kept; a server may ignore `max_tokens`."""
MAX_COUNT = 10**9
"""Most tokens of a request that are believed."""
REMEDIES = Remedies(
    absent="Start the server, or check openai.base_url.",
    moved="Name that in openai.base_url if you trust it.",
    unknown="Check openai.base_url (it ends in /v1) and openai.model; is the account in order?",
    refused="A field that the server refuses can be changed or taken out with openai.extra.",
    busy="See the server's log; a lower openai.num_concurrent or a higher openai.timeout_s may help.",
)


@dataclass(frozen=True, kw_only=True)
class OpenAIConfig:
    """Which server answers, and how it is asked. Command line only: a recipe does not choose where a key is sent."""

    base_url: Annotated[str, Text(at_most=2000), ADJUSTABLE_WITH_NOTE] = "http://localhost:8000/v1"
    """The server's address, with its `/v1`. The default is vLLM's."""
    model: Name = ""
    """Model as the server calls it; `GET /v1/models` lists them."""
    api_key_env: Annotated[Name, ADJUSTABLE] = "OPENAI_API_KEY"
    """Environment variable that holds the API key; where it is not set, none is sent. The key is saved nowhere."""
    num_concurrent: Annotated[int, Range(at_least=1, at_most=1000), ADJUSTABLE] = 16
    """Most requests under way at once."""
    timeout_s: Annotated[Deadline, ADJUSTABLE] = 120.0
    """Seconds within which an answer must be there in full."""
    max_retries: Annotated[Retries, ADJUSTABLE] = 5
    """How often a request is sent again after a timeout, a broken connection, or status 408, 409, 425, 429 or 5xx."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Put into each request over what stands there, for instance `{"top_p": 0.9}`; null takes a field out."""

    def __post_init__(self) -> None:
        """Refuse what can't be meant. No text is shown: a key may have slipped into one."""
        check_values(self)
        check_address(self.base_url, "base_url")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("api_key_env: takes the name of an environment variable that holds the key, not the key")
        if taken := {"messages", "model", "stream", "n"} & set(self.extra):
            raise ValueError(f"extra: {min(taken)!r} can't be changed there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a model is asked."""

    messages: Sequence[Mapping[str, str]]
    temperature: float
    max_tokens: int
    seed: int
    stop: Sequence[str] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """For the server's chat template (vLLM, SGLang); hosted services refuse them."""

    def body(self) -> dict[str, Any]:
        """Return the request's fields as they are sent."""
        stop = {"stop": list(self.stop)} if self.stop else {}
        template = {"chat_template_kwargs": dict(self.template_kwargs)} if self.template_kwargs else {}
        return {
            "messages": [dict(message) for message in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            **stop,
            **template,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    """At most `MAX_TEXT` characters, as they came. Tool calls in the place of text are given as JSON."""
    token_ids: tuple[int, ...] = ()
    """The ids as the server sampled them, where it gives them and the text is whole."""
    num_read: int = 0
    """Tokens of what was asked; 0 where the server does not say."""
    num_written: int = 0
    """Tokens of the answer; 0 where the server does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatServer:
    """A server that the run has anyway."""

    url: str
    """With its `/v1`."""
    model: str
    key_variable: str
    """Environment variable with its API key."""
    key: str = field(default="", repr=False)
    """A key of our own making, in place of the variable's."""

    def config(self, like: OpenAIConfig) -> OpenAIConfig:
        """Return settings that name it, otherwise like others."""
        return replace(like, base_url=self.url, model=self.model, api_key_env=self.key_variable)


Outcome = Completion | Failure


class CompletionClient:
    """Asks one server, several requests at a time."""

    def __init__(self, config: OpenAIConfig, *, own_key: str = "") -> None:
        """Read the API key, unless there is one of our own making; no connection is opened yet.

        Raises:
            ConfigError: no model is named, or the key is no text that a header can hold.
        """
        if not config.model:
            raise ConfigError("openai.model: names no model. GET /v1/models of the server lists those it has.")
        self.config = config
        self._wants_ids = bool(config.extra.get("return_token_ids"))
        self._transport = Transport(
            Connection(
                url=config.base_url,
                key_variable=config.api_key_env,
                num_concurrent=config.num_concurrent,
                timeout_s=config.timeout_s,
                max_retries=config.max_retries,
                remedies=REMEDIES,
                own_key=own_key,
            )
        )

    def complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send the requests, and return what came of each, in order.

        Raises:
            ConfigError: the server refuses all that we could ask: no such model, no permission, another address.
        """
        bodies = [self._body(request) for request in requests]
        return self._transport.ask_all("/chat/completions", bodies, self._completion)

    def _body(self, request: Request) -> dict[str, Any]:
        fields = {**request.body(), **self.config.extra, "model": self.config.model}
        return {key: value for key, value in fields.items() if value is not None}

    def _completion(self, answer: bytes) -> Completion:
        """Read an answer. What the model wrote may be anything; the frame around it may not."""
        frame = json.loads(answer)
        choice, usage = frame["choices"][0], frame.get("usage")
        message, ids = choice["message"], choice.get("token_ids")
        text = text_of(message.get("content")) or text_of(message.get("refusal"))
        text = encodable(self._transport.without_key(text or text_of(message.get("tool_calls"))))
        is_whole = len(text) <= MAX_TEXT and isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids)
        return Completion(
            text=text[:MAX_TEXT],
            token_ids=tuple(ids) if is_whole and self._wants_ids else (),
            num_read=_count(usage, "prompt_tokens"),
            num_written=_count(usage, "completion_tokens"),
        )


def _count(usage: Any, key: str) -> int:
    """Return a number of tokens that a server tells; 0 for anything that is none."""
    found = usage.get(key) if isinstance(usage, Mapping) else None
    return found if type(found) is int and 0 <= found <= MAX_COUNT else 0
