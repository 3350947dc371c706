"""The toy world with a part in synthesis: tasks that begin later, have other goals, or follow one another.

Some tasks are wrong on purpose: `data["fault"]` makes a task that one check of validation alone refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, permutations
from typing import Any

from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.base import EnvStep
from sparring.envs.synthesis import Draft, synthetic_id
from tests.toy_world import COLOURS, LENGTHS, ToyEnv, ToyWorld

MAX_GOAL = 6
NO_GOAL = ["nothing"]
"""Of a place: no button is right, and none jams the machine."""


class GrowingEnv(ToyEnv):
    """A machine that may be half-way through, with rewards from there on."""

    resets = count()

    def reset(self, task: Task, seed: int) -> str:
        first = super().reset(task, seed)
        if told := task.data.get("told"):  # the query says something else than the goal wants
            first = f"Press in this order: {' '.join(told)}."
        self.fault = task.data.get("fault")
        self.num_idle = 0
        for action in task.data.get("prefix", ()):
            super().step(action)
        self.start = self.pressed
        if self.fault == "moody":  # says something else each time
            return f"{first} Number {next(self.resets)}."
        return first + (f" {self.pressed} of {len(self.goal)} done." if self.start else "")

    def step(self, action: str) -> EnvStep:
        idle = {"patience": "", "sight": "look"}.get(self.fault or "")
        if self.fault == "fire":
            raise RuntimeError("the machine burns")
        if action == idle:  # doing nothing of use wins, the third time
            self.num_idle += 1
            return EnvStep(observation="Hm.", reward=float(self.num_idle > 2), is_done=self.num_idle > 2)
        if self.fault == "won":  # the goal is true already
            return EnvStep(observation="Hm.", reward=1.0, is_done=True)
        if self.goal == NO_GOAL:
            is_press = action.removeprefix("press ") in COLOURS
            return EnvStep(observation="It clicks." if is_press else "Nothing happens.", reward=0.0, is_done=False)
        answer = super().step(action)
        earned = (self.pressed - self.start) / max(1, len(self.goal) - self.start)
        return EnvStep(observation=answer.observation, reward=earned, is_done=answer.is_done)


class GrowingSynthesis:
    """What the toy world offers."""

    def variations(self, task: Task) -> list[Task]:
        size = LENGTHS.get(task.kind, 2)
        return [_make(task, "variation", {"goal": list(goal)}) for goal in permutations(COLOURS, size)]

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        return _make(task, "restart", {**task.data, "prefix": [*task.data.get("prefix", ()), *prefix]})

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        pressed = [turn.action.removeprefix("press ") for turn in trajectory.turns if turn.action.startswith("press ")]
        pressed = [colour for colour in pressed if colour in COLOURS]
        if not pressed or "prefix" in trajectory.task.data:
            return None
        data: dict[str, Any] = {"goal": pressed}
        return _make(trajectory.task, "relabel", data | ({"query": query} if query else {}))

    def place(self, task: Task) -> Task | None:
        """A machine that asks for nothing; a task with a fault breaks there, too."""
        kept = {name: task.data[name] for name in ("fault",) if name in task.data}
        return _make(task, "place", {"goal": NO_GOAL, "told": ["as", "you", "like"], **kept})

    def explore(self, place: Task, turns: Sequence[Turn], observation: str, seed: int) -> str | None:
        """Press two or three buttons, after a look."""
        if not turns:
            return "look"
        most = 3 + seed % 2
        return f"press {COLOURS[seed // 7 ** len(turns) % len(COLOURS)]}" if len(turns) < most else None

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        goal = [*first.task.data["goal"], *second.task.data["goal"]]
        if len(goal) > MAX_GOAL or "prefix" in first.task.data or "prefix" in second.task.data:
            return None
        return Draft(task=_make(first.task, "chain", {"goal": goal}), actions=(*first.actions, *second.actions))

    def footprint(self, task: Task) -> Mapping[str, str]:
        return {"machine": task.data["machine"]} if "machine" in task.data else {}

    def pattern(self, action: str) -> str:
        verb, _, colour = action.partition(" ")
        return action if (verb == "press" and colour in COLOURS) or action == "look" else ""

    def has_changed(self, trajectory: Trajectory) -> bool:
        return any(turn.action != "look" for turn in trajectory.turns)


class GrowingWorld(ToyWorld):
    """The toy world, growable."""

    synthesis = GrowingSynthesis()

    def make_env(self) -> GrowingEnv:
        return GrowingEnv()


def _make(base: Task, made_by: str, data: Mapping[str, Any]) -> Task:
    return Task(id=synthetic_id(base.id, made_by, data), kind=base.kind, data=dict(data))
