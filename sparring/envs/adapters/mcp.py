"""An MCP server's tools: `env.id = "mcp"`, with the server, the tasks and a scorer in `env.options`.

The first observation is the task and the list of tools. An action is a call, `tool {"argument": …}`, and its answer the
observation; `answer TEXT` ends the episode. The scorer, a function of the user's, says what the episode earned. The
server is started anew for every episode, so that nothing of the one before is left.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparring.core.errors import ConfigError, quote
from sparring.core.types import Task
from sparring.envs.adapters.driven import Ask, Driven, Ending
from sparring.envs.adapters.splits import find_object, import_or_refuse, shortened
from sparring.envs.base import EnvStep
from sparring.envs.rewards import RewardRule

TURN_LIMIT = 20
"""Most actions of an episode where nothing is said."""
INSTRUCTION = 'Call one tool at a time, as: NAME {"argument": value}. When you are done: answer TEXT.'
_CALL = re.compile(r"\s*([\w./-]+)\s*(.*)", re.DOTALL)


class McpTools:
    """A server's tools, with tasks and a scorer, as a benchmark."""

    env_per_process = True  # each episode has a server process, and an event loop
    reward: RewardRule = "last"

    def __init__(
        self,
        *,
        server: Sequence[str] | str,
        tasks: Mapping[str, Sequence[Mapping[str, Any]]],
        scorer: str,
        turn_limit: int = TURN_LIMIT,
        instruction: str = INSTRUCTION,
    ) -> None:
        """Args:
        server: a module that is run (`python -m`) and talks over its standard streams, or a running server's URL. A
            class of yours that builds on this one may give a command, word by word.
        tasks: split → tasks, each a table with `prompt`, and whatever the scorer reads; `id` and `kind` are optional.
        scorer: `package.module:function`; gets the task's table, the calls so far (`tool`, `arguments`, `result`) and
            the answer (None before it is given), and returns a reward from 0 to 1.
        turn_limit: most calls of an episode, the answer included.
        instruction: how to act, for the prompt.

        Raises:
            ConfigError: there is no `mcp`, no such scorer, or a task lacks a prompt.
        """
        import_or_refuse("mcp.client.client", "'mcp>=2,<3'")
        is_module = isinstance(server, str) and "://" not in server
        self._server = [sys.executable, "-m", server] if is_module else server
        self._score: Callable[..., float] = find_object(scorer, "scorer")
        self._tasks = {split: [_task(split, n, one) for n, one in enumerate(those)] for split, those in tasks.items()}
        self._turn_limit, self.instruction = turn_limit, instruction

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self._tasks:
            raise ConfigError(f"split: unknown {split!r}. Known: {', '.join(sorted(self._tasks))}.")
        return self._tasks[split]

    def turn_limit(self, task: Task) -> int:
        """Return the most actions of an episode."""
        return self._turn_limit

    def make_env(self) -> McpEnv:
        """Make an env; it starts its server with each episode."""
        return McpEnv(self._server, self._score)

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return the actions that a task's table lists as `expert`."""
        return {task.id: list(task.data["expert"]) for task in tasks if "expert" in task.data}


class McpEnv:
    """Episodes with a server's tools."""

    def __init__(self, server: Sequence[str] | str, score: Callable[..., float]) -> None:
        self._server, self._score = server, score
        self._driven = Driven()

    def reset(self, task: Task, seed: int) -> str:
        """Start the server and show the task and the tools."""
        return self._driven.start(lambda ask: self._episode(task, ask)).observation

    def step(self, action: str) -> EnvStep:
        """Call a tool, or answer."""
        return self._driven.step(action)

    def close(self) -> None:
        """End the server."""
        self._driven.close()

    async def _episode(self, task: Task, ask: Ask) -> Ending:
        server: Any = self._server
        if not isinstance(server, str):
            command, *args = server
            parameters = importlib.import_module("mcp.client.stdio").StdioServerParameters
            server = parameters(command=command, args=args)
        calls: list[dict[str, Any]] = []
        async with importlib.import_module("mcp.client.client").Client(server) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            shown = f"{task.data['prompt']}\n\nTools:\n" + "\n".join(map(_describe, tools.values()))
            reward = 0.0
            while True:
                action = await ask(shown, reward)
                name, _, rest = action.strip().partition(" ")
                if name == "answer":
                    return "The episode is over.", self._score(dict(task.data), calls, rest.strip())
                shown = await _called(client, tools, action, calls)
                reward = self._score(dict(task.data), calls, None)


async def _called(client: Any, tools: Mapping[str, Any], action: str, calls: list[dict[str, Any]]) -> str:
    """Call a tool as an action says, write the call down, and return what came of it."""
    found = _CALL.fullmatch(action)
    name, rest = found.groups() if found else ("", "")
    if name not in tools:
        return f"There is no tool {quote(name)}. Tools: {shortened(list(tools))}."
    try:
        arguments = json.loads(rest or "{}")
    except (ValueError, RecursionError) as error:
        return f"The arguments are no JSON: {error}"
    if not isinstance(arguments, dict):
        return 'The arguments are no table: {"name": value, …}.'
    try:
        result = await client.call_tool(name, arguments)
    except importlib.import_module("mcp.shared.exceptions").MCPError as error:
        return f"The call failed: {error}"
    text = "\n".join(one.text for one in result.content if getattr(one, "type", "") == "text") or "(nothing)"
    calls.append({"tool": name, "arguments": arguments, "result": text})
    return text


def _describe(tool: Any) -> str:
    schema = getattr(tool, "input_schema", None) or getattr(tool, "inputSchema", {})
    needed = schema.get("required", ())
    arguments = [
        f"{name}: {part.get('type', 'any')}{'' if name in needed else ', optional'}"
        for name, part in schema.get("properties", {}).items()
    ]
    return f"- {tool.name}({'; '.join(arguments)}){': ' + tool.description.strip() if tool.description else ''}"


def _task(split: str, number: int, table: Mapping[str, Any]) -> Task:
    if not isinstance(table, Mapping) or not isinstance(table.get("prompt"), str):
        raise ConfigError(f"env.options: tasks.{split}[{number}] has no text `prompt`.")
    return Task(id=str(table.get("id", f"{split}/{number}")), kind=str(table.get("kind", "mcp")), data=dict(table))
