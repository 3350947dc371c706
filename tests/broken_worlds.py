"""Worlds with a fault in their own code."""

from __future__ import annotations

from typing import Any

from sparring.core.types import Task
from sparring.envs.base import EnvStep
from tests.toy_world import ToyEnv, ToyWorld


class TupleEnv(ToyEnv):
    """Answers as gymnasium's do."""

    def step(self, action: str) -> Any:
        step = super().step(action)
        return step.observation, step.reward, step.is_done, False, {}


class RaisingEnv(ToyEnv):
    """Trips over its own data."""

    def step(self, action: str) -> EnvStep:
        return {"a": EnvStep(observation="", reward=0.0, is_done=True)}["goal"]


class ExitingEnv(ToyEnv):
    """Wants to end the process."""

    def reset(self, task: Task, seed: int) -> str:
        raise SystemExit(3)


class BrokenWorld(ToyWorld):
    """`kind` names the env."""

    def __init__(self, *, kind: str, per_process: bool = False) -> None:
        super().__init__(size=1, per_process=per_process)
        self.kind = kind

    def make_env(self) -> ToyEnv:
        return {"tuple": TupleEnv, "raising": RaisingEnv, "exiting": ExitingEnv}[self.kind]()
