"""Environments with gymnasium's API over text: `env.id = "gymnasium"`, with the environment in `env.options`.

Rewards are gymnasium's, per step, so that by default they are added up (`env.reward = "sum"`). A task is a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.core.errors import ConfigError, quote
from sparring.core.types import Task
from sparring.envs.adapters.splits import Splits, find_object, import_or_refuse, shortened
from sparring.envs.base import EnvStep
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 50
"""Most actions of an episode where nothing is said."""
RENDER = "render"
"""In the place of an observation's field: what `render()` gives, of environments with an `ansi` render mode."""


class Gymnasium:
    """An environment of gymnasium's as a benchmark."""

    env_per_process = True  # third parties' code: it may hang, and may share state between instances
    reward: RewardRule = "sum"

    def __init__(
        self,
        *,
        env: str,
        kwargs: Mapping[str, Any] | None = None,
        observation: str | None = None,
        actions: Sequence[str] | None = None,
        splits: Mapping[str, int] | None = None,
        turn_limit: int = TURN_LIMIT,
        instruction: str = "",
    ) -> None:
        """Args:
        env: `package.module:Class`, or what `gymnasium.make` takes: `FrozenLake-v1`, `package.module:MyEnv-v0`.
        kwargs: passed to it.
        observation: of a dictionary, the field with the text; `render` for the text of `render()`.
        actions: of a discrete action space, the actions' names in order.
        splits: split → number of tasks.
        turn_limit: most actions of an episode; the environment may end one before.
        instruction: how to act, for the prompt.

        Raises:
            ConfigError: there is no gymnasium, or no such environment.
        """
        self._gymnasium = import_or_refuse("gymnasium", "gymnasium")
        self._env, self._kwargs = env, dict(kwargs or {})
        self._observation, self._actions = observation, list(actions or ())
        self._splits, self._turn_limit = Splits(splits), turn_limit
        self.instruction = instruction or _instruction(self._actions)

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks: seeds."""
        return self._splits.seeds(split, self._env.rpartition(":")[2])

    def turn_limit(self, task: Task) -> int:
        """Return the most actions of an episode."""
        return self._turn_limit

    def make_env(self) -> GymnasiumEnv:
        """Make a live environment.

        Raises:
            ConfigError: its observations or actions are no text, and the options do not say how they become text.
        """
        env = self._make()
        _check_actions(self._gymnasium, env.action_space, self._actions)
        return GymnasiumEnv(env, self._observation, self._actions)

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return none: demonstrations come from `expert.path`."""
        return {}

    def _make(self) -> Any:
        module, _, name = self._env.partition(":")
        if name and isinstance(found := _class_of(module, name), type):
            if not issubclass(found, self._gymnasium.Env):  # a recipe may name anything that is installed
                raise ConfigError(f"env.options: {self._env} is no gymnasium.Env.")
            return found(**self._kwargs)
        try:
            return self._gymnasium.make(self._env, disable_env_checker=True, **self._kwargs)
        except (self._gymnasium.error.Error, ImportError, TypeError) as error:
            raise ConfigError(f"env.options: gymnasium can't make {quote(self._env)}: {error}") from None


class GymnasiumEnv:
    """One live environment."""

    def __init__(self, env: Any, observation: str | None, actions: Sequence[str]) -> None:
        self._env, self._observation = env, observation
        self._numbers = {name.lower(): number for number, name in enumerate(actions)}
        self._names = list(actions)

    def reset(self, task: Task, seed: int) -> str:
        """Start a task. Its chance is the task's: `seed` changes nothing."""
        answer = self._env.reset(seed=task.data["seed"])
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise ConfigError(
                f"env.options: reset gave a {type(answer).__name__}, not gymnasium's (observation, info)."
            )
        return self._text(answer[0])

    def step(self, action: str) -> EnvStep:
        """Play an action; one that the action space does not have is answered without the environment."""
        chosen: Any = action
        if self._numbers:
            chosen = self._numbers.get(action.strip().lower())
            if chosen is None:
                said = f"There is no such action. Actions: {', '.join(self._names)}."
                return EnvStep(observation=said, reward=0.0, is_done=False)
        elif (most := getattr(self._env.action_space, "max_length", None)) is not None and len(action) > most:
            said = f"The action is too long: at most {most} characters are taken."
            return EnvStep(observation=said, reward=0.0, is_done=False)
        answer = self._env.step(chosen)
        if not (isinstance(answer, tuple) and len(answer) == 5):
            size = f" of {len(answer)}" if isinstance(answer, tuple) else ""
            raise ConfigError(
                f"env.options: step gave a {type(answer).__name__}{size}, not gymnasium's (observation, reward, "
                "terminated, truncated, info)."
            )
        observation, reward, terminated, truncated, _ = answer
        return EnvStep(observation=self._text(observation), reward=reward, is_done=bool(terminated or truncated))

    def close(self) -> None:
        """End the environment."""
        self._env.close()

    def _text(self, observation: Any) -> str:
        if self._observation == RENDER:
            shown = self._env.render()
            if not isinstance(shown, str):
                raise ConfigError(
                    f"env.options: render() gave a {type(shown).__name__}, not text. Is there a text mode: "
                    'kwargs = {render_mode = "ansi"}?'
                )
            return shown
        if self._observation is not None and isinstance(observation, Mapping):
            if self._observation not in observation:
                keys = shortened([str(key) for key in observation])
                raise ConfigError(f"env.options: observation {self._observation!r}: the fields are {keys}.")
            observation = observation[self._observation]
        if isinstance(observation, str):
            return observation
        if isinstance(observation, Mapping):
            keys = shortened([str(key) for key in observation])
            raise ConfigError(
                f'env.options: observations are tables with the fields {keys}. Name one: observation = "…".'
            )
        raise ConfigError(
            f"env.options: observations are of type {type(observation).__name__}, not text. With a text render mode: "
            'observation = "render", kwargs = {render_mode = "ansi"}.'
        )


def _class_of(module: str, name: str) -> Any:
    try:
        return find_object(f"{module}:{name}", "env")
    except ConfigError:
        return None  # what follows the colon is an id that the module registers


def _check_actions(gymnasium: Any, space: Any, actions: Sequence[str]) -> None:
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Discrete):
        if len(actions) != space.n:
            raise ConfigError(
                f"env.options: the action space has {space.n} actions, and {len(actions)} have names. Name all, in "
                'order: actions = ["left", …].'
            )
    elif not isinstance(space, spaces.Text):
        raise ConfigError(f"env.options: the action space is {quote(str(space))}; agents write text, or a name.")


def _instruction(actions: Sequence[str]) -> str:
    return f"Actions: {', '.join(actions)}." if actions else ""
