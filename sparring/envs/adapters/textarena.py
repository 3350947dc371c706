"""TextArena's games for one player: `env.id = "textarena"`, with the game in `env.options`.

A game begins as a fresh object in every episode, since TextArena's wrappers keep the text of games before. The agent
sees what is new, not the whole game again. The game's own reward counts, at its end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.adapters.splits import Splits, import_or_refuse
from sparring.envs.base import EnvStep
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 50
"""Most actions of an episode where nothing is said."""


class TextArena:
    """A game as a benchmark."""

    env_per_process = True  # games draw from Python's global generator
    reward: RewardRule = "last"

    def __init__(
        self,
        *,
        game: str,
        kwargs: Mapping[str, Any] | None = None,
        splits: Mapping[str, int] | None = None,
        turn_limit: int = TURN_LIMIT,
        instruction: str = "",
    ) -> None:
        """Args:
        game: TextArena's id, for instance `TowerOfHanoi-v0`.
        kwargs: passed to the game.
        splits: split → number of tasks; a task is a seed.
        turn_limit: most actions of an episode; the game may end one before.
        instruction: how to act, for the prompt; games explain themselves in the first observation.

        Raises:
            ConfigError: there is no TextArena.
        """
        self._textarena = import_or_refuse("textarena", "textarena")
        self._game, self._kwargs = game, dict(kwargs or {})
        self._splits, self._turn_limit = Splits(splits), turn_limit
        self.instruction = instruction

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks: seeds."""
        return self._splits.seeds(split, self._game)

    def turn_limit(self, task: Task) -> int:
        """Return the most actions of an episode."""
        return self._turn_limit

    def make_env(self) -> TextArenaEnv:
        """Make a live game."""
        return TextArenaEnv(self._textarena, self._game, self._kwargs)

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return none: demonstrations come from `expert.path`."""
        return {}


class TextArenaEnv:
    """One live game."""

    def __init__(self, textarena: Any, game: str, kwargs: Mapping[str, Any]) -> None:
        self._textarena, self._game, self._kwargs = textarena, game, kwargs
        self._env: Any = None
        self._inner: Any = None

    def reset(self, task: Task, seed: int) -> str:
        """Start a task. Its chance is the task's: `seed` changes nothing.

        Raises:
            ConfigError: there is no such game, or it is not for one player.
        """
        random.seed(task.data["seed"])
        try:
            self._env = self._textarena.make(self._game, **self._kwargs)
            self._env.reset(num_players=1, seed=task.data["seed"])
        except (ValueError, AssertionError, ImportError) as error:
            raise ConfigError(f"env.options: TextArena can't begin {self._game!r} with one player: {error}") from None
        self._inner = self._env
        while isinstance(self._inner, self._textarena.Wrapper):  # observations come from within: wrappers repeat them
            self._inner = self._inner.env
        return self._news()

    def step(self, action: str) -> EnvStep:
        """Play an action."""
        is_done, _ = self._env.step(action=action)
        reward = 0.0
        if is_done:
            rewards, _ = self._inner.close()
            reward = float((rewards or {}).get(0, 0.0))
        return EnvStep(observation=self._news() or "The game is over.", reward=reward, is_done=bool(is_done))

    def close(self) -> None:
        """Let go of the game."""
        self._env = self._inner = None

    def _news(self) -> str:
        _, messages = self._inner.get_observation()
        own = self._textarena.ObservationType.PLAYER_ACTION
        return "\n".join(str(text) for _, text, kind in messages if kind is not own).strip()
