"""A world whose own code drives, and asks an agent as it goes, turned into one that waits between actions.

The world is a coroutine that awaits `ask(observation, reward)` for each action, and returns its last observation and
reward. It runs on an event loop of its own, and only while `start` or `step` are waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sparring.envs.base import EnvStep

Ask = Callable[[str, float], Awaitable[str]]
"""Shows an observation, with the reward of the action before, and gives the next action."""
Ending = tuple[str, float]
"""The last observation, and the last action's reward."""


class Driven:
    """One episode after another of a world that drives."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._episode: asyncio.Task[Ending] | None = None
        self._shown: asyncio.Future[tuple[str, float]] | None = None
        self._action: asyncio.Future[str] | None = None

    def start(self, episode: Callable[[Ask], Coroutine[Any, Any, Ending]]) -> EnvStep:
        """Begin an episode, and return what it shows first; one that is open is left."""
        self.close()
        loop = self._loop = asyncio.new_event_loop()
        self._shown = loop.create_future()
        self._episode = loop.create_task(episode(self._ask))
        return self._go_on()

    def step(self, action: str) -> EnvStep:
        """Give the episode its next action, and return what it then shows."""
        assert self._loop is not None and self._action is not None, "no episode is open"
        self._shown = self._loop.create_future()
        self._action.set_result(action)
        return self._go_on()

    def close(self) -> None:
        """Leave the open episode, and let its code clean up."""
        loop, episode = self._loop, self._episode
        self._loop = self._episode = self._action = None
        if loop is None or episode is None:
            return
        try:
            if not episode.done():
                episode.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    loop.run_until_complete(episode)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _go_on(self) -> EnvStep:
        loop, episode, shown = self._loop, self._episode, self._shown
        assert loop is not None and episode is not None and shown is not None
        loop.run_until_complete(asyncio.wait((episode, shown), return_when=asyncio.FIRST_COMPLETED))
        if shown.done():
            observation, reward = shown.result()
            return EnvStep(observation=observation, reward=reward, is_done=False)
        observation, reward = episode.result()
        return EnvStep(observation=observation, reward=reward, is_done=True)

    async def _ask(self, observation: str, reward: float) -> str:
        assert self._loop is not None and self._shown is not None
        self._action = self._loop.create_future()
        self._shown.set_result((observation, reward))
        return await self._action
