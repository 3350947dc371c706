"""A live env as the pool sees it: in this process, or in one of its own behind a transport that carries JSON lines.

Where an env process runs, and what carries its lines, is the transport's business alone: a pipe to a child of this
process (`processes.py`), or an actor on a cluster (`cluster.py`). `worker.py` is the other end of both.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.base import Benchmark, Env, EnvStep
from sparring.envs.faults import checked_observation, checked_step, describe_exception
from sparring.envs.variables import withheld_hint

T = TypeVar("T")


class Connection(Protocol):
    """A live env, wherever it runs. Every method raises EnvFault when infrastructure fails."""

    def reset(self, task: Task, seed: int, deadline_s: float) -> str: ...

    def step(self, action: str, deadline_s: float) -> EnvStep: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


class Transport(Protocol):
    """One env process, wherever it runs: takes a line, answers with a line."""

    def ask(self, line: bytes, what: str, deadline_s: float) -> bytes:
        """Send a request and return the answer, both without the newline.

        Raises:
            EnvFault: no answer within the deadline (`what` names the request), or the process died.
        """
        ...

    def close(self) -> None:
        """Let the process end by itself, and kill it where it does not."""
        ...

    def kill(self) -> None:
        """End the process and its children. May be called from another thread while one waits for an answer."""
        ...


class LocalConnection:
    """An env in this process. Whatever it raises counts as a fault, save what the user can mend."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.env: Env = self._guard(benchmark.make_env)

    def reset(self, task: Task, seed: int, deadline_s: float) -> str:
        return checked_observation(self.env, self._guard(lambda: self.env.reset(task, seed)))

    def step(self, action: str, deadline_s: float) -> EnvStep:
        return checked_step(self.env, self._guard(lambda: self.env.step(action)), EnvStep)

    def close(self) -> None:
        self.env.close()

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self.env.close()

    @staticmethod
    def _guard(call: Callable[[], T]) -> T:
        try:
            return call()
        except (ConfigError, DataError, EnvFault):
            raise
        except (Exception, SystemExit) as error:
            raise EnvFault(describe_exception(error)) from error


class WorkerConnection:
    """An env in a process of its own (see `worker.py`), wherever its transport leads."""

    def __init__(
        self,
        transport: Transport,
        env_id: str,
        options: Mapping[str, Any],
        deadline_s: float,
        variables: Sequence[str],
    ) -> None:
        """Build the world in its process.

        Raises:
            EnvFault: the process failed.
            ConfigError, DataError: what the user can mend.
        """
        self.transport, self.variables = transport, variables
        path = [entry or str(Path.cwd()) for entry in sys.path]
        try:
            self._request({"op": "open", "env_id": env_id, "options": dict(options), "path": path}, deadline_s)
        except BaseException:
            self.kill()
            raise

    def reset(self, task: Task, seed: int, deadline_s: float) -> str:
        fields = {"id": task.id, "kind": task.kind, "data": dict(task.data)}
        return self._request({"op": "reset", "task": fields, "seed": seed}, deadline_s)["observation"]

    def step(self, action: str, deadline_s: float) -> EnvStep:
        return EnvStep(**self._request({"op": "step", "action": action}, deadline_s))

    def close(self) -> None:
        self.transport.close()

    def kill(self) -> None:
        self.transport.kill()

    def _request(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        try:
            answer = json.loads(self.transport.ask(json.dumps(request).encode(), request["op"], deadline_s))
        except ValueError:
            raise EnvFault("The env process broke its protocol.") from None
        except EnvFault as fault:  # it may hold the process's last words
            raise EnvFault(self._hinted(str(fault))) from fault
        if "fault" in answer:
            raise EnvFault(self._hinted(answer["fault"]))
        if "error" in answer:
            raise {"DataError": DataError}.get(answer["error"], ConfigError)(self._hinted(answer["message"]))
        return answer

    def _hinted(self, message: str) -> str:
        return message + withheld_hint(message, self.variables)
