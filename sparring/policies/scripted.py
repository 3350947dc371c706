"""Policies without a model: recorded actions, random ones, or any function of the episode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from sparring.core.errors import ConfigError
from sparring.core.types import StopReason
from sparring.policies.base import Episode, Reply


class ScriptedPolicy:
    """Plays what a function of the episode says."""

    def __init__(self, choose: Callable[[Episode], str | None]) -> None:
        """`choose` maps an episode to its next action, or to none, which ends it; it must depend on nothing else."""
        self._choose = choose

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply]:
        """Answer the current observation of each episode, in order."""
        over = Reply(text="", action="", stop=StopReason.TURN_LIMIT)
        chosen = map(self._choose, episodes)
        return [over if action is None else Reply(text=action, action=action) for action in chosen]

    def close(self, episode_id: str) -> None:
        """Forget nothing: there is no memory."""


class ReplayPolicy(ScriptedPolicy):
    """Plays recorded actions, task by task, for instance an expert's."""

    def __init__(self, actions: Mapping[str, Sequence[str]], *, then: str | None = "") -> None:
        """Args:
        actions: task id → its actions, in order.
        then: what is played once they are used up and the world has not ended the episode; none: nothing, it ends.
        """
        self._actions = actions
        self._then = then
        super().__init__(self._recorded)

    def _recorded(self, episode: Episode) -> str | None:
        if episode.task.id not in self._actions:
            raise ConfigError(f"There are no recorded actions for task {episode.task.id!r}.")
        actions, turn = self._actions[episode.task.id], len(episode.turns)
        return actions[turn] if turn < len(actions) else self._then


class RandomPolicy(ScriptedPolicy):
    """Plays actions drawn uniformly; the draw depends on the seed, the episode and the turn alone."""

    def __init__(self, seed: int, actions: Sequence[str] | Callable[[Episode], Sequence[str]]) -> None:
        """`actions`: what to draw from, or a function that lists it for an episode (at least one action)."""
        self._seed = seed
        self._actions = actions
        super().__init__(self._drawn)

    def _drawn(self, episode: Episode) -> str:
        actions = self._actions(episode) if callable(self._actions) else self._actions
        if not actions:
            raise ConfigError(f"RandomPolicy has no action to choose from for task {episode.task.id!r}.")
        key = f"{self._seed}\0{episode.id}\0{episode.seed}\0{len(episode.turns)}"
        draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        return actions[draw * len(actions) >> 64]
