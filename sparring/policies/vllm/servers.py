"""The vLLM servers that agents play on: which server answers which episode, and which adapters all of them have.

A server that has died, or has lost its adapters, is put right where that is possible, and asked again: no episode ends
for it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
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
            if episode_id not in self._server_of:
                busy = Counter(self._server_of.values())
                there = [number for number in range(len(self.clients)) if number not in self._lost]
                self._server_of[episode_id] = min(there, key=lambda number: busy[number])
            return self.clients[self._server_of[episode_id]]

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
        for client in self._there():
            client.load_adapter(name, folder)
        self._adapters[name] = folder

    def unload_adapter(self, name: str) -> None:
        """Let every server forget an adapter."""
        self._adapters.pop(name, None)
        for client in self._there():
            client.unload_adapter(name)

    def mend(self, episode_id: str) -> None:
        """Put right what made a request fail, as far as that is possible.

        A dead server of ours is started anew, a lost adapter is loaded again, and an episode of a server that is gone
        moves to another.

        Raises:
            ConfigError, EnvFault: it is not possible.
        """
        with self._lock:
            number = self._server_of[episode_id]
            if self._revive is not None and (client := self._revive()) is not None:
                log.warning("%s had ended, and was started again", self.clients[number].url)
                self.clients[number] = client
            try:
                known = {model.name for model in self.clients[number].models()}
            except EnvFault:
                self._lose(episode_id, number)
                return
            for name, folder in self._adapters.items():
                if name not in known:
                    self.clients[number].load_adapter(name, folder)

    def _lose(self, episode_id: str, number: int) -> None:
        self._lost.add(number)
        if len(self._lost) == len(self.clients):
            raise EnvFault(f"No vLLM server answers any more; the last was {self.clients[number].url}. See its log.")
        log.warning("%s is gone; its episodes move to the other servers", self.clients[number].url)
        self._server_of.pop(episode_id)

    def _there(self) -> list[VllmClient]:
        return [client for number, client in enumerate(self.clients) if number not in self._lost]


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
