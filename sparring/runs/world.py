"""What all arms of a recipe share: the benchmark, its live envs, the tasks, and the experts' trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError, DataError
from sparring.core.folder import Run
from sparring.core.journal import Journal
from sparring.core.records import read_trajectories, trajectory_to_json
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark, select_tasks, tasks_of
from sparring.envs.pool import EnvPool

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


def choose_tasks(config: Config, benchmark: Benchmark) -> tuple[list[Task], list[Task]]:
    """Return the training tasks and the held-out ones.

    Raises:
        ConfigError: no task is left, or a task is in training and held-out sets both.
    """
    env, split = config.env, config.eval.split
    train_tasks = select_tasks(tasks_of(benchmark, "train"), kinds=env.kinds, num=env.num_train)
    eval_tasks = select_tasks(tasks_of(benchmark, split), kinds=env.kinds, num=config.eval.num_tasks)
    for name, tasks in (("train", train_tasks), (split, eval_tasks)):
        if not tasks:
            raise ConfigError(f"env.id: {env.id} has no tasks in the split {name!r}.")
    shared = {task.id for task in train_tasks} & {task.id for task in eval_tasks}
    if shared:
        raise ConfigError(f"eval.split: {len(shared)} held-out tasks are training tasks too, {min(shared)!r} for one.")
    return train_tasks, eval_tasks


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
    """Gather the experts' trajectories, once per run folder.

    Raises:
        DataError: there is no expert trajectory for any training task, and some are needed.
    """
    train_tasks, eval_tasks = tasks
    shown_how = select_tasks(train_tasks, num=config.expert.num_tasks)
    experts = _experts(run, config, benchmark, pool, shown_how, progress)
    if needs_experts and not experts:
        raise DataError(
            f"{config.env.id}: no expert trajectories for the {len(train_tasks)} training tasks. Name a file of "
            "demonstrations with expert.path (schema: docs/your-environment.md)."
        )
    return World(benchmark=benchmark, pool=pool, train_tasks=train_tasks, eval_tasks=eval_tasks, experts=experts)


def _experts(
    run: Run, config: Config, benchmark: Benchmark, pool: EnvPool, tasks: Sequence[Task], progress: Progress
) -> list[Trajectory]:
    """Return the experts' trajectories of some tasks, from the run's folder if they were gathered before."""
    path = run.folder / "experts.jsonl"
    phase = run.phase("phases/experts")
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
