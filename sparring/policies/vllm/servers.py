"""The vLLM servers that agents play on: which server answers which episode, and which adapters all of them have.

A server that has died, or has lost its adapters, is put right where that is possible, and asked again: no episode ends
for it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sparring.core.errors import ConfigError, EnvFault
from sparring.policies.vllm.client import ServedModel, VllmClient

log = logging.getLogger(__name__)

Revive = Callable[[], VllmClient | None]
"""Starts a server anew if it is dead, and returns its new client; none: it is alive. Raises where it can't."""


class Servers:
    """Servers that hold one base model, and the same adapters."""

    def __init__(self, clients: Sequence[VllmClient], *, revive: Revive | None = None) -> None:
        """Args:
        clients: one a server.
        revive: for the one server that was started here.
        """
        self.clients = list(clients)
        self._revive = revive
        self._adapters: dict[str, Path] = {}
        self._server_of: dict[str, int] = {}
        self._lost: set[int] = set()
        self._lock = threading.RLock()

    def client_for(self, episode_id: str) -> VllmClient:
        """Return the server of an episode: the one that has its past in its cache, at first the least busy one."""
        with self._lock:
            there = [number for number, _ in self._there()]
            if self._server_of.get(episode_id) not in there:
                busy = Counter(self._server_of.values())
                self._server_of[episode_id] = min(there, key=lambda number: busy[number])
            return self.clients[self._server_of[episode_id]]

    def alive(self) -> list[VllmClient]:
        """Return the servers that answer, as far as is known."""
        return [client for _, client in self._there()]

    def forget(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        with self._lock:
            self._server_of.pop(episode_id, None)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Let every server load an adapter under a name that none has.

        Raises:
            ConfigError: a server refuses it.
            EnvFault: a server failed.
        """
        for number, client in self._there():
            try:
                client.load_adapter(name, folder)
            except EnvFault:
                self._lose(number)
        self._adapters[name] = folder

    def unload_adapter(self, name: str) -> None:
        """Let every server forget an adapter."""
        self._adapters.pop(name, None)
        for client in self.alive():
            with suppress(ConfigError, EnvFault):  # it, or the server, is not there
                client.unload_adapter(name)

    def revive(self) -> None:
        """Start the server that is ours again, if it has died. It has no adapters then.

        Raises:
            ConfigError, EnvFault: it can't be started.
        """
        with self._lock:
            if self._revive is not None and (client := self._revive()) is not None:
                log.warning("the vLLM server had ended, and was started again")
                self.replace_own(client)

    def replace_own(self, client: VllmClient) -> None:
        """Speak to the server that is ours through another client: it was started again. It has no adapters then."""
        with self._lock:
            self.clients[0] = client

    def ensure_adapter(self, name: str) -> None:
        """Load an adapter where a server has lost it; other names are left alone."""
        for _, client in self._there() if name in self._adapters else ():
            if name not in {model.name for model in client.models()}:
                client.load_adapter(name, self._adapters[name])

    def mend(self, episode_id: str, model: str) -> None:
        """Put right what made a request fail, as far as that is possible.

        A dead server of ours is started anew, a lost adapter is loaded again, and an episode of a server that is gone
        moves to another.

        Args:
            episode_id: whose request failed.
            model: the name that was asked for.

        Raises:
            ConfigError, EnvFault: it is not possible.
        """
        with self._lock:
            number = self._server_of[episode_id]
            self.revive()
            try:
                known = {model.name for model in self.clients[number].models()}
            except EnvFault:
                self._lose(number)
                return
            if model in self._adapters and model not in known:
                self.clients[number].load_adapter(model, self._adapters[model])

    def _lose(self, number: int) -> None:
        self._lost.add(number)
        if len(self._lost) == len(self.clients):
            raise EnvFault(f"No vLLM server answers any more; the last was {self.clients[number].url}. See its log.")
        log.warning("%s is gone; its episodes move to the other servers", self.clients[number].url)

    def _there(self) -> list[tuple[int, VllmClient]]:
        return [(number, client) for number, client in enumerate(self.clients) if number not in self._lost]


def find_base(client: VllmClient, path: str) -> ServedModel:
    """Return a server's base model.

    Args:
        client: of the server.
        path: the model that is expected, for the message.

    Raises:
        ConfigError: it serves none, or several and none of this path.
    """
    bases = [model for model in client.models() if not model.parent]
    same = [model for model in bases if path in (model.root, model.name)] or bases
    if len(same) != 1:
        names = ", ".join(model.name for model in bases) or "none"
        raise ConfigError(f"{client.url} serves {names}, and the run's model is {path}. Serve that one.")
    return same[0]
