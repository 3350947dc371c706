"""Is a task new, and is it no evaluation task? Tasks come in, near duplicates and overlaps go out.

Two tasks are near duplicates when they look alike *and* are solved alike: the Jaccard similarity of their first
observations' word pairs and that of their references' action pairs both reach the threshold. Pairs, because the order
matters in both. One alone would not do: tasks of one kind often share their text, and different tasks their solution.

The gate against evaluation tasks is no such matter of degree and can't be switched off: a task that agrees with an
evaluation task in any identifying aspect is refused.

Source: arXiv 2604.15840 (validation); what is compared is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparring.core.similarity import Pairs, jaccard, neighbours, normalise
from sparring.core.types import Task, Trajectory
from sparring.envs.synthesis import Synthesis
from sparring.synthesis.proposals import content_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What a task is compared by."""

    task_id: str
    words: Pairs
    """Neighbouring words of the first observation."""
    actions: Pairs
    """Neighbouring actions of a solution."""


def sketch(task_id: str, observation: str, actions: Sequence[str]) -> Sketch:
    """Make a task's sketch from its first observation and a solution."""
    return Sketch(task_id=task_id, words=neighbours(normalise(observation).split()), actions=neighbours(actions))


def sketch_of(solution: Trajectory) -> Sketch:
    """Make a task's sketch from an episode that solved it."""
    return sketch(solution.task.id, solution.turns[0].observation, [turn.action for turn in solution.turns])


def find_duplicate(new: Sketch, known: Iterable[Sketch], threshold: float = 0.8) -> str | None:
    """Return the id of a known task that `new` is a near duplicate of, if there is one."""
    for old in known:
        if jaccard(new.words, old.words) >= threshold and jaccard(new.actions, old.actions) >= threshold:
            return old.task_id
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A task that agrees with an evaluation task, and in what."""

    task_id: str
    evaluation_id: str
    aspect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    """What the gate found in a set of tasks: the proof that a pool holds no evaluation task."""

    num_tasks: int
    num_evaluation: int
    aspects: tuple[str, ...]
    """Aspects by which the world tells tasks apart."""
    overlaps: tuple[Overlap, ...]

    def __str__(self) -> str:
        found = ", ".join(f"{one.task_id} = {one.evaluation_id} ({one.aspect})" for one in self.overlaps[:10])
        return (
            f"{len(self.overlaps)} of {self.num_tasks} tasks overlap one of {self.num_evaluation} evaluation tasks "
            f"in {', '.join(self.aspects)}" + (f": {found}." if found else ".")
        )


class EvaluationGate:
    """Knows all evaluation tasks by their identifying aspects; lets none of them through."""

    def __init__(
        self,
        world: Synthesis,
        tasks: Sequence[Task],
        *,
        starts: Mapping[str, str] | None = None,
        answers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Index the evaluation tasks.

        Args:
            world: says what identifies a task.
            tasks: every task that is ever evaluated on, of all splits.
            starts: evaluation task id → first observation, for instance from the first evaluation.
            answers: evaluation task id → reference actions. Where both are known, a task with the same first
                observation and the same reference overlaps, whatever the world says. Nobody but this gate reads them.
        """
        self._world = world
        self.num_evaluation = len(tasks)
        self._known: dict[tuple[str, str], str] = {}
        for task in tasks:
            start, actions = (starts or {}).get(task.id), (answers or {}).get(task.id)
            for aspect in self._aspects(task, start, actions):
                self._known.setdefault(aspect, task.id)

    def check(self, task: Task, start: str | None = None, actions: Sequence[str] | None = None) -> Overlap | None:
        """Return the overlap of a task with an evaluation task, if there is one.

        Args:
            start: its first observation, once it is known.
            actions: its reference.
        """
        for aspect in self._aspects(task, start, actions):
            if aspect in self._known:
                return Overlap(task_id=task.id, evaluation_id=self._known[aspect], aspect=aspect[0])
        return None

    def audit(self, tasks: Sequence[Task]) -> OverlapReport:
        """Check a whole pool."""
        overlaps = tuple(found for task in tasks if (found := self.check(task)) is not None)
        return OverlapReport(
            num_tasks=len(tasks),
            num_evaluation=self.num_evaluation,
            aspects=tuple(dict.fromkeys(aspect for aspect, _ in self._known)),
            overlaps=overlaps,
        )

    def _aspects(self, task: Task, start: str | None, actions: Sequence[str] | None) -> list[tuple[str, str]]:
        own = [(aspect, normalise(value)) for aspect, value in self._world.footprint(task).items()]
        aspects = [("id", task.id), ("content", content_key(task)), *own]
        if start is not None and actions is not None:
            aspects.append(("start and answer", "\n".join([normalise(start), *map(normalise, actions)])))
        return aspects
