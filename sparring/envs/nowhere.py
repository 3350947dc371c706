"""The world of a run that has none: no tasks, nothing to play. `prefer` trains on a file's preferences in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparring.core.types import Task
from sparring.envs.base import Env

NOWHERE = "sparring.envs.nowhere:Nowhere"
"""Its `env.id`, which a recipe has whose methods need no world and which names none."""


class Nowhere:
    """A benchmark without tasks."""

    instruction = ""
    env_per_process = False

    def tasks(self, split: str) -> Sequence[Task]:
        """List nothing."""
        return ()

    def turn_limit(self, task: Task) -> int:
        """Return 0."""
        return 0

    def make_env(self) -> Env:
        """Never called: there is no task to play."""
        raise AssertionError("nothing is played nowhere")

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Solve nothing."""
        return {}
