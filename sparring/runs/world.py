"""What all arms of a recipe share: the benchmark, its live envs, the tasks, and the experts' trajectories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError, DataError, quote
from sparring.core.folder import Run
from sparring.core.journal import Journal
from sparring.core.records import read_trajectories, trajectory_to_json
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark, select_tasks, tasks_of
from sparring.envs.nowhere import NOWHERE
from sparring.envs.pool import EnvPool
from sparring.runs.world_check import check_world

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.runs.config import Config


@dataclass(frozen=True, kw_only=True)
class World:
    """What all arms of a recipe share: the benchmark, its live envs, the tasks and their experts."""

    benchmark: Benchmark
    pool: EnvPool
    train_tasks: Sequence[Task]
    eval_tasks: Sequence[Task]
    experts: Sequence[Trajectory]
    also: Mapping[str, Sequence[Task]] = field(default_factory=dict)
    """Further splits (`eval.also`) → their held-out tasks."""

    @property
    def held_out(self) -> list[Task]:
        """The evaluation tasks of all splits."""
        return [*self.eval_tasks, *(task for tasks in self.also.values() for task in tasks)]


def choose_tasks(config: Config, benchmark: Benchmark) -> tuple[list[Task], list[Task]]:
    """Return the training tasks and the held-out ones.

    Raises:
        ConfigError: no task is left, or a task is in training and held-out sets both.
    """
    env, split = config.env, config.eval.split
    if env.id == NOWHERE:
        return [], []
    train_tasks = select_tasks(tasks_of(benchmark, "train"), kinds=env.kinds, num=env.num_train)
    if not train_tasks:
        raise ConfigError(f"env.id: {env.id} has no tasks in the split 'train'.")
    eval_tasks = _held_out(config, benchmark, split, train_tasks, "eval.split")
    return train_tasks, eval_tasks


def choose_further(config: Config, benchmark: Benchmark, train_tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Return the held-out tasks of the further splits.

    Raises:
        ConfigError: as `choose_tasks`, or a split is the main one or named twice.
    """
    splits = () if config.env.id == NOWHERE else config.eval.also
    if twice := next((name for i, name in enumerate(splits) if name in (config.eval.split, *splits[:i])), None):
        raise ConfigError(f"eval.also: {quote(twice)} is evaluated already. Name each split once.")
    return {split: _held_out(config, benchmark, split, train_tasks, "eval.also") for split in splits}


def _held_out(config: Config, benchmark: Benchmark, split: str, train_tasks: Sequence[Task], key: str) -> list[Task]:
    tasks = select_tasks(tasks_of(benchmark, split), kinds=config.env.kinds, num=config.eval.num_tasks)
    if not tasks:
        raise ConfigError(f"env.id: {config.env.id} has no tasks in the split {split!r}.")
    if shared := {task.id for task in train_tasks} & {task.id for task in tasks}:
        raise ConfigError(f"{key}: {len(shared)} held-out tasks are training tasks too, {min(shared)!r} for one.")
    return tasks


def build_world(
    run: Run,
    config: Config,
    benchmark: Benchmark,
    tasks: tuple[Sequence[Task], Sequence[Task]],
    pool: EnvPool,
    progress: Progress,
    *,
    needs_experts: bool = True,
) -> World:
    """Check the world, and gather the experts' trajectories, once per run folder.

    Raises:
        ConfigError: the world fails its check, and `env.check` says to stop.
        DataError: there is no expert trajectory for any training task, and some are needed.
    """
    train_tasks, eval_tasks = tasks
    checked = run.phase("phases/check")
    if not checked.is_done and not run.phase("phases/experts").is_done:
        check_world(config.env, benchmark, train_tasks, pool, progress)
        checked.finish()
    shown_how = select_tasks(train_tasks, num=config.expert.num_tasks)
    experts = _experts(run, config, benchmark, pool, shown_how, progress)
    if needs_experts and not experts:
        raise DataError(
            f"{config.env.id}: no expert trajectories for the {len(train_tasks)} training tasks. Name a file of "
            "demonstrations with expert.path (schema: docs/your-environment.md)."
        )
    return World(
        benchmark=benchmark,
        pool=pool,
        train_tasks=train_tasks,
        eval_tasks=eval_tasks,
        experts=experts,
        also=choose_further(config, benchmark, train_tasks),
    )


def _experts(
    run: Run, config: Config, benchmark: Benchmark, pool: EnvPool, tasks: Sequence[Task], progress: Progress
) -> list[Trajectory]:
    """Return the experts' trajectories of some tasks, from the run's folder if they were gathered before."""
    path = run.folder / "experts.jsonl"
    phase = run.phase("phases/experts")
    if not tasks and not phase.is_done:
        Journal(path).replace([])
        phase.finish({"num": 0, "tasks": 0}, others=[path])
    if not phase.is_done:
        from sparring.rollouts.demonstrations import expert_trajectories

        with progress.phase("experts", total=len(tasks)) as bar:
            found = expert_trajectories(
                config.expert,
                benchmark,
                pool,
                tasks,
                format=config.chat.format,
                num_slots=config.env.num_envs,
                on_episode=lambda _: bar.advance(1),
            )
        Journal(path).replace(trajectory_to_json(trajectory) for trajectory in found)
        phase.finish({"num": len(found), "tasks": len(tasks)}, others=[path])
    phase.check(f"../../{path.name}")
    return read_trajectories(path)
