"""ScienceWorld's part in making tasks: what begins in the middle of an episode, and what has a goal of its own.

A synthetic task is a variation of the training split with more `data`:

    prefix   actions that are played at the reset, so that the episode begins in the state they lead to
    goal     facts about the state that have to hold all at once, in the place of the simulator's own goal
    query    somebody's wording of the goal, shown before ours

With a prefix and no goal, the simulator's score grades, counted from where it stood after the prefix. With a goal, the
share of its facts grades that hold in the simulator's own look around and inventory, counted from the start in the same
way; the simulator's own task then plays no part. Both looks are free: no time passes in the world.

The simulator has no way to state a new experiment, so there are three kinds of fact: where the agent is, what it holds,
and what stands in one line of its surroundings (a thing, or a thing in another).

Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.core.types import Task, Trajectory
from sparring.envs.base import EnvStep
from sparring.envs.synthesis import Draft, synthetic_id

if TYPE_CHECKING:
    from sparring.envs.scienceworld.jvm import Simulator

VERBS = (
    *("look", "inventory", "task", "examine", "read", "open", "close", "go", "teleport", "pick", "put", "move", "pour"),
    *(
        "dunk",
        "mix",
        "activate",
        "deactivate",
        "use",
        "connect",
        "disconnect",
        "eat",
        "flush",
        "wait",
        "wait1",
        "focus",
    ),
)
PASSIVE = ("look", "inventory", "task", "examine", "read", "wait", "wait1")
"""Actions that leave the world to itself."""
REFUSED = ("No known action", "Ambiguous request", "It's not clear")
"""How the simulator answers what it does not do."""

PLACE = re.compile(r"\bcalled the (.+?)\.")
MOVED_TO = re.compile(r"^You (?:move|teleport) to the (.+?)\.$")
TOOK = re.compile(r"^You move the (.+) to the inventory\.$")
PUT = re.compile(r"^You move the (.+) to the (.+?)\.$")
PRODUCED = re.compile(r"mix to produce (.+?)\.$")
SWITCHED_ON = re.compile(r"^The (.+?) is now activated\.$")

Fact = tuple[str, ...]
"""`("at", "kitchen")`, `("holding", "dove")`, `("seeing", "purple box", "dove")`."""


def is_synthetic(task: Task) -> bool:
    """Say whether a task has a start or a goal of its own."""
    return bool(task.data.get("prefix") or task.data.get("goal"))


@dataclass(frozen=True)
class State:
    """What the agent can see and hold at one moment."""

    look: str
    inventory: str

    def holds(self, fact: Fact) -> bool:
        """Say whether a fact is so."""
        kind, *names = fact
        if kind == "at":
            place = PLACE.search(self.look)
            return place is not None and place[1] == names[0]
        lines = (self.inventory if kind == "holding" else self.look).splitlines()
        return any(all(re.search(rf"\b{re.escape(name)}\b", line) for name in names) for line in lines)


class Scene:
    """The start and the grader of a synthetic task, on a simulator that was loaded and looked around in."""

    def __init__(self, simulator: Simulator, data: Mapping[str, Any], description: str) -> None:
        """Play the prefix, and note what is reached already."""
        self._simulator = simulator
        self._facts: list[Fact] = [tuple(fact) for fact in data.get("goal", ())]
        prefix = data.get("prefix", ())
        for action in prefix:
            simulator.call("step", action.encode("utf-8", "replace").decode())
        self._is_lost = not self._facts and self._has_ended()
        self._base = self._level()
        told = describe(self._facts, data.get("query", "")) if self._facts else description
        so_far = f"\n\nDone so far: {'; '.join(prefix)}." if prefix else ""
        state = self._state()
        self.first = f"{told}{so_far}\n\n{state.look}\n{state.inventory}"

    def judge(self, observation: str) -> EnvStep:
        """Grade the state after a step that was answered with `observation`."""
        if self._is_lost:
            return EnvStep(observation=observation, reward=0.0, is_done=True)
        level = self._level()
        earned = (level - self._base) / (1 - self._base) if self._base < 1 else 1.0
        is_done = level >= 1 if self._facts else self._has_ended()
        return EnvStep(observation=observation, reward=max(-1.0, earned), is_done=is_done)

    def _level(self) -> float:
        """Return how much of the goal is reached, 1 for all of it."""
        if not self._facts:
            return self._score()
        state = self._state()
        return sum(state.holds(fact) for fact in self._facts) / len(self._facts)

    def _score(self) -> float:
        return round(100 * self._simulator.call("getScore")) / 100

    def _has_ended(self) -> bool:
        return bool(self._simulator.call("getCompleted")) or self._score() < 0

    def _state(self) -> State:
        call = self._simulator.call
        return State(look=call("freeActionLook"), inventory=call("freeActionInventory"))


def describe(facts: Sequence[Fact], query: str = "") -> str:
    """State a goal in words, after somebody's wording of it."""
    wording = {
        "at": "be in the {}",
        "holding": "have the {} in your inventory",
        "seeing": "be where you can see the {}",
    }
    parts = [wording[kind].format(" with the ".join(names)) for kind, *names in facts]
    goal = f"Your task is to {', and to '.join(parts)}, all at the same time."
    return f"{query}\n{goal}" if query else goal


class ScienceWorldSynthesis:
    """What ScienceWorld offers (`Synthesis`)."""

    def __init__(self, train: Sequence[Task], held_out: Collection[str]) -> None:
        """Args:
        train: the training split, all of it.
        held_out: ids of the other splits, which a split from files may share with it.
        """
        self._train = [task for task in train if task.id not in held_out]

    def variations(self, task: Task) -> list[Task]:
        """List the training variations of the same task type."""
        return [one for one in self._train if one.kind == task.kind and one.id != task.id.partition("+")[0]]

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Begin after a prefix of actions, which follows the task's own."""
        if not prefix:
            return None
        return _make(task, "restart", {**task.data, "prefix": [*task.data.get("prefix", ()), *prefix]})

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Make facts of what the simulator said that the trajectory brought about."""
        goal = achieved(trajectory)
        if not goal:
            return None
        data = {key: value for key, value in trajectory.task.data.items() if key in ("variation", "prefix")}
        return _make(trajectory.task, "relabel", data | {"goal": goal} | ({"query": query} if query else {}))

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Ask for the second goal without giving up what the first had the agent hold; both in one world."""
        ours, theirs = dict(first.task.data), dict(second.task.data)
        if not (ours.get("goal") and theirs.get("goal")) or "prefix" in ours or "prefix" in theirs:
            return None
        if first.task.kind != second.task.kind or ours["variation"] != theirs["variation"]:
            return None
        goal = [*(fact for fact in ours["goal"] if fact[0] == "holding"), *theirs["goal"]]
        goal = [fact for place, fact in enumerate(goal) if fact not in goal[:place]]
        if goal in (ours["goal"], theirs["goal"]):
            return None
        task = _make(first.task, "chain", {"variation": ours["variation"], "goal": goal})
        return Draft(task=task, actions=(*first.actions, *second.actions))

    def footprint(self, task: Task) -> dict[str, str]:
        """Return the variation: whatever begins in it, or is asked in it, belongs to it.

        Descriptions and first observations identify nothing: the simulator's own splits share them.
        """
        return {"scenario": f"{task.kind}/{task.data['variation']}"}

    def pattern(self, action: str) -> str:
        """Return the verb, of what is an action at all; a number answers an ambiguous request."""
        verb = action.split(maxsplit=1)[0] if action.strip() else ""
        if verb.isdecimal():
            return "number"
        return verb if verb in VERBS else ""

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether any action that acts was done."""
        return any(
            self.pattern(action) not in ("", *PASSIVE) and not answer.startswith(REFUSED)
            for action, answer in _answers(trajectory)
        )


def achieved(trajectory: Trajectory) -> list[list[str]]:
    """List the facts that the simulator's answers say hold at the end of a trajectory.

    "You move the dove to the inventory.", "You move to the kitchen." make: at the kitchen, holding the dove.
    """
    found = PLACE.search(trajectory.turns[0].observation) if trajectory.turns else None
    start = place = found[1] if found else ""
    held: list[str] = []
    seen: list[Fact] = []
    for _, answer in _answers(trajectory):
        if found := MOVED_TO.match(answer):
            place, seen = found[1], []
        elif found := TOOK.match(answer):
            held.append(found[1])
        elif found := PUT.match(answer):
            held = [name for name in held if name != found[1]]
            seen.append((found[1],) if found[2] == place else (found[2], found[1]))
        elif found := PRODUCED.search(answer):
            seen.append((found[1],))
        elif found := SWITCHED_ON.match(answer):
            seen.append((found[1], "turned on"))
    facts: list[Fact] = [("at", place)] if place != start else []
    facts += [("holding", name) for name in dict.fromkeys(held)] + [("seeing", *names) for names in dict.fromkeys(seen)]
    return [list(fact) for fact in facts]


def _answers(trajectory: Trajectory) -> list[tuple[str, str]]:
    """Pair each action with what the world said to it."""
    answers = [*(turn.observation for turn in trajectory.turns[1:]), trajectory.final_observation]
    return [(turn.action, answer) for turn, answer in zip(trajectory.turns, answers, strict=True)]


def _make(base: Task, made_by: str, data: Mapping[str, Any]) -> Task:
    return Task(id=synthetic_id(base.id, made_by, data), kind=base.kind, data=dict(data))
