"""Worlds with a fault in their own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sparring.core.types import Task
from sparring.envs.base import EnvStep
from tests.toy_world import ToyEnv, ToyWorld


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
        return {"raising": RaisingEnv, "exiting": ExitingEnv}[self.kind]()


class StepResult(SimpleNamespace):
    """Has a step's parts under other names, as OpenEnv's."""


class ShapeEnv(ToyEnv):
    """Answers in another shape than an env's; `answer` names it."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    def reset(self, task: Task, seed: int) -> Any:
        first = super().reset(task, seed)
        return (first, {}) if self.answer == "reset pair" else first

    def step(self, action: str) -> Any:
        step = super().step(action)
        said, reward, is_done = step.observation, step.reward, step.is_done
        parts = {"observation": said, "reward": reward, "is_done": is_done}
        changed: dict[str, Any] = {
            "nan": {"reward": float("nan")},
            "no reward": {"reward": None},
            "text reward": {"reward": "1"},
            "no observation": {"observation": None},
            "list": {"observation": [said]},
            "no end": {"is_done": None},
        }
        if self.answer in changed:
            return EnvStep(**{**parts, **changed[self.answer]})
        return {
            "five": (said, reward, is_done, False, {}),
            "four": (said, reward, is_done, {}),
            "two": (is_done, {}),
            "dict": {"observation": said, "reward": reward},
            "result": StepResult(observation=said, reward=reward, done=is_done),
            "none": None,
        }[self.answer]


class ShapeWorld(ToyWorld):
    """`answer` names the shape."""

    def __init__(self, *, answer: str, per_process: bool = False) -> None:
        super().__init__(size=1, per_process=per_process)
        self.answer = answer

    def make_env(self) -> ShapeEnv:
        return ShapeEnv(self.answer)


class ScoredEnv(ToyEnv):
    """Its presses are worth what the world says, one after another."""

    def __init__(self, rewards: list[float]) -> None:
        super().__init__()
        self.rewards = rewards

    def step(self, action: str) -> EnvStep:
        pressed = self.pressed
        step = super().step(action)
        earned = self.rewards[min(pressed, len(self.rewards) - 1)] if self.pressed > pressed else 0.0
        return EnvStep(observation=step.observation, reward=earned, is_done=step.is_done)


class ScoredWorld(ToyWorld):
    """`rewards` of each press in turn, the last for all after it; `rule`, where given, says how they are read."""

    def __init__(self, *, rewards: list[float], rule: str | None = None, size: int = 1) -> None:
        super().__init__(size=size)
        self.rewards = rewards
        if rule is not None:
            self.reward = rule

    def tasks(self, split: str) -> list[Task]:
        return [task for task in super().tasks(split) if task.kind == "long"]

    def make_env(self) -> ScoredEnv:
        return ScoredEnv(self.rewards)
