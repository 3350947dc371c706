"""Real HTTP servers for tests: one that serves a policy of ours as chat completions, one that answers what it is told.

with PolicyServer(lambda temperature, max_tokens: policy) as server: … server.base_url …
with ScriptedServer([Answer(status=429), Answer(body=completion("press red"))]) as server: … server.seen …
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from sparring.core.types import StopReason, Task, Turn
from sparring.policies.base import Episode, Policy


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server sends."""

    status: int = 200
    body: Any = ""
    """Text and bytes as they are; anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before anything is sent."""
    drip_s: float = 0.0
    """Before each byte of the body."""
    hangs_up: bool = False
    """The connection is closed without a word."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any
    at: float


def completion(content: Any, **fields: Any) -> dict[str, Any]:
    """Return a chat completion; `fields` go into the choice."""
    message = {"role": "assistant", "content": content}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | fields],
    }


def error(message: str, **fields: Any) -> dict[str, Any]:
    """Return an error as OpenAI words it."""
    return {"error": {"message": message, "type": "invalid_request_error"} | fields}


class OwnUsersServer(ThreadingHTTPServer):
    """Hangs up on other users of the machine: what tests serve is not theirs to read, to count or to disturb."""

    daemon_threads = True

    def verify_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> bool:
        return owner_of(client_address) in (None, os.geteuid())


def owner_of(address: tuple[str, int]) -> int | None:
    """Return the user at the other end of a connection over the loopback, -1 if it has ended; None: not to be told."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        return None
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    wanted = f"{number:08X}:{address[1]:04X}"
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted and fields[9] != "0":  # without an inode nobody holds it any more
            return int(fields[7])
    return -1


class Server:
    """Listens on a local port (0: a free one), with a thread per connection. Use as a context manager.

    Only processes of the same user are answered.
    """

    def __init__(self, port: int = 0) -> None:
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._num_now = 0
        self._lock = threading.Lock()
        self._http = OwnUsersServer(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def answer(self, request: Seen) -> Answer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                request = Seen(path=self.path, headers=dict(self.headers), body=body, at=time.monotonic())
                with server._lock:
                    server.seen.append(request)
                    server._num_now += 1
                    server.most_at_once = max(server.most_at_once, server._num_now)
                try:
                    answer = server.answer(request)
                    time.sleep(answer.delay_s)
                finally:
                    with server._lock:
                        server._num_now -= 1
                try:
                    self._send(answer)
                except OSError:  # the client has gone
                    self.close_connection = True

            def _send(self, answer: Answer) -> None:
                if answer.hangs_up:
                    self.close_connection = True
                    return
                body = answer.body if isinstance(answer.body, str | bytes) else json.dumps(answer.body)
                data = body.encode() if isinstance(body, str) else body
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [data] if not answer.drip_s else (data[i : i + 1] for i in range(len(data))):
                    time.sleep(answer.drip_s)
                    self.wfile.write(piece)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class ScriptedServer(Server):
    """Answers in the order of a list, the last one for ever, or what a function of the request says."""

    def __init__(self, answers: Iterable[Answer] | Callable[[Seen], Answer], *, port: int = 0) -> None:
        super().__init__(port)
        self._choose = answers if callable(answers) else None
        listed = [] if callable(answers) else list(answers)
        self._rest = itertools.chain(listed, itertools.repeat(listed[-1])) if listed else iter(())

    def answer(self, request: Seen) -> Answer:
        if self._choose:
            return self._choose(request)
        with self._lock:
            return next(self._rest)


class PolicyServer(Server):
    """Serves a policy: the messages become an episode's turns, its reply the completion, the seed alone its draws.

    The policy must take messages as they are: `ChatConfig(format="react", instruction="")` and no examples.
    """

    def __init__(self, make: Callable[[float, int], Policy], *, model: str = "tiny") -> None:
        """`make` makes the policy for a temperature and a number of tokens; it acts for one request at a time."""
        super().__init__()
        self._make = make
        self._model = model
        self._policies: dict[tuple[float, int], Policy] = {}
        self._acting = threading.Lock()

    def answer(self, request: Seen) -> Answer:
        body = request.body
        if request.path != "/v1/chat/completions":
            return Answer(status=404, body={"detail": "Not Found"})
        if body["model"] != self._model:
            return Answer(
                status=404, body=error(f"The model `{body['model']}` does not exist.", code="model_not_found")
            )
        with self._acting:
            key = (body["temperature"], body["max_tokens"])
            if key not in self._policies:
                self._policies[key] = self._make(*key)
            policy = self._policies[key]
            episode = self._episode(body["messages"], body["seed"])
            (reply,) = policy.act([episode])
            policy.close(episode.id)
        if reply.stop is StopReason.CONTEXT_LIMIT:
            text = "This model's maximum context length is too small for your messages. Please reduce their length."
            return Answer(status=400, body=error(text, type="BadRequestError", code=400))
        ids = {"token_ids": list(reply.token_ids)} if body.get("return_token_ids") else {}
        return Answer(body=completion(reply.text, **ids))

    def _episode(self, messages: Sequence[Mapping[str, str]], seed: int) -> Episode:
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], roles
        contents = [message["content"] for message in messages]
        turns = [
            Turn(observation=observation, text=text, action=text, reward=0.0)
            for observation, text in zip(contents[:-1:2], contents[1::2], strict=True)
        ]
        task = Task(id="served", kind="served")
        return Episode(id="served", task=task, seed=seed, observation=contents[-1], turns=turns)
