"""Chat messages go in, what a model wrote comes out, from any server that speaks OpenAI's chat completions.

vLLM, SGLang, llama.cpp and hosted services all do. What went wrong comes out as a value of its own, never as an answer:

    Completion      the model answered, whatever it wrote; a strange answer is data
    ContextFull     the messages and the answer do not fit the model's context
    ConfigError     the server refused this request, and will again
    EnvFault        the server failed, fell silent or made no sense, and did so again when asked again

Settings that no request can work with (an unknown model, a key that is not accepted) are raised instead.

The API key is read from the environment and sent to the configured server alone: redirects are not followed. It stands
in no message, no record and no config.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import threading
import weakref
import zlib
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, EnvFault
from sparring.core.ranges import ADJUSTABLE, ADJUSTABLE_WITH_NOTE, Deadline, Name, Range, Retries, Text
from sparring.core.text import encodable
from sparring.policies.answers import MAX_ERROR, error_of, retry_after, text_of

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

BACKOFF_S = 0.5
"""Longest wait before the first retry; it doubles with each, and the wait is drawn from its upper half."""
MAX_BACKOFF_S = 30.0
"""Longest wait that we choose ourselves."""
MAX_RETRY_AFTER_S = 300.0
"""Longest wait that a server may ask for; where it asks for more, the request is given up at once."""
SHOWN_WAIT_S = 10.0
"""From this wait on the user is told of it."""
MAX_BODY = 16 * 2**20
"""Most bytes of an answer that are read, as they are sent and as they are unpacked."""
SHUT_S = 2.0
"""Longest wait for the connections to close when the client ends."""
MAX_TEXT = 32_768
"""Most characters of an answer that are kept; a server may ignore `max_tokens`."""
MIN_SECRET = 8
"""Keys shorter than this are placeholders (`EMPTY`, `none`): words that may stand in a text."""
SHOWN_MESSAGE = 300
"""Characters of a server's message that are shown."""

AGAIN = (408, 409, 425, 429)
"""Statuses besides 5xx after which a request is sent again."""
HOPELESS = (402, 404, 405)
"""Statuses that every request would get, besides 401, and 403 where nothing has been answered yet."""
FULL_CODES = ("context_length_exceeded", "exceed_context_size_error")
FULL_TEXT = re.compile(
    r"context[ _](?:length|size|window)|maximum context|prompt is too long|max_tokens must be at least 1", re.IGNORECASE
)
"""How servers say that a context is full (OpenAI and vLLM, SGLang, llama.cpp, older vLLM)."""


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
        try:
            url = urlsplit(self.base_url)
            is_address = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
        except ValueError:
            raise ValueError("base_url: no web address; expected something like http://localhost:8000/v1") from None
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ValueError("base_url: takes no user, password, ? or #; a key belongs into api_key_env's variable")
        if not is_address:
            raise ValueError("base_url: no web address; expected something like http://localhost:8000/v1")
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


class ContextFull(Exception):
    """The messages and the answer do not fit the model's context."""


class _Again(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, what: str, *, wait_s: float = 0.0, is_refused: bool = False) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        """The server's wish."""
        self.is_refused = is_refused
        """No connection was made."""


Outcome = Completion | ContextFull | ConfigError | EnvFault


class CompletionClient:
    """Asks one server, several requests at a time."""

    def __init__(self, config: OpenAIConfig) -> None:
        """Read the API key; no connection is opened yet.

        Raises:
            ConfigError: no model is named, or the key is no text that a header can hold.
        """
        import httpx

        if not config.model:
            raise ConfigError("openai.model: names no model. GET /v1/models of the server lists those it has.")
        self.config = config
        self._where = config.base_url.rstrip("/")
        self._url = f"{self._where}/chat/completions"
        self._key = _key(config.api_key_env)
        self._wants_ids = bool(config.extra.get("return_token_ids"))
        self._has_answered = False
        self._bound = asyncio.Semaphore(config.num_concurrent)
        self._random = random.Random()
        # A loop in a thread of its own: connections stay open between calls, an interrupt ends what is under way, and
        # callers that have a loop already (notebooks) are not in the way.
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx.Timeout(config.timeout_s, connect=min(config.timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=config.num_concurrent),
            follow_redirects=False,
        )
        thread = threading.Thread(target=_run, args=(self._loop,), name="completions", daemon=True)
        thread.start()
        weakref.finalize(self, _shut, self._loop, self._http, thread)

    def complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send the requests, and return what came of each, in order.

        Raises:
            ConfigError: the server refuses all that we could ask: no such model, no permission, another address.
        """
        under_way = asyncio.run_coroutine_threadsafe(self._complete(requests), self._loop)
        try:
            return under_way.result()
        except BaseException:
            under_way.cancel()
            raise

    async def _complete(self, requests: Sequence[Request]) -> list[Outcome]:
        tasks = [asyncio.create_task(self._ask(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # the first error that is raised ends the others
            await _end(tasks)

    async def _ask(self, request: Request) -> Outcome:
        fields = {**request.body(), **self.config.extra, "model": self.config.model}
        body = {key: value for key, value in fields.items() if value is not None}
        async with self._bound:
            for attempt in range(self.config.max_retries + 1):
                try:
                    return await self._try(body)
                except _Again as failure:
                    is_last = attempt == self.config.max_retries
                    is_absent = failure.is_refused and not self._has_answered
                    if is_last or is_absent or failure.wait_s > MAX_RETRY_AFTER_S:
                        tries = f" ({attempt + 1} tries)" if attempt else ""
                        return EnvFault(f"{failure}{tries}. {self._remedy(failure)}")
                    await self._wait(failure, attempt)
        raise AssertionError("the last try returns")

    async def _try(self, body: Mapping[str, Any]) -> Completion | ContextFull | ConfigError:
        """Send a request once.

        Raises:
            _Again: it failed in a way that may pass.
            ConfigError: every request would fail.
        """
        import httpx

        try:
            async with asyncio.timeout(self.config.timeout_s):
                content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
                headers = {"Content-Type": "application/json"}
                async with self._http.stream("POST", self._url, content=content, headers=headers) as response:
                    answer = await self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            what = self._shown(str(error)) or "no connection"
            raise _Again(f"{self._where} can't be reached: {what}", is_refused=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Again(f"{self._where} gave no answer within {self.config.timeout_s:g} s") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            what = self._shown(str(error)) or type(error).__name__
            raise _Again(f"{self._where} broke the connection: {what}") from None
        if response.is_success:
            completion = self._completion(answer)
            self._has_answered = True
            return completion
        return self._refusal(response, answer)

    async def _read(self, response: httpx.Response) -> bytes:
        """Read an answer's body, or the beginning of a refusal's.

        The packed bytes are unpacked here, piece by piece: httpx unpacks as many layers as the server names, each
        without a bound.

        Raises:
            _Again: an answer is longer than `MAX_BODY`, or packed otherwise than asked for.
        """
        at_most = MAX_BODY if response.is_success else MAX_ERROR
        encoding = response.headers.get("content-encoding", "").strip().lower()
        unpack = None if encoding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 16)
        body, num_sent = bytearray(), 0
        try:
            if encoding not in ("", "identity", "gzip", "x-gzip"):
                raise zlib.error(f"it is packed as {self._shown(encoding)!r}, and one layer of gzip was asked for")
            async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as pieces:
                async for piece in pieces:
                    num_sent += len(piece)
                    body += unpack.decompress(piece, at_most + 1 - len(body)) if unpack else piece
                    if max(num_sent, len(body)) > at_most:
                        break
                else:
                    if unpack and num_sent and not unpack.eof:
                        raise zlib.error("its gzip stream is cut short")
        except zlib.error as error:
            if response.is_success:
                raise _Again(f"{self._where} sent an answer that can't be unpacked: {error}") from None
        if response.is_success and max(num_sent, len(body)) > at_most:
            raise _Again(f"{self._where} sent an answer of more than {at_most // 2**20} MB")
        return bytes(body[:at_most])

    def _refusal(self, response: httpx.Response, answer: bytes) -> ContextFull | ConfigError:
        """Return what a status other than 2xx means for this request, or raise what it means for all."""
        status, (code, message) = response.status_code, error_of(answer)
        what = f"{self._where} answered {status}: {self._shown(message or response.reason_phrase)}"
        if response.is_redirect:
            target = self._shown(response.headers.get("location", "nowhere"))
            raise ConfigError(f"{self._where} redirects to {target}. Name that in openai.base_url if you trust it.")
        if status == 401 or (status == 403 and not self._has_answered):
            name = self.config.api_key_env
            remedy = f"Check the key in {name}." if self._key else f"{name} is not set: put the API key there."
            raise ConfigError(f"{what}. {remedy}")
        if code == "insufficient_quota" or status in HOPELESS:
            raise ConfigError(
                f"{what}. Check openai.base_url (it ends in /v1) and openai.model; is the account in order?"
            )
        if status in AGAIN or status >= 500:
            raise _Again(what, wait_s=retry_after(response.headers.get("retry-after", "")))
        if code in FULL_CODES or FULL_TEXT.search(message):
            self._has_answered = True
            return ContextFull(what)
        return ConfigError(f"{what}. A field that the server refuses can be changed or taken out with openai.extra.")

    def _completion(self, answer: bytes) -> Completion:
        """Read an answer. What the model wrote may be anything; the frame around it may not."""
        try:
            choice = json.loads(answer)["choices"][0]
            message, ids = choice["message"], choice.get("token_ids")
            text = text_of(message.get("content")) or text_of(message.get("refusal"))
            text = self._without_key(text or text_of(message.get("tool_calls")))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            _, said = error_of(answer)
            raise _Again(f"{self._where} sent no chat completion: {self._shown(said) or 'nothing'}") from None
        text = encodable(text)
        is_whole = len(text) <= MAX_TEXT and isinstance(ids, list) and all(type(one) is int and one >= 0 for one in ids)
        return Completion(text=text[:MAX_TEXT], token_ids=tuple(ids) if is_whole and self._wants_ids else ())

    async def _wait(self, failure: _Again, attempt: int) -> None:
        longest = min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
        wait_s = failure.wait_s + longest * self._random.uniform(0.5, 1.0)
        if wait_s >= SHOWN_WAIT_S:
            log.warning("%s; asking again in %.0f s", failure, wait_s)
        await asyncio.sleep(wait_s)

    def _remedy(self, failure: _Again) -> str:
        if failure.is_refused:
            return "Start the server, or check openai.base_url."
        if failure.wait_s > MAX_RETRY_AFTER_S:
            return f"It asks to wait {failure.wait_s:.0f} s: try again later."
        return "See the server's log; a lower openai.num_concurrent or a higher openai.timeout_s may help."

    def _shown(self, text: str) -> str:
        """Return a server's words as they may be shown: without the key, on one line, and short."""
        words = "".join(one if one.isprintable() else " " for one in self._without_key(text))
        line = " ".join(words.split()).rstrip(".")
        return line if len(line) <= SHOWN_MESSAGE else f"{line[:SHOWN_MESSAGE]}…"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[API key]") if len(self._key) >= MIN_SECRET else text


def _key(variable: str) -> str:
    """Return the API key, or nothing where there is none.

    Raises:
        ConfigError: it can't stand in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):  # httpx would show it in its own complaint
        raise ConfigError(f"The environment variable {variable} holds no API key: it has characters that none has.")
    return key


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _shut(loop: asyncio.AbstractEventLoop, http: httpx.AsyncClient, thread: threading.Thread) -> None:
    """End what is under way, close the connections, and end the loop's thread."""

    async def close() -> None:
        await _end(asyncio.all_tasks() - {asyncio.current_task()})
        await http.aclose()
        await loop.shutdown_asyncgens()
        loop.stop()

    if loop.is_running():
        asyncio.run_coroutine_threadsafe(close(), loop)
        if thread is not threading.current_thread():
            thread.join(SHUT_S)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended: asyncio complains of those that a closed loop leaves pending."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
