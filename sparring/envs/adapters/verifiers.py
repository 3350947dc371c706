"""Environments of `verifiers` (0.4, its v1 API): `env.id = "verifiers"`, with the taskset in `env.options`.

A taskset's tasks have a prompt and rewards; an environment's `run` says who speaks when. Here `run` is called with an
agent whose replies are the actions of ours, so that one-turn tasksets, games and conversations of any length play as
they are, and the rewards that the task and the environment record, added up, are the episode's. No harness, no sandbox
and no server take part. So what needs those is refused: tools, tasks in containers, rewards that look into a runtime,
and environments with more than one role, whose other roles are models.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

from sparring.core.errors import ConfigError, quote
from sparring.core.types import Task
from sparring.envs.adapters.driven import Ask, Driven, Ending
from sparring.envs.adapters.splits import Splits, import_or_refuse, shortened
from sparring.envs.base import EnvStep
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 20
"""Most replies of an episode where nothing is said."""
OVER = "The episode is over."


class Verifiers:
    """A taskset, and the environment that plays it, as a benchmark."""

    env_per_process = True  # third parties' code, which may draw from global generators
    reward: RewardRule = "last"

    def __init__(
        self,
        *,
        taskset: str,
        config: Mapping[str, Any] | None = None,
        env: str = "",
        splits: Mapping[str, int] | None = None,
        turn_limit: int = TURN_LIMIT,
        instruction: str = "",
    ) -> None:
        """Args:
        taskset: its id: the name of an installed package, or of one that ships with verifiers (`textarena`).
        config: the taskset's config.
        env: the id of an environment to play it in; none: the taskset's own, or a single agent's.
        splits: split → number of tasks, in the taskset's order.
        turn_limit: most replies of an episode; the environment may end one before.
        instruction: how to act, for the prompt, besides the tasks' own system prompt.

        Raises:
            ConfigError: there is no verifiers, no such taskset, or the environment has several roles.
        """
        self._vf = import_or_refuse("verifiers.v1", "'verifiers>=0.4,<0.5'")
        self._env, self._role = _load(taskset, dict(config or {}), env)
        self._splits, self._turn_limit, self.instruction = Splits(splits), turn_limit, instruction
        self._kind = taskset
        self._found: list[Any] | None = None

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks: places in the taskset. A taskset with fewer tasks has smaller last splits."""
        numbers = self._splits.numbers(split)
        found = self._rows()
        return [
            Task(id=f"{self._kind}/{number}", kind=self._kind, data={"number": number})
            for number in numbers
            if number < len(found)
        ]

    def turn_limit(self, task: Task) -> int:
        """Return the most replies of an episode."""
        return self._turn_limit

    def make_env(self) -> VerifiersEnv:
        """Make a live env."""
        return VerifiersEnv(self._vf, self._env, self._role, self._rows())

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return none: demonstrations come from `expert.path`."""
        return {}

    def _rows(self) -> list[Any]:
        """Return the taskset's first tasks.

        Raises:
            ConfigError: they need what is not here.
        """
        if self._found is None:
            self._found = list(islice(iter(self._env.taskset), self._splits.num))
            for row in self._found[:1]:
                _check_row(self._vf, self._env, row)
        return self._found


class VerifiersEnv:
    """One episode after another."""

    def __init__(self, vf: Any, env: Any, role: str, rows: Sequence[Any]) -> None:
        self._vf, self._env, self._role, self._rows = vf, env, role, rows
        self._driven = Driven()

    def reset(self, task: Task, seed: int) -> str:
        """Start a task."""
        row = self._rows[task.data["number"]]
        return self._driven.start(lambda ask: self._episode(row, ask)).observation

    def step(self, action: str) -> EnvStep:
        """Reply."""
        return self._driven.step(action)

    def close(self) -> None:
        """Leave the open episode."""
        self._driven.close()

    async def _episode(self, row: Any, ask: Ask) -> Ending:
        vf, env = self._vf, self._env
        player = Player(vf, env, self._role, ask)
        agents = SimpleNamespace(**{self._role: player})
        await env.setup(agents)
        await env.run(row, agents)
        about = vf.EnvInfo(id=env.config.env_id)
        episode = vf.Episode(env=about, task=player.about(row), traces=player.traces)
        await env.finalize(row, episode)
        return OVER, sum(trace.reward for trace in player.traces)


class Player:
    """The agent that an environment's `run` is given: its replies are asked for."""

    def __init__(self, vf: Any, env: Any, role: str, ask: Ask) -> None:
        self._vf, self._config, self._role, self._ask = vf, getattr(env.config, role), role, ask
        self.trainable = True
        self.traces: list[Any] = []

    def about(self, row: Any) -> Any:
        """Return a task as a trace has it."""
        return self._vf.TraceTask(type=type(row).__name__, data=row.data, key=row.key, hash=row.hash)

    async def run(self, row: Any, **_: Any) -> Any:
        """Reply to a task's prompt, once, and score it."""
        async with self.interaction(row) as talk:
            await talk.turn()
        return talk.trace

    @asynccontextmanager
    async def interaction(self, row: Any, **_: Any) -> AsyncIterator[Talk]:
        """Reply turn by turn; the task scores what was said once that is over."""
        info = self._vf.AgentInfo(config=self._config, name=self._role)
        trace = self._vf.Trace(task=self.about(row), agent=info, state=_state_of(self._vf, row))
        talk = Talk(self._vf, row, trace, self._ask)
        yield talk
        trace.is_completed = trace.ok = True
        await row.score(trace)
        self.traces.append(trace)


class Talk:
    """A conversation with the agent."""

    def __init__(self, vf: Any, row: Any, trace: Any, ask: Ask) -> None:
        self._vf, self.trace, self._ask = vf, trace, ask
        system, prompt = row.data.system_prompt, row.data.prompt
        self._messages: list[Any] = [vf.SystemMessage(content=system)] if system else []
        self._messages += [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or [])
        self._num_shown = 0

    async def turn(self, message: str | list[Any] | None = None) -> Any:
        """Show what is new, and return the reply."""
        vf = self._vf
        if message is not None:
            self._messages += [vf.UserMessage(content=message)] if isinstance(message, str) else list(message)
        shown = "\n\n".join(_of("types").content_text(one.content) for one in self._messages[self._num_shown :])
        text = await self._ask(shown, 0.0)
        reply = vf.AssistantMessage(content=text)
        answer = vf.Response(id="", created=0, model="sparring", message=reply, finish_reason="stop")
        _of("graph").prepare_turn(self.trace, self._messages).commit(answer)
        self._messages.append(reply)
        self._num_shown = len(self._messages)
        return vf.Segment(messages=[reply]) if hasattr(vf, "Segment") else reply


def _load(taskset: str, config: Mapping[str, Any], env: str) -> tuple[Any, str]:
    """Return the environment and its one role."""

    try:
        kind = _of("utils.loaders").environment_class(taskset, env)
        config_class = _of("configs.env").EnvConfig
        own = _of("utils.generic").concrete_type(kind, config_class) or config_class
        loaded = kind(own.model_validate({"id": env, "taskset": {**config, "id": taskset}}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"env.options: verifiers can't load the taskset {quote(taskset)}: {why[:300]}") from None
    roles = list(_of("configs.agent").agent_config_fields(loaded.config))
    if len(roles) != 1:
        raise ConfigError(
            f"env.options: the environment has the roles {shortened(roles)}; all but one would be models that are not "
            "here. Serve your model instead (docs/serve.md), and let verifiers drive."
        )
    return loaded, roles[0]


def _check_row(vf: Any, env: Any, row: Any) -> None:
    """Refuse tasks that need what is not here.

    Raises:
        ConfigError: a container, tools, a runtime for its hooks or its rewards.
    """
    kind = type(row)
    lacking = [
        what
        for what, is_needed in (
            ("a container", kind.NEEDS_CONTAINER or row.data.image is not None),
            ("tools", bool(row.toolsets(row.config) or env.taskset.toolsets(env.taskset.config))),
            ("a runtime to set it up", kind.setup is not vf.Task.setup or kind.finalize is not vf.Task.finalize),
            ("a runtime to score it", any(map(_needs_runtime, (*row.hooks("reward"), *row.hooks("metric"))))),
            ("a model to judge it", bool(row.plugged_judges())),
        )
        if is_needed
    ]
    if lacking:
        raise ConfigError(
            f"env.options: the taskset's tasks need {' and '.join(lacking)}, which this adapter has not. Serve your "
            "model instead (docs/serve.md), and let verifiers drive."
        )


def _needs_runtime(reward: Any) -> bool:
    parameter = inspect.signature(reward).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _state_of(vf: Any, row: Any) -> Any:

    return (_of("utils.generic").concrete_type(type(row), vf.State) or vf.State)()


def _of(module: str) -> Any:
    """Return a module of verifiers."""
    return importlib.import_module(f"verifiers.v1.{module}")
