"""Lets nobody but the run use a vLLM server: every path but `/health` takes the API key.

vLLM itself asks for the key under `/v1` and `/inference` alone. Its `/invocations` samples and its `/adapters` loads
adapters without one, and so do the paths that put it to sleep. Loaded inside vLLM's own Python (`--middleware`): it
imports nothing of the package.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPEN = "/health"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware in front of all others."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        is_open = scope["type"] == "lifespan" or scope.get("path") == OPEN
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if is_open or hmac.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
