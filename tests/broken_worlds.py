"""Worlds with a fault in their own code."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

from sparring.core.errors import ConfigError
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


class FlawedEnv(ToyEnv):
    """Has the flaw that is named."""

    on_the_class: ClassVar[list[str]] = []
    chance: ClassVar[random.Random] = random.Random()

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.text = ""

    def reset(self, task: Task, seed: int) -> str:
        first = super().reset(task, seed)
        if self.flaw == "global state":
            type(self).on_the_class.clear()
        if self.flaw == "leaves a process":
            subprocess.Popen(["sleep", "20"])
        if self.flaw == "leaves a thread":
            threading.Thread(target=time.sleep, args=(6,), name="left over").start()
        if self.flaw == "another process":
            return f"{first} {os.getpid()}"
        if self.flaw == "moody":
            return f"{first} {self.chance.random()}"
        return self._told(first)

    def step(self, action: str) -> EnvStep:
        if self.flaw == "raises" and not action.isascii():
            raise ValueError("no such word")
        if self.flaw == "silent" and not action.strip():
            return EnvStep(observation="", reward=0.0, is_done=False)
        self.on_the_class.append(action)
        step = super().step(action)
        said = f"{step.observation} {len(self.on_the_class)}" if self.flaw == "global state" else step.observation
        return EnvStep(observation=self._told(said), reward=step.reward, is_done=step.is_done)

    def _told(self, text: str) -> str:
        """With the leak, as TextArena's: all that was ever said, over resets, too."""
        self.text += f"\n[GAME] {text}"
        return self.text if self.flaw == "leaky" else text


class FlawedWorld(ToyWorld):
    """A world with one flaw."""

    def __init__(self, *, flaw: str, per_process: bool = False) -> None:
        super().__init__(size=3, per_process=per_process)
        self.flaw = flaw

    def tasks(self, split: str) -> list[Task]:
        if self.flaw == "any split" and split not in ("train", "dev", "test"):
            return []
        if self.flaw == "one split" and split != "train":
            raise ConfigError("There is train alone.")
        if self.flaw == "same tasks":
            split = "train" if split == "dev" else split
        tasks = list(super().tasks(split))
        if self.flaw == "no JSON":
            return [replace(task, data={**task.data, "tuple": (1, 2)}) for task in tasks]
        return tasks

    def turn_limit(self, task: Task) -> int:
        return {"no limit": 0, "short": 1}.get(self.flaw, 8)

    def make_env(self) -> FlawedEnv:
        return FlawedEnv(self.flaw)
