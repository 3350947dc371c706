"""Experts and rollouts of an arm come in; tasks go out on which expert, target's failure and partner's differ most.

The partner's side is a hard negative wherever there is one: a failure so close to success that it teaches something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparring.analysis.failures import is_hard
from sparring.core.filters import is_success
from sparring.core.types import Task, Trajectory
from sparring.report.collect import WATCHED, SetKey
from sparring.report.view import ArmResults

MAX_EXAMPLES = 4
MAX_TURNS = 60
"""Turns of one side that are shown at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One column."""

    role: str
    agent: str
    trajectory: Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One task, seen from two or three sides."""

    task: Task
    round: int
    sides: Sequence[Side]

    @property
    def num_turns(self) -> int:
        """Turns of the longest side."""
        return max(len(side.trajectory.turns) for side in self.sides)


def choose(
    experts: Sequence[Trajectory],
    arm: ArmResults,
    watched: Mapping[SetKey, Sequence[Trajectory]],
    *,
    threshold: float,
    success_eps: float,
) -> list[Example]:
    """Choose the tasks to show: the last round's first, each of another task type as long as there is one.

    Best is a task on which the partner came much closer than the target, in not too many turns.
    """

    def hard(trajectory: Trajectory) -> bool:
        return is_hard(trajectory.reward, threshold, success_eps)

    ways = {one.task.id: one for one in experts}
    found: list[tuple[float, Example]] = []
    for number in reversed(arm.record_rounds("rollouts", "target")):
        target = _failures(watched.get((arm.name, "rollout", "target", number), ()), success_eps)
        sets = (watched.get((arm.name, kind, "partner", number), ()) for kind in reversed(WATCHED))
        partner = _failures(next(filter(None, sets), ()), success_eps)  # the last that it played
        for task_id, failure in target.items():
            other = partner.get(task_id)
            if arm.partner and other is None:
                continue
            sides = [Side(role="Expert", agent="expert", trajectory=ways[task_id])] if task_id in ways else []
            sides.append(Side(role="Target agent’s failure", agent="target", trajectory=failure))
            if other is not None:
                role = f"{arm.agent_name('partner')}’s {'hard negative' if hard(other) else 'failure'}"
                sides.append(Side(role=role.capitalize(), agent="partner", trajectory=other))
            example = Example(task=failure.task, round=number, sides=sides)
            found.append((_interest(failure, other, other is not None and hard(other)), example))
    found.sort(key=lambda scored: -scored[0])
    return _varied([example for _, example in found])


def _interest(failure: Trajectory, other: Trajectory | None, is_near_miss: bool) -> float:
    length = 0.01 * max(len(failure.turns), len(other.turns) if other else 0)
    if other is None:
        return failure.reward - length
    return is_near_miss + (other.reward - failure.reward) - length


def _failures(trajectories: Sequence[Trajectory], success_eps: float) -> dict[str, Trajectory]:
    """Return the closest failure per task."""
    best: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        if not trajectory.turns or is_success(trajectory.reward, success_eps):
            continue
        if trajectory.task.id not in best or trajectory.reward > best[trajectory.task.id].reward:
            best[trajectory.task.id] = trajectory
    return best


def _varied(examples: Sequence[Example]) -> list[Example]:
    chosen: list[Example] = []
    for new_kinds_only in (True, False):
        for example in examples:
            kinds, tasks = {e.task.kind for e in chosen}, {e.task.id for e in chosen}
            is_new = example.task.kind not in kinds if new_kinds_only else example.task.id not in tasks
            if is_new and len(chosen) < MAX_EXAMPLES:
                chosen.append(example)
    return chosen
