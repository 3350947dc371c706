"""A tiny world for tests: press the listed colours in order; a wrong colour jams the machine and ends the episode.

The reward so far is the share of the list pressed, so failures are graded. Anything else than a press does nothing.
Use it as `tests.toy_world:ToyWorld`, for instance with options `{"size": 4, "per_process": True}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.base import EnvStep

COLOURS = ("red", "green", "blue", "white")
LENGTHS = {"short": 2, "long": 4}

TOY_RECIPE = """
name = "toy"
[model]
path = "{model}"
[env]
id = "tests.toy_world:ToyWorld"
num_envs = 8
options = {{ size = 3 }}
[chat]
format = "action"
instruction = ""
max_context = 384
[rollout]
max_new_tokens = 6
wave_size = 8
[sft]
lr = 1e-3
epochs = 1
batch_size = 4
[dpo]
lr = 1e-4
epochs = 1
batch_size = 4
[loop]
rounds = 1
[fail]
min_pairs = 1
[eval]
num_resamples = 50
[arms.sft]
method = "sft"
[arms.eto]
method = "eto"
[arms.coevolving_agents]
method = "coevolving_agents"
"""
"""A recipe on the toy world; `model` is a folder."""


class ToyEnv:
    """One machine with coloured buttons."""

    def __init__(self, floor: float = 0.0) -> None:
        self.goal: list[str] = []
        self.pressed = 0
        self.floor = floor

    def reset(self, task: Task, seed: int) -> str:
        self.goal, self.pressed = list(task.data["goal"]), 0
        return f"Press in this order: {' '.join(self.goal)}.\n\nYou see buttons: {' '.join(COLOURS)}."

    def step(self, action: str) -> EnvStep:
        verb, _, colour = action.strip().partition(" ")
        if verb == "look":
            return self._answer(f"{self.pressed} of {len(self.goal)} done.")
        if verb != "press" or colour not in COLOURS:
            return self._answer("Nothing happens.")
        if self.pressed < len(self.goal) and colour == self.goal[self.pressed]:
            self.pressed += 1
            return self._answer(f"The {colour} button clicks.", is_done=self.pressed == len(self.goal))
        return self._answer("The machine jams.", is_done=True)

    def close(self) -> None:
        pass

    def _answer(self, observation: str, is_done: bool = False) -> EnvStep:
        reward = max(self.floor, self.pressed / len(self.goal))
        return EnvStep(observation=observation, reward=reward, is_done=is_done)


class ToyWorld:
    """Splits `train`, `dev` and `test`; types `short` (2 presses) and `long` (4)."""

    instruction = "You stand at a machine. Actions: press COLOUR, look. Press the colours in the order you are told."

    def __init__(self, *, size: int = 6, per_process: bool = False, num_turns: int = 8, floor: float = 0.0) -> None:
        """`size` tasks per type in `train`, half as many in `dev` and `test`; `per_process`: a process per env.

        No reward is below `floor`.
        """
        self.size = size
        self.env_per_process = per_process
        self.num_turns = num_turns
        self.floor = floor

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in ("train", "dev", "test"):
            raise ConfigError(f"split: unknown {split!r}. Known: dev, test, train.")
        num = self.size if split == "train" else max(1, self.size // 2)
        return [self._task(split, kind, i) for kind in LENGTHS for i in range(num)]

    def turn_limit(self, task: Task) -> int:
        return self.num_turns

    def make_env(self) -> ToyEnv:
        return ToyEnv(self.floor)

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        return {task.id: [f"press {colour}" for colour in task.data["goal"]] for task in tasks}

    def _task(self, split: str, kind: str, index: int) -> Task:
        digest = hashlib.sha256(f"{split}/{kind}/{index}".encode()).digest()
        goal = [COLOURS[byte % len(COLOURS)] for byte in digest[: LENGTHS[kind]]]
        return Task(id=f"{kind}/{split}-{index}", kind=kind, data={"goal": goal})
