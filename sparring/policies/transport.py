"""JSON goes to a server, an answer comes back: retried where that helps, bounded, with the key in no message.

What went wrong comes out as a value of its own, never as an answer:

    ContextFull     what was sent and its answer do not fit the model's context
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
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from sparring.core.errors import ConfigError, EnvFault
from sparring.policies.answers import MAX_ERROR, error_of, retry_after

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
class Remedies:
    """What a message advises, in whole sentences."""

    absent: str
    """Where nobody answers at the address."""
    moved: str
    """Where the server sends us to another address, which stands before it."""
    unknown: str
    """Where it does not know what it is asked for."""
    refused: str
    """Where it refuses a request's fields."""
    busy: str
    """Where it fails or is too slow."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Which server is asked, and how patiently."""

    url: str
    """The address that paths are put behind."""
    key_variable: str
    """Environment variable that holds the API key; where it is not set, none is sent."""
    num_concurrent: int
    """Most requests under way at once."""
    timeout_s: float
    """Seconds within which an answer must be there in full."""
    max_retries: int
    remedies: Remedies
    own_key: str = field(default="", repr=False)
    """A key of our own making, in place of the variable's."""


class ContextFull(Exception):
    """What was sent and its answer do not fit the model's context."""


class NotKnownError(ConfigError):
    """The server does not know what it was asked for: a path, a model, an adapter."""


class Again(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, what: str, *, wait_s: float = 0.0, is_refused: bool = False) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        """The server's wish."""
        self.is_refused = is_refused
        """No connection was made."""


Answer = TypeVar("Answer")
Failure = ContextFull | ConfigError | EnvFault


def check_address(url: str, key: str) -> None:
    """Refuse what is no address. The text is not shown: a key may have slipped into it.

    Raises:
        ValueError: the message names the key.
    """
    expected = f"{key}: no web address; expected something like http://localhost:8000"
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(expected) from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(f"{key}: takes no user, password, ? or #; a key belongs into an environment variable")
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError(expected)


class Transport:
    """Asks one server, several requests at a time."""

    def __init__(self, connection: Connection) -> None:
        """Read the API key; no connection is opened yet.

        Raises:
            ConfigError: the key is no text that a header can hold.
        """
        import httpx

        self.connection = connection
        self.where = connection.url.rstrip("/")
        self._key = connection.own_key or _key(connection.key_variable)
        self._has_answered = False
        self._bound = asyncio.Semaphore(connection.num_concurrent)
        self._random = random.Random()
        # A loop in a thread of its own: connections stay open between calls, an interrupt ends what is under way, and
        # callers that have a loop already (notebooks) are not in the way.
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx.Timeout(connection.timeout_s, connect=min(connection.timeout_s, 10.0)),
            limits=httpx.Limits(max_connections=connection.num_concurrent),
            follow_redirects=False,
            trust_env=not connection.own_key,  # a server of ours is on this machine: no proxy is asked
        )
        thread = threading.Thread(target=_run, args=(self._loop,), name="requests", daemon=True)
        thread.start()
        weakref.finalize(self, _shut, self._loop, self._http, thread)

    def submit(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[bytes], Answer]
    ) -> Future[Answer | Failure]:
        """Send a request, and return what will come of it.

        Args:
            path: behind the server's address, with its slash.
            body: sent as JSON with POST; none: GET.
            read: makes an answer of the bytes that came; what it raises as `ValueError`, `LookupError`, `TypeError` or
                `AttributeError` means that the server made no sense.

        Returns:
            An answer, or what went wrong with this request. `ConfigError` is raised by the future, not returned, where
            every request would fail.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(path, body, read), self._loop)

    def ask(self, path: str, body: Mapping[str, Any] | None, read: Callable[[bytes], Answer]) -> Answer | Failure:
        """Send a request, and wait for what comes of it; see `submit`."""
        return self.ask_all(path, [body], read)[0]

    def ask_all(
        self, path: str, bodies: Sequence[Mapping[str, Any] | None], read: Callable[[bytes], Answer]
    ) -> list[Answer | Failure]:
        """Send requests at once, and wait for what comes of each, in order; see `submit`.

        The first error that is raised ends the others.
        """
        under_way = asyncio.run_coroutine_threadsafe(self._ask_all(path, bodies, read), self._loop)
        try:
            return under_way.result()
        except BaseException:
            under_way.cancel()
            raise

    def shown(self, text: str) -> str:
        """Return a server's words as they may be shown: without the key, on one line, and short."""
        words = "".join(one if one.isprintable() else " " for one in self.without_key(text))
        line = " ".join(words.split()).rstrip(".")
        return line if len(line) <= SHOWN_MESSAGE else f"{line[:SHOWN_MESSAGE]}…"

    def without_key(self, text: str) -> str:
        """Return a text in which the API key is not spelled out."""
        return text.replace(self._key, "[API key]") if len(self._key) >= MIN_SECRET else text

    async def _ask_all(
        self, path: str, bodies: Sequence[Mapping[str, Any] | None], read: Callable[[bytes], Answer]
    ) -> list[Answer | Failure]:
        tasks = [asyncio.create_task(self._ask(path, body, read)) for body in bodies]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            await _end(tasks)

    async def _ask(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[bytes], Answer]
    ) -> Answer | Failure:
        async with self._bound:
            for attempt in range(self.connection.max_retries + 1):
                try:
                    return await self._try(path, body, read)
                except Again as failure:
                    is_last = attempt == self.connection.max_retries
                    is_absent = failure.is_refused and not self._has_answered
                    if is_last or is_absent or failure.wait_s > MAX_RETRY_AFTER_S:
                        tries = f" ({attempt + 1} tries)" if attempt else ""
                        return EnvFault(f"{failure}{tries}. {self._remedy(failure)}")
                    await self._wait(failure, attempt)
        raise AssertionError("the last try returns")

    async def _try(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[bytes], Answer]
    ) -> Answer | ContextFull | ConfigError:
        """Send a request once.

        Raises:
            Again: it failed in a way that may pass.
            ConfigError: every request would fail.
        """
        import httpx

        method = "GET" if body is None else "POST"
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self.connection.timeout_s):
                url = f"{self.where}{path}"
                async with self._http.stream(method, url, content=content, headers=headers) as response:
                    answer = await self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            what = self.shown(str(error)) or "no connection"
            raise Again(f"{self.where} can't be reached: {what}", is_refused=True) from None
        except (TimeoutError, httpx.TimeoutException):
            raise Again(f"{self.where} gave no answer within {self.connection.timeout_s:g} s") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            what = self.shown(str(error)) or type(error).__name__
            raise Again(f"{self.where} broke the connection: {what}") from None
        if not response.is_success:
            return self._refusal(response, answer)
        try:
            found = read(answer)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            _, said = error_of(answer)
            raise Again(
                f"{self.where} sent something else than was asked for: {self.shown(said) or 'nothing'}"
            ) from None
        self._has_answered = True
        return found

    async def _read(self, response: httpx.Response) -> bytes:
        """Read an answer's body, or the beginning of a refusal's.

        The packed bytes are unpacked here, piece by piece: httpx unpacks as many layers as the server names, each
        without a bound.

        Raises:
            Again: an answer is longer than `MAX_BODY`, or packed otherwise than asked for.
        """
        at_most = MAX_BODY if response.is_success else MAX_ERROR
        encoding = response.headers.get("content-encoding", "").strip().lower()
        unpack = None if encoding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 16)
        body, num_sent = bytearray(), 0
        try:
            if encoding not in ("", "identity", "gzip", "x-gzip"):
                raise zlib.error(f"it is packed as {self.shown(encoding)!r}, and one layer of gzip was asked for")
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
                raise Again(f"{self.where} sent an answer that can't be unpacked: {error}") from None
        if response.is_success and max(num_sent, len(body)) > at_most:
            raise Again(f"{self.where} sent an answer of more than {at_most // 2**20} MB")
        return bytes(body[:at_most])

    def _refusal(self, response: httpx.Response, answer: bytes) -> ContextFull | ConfigError:
        """Return what a status other than 2xx means for this request, or raise what it means for all."""
        status, (code, message) = response.status_code, error_of(answer)
        what = f"{self.where} answered {status}: {self.shown(message or response.reason_phrase)}"
        remedies = self.connection.remedies
        if response.is_redirect:
            target = self.shown(response.headers.get("location", "nowhere"))
            raise ConfigError(f"{self.where} redirects to {target}. {remedies.moved}")
        if status == 401 or (status == 403 and not self._has_answered):
            name = self.connection.key_variable
            remedy = f"Check the key in {name}." if self._key else f"{name} is not set: put the API key there."
            raise ConfigError(f"{what}. {remedy}")
        if code == "insufficient_quota" or status in HOPELESS:
            raise NotKnownError(f"{what}. {remedies.unknown}")
        if status in AGAIN or status >= 500:
            raise Again(what, wait_s=retry_after(response.headers.get("retry-after", "")))
        if code in FULL_CODES or FULL_TEXT.search(message):
            self._has_answered = True
            return ContextFull(what)
        return ConfigError(f"{what}. {remedies.refused}".rstrip())

    async def _wait(self, failure: Again, attempt: int) -> None:
        longest = min(BACKOFF_S * 2**attempt, MAX_BACKOFF_S)
        wait_s = failure.wait_s + longest * self._random.uniform(0.5, 1.0)
        if wait_s >= SHOWN_WAIT_S:
            log.warning("%s; asking again in %.0f s", failure, wait_s)
        await asyncio.sleep(wait_s)

    def _remedy(self, failure: Again) -> str:
        if failure.is_refused:
            return self.connection.remedies.absent
        if failure.wait_s > MAX_RETRY_AFTER_S:
            return f"It asks to wait {failure.wait_s:.0f} s: try again later."
        return self.connection.remedies.busy


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
