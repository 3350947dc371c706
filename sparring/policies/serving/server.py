"""The HTTP side: `/v1/models`, `/v1/chat/completions` and `/v1/rewards`; whatever else comes gets a JSON error.

A thread per connection reads and writes; the model acts in a thread of its own. Nothing that a client sends is shown on
the terminal, and no body is larger, no header slower and no number of clients greater than the bounds below.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

from sparring.core.errors import ConfigError, SparringError
from sparring.core.types import StopReason, Turn
from sparring.policies.serving.conversations import ANSWER_ID, Conversation, Conversations
from sparring.policies.serving.model import ServedModel
from sparring.policies.serving.requests import ChatRequest, Refused, RewardRequest, read_request, read_reward

MAX_BODY = 8 * 2**20
"""Most bytes of a request."""
MAX_CLIENTS = 256
"""Most connections at once."""
SILENCE_S = 60.0
"""Longest wait for the rest of a request, or for the next one of a connection."""
COMPLETIONS, MODELS, REWARDS = "/v1/chat/completions", "/v1/models", "/v1/rewards"
ALLOWED = {COMPLETIONS: "POST", MODELS: "GET", REWARDS: "POST", "/health": "GET"}


class Service:
    """What the server answers with."""

    def __init__(
        self,
        model: ServedModel,
        conversations: Conversations,
        *,
        name: str,
        max_context: int,
        max_new_tokens: int,
        key: str = "",
    ) -> None:
        """Args:
        model: acts.
        conversations: what was said before.
        name: what clients call the model.
        max_context: most tokens of a conversation.
        max_new_tokens: most tokens of an answer where a request does not say.
        key: what clients must send as bearer token; empty: nothing.
        """
        self.model, self.conversations, self.name = model, conversations, name
        self.key, self._max_context, self._max_new_tokens = key, max_context, max_new_tokens
        self._started = int(time.time())

    def models(self) -> dict[str, Any]:
        """Return the list of models."""
        one = {"id": self.name, "object": "model", "created": self._started, "owned_by": "sparring"}
        return {"object": "list", "data": [{**one, "max_model_len": self._max_context}]}

    def complete(self, request: ChatRequest) -> dict[str, Any]:
        """Answer a request.

        Raises:
            Refused: it asks for another model, does not fit, or the server ends.
        """
        if request.model not in ("", self.name):
            raise Refused(404, f"There is no such model; this server has {self.name!r}.", code="model_not_found")
        max_tokens = request.max_tokens or min(self._max_new_tokens, max(1, self._max_context // 2))
        conversation, episode = self.conversations.begin(request.messages, request.seed)
        try:
            answer = self.model.submit(
                episode, temperature=request.temperature, max_tokens=max_tokens, wants_logprobs=request.logprobs
            )
            reply = answer.result()
            if reply.stop is StopReason.CONTEXT_LIMIT:
                raise Refused(
                    400,
                    f"The messages and {max_tokens} tokens of answer exceed this model's maximum context length of "
                    f"{self._max_context} tokens.",
                    code="context_length_exceeded",
                )
            prompt = self.model.chat.history(episode.turns, episode.observation)
        except ConfigError as error:
            self.conversations.failed(conversation)
            raise Refused(400, str(error)) from None
        except SparringError as error:
            self.conversations.failed(conversation)
            raise Refused(503, str(error), code="unavailable") from None
        except BaseException:
            self.conversations.failed(conversation)
            raise
        is_whole = bool(reply.token_ids) and reply.token_ids[-1] in self.model.chat.end_ids
        text, is_cut = _before_stop(reply.text, request.stop)
        turn = Turn(
            observation=episode.observation,
            text=text,
            action=text,
            reward=0.0,
            token_ids=() if is_cut else reply.token_ids,  # the rest was not said
            logprobs=() if is_cut else reply.logprobs,
        )
        finish = "stop" if is_whole or is_cut else "length"
        details = {"temperature": request.temperature, "seed": request.seed, "finish_reason": finish}
        self.conversations.answered(conversation, request.messages, turn, details)
        return self._body(request, conversation, turn, finish, (prompt, reply.token_ids))

    def earn(self, request: RewardRequest) -> dict[str, Any]:
        """Note what a conversation earned.

        Raises:
            Refused: it is not known (any more), or it has gone on since.
        """
        found = self.conversations.earned(request.reward, answer=request.id, messages=request.messages)
        if found is None:
            raise Refused(404, "No conversation here ends with that answer.", code="conversation_not_found")
        return {"object": "reward", "id": found.id, "reward": request.reward}

    def _body(
        self, request: ChatRequest, conversation: Conversation, turn: Turn, finish: str, ids: tuple[Any, Any]
    ) -> dict[str, Any]:
        prompt, sampled = ids
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": turn.text},
            "finish_reason": finish,
            "logprobs": None,
        }
        if request.logprobs:
            choice["logprobs"] = {"content": self._logprobs(turn)}
        if request.return_token_ids:
            choice["token_ids"] = list(turn.token_ids)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(sampled)}
        return {
            "id": ANSWER_ID.format(conversation.id, len(conversation.turns)),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
            "usage": {**usage, "total_tokens": len(prompt) + len(sampled)},
            **({"prompt_token_ids": list(prompt)} if request.return_token_ids else {}),
        }

    def _logprobs(self, turn: Turn) -> list[dict[str, Any]]:
        spelled = [self.model.chat.spell([one]) for one in turn.token_ids]
        return [
            {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
            for text, value in zip(spelled, turn.logprobs, strict=False)
        ]


class Server(ThreadingHTTPServer):
    """Listens for clients."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        """Listen.

        Raises:
            ConfigError: the address can't be had.
        """
        self.service = service
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        try:
            super().__init__(address, Handler)
        except OSError as error:
            raise ConfigError(f"--host {address[0]} --port {address[1]}: {error.strerror or error}.") from None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a client a thread, if there is room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def service_actions(self) -> None:
        """Write what is idle, now and then."""
        self.service.conversations.tidy()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""


class Handler(BaseHTTPRequestHandler):
    """One client's requests."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sparring", ""
    disable_nagle_algorithm = True
    timeout = SILENCE_S

    def do_GET(self) -> None:
        """Answer a request for what is there."""
        self._serve(None)

    def do_POST(self) -> None:
        """Answer a request with a body."""
        self._serve(b"")

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_GET

    @property
    def service(self) -> Service:
        """What the server answers with."""
        return cast(Server, self.server).service

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no HTTP as JSON, too."""
        self.close_connection = True
        self._send(code, Refused(code, message or "The request is no HTTP that is known here.").body())

    def _serve(self, body: bytes | None) -> None:
        try:
            path = urlsplit(self.path).path
            self._check(path)
            if path == MODELS:
                self._send(200, self.service.models())
            elif path == "/health":
                self._send(200, {"status": "ok"})
            elif path == REWARDS:
                self._send(200, self.service.earn(read_reward(self._read())))
            else:
                request = read_request(self._read())
                answer = self.service.complete(request)
                if request.stream:
                    self._stream(answer)
                else:
                    self._send(200, answer)
        except Refused as refused:
            if refused.status in (401, 405, 411, 413, 415, 501):  # what was sent is not read
                self.close_connection = True
            self._send(refused.status, refused.body())
        except (OSError, ValueError):  # the client has gone
            self.close_connection = True
        except Exception as error:  # the connection's boundary
            self.close_connection = True
            self._send(500, Refused(500, f"The server failed: {type(error).__name__}.", code="internal").body())

    def _check(self, path: str) -> None:
        key = self.service.key
        if path not in ALLOWED:
            self.close_connection = True
            raise Refused(404, f"There is nothing here; there are {', '.join(ALLOWED)}.", code="not_found")
        if self.command != ALLOWED[path]:
            raise Refused(405, f"{path} takes {ALLOWED[path]}.", code="method_not_allowed")
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if key and path != "/health" and not hmac.compare_digest(given.encode(), key.encode()):
            raise Refused(401, "The key is missing or wrong.", code="invalid_api_key")

    def _read(self) -> bytes:
        if self.headers.get_content_type() != "application/json":  # which no web page can send by itself
            raise Refused(415, "The body must be application/json.", code="unsupported_media_type")
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "A body needs a Content-Length.", code="length_required")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "A body needs a Content-Length.", code="length_required")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise Refused(413, f"The body is larger than {MAX_BODY} bytes.", code="too_large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ValueError("the client hung up")
        return body

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, answer: Mapping[str, Any]) -> None:
        """Send an answer, which is there as a whole, as events."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in _events(answer):
            self.wfile.write(f"data: {event}\n\n".encode())


def _events(answer: Mapping[str, Any]) -> Iterator[str]:
    (choice,) = answer["choices"]
    frame = {**{name: answer[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}
    spoken = {"index": 0, "delta": choice["message"], "finish_reason": None, "logprobs": choice["logprobs"]}
    yield json.dumps({**frame, "choices": [spoken]}, ensure_ascii=False)
    yield json.dumps({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    yield "[DONE]"


def _before_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Return a text up to the first of some texts, and whether one was there."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)].strip(), True) if places else (text, False)
