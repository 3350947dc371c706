"""Environments of gymnasium over text, for tests: text observations, tables with a text field, and what is no text."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.spaces import Box, Dict, Discrete, Text

from sparring.core.types import Task


class Spelling(gymnasium.Env):
    """Spell a word, letter by letter: each right letter earns its share, and a wrong one ends the episode."""

    words = ("cat", "door", "apple")

    def __init__(self, *, shape: str = "text", most: int = 99) -> None:
        self.observation_space = Text(200) if shape == "text" else Dict({"said": Text(200), "number": Discrete(9)})
        self.action_space = Box(0, 1) if shape == "numbers" else Text(20)
        self.shape, self.most = shape, most

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.word = self.words[int(self.np_random.integers(len(self.words)))]
        self.num = self.turns = 0
        return self.shown(f"Spell {self.word}."), {}

    def step(self, action: str) -> Any:
        self.turns += 1
        is_right = action == self.word[self.num]
        self.num += is_right
        is_over = not is_right or self.num == len(self.word)
        said = "Right." if is_right else "Wrong."
        return self.shown(said), is_right / len(self.word), is_over, self.turns >= self.most, {}

    def shown(self, text: str) -> Any:
        return text if self.shape == "text" else {"said": text, "number": 3}


class OldApi(Spelling):
    """Answers as gym did, in four parts."""

    def step(self, action: str) -> Any:
        return (*super().step(action)[:3], {})


def spelled(task: Task) -> list[str]:
    """Return the letters that solve a task."""
    env = Spelling()
    env.reset(seed=task.data["seed"])
    return list(env.word)
