"""A running OpenEnv server: `env.id = "openenv"`, with its address in `env.options`.

The generic client of the package `openenv` is used, which runs no code of the environment's here: actions and
observations are tables, and the options name their text fields. Rewards are OpenEnv's, per step, so that by default
they are added up. Each env is a session of its own; a server that allows one alone wants `env.num_envs = 1`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.adapters.splits import Splits, import_or_refuse, shortened
from sparring.envs.base import EnvStep
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 50
"""Most actions of an episode where nothing is said."""


class OpenEnv:
    """An environment behind a server as a benchmark."""

    env_per_process = True  # a client has an event loop of its own, and waits for the network
    reward: RewardRule = "sum"

    def __init__(
        self,
        *,
        base_url: str,
        action: str = "message",
        observation: str | None = None,
        reset: Mapping[str, Any] | None = None,
        splits: Mapping[str, int] | None = None,
        turn_limit: int = TURN_LIMIT,
        instruction: str = "",
    ) -> None:
        """Args:
        base_url: where the server is, for instance `http://localhost:8000`.
        action: the field of the action that takes the agent's text.
        observation: the field of the observation that the agent reads; none: the whole, as JSON.
        reset: passed to `reset` besides the task's seed.
        splits: split → number of tasks; a task is a seed.
        turn_limit: most actions of an episode; the environment may end one before.
        instruction: how to act, for the prompt.

        Raises:
            ConfigError: there is no `openenv`.
        """
        self._client = import_or_refuse("openenv.core", "openenv").GenericEnvClient
        self._url, self._action, self._observation = base_url, action, observation
        self._reset, self._splits = dict(reset or {}), Splits(splits)
        self._turn_limit, self.instruction = turn_limit, instruction

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks: seeds."""
        return self._splits.seeds(split, "openenv")

    def turn_limit(self, task: Task) -> int:
        """Return the most actions of an episode."""
        return self._turn_limit

    def make_env(self) -> OpenEnvEnv:
        """Open a session."""
        return OpenEnvEnv(self._client(base_url=self._url).sync(), self._action, self._observation, self._reset)

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return none: demonstrations come from `expert.path`."""
        return {}


class OpenEnvEnv:
    """One session with the server."""

    def __init__(self, client: Any, action: str, observation: str | None, reset: Mapping[str, Any]) -> None:
        self._client, self._action, self._observation, self._reset = client, action, observation, reset

    def reset(self, task: Task, seed: int) -> str:
        """Start a task. Its chance is the task's: `seed` changes nothing."""
        return self._text(self._client.reset(seed=task.data["seed"], **self._reset).observation)

    def step(self, action: str) -> EnvStep:
        """Send an action."""
        result = self._client.step({self._action: action})
        reward = 0.0 if result.reward is None else result.reward
        return EnvStep(observation=self._text(result.observation), reward=reward, is_done=bool(result.done))

    def close(self) -> None:
        """End the session."""
        self._client.close()

    def _text(self, observation: Any) -> str:
        if self._observation is None:
            return json.dumps(observation, ensure_ascii=False, default=str)
        if not isinstance(observation, Mapping) or self._observation not in observation:
            keys = shortened([str(key) for key in observation]) if isinstance(observation, Mapping) else "none"
            raise ConfigError(f"env.options: observation {self._observation!r}: the fields are {keys}.")
        text = observation[self._observation]
        return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str)
