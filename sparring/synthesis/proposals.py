"""What synthesisers hand to validation: tasks with the actions that are said to solve them, and why they were made.

Source: arXiv 2604.15840 (a proposal is intent, query and solution).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sparring.core.errors import DataError
from sparring.core.types import Task, Trajectory
from sparring.synthesis.arena import Arena
from sparring.synthesis.signals import Flag, Signal, Visit

StrategyName = Literal["restart", "variation", "relabel", "chain"]
STRATEGY_NAMES: tuple[StrategyName, ...] = ("restart", "variation", "relabel", "chain")
"""What the programmatic synthesiser may make of a flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a task comes from."""

    synthesiser: str = "initial"
    """`initial`, `programmatic`, `language-model`."""
    strategy: str = ""
    """How it was made, for instance `restart`."""
    signal: Signal | None = None
    """Why; none for an initial task."""
    step: int = 0
    """When."""
    task_id: str = ""
    """The task whose trajectory was flagged."""
    trajectory_id: str = ""
    """The flagged trajectory: a report shows the new task beside it."""
    note: str = ""
    """What was seen, or a language model's diagnosis."""

    @property
    def is_initial(self) -> bool:
        """Was it there before any synthesis?"""
        return self.synthesiser == "initial"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "signal": self.signal.value if self.signal else None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Origin:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            signal = record["signal"]
            fields = {name: record[name] for name in cls.__dataclass_fields__}
            return cls(**{**fields, "signal": None if signal is None else Signal(signal)})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not an origin of a task: {type(error).__name__}: {error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A task that may enter the pool."""

    task: Task
    references: tuple[tuple[str, ...], ...]
    """Action sequences that are said to solve it, best first: the first that does counts."""
    origin: Origin

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        references = [list(actions) for actions in self.references]
        return {"task": task_to_json(self.task), "references": references, "origin": self.origin.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Proposal:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            references = tuple(tuple(map(str, actions)) for actions in record["references"])
            task, origin = task_from_json(record["task"]), Origin.from_json(record["origin"])
        except (KeyError, TypeError) as error:
            raise DataError(f"not a proposal: {type(error).__name__}: {error}.") from None
        return cls(task=task, references=references, origin=origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What a synthesiser came up with."""

    proposals: tuple[Proposal, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """What went on besides, for the report: requests, malformed answers, drafts that were given up, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a synthesiser starts from."""

    flags: Sequence[Flag]
    """Where the agent is weak, the most pressing first."""
    visits: Sequence[Visit] = ()
    """All that was played since the last synthesis."""
    experts: Sequence[Trajectory] = ()
    """Expert trajectories of training tasks."""
    known_ids: frozenset[str] = frozenset()
    """Tasks that are, or were, in the pool."""


class Synthesiser(Protocol):
    """Turns findings into proposals."""

    name: str

    def propose(self, findings: Findings, arena: Arena, *, num: int, seed: int) -> Proposed:
        """Return at most `num` proposals.

        Args:
            findings: where to begin.
            arena: to explore in; every episode counts, and its budget holds.
            num: most proposals.
            seed: of every choice.
        """
        ...


def origin_of(flag: Flag, synthesiser: str, strategy: str, note: str = "") -> Origin:
    """Return the origin of a task that a flag gave rise to."""
    return Origin(
        synthesiser=synthesiser,
        strategy=strategy,
        signal=flag.signal,
        step=flag.step,
        task_id=flag.trajectory.task.id,
        trajectory_id=flag.trajectory.id,
        note=note or flag.detail,
    )


def unguided_origin(place: Task, synthesiser: str, strategy: str, trajectory_id: str = "") -> Origin:
    """Return the origin of a task that came of exploring a place without a goal."""
    return Origin(
        synthesiser=synthesiser,
        strategy=strategy,
        signal=Signal.UNGUIDED,
        task_id=place.id,
        trajectory_id=trajectory_id,
        note="explored without a goal",
    )


def task_to_json(task: Task) -> dict[str, Any]:
    """Return a task as JSON values."""
    return {"id": task.id, "kind": task.kind, "data": dict(task.data)}


def task_from_json(record: Mapping[str, Any]) -> Task:
    """Build a task from what `task_to_json` returned."""
    return Task(id=record["id"], kind=record["kind"], data=record["data"])


def content_key(task: Task) -> str:
    """Hash what a task is, its id aside: equal keys are equal tasks."""
    return hashlib.sha256(json.dumps([task.kind, task.data], sort_keys=True).encode()).hexdigest()
