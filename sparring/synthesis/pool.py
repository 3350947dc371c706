"""The tasks that are trained on: visits and new tasks come in, a new pool and the record of what changed go out.

A pool is a value. Each function returns another one with the events that made it, so that a run can be folded again
from its records and a report can show the pool over time.

Source: arXiv 2604.15840 (the pool grows). Retirement, the cap on synthetic tasks and quarantine are ours; retiring what
teaches nothing any more is also in arXiv 2606.19047.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any

from sparring.core.convert import check_values
from sparring.core.errors import DataError
from sparring.core.ranges import CountOrZero, Repeats, Share, ShareBelowOne
from sparring.core.types import Task
from sparring.synthesis.checks import Reason, Refusal, ValidationConfig, judge_probes
from sparring.synthesis.proposals import Origin, task_from_json, task_to_json
from sparring.synthesis.signals import ROUNDING, Flag, Visit, draw


class Status(StrEnum):
    """What becomes of a task."""

    ACTIVE = "active"
    RETIRED = "retired"
    QUARANTINED = "quarantined"
    """Sound, but the agent solved all or none of its probes: it waits."""


class Change(StrEnum):
    """What happened to a task of the pool."""

    STARTED = "started"
    ADDED = "added"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    OVER_SHARE = "over the synthetic share"
    """Validated, and not taken in, since too much of the pool is synthetic already."""
    RETIRED_SOLVED = "retired: solved"
    RETIRED_HOPELESS = "retired: hopeless"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How the pool grows and shrinks."""

    solved_above: Share = 0.95
    """A task whose mean reward over the last visits is above this is retired."""
    hopeless_below: Share = 0.05
    """A task whose mean reward over the last visits is below this is retired."""
    num_visits: Repeats = 3
    """Visits over which that mean is taken."""
    min_active: CountOrZero = 32
    """The pool is never retired below this many tasks (one batch)."""
    max_synthetic_share: ShareBelowOne = 0.5
    """Most of the active tasks that may be synthetic."""

    def __post_init__(self) -> None:
        """Refuse a pool that every task leaves."""
        check_values(self)
        if self.hopeless_below > self.solved_above:
            raise ValueError(f"hopeless_below: {self.hopeless_below} is above solved_above, so that no task could stay")


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledTask:
    """A task with where it came from and how it went."""

    task: Task
    origin: Origin
    status: Status = Status.ACTIVE
    visits: tuple[float, ...] = ()
    """Mean reward of its last visits, oldest first."""
    added: int = 0
    """The step it came in."""
    num_rollouts: int = 0
    """Rollouts on it since it came in, as far as it is probed by them."""
    num_failed_probes: int = 0
    """How often its first rollouts said that it is too easy or too hard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvent:
    """Something that happened to a task."""

    step: int
    change: Change
    task_id: str
    origin: Origin
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, for the report."""
        return {
            "step": self.step,
            "change": self.change.value,
            "task_id": self.task_id,
            "origin": self.origin.to_json(),
            "detail": self.detail,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PoolEvent:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            own = {"change": Change(record["change"]), "origin": Origin.from_json(record["origin"])}
            return cls(step=record["step"], task_id=record["task_id"], detail=record["detail"], **own)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not an event of a pool: {type(error).__name__}: {error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPool:
    """All tasks that ever were in the pool, in the order they came; ids are distinct."""

    members: tuple[PooledTask, ...] = ()

    @property
    def active(self) -> tuple[PooledTask, ...]:
        """The tasks that are drawn from."""
        return tuple(member for member in self.members if member.status is Status.ACTIVE)

    @property
    def synthetic_share(self) -> float:
        """Share of the active tasks that were made."""
        active = self.active
        return sum(not member.origin.is_initial for member in active) / len(active) if active else 0.0

    def get(self, task_id: str) -> PooledTask | None:
        """Return the member of that id, if there is one."""
        return next((member for member in self.members if member.task.id == task_id), None)

    def counts(self) -> dict[str, int]:
        """Count members by status and origin, for instance `active/programmatic/restart/boundary`."""
        return dict(Counter(f"{one.status}/{_origin_name(one.origin)}" for one in self.members))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `from_json` gives back an equal one."""
        return {
            "members": [
                {
                    "task": task_to_json(member.task),
                    "origin": member.origin.to_json(),
                    "status": member.status.value,
                    "visits": list(member.visits),
                    "added": member.added,
                    "num_rollouts": member.num_rollouts,
                    "num_failed_probes": member.num_failed_probes,
                }
                for member in self.members
            ]
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TaskPool:
        """Build it from what `to_json` returned.

        Raises:
            DataError: a field is missing or wrong.
        """
        try:
            members = tuple(
                PooledTask(
                    task=task_from_json(one["task"]),
                    origin=Origin.from_json(one["origin"]),
                    status=Status(one["status"]),
                    visits=tuple(float(mean) for mean in one["visits"]),
                    added=int(one["added"]),
                    num_rollouts=int(one["num_rollouts"]),
                    num_failed_probes=int(one["num_failed_probes"]),
                )
                for one in record["members"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a pool of tasks: {type(error).__name__}: {error}.") from None
        return cls(members=members)


Update = tuple[TaskPool, list[PoolEvent]]
"""A new pool, and what changed."""


def start(tasks: Sequence[Task]) -> Update:
    """Return the pool D_0."""
    members = tuple(PooledTask(task=task, origin=Origin()) for task in tasks)
    return TaskPool(members=members), [_event(0, Change.STARTED, member) for member in members]


def add(pool: TaskPool, tasks: Sequence[tuple[Task, Origin]], step: int, config: PoolConfig) -> Update:
    """Take validated tasks in, in their order, as long as the synthetic share allows it.

    Four initial tasks and a share of 0.5 take four synthetic ones: the fifth would make it 5/9. A task whose id is
    known already is passed over: validation refuses duplicates, so that this is one that was proposed twice.
    """
    members, events = list(pool.members), []
    num_active, num_synthetic = len(pool.active), sum(not one.origin.is_initial for one in pool.active)
    known = {member.task.id for member in members}
    for task, origin in tasks:
        if task.id in known:
            continue
        member = PooledTask(task=task, origin=origin, added=step)
        if (num_synthetic + 1) / (num_active + 1) > config.max_synthetic_share:
            events.append(_event(step, Change.OVER_SHARE, member))
            continue
        num_active, num_synthetic = num_active + 1, num_synthetic + 1
        known.add(task.id)
        members.append(member)
        events.append(_event(step, Change.ADDED, member))
    return TaskPool(members=tuple(members)), events


def quarantine(pool: TaskPool, tasks: Sequence[tuple[Task, Origin]], step: int) -> Update:
    """Keep sound tasks that are too easy or too hard for the agent as it is, so that they can be probed again."""
    known = {member.task.id for member in pool.members}
    fresh = {task.id: (task, origin) for task, origin in tasks if task.id not in known}
    members = [
        PooledTask(task=task, origin=origin, status=Status.QUARANTINED, added=step) for task, origin in fresh.values()
    ]
    events = [_event(step, Change.QUARANTINED, member) for member in members]
    return TaskPool(members=(*pool.members, *members)), events


def release(pool: TaskPool, task_ids: Sequence[str], step: int, config: PoolConfig) -> Update:
    """Let quarantined tasks in that the agent now solves sometimes, as long as the synthetic share allows it."""
    waiting = [one for one in pool.members if one.status is Status.QUARANTINED and one.task.id in set(task_ids)]
    gone = {one.task.id for one in waiting}
    without = TaskPool(members=tuple(one for one in pool.members if one.task.id not in gone))
    grown, events = add(without, [(one.task, one.origin) for one in waiting], step, config)
    entered = {event.task_id for event in events if event.change is Change.ADDED}
    kept = tuple(one for one in waiting if one.task.id not in entered)  # over the share: they wait on
    failed = {one.task.id: one.num_failed_probes for one in waiting}
    members = [
        replace(one, num_failed_probes=failed[one.task.id]) if one.task.id in failed else one for one in grown.members
    ]
    renamed = [replace(one, change=Change.RELEASED) if one.change is Change.ADDED else one for one in events]
    return TaskPool(members=(*members, *kept)), renamed


def record(pool: TaskPool, visits: Sequence[Visit], step: int, config: PoolConfig) -> Update:
    """Note how a step's visits went, and retire what is solved or hopeless over the last visits.

    With three visits: means (1.0, 0.9, 1.0), 0.967 on average, retire a task as solved; (0, 0, 0.1), 0.033, as
    hopeless; (1.0, 1.0) not yet. The most extreme ones go first, and none once `min_active` tasks are left.
    """
    means = {visit.task.id: visit.mean for visit in visits}
    members = [
        replace(one, visits=(*one.visits, means[one.task.id])[-config.num_visits :]) if one.task.id in means else one
        for one in pool.members
    ]
    leaving = [one for one in members if one.task.id in means and _verdict(one, config)]
    leaving.sort(key=lambda one: (min(fmean(one.visits), 1 - fmean(one.visits)), one.task.id))
    num_active = sum(one.status is Status.ACTIVE for one in members)
    leaving = leaving[: max(0, num_active - config.min_active)]
    gone = {one.task.id for one in leaving}
    retired = tuple(replace(one, status=Status.RETIRED) if one.task.id in gone else one for one in members)
    events = [_retirement(step, one, config) for one in retired if one.task.id in gone]
    return TaskPool(members=retired), events


def probe(
    pool: TaskPool, visits: Sequence[Visit], step: int, config: ValidationConfig, *, min_active: int = 0
) -> Update:
    """Judge new tasks by their first rollouts, once there are enough of them: as validation does by probes of its own.

    What is too easy or too hard is quarantined, the first time; the second time it is retired, so that quarantine holds
    nothing for good. None leaves once `min_active` tasks are left. It is called after `record`.
    """
    room = len(pool.active) - min_active
    nums = {visit.task.id: len(visit.rollouts) for visit in visits}
    members, events = list(pool.members), []
    for place, one in enumerate(members):
        new = nums.get(one.task.id, 0)
        if one.origin.is_initial or one.status is not Status.ACTIVE or not new or one.num_rollouts >= config.num_probes:
            continue
        num = one.num_rollouts + new
        members[place] = replace(one, num_rollouts=num)
        verdict = judge_probes(fmean(one.visits), num, config) if num >= config.num_probes else None
        if verdict is not None and room > 0:
            members[place], event = _put_away(one, verdict, step)
            events.append(event)
            room -= 1
    return TaskPool(members=tuple(members)), events


def _put_away(member: PooledTask, verdict: Refusal, step: int) -> tuple[PooledTask, PoolEvent]:
    failed = member.num_failed_probes + 1
    status, change = Status.QUARANTINED, Change.QUARANTINED
    if failed > 1:
        is_easy = verdict.reason is Reason.TOO_EASY
        status, change = Status.RETIRED, Change.RETIRED_SOLVED if is_easy else Change.RETIRED_HOPELESS
    away = replace(member, status=status, visits=(), num_rollouts=0, num_failed_probes=failed)
    return away, _event(step, change, away, f"{verdict.reason.removeprefix('quarantined: ')}, {verdict.detail}")


def sample(pool: TaskPool, num: int, seed: int, step: int, weights: Mapping[str, float] | None = None) -> list[Task]:
    """Draw `num` distinct active tasks (all where there are fewer), in a fixed order.

    A task's draw depends on the seed, the step and its id alone, so that a pool that grew draws the same old tasks, but
    for those that new ones displace.

    Args:
        weights: task id → weight, 1 where not given. A task of weight 2 is drawn about twice as often.

    Source: weighted draws without replacement by the keys u^(1/w), Efraimidis and Spirakis 2006.
    """

    def key(member: PooledTask) -> tuple[float, str]:
        weight = (weights or {}).get(member.task.id, 1.0)
        chance = draw(seed, step, member.task.id)
        return (math.log(chance) / weight if chance > 0 else -math.inf, member.task.id)

    drawn = {member.task.id for member in sorted(pool.active, key=key, reverse=True)[:num]}
    return [member.task for member in pool.active if member.task.id in drawn]


def fresh_weights(pool: TaskPool, weight: float) -> dict[str, float]:
    """Weigh the tasks that were made for the agent and that it has not played yet.

    Drawn like any other, twelve new ones among 240 would hardly be seen: one in twenty draws.
    """
    return {one.task.id: weight for one in pool.active if not one.origin.is_initial and not one.visits}


def replay_weights(flags: Sequence[Flag], strength: float = 1.0) -> dict[str, float]:
    """Weigh existing tasks by their flags, 1 + strength · highest priority: the control arm makes no new tasks.

    Flags of one task with the priorities 0.3 and 0.8 give it the weight 1.8.
    """
    weights: dict[str, float] = {}
    for flag in flags:
        task_id = flag.trajectory.task.id
        weights[task_id] = max(weights.get(task_id, 1.0), 1.0 + strength * flag.priority)
    return weights


def _verdict(member: PooledTask, config: PoolConfig) -> Change | None:
    if member.status is not Status.ACTIVE or len(member.visits) < config.num_visits:
        return None
    mean = fmean(member.visits)
    if mean > config.solved_above + ROUNDING:
        return Change.RETIRED_SOLVED
    return Change.RETIRED_HOPELESS if mean < config.hopeless_below - ROUNDING else None


def _retirement(step: int, member: PooledTask, config: PoolConfig) -> PoolEvent:
    change = _verdict(replace(member, status=Status.ACTIVE), config)
    assert change is not None
    detail = f"mean reward {fmean(member.visits):.2f} over {len(member.visits)} visits"
    return _event(step, change, member, detail)


def _event(step: int, change: Change, member: PooledTask, detail: str = "") -> PoolEvent:
    return PoolEvent(step=step, change=change, task_id=member.task.id, origin=member.origin, detail=detail)


def _origin_name(origin: Origin) -> str:
    return "/".join(filter(None, (origin.synthesiser, origin.strategy, origin.signal and origin.signal.value)))
