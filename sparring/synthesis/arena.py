"""Where synthesis acts: tasks and policies go in, trajectories come out, and every episode is counted by its purpose.

Exploring, replaying references, null policies and probes all cost episodes that a plain run would spend on training; a
comparison at equal rollouts needs their number. An arena has a budget, which it never exceeds.

Source: arXiv 2604.15840; counting is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sparring.core.types import Task, Trajectory
from sparring.policies.base import AnyPolicy
from sparring.policies.scripted import ReplayPolicy, ScriptedPolicy


class Purpose(StrEnum):
    """What an episode was played for."""

    EXPLORE = "explore"
    REPLAY = "replay"
    EMPTY = "empty"
    RANDOM = "random"
    QUERY = "query"
    """Somebody else than the agent tries a task; the agent's own tries are probes."""
    PROBE = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An episode to play."""

    id: str
    """Becomes the trajectory's id, and keys its random draws."""
    task: Task
    seed: int


class Play(Protocol):
    """Plays episodes through the rollout engine; the trajectories come in the order of the attempts."""

    def __call__(self, policy: AnyPolicy, attempts: Sequence[Attempt]) -> Sequence[Trajectory]:
        """Play. An episode that infrastructure broke comes back as such (`ENV_FAULT`)."""
        ...


class Arena:
    """Live worlds to act in, and the count of all that is played in them."""

    def __init__(
        self, play: Play, *, prefix: str, seed: int, budget: int | None = None, wave: int | None = None
    ) -> None:
        """Args:
        play: the rollout engine.
        prefix: starts every trajectory's id, for instance `step-10/synthesis`.
        seed: of every episode.
        budget: most episodes that may be played; none: any number.
        wave: tells apart the ids of several arenas with the same prefix.
        """
        self._play = play
        self._prefix = prefix
        self._seed = seed
        self._budget = budget
        self._num_calls = 0
        self._wave = "" if wave is None else f"{wave}."
        self._spent: Counter[Purpose] = Counter()

    @property
    def spent(self) -> Mapping[str, int]:
        """Purpose → episodes played so far, every purpose listed."""
        return {purpose.value: self._spent[purpose] for purpose in Purpose}

    @property
    def total(self) -> int:
        """Episodes played so far."""
        return self._spent.total()

    def affords(self, num: int) -> bool:
        """Say whether `num` more episodes are within the budget."""
        return self._budget is None or self.total + num <= self._budget

    def play(
        self, purpose: Purpose, policy: AnyPolicy, tasks: Sequence[Task], *, num: int = 1
    ) -> list[list[Trajectory]]:
        """Play each task `num` times; return the trajectories task by task. The caller has asked `affords`."""
        assert self.affords(len(tasks) * num), "the budget of the arena is spent"
        self._spent[purpose] += len(tasks) * num
        self._num_calls += 1
        call = f"{self._prefix}/{purpose}-{self._wave}{self._num_calls}"
        attempts = [
            Attempt(id=f"{call}/{place}/{task.id}/{k}", task=task, seed=self._seed)
            for place, task in enumerate(tasks)
            for k in range(num)
        ]
        played = list(self._play(policy, attempts)) if attempts else []
        assert [one.id for one in played] == [one.id for one in attempts], "play must keep the attempts' order"
        return [played[i * num : (i + 1) * num] for i in range(len(tasks))]


def reference_policy(references: Mapping[str, Sequence[str]]) -> ReplayPolicy:
    """Return a policy that plays each task's reference and ends the episode: to wait for the turn limit shows nothing
    more.

    Args:
        references: task id → actions.
    """
    return ReplayPolicy(references, then=None)


def empty_policy() -> ScriptedPolicy:
    """Return the policy that says nothing, turn after turn."""
    return ScriptedPolicy(lambda _: "")
