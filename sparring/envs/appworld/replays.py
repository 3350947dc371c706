"""What an episode did to the world: a task and code in, all rows at the start and at the end out.

Makers of tasks need the state that no observation tells. The code is played once more, in an engine of their own that
is shut in like every other; it comes up when it is first asked and ends with its owner. There is no chance in it, so
equal arguments give equal answers.
"""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.core.errors import EnvFault
from sparring.core.types import Task
from sparring.envs.appworld.checks import TASK_TABLE
from sparring.envs.appworld.process import EngineProcess, EpisodeEnded, Rows
from sparring.envs.appworld.tasks import engine_task

DEADLINE_S = 120.0
"""Seconds that a replay may take, the engine's start aside; then it tells nothing."""

NUM_KEPT = 16
"""Replays that are remembered: what is made from one trajectory asks for the same one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The rows of an episode, and how it ended."""

    before: Rows
    """As the task's data have them: tests compare with these."""
    start: Rows
    """Where the agent began: after the task's prefix, if it has one."""
    end: Rows
    is_complete: bool
    """Whether the task was marked complete."""


class Replays:
    """Replays episodes, one at a time."""

    def __init__(self, make_engine: Callable[[], EngineProcess], deadline_s: float = DEADLINE_S) -> None:
        self._make_engine = make_engine
        self._deadline_s = deadline_s
        self._engine: EngineProcess | None = None
        self._end_with_owner: weakref.finalize | None = None
        self._known: OrderedDict[str, Replay | None] = OrderedDict()

    def play(self, task: Task, actions: Sequence[str]) -> Replay | None:
        """Play code from the start of a task; None: it broke its interpreter, or the engine, or took too long."""
        key = hashlib.sha256(json.dumps([dict(task.data), list(actions)], sort_keys=True).encode()).hexdigest()
        if key not in self._known:
            self._known[key] = self._play(task, actions)
            if len(self._known) > NUM_KEPT:
                self._known.popitem(last=False)
        return self._known[key]

    def close(self) -> None:
        """End the engine, if it is up; the next replay starts another one."""
        if self._end_with_owner is not None:
            self._end_with_owner()
        self._engine = None

    def _play(self, task: Task, actions: Sequence[str]) -> Replay | None:
        if self._engine is None:
            self._engine = self._make_engine()
            self._end_with_owner = weakref.finalize(self, self._engine.close)
        alarm = threading.Timer(self._deadline_s, self._engine.kill)
        alarm.daemon = True
        alarm.start()
        try:
            return _replay(self._engine, task, actions)
        except EpisodeEnded:
            return None
        except Exception:  # agents' code can break the engine or answer in its name: that costs a replay, and no run
            self.close()
            return None
        finally:
            alarm.cancel()


def _replay(engine: EngineProcess, task: Task, actions: Sequence[str]) -> Replay:
    before = start = engine.open(task=engine_task(task))["rows"]
    is_complete = False
    prefix = task.data.get("prefix", ())
    for code in prefix:
        _, is_complete = engine.execute(clean(code))
    if prefix:
        start = engine.rows()
    for code in actions:
        if is_complete:
            break
        _, is_complete = engine.execute(clean(code))
    end = engine.rows()
    engine.end()
    if not all(map(are_rows, (before, start, end))):
        raise EnvFault("The engine told what are no rows.")
    return Replay(before=before, start=start, end=end, is_complete=is_complete)


def are_rows(found: Any) -> bool:
    """Whether an engine told rows that can be compared and judged; an agent's code may have forged them."""
    if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
        return False
    every = [row for rows in found.values() for row in rows]
    marks = found.get(TASK_TABLE, ())
    return all(isinstance(row, dict) and type(row.get("id")) is int for row in every) and all(
        isinstance(row.get("answer"), str) and isinstance(row.get("status"), str | None) for row in marks
    )


def clean(code: str) -> str:
    """Return code that can be sent: lone surrogates can't."""
    return code.encode("utf-8", "replace").decode()
