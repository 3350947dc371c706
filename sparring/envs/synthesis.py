"""What a world may offer to those who make new tasks in it: its part of CoEvolve's synthesis, and nothing of a model.

A benchmark that can be grown has an attribute `synthesis` that keeps the protocol below. Nothing that comes out of it
is believed: validation plays every task before it enters a pool. A world that can't do one of these things returns
nothing there, and the strategy that needs it makes no tasks.

Source: arXiv 2604.15840 (synthesis); the protocol is ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sparring.core.errors import ConfigError
from sparring.core.types import Task, Trajectory, Turn
from sparring.envs.base import Benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task that might be, with actions that are said to solve it."""

    task: Task
    actions: tuple[str, ...]


@runtime_checkable
class Synthesis(Protocol):
    """A world's part in making tasks. All of it is pure: equal arguments give equal answers, and no env of the run's is
    touched. A world that has to act to know what happened does so in an env of its own.

    Tasks that are returned set the benchmark's own envs up by their `data`, keep to its `turn_limit`, carry an id that
    says all that sets them apart (`synthetic_id`), and are graded by the state of the world.
    """

    def variations(self, task: Task) -> Sequence[Task]:
        """List tasks of the same kind with other entities, in a fixed order, from training material alone.

        `expert_actions` of the benchmark knows how to solve them; one that it can't solve makes no proposal.
        """
        ...

    def restart(self, task: Task, prefix: Sequence[str]) -> Task | None:
        """Return the task that begins in the state to which `prefix` leads, with the goal of `task`.

        Its reward counts only what is earned after the start: a policy that does nothing gets 0.
        """
        ...

    def relabel(self, trajectory: Trajectory, query: str = "") -> Task | None:
        """Return the task whose goal is what `trajectory` brought about, so that its own actions solve it.

        The goal is made of predicates on the world's state. `query`, where given, is somebody's wording of it: the task
        may show it to the agent before its own statement of the goal, and never grades by it.
        """
        ...

    def chain(self, first: Draft, second: Draft) -> Draft | None:
        """Return one task out of two with what solves it: the actions of the first and then those of the second.

        Where the second begins in another state, a world may draw it anew, with its solution, in that of the first.
        """
        ...

    def footprint(self, task: Task) -> Mapping[str, str]:
        """Return what identifies the task, aspect by aspect: two tasks that agree in any aspect overlap.

        For instance `text` (the question), `scenario` (the base that variants share), `answer` (initial state and
        answer). An aspect that the world's own splits share between tasks, such as a text that all tasks of a kind
        have, identifies nothing and is left out.
        """
        ...

    def pattern(self, action: str) -> str:
        """Return the kind of an action, for instance its verb; empty for text that is no action of this world."""
        ...

    def has_changed(self, trajectory: Trajectory) -> bool:
        """Say whether the actions of `trajectory` did anything but look."""
        ...


@runtime_checkable
class Exploration(Protocol):
    """What a world offers to those who explore it before there is any task; a part of its `synthesis`, and as pure."""

    def place(self, task: Task) -> Task | None:
        """Return where a training task begins, without its goal: nothing that is read there asks for anything.

        `relabel` takes what was played there. None for a task that is kept for evaluation.
        """
        ...

    def explore(self, place: Task, turns: Sequence[Turn], observation: str, seed: int) -> str | None:
        """Return the next action of an explorer that knows how to act in the world and nobody's wishes; None: enough.

        Equal arguments give equal actions. `seed` is the episode's own.
        """
        ...


def exploration_of(benchmark: Benchmark) -> Exploration:
    """Return the benchmark's part in exploring without a goal.

    Raises:
        ConfigError: it offers none.
    """
    offered = synthesis_of(benchmark)
    if not isinstance(offered, Exploration):
        raise ConfigError(
            f"{type(benchmark).__name__} can't be explored without a goal (docs/methods/coevolve.md says what that "
            "takes). Leave bootstrap.num at 0, so that the training split is D_0, and take another synthesis.kind than "
            '"exploration".'
        )
    return offered


def synthesis_of(benchmark: Benchmark) -> Synthesis:
    """Return the benchmark's part in making tasks.

    Raises:
        ConfigError: it offers none.
    """
    offered = getattr(benchmark, "synthesis", None)
    if not isinstance(offered, Synthesis):
        raise ConfigError(
            f"{type(benchmark).__name__} offers no synthesis of tasks (docs/methods/coevolve.md says what that takes). "
            'Use another world, or the control arm: synthesis.kind = "replay".'
        )
    return offered


def synthetic_id(base: str, made_by: str, data: Mapping[str, Any]) -> str:
    """Name a task after the one that it was made from: `find-animal/17+restart-1f0c22d9`; equal data, equal name."""
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return f"{base.partition('+')[0]}+{made_by}-{digest[:8]}"
