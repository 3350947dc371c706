"""A recipe comes in, a finished run folder goes out: every arm with every seed, then results.json and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.analysis.failures import counted, rewards_by_task, summarise_rollouts, to_json
from sparring.runs.base_models import check_base_models
from sparring.analysis.collapse import notices
from sparring.core.convert import adjustable_keys, to_dict
from sparring.envs.base import Benchmark, select_tasks, tasks_of
from sparring.envs.pool import EnvPool
from sparring.envs.synthesis import synthesis_of
from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import Journal, write_json_atomic
from sparring.report.folder import list_phases
from sparring.report.curriculum import round_numbers, summarise_curriculum
from sparring.core.phases import Phase, check_checkpoint
from sparring.core.folder import Run, check_place, versions
from sparring.core.records import read_trajectories, trajectory_to_json
from sparring.methods.base import Agent
from sparring.runs.session import Session, World
from sparring.methods.table import METHODS
from sparring.core.types import Task, Trajectory

if TYPE_CHECKING:
    from sparring.runs.config import Arm, Config, Recipe
    from sparring.core.progress import Progress

def run_recipe(recipe: Recipe, out: Path, progress: Progress, *, with_report: bool = True) -> dict[str, Any]:
    """Run every arm of a recipe with every seed, resuming whatever is finished, and return the results.

    Raises:
        SparringError: whatever the user can mend; nothing that was finished is lost.
    """
    from sparring.models.loading import check_room, resolve_device, resolve_model

    check_place(out)
    config = _shared_config(recipe)
    models: dict[str, str] = {}
    for arm in recipe.arms.values():
        check_checkpoint(arm.config.model.path)
        # Before anything is written that another config would then refuse.
        trusts_code = arm.config.model.trust_remote_code
        models[arm.config.model.path] = path = resolve_model(arm.config.model.path, trusts_code=trusts_code)
        check_room(path, arm.config.chat.max_context, trusts_code=trusts_code)
        resolve_device(arm.config.model.device)
    benchmark = config.env.load()
    tasks = choose_tasks(config, benchmark)
    _check_arms(recipe, benchmark, tasks[0])
    adjustable = adjustable_keys(type(config))
    with Run.open(out, recipe.to_dict(), versions(), adjustable) as run, EnvPool.of(config.env) as pool:
        check_base_models(out, models, is_new=run.is_new)
        jobs = [(seed, name, arm) for seed in recipe.seeds for name, arm in recipe.arms.items()]
        with progress.phase(f"{recipe.name} → {out}", total=len(jobs)) as bar:
            world = build_world(run, config, benchmark, tasks, pool, progress)
            for seed, name, arm in jobs:
                METHODS[arm.method].run(Session(run, world, arm.config, arm=name, seed=seed, progress=progress))
                bar.advance()
        results = collect_results(recipe, out, [task.id for task in world.eval_tasks])
        write_json_atomic(out / "results.json", results)
    if with_report:
        from sparring.report import write_report

        write_report(out)
    return results


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
) -> World:
    """Gather the experts' trajectories, once per run folder.

    Raises:
        DataError: there is no expert trajectory for any training task.
    """
    train_tasks, eval_tasks = tasks
    shown_how = select_tasks(train_tasks, num=config.expert.num_tasks)
    experts = _experts(run, config, benchmark, pool, shown_how, progress)
    if not experts:
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


def _shared_config(recipe: Recipe) -> Config:
    """Return the config whose world all arms share.

    Raises:
        ConfigError: two arms differ in their world, so that they could not be compared.
    """
    (first_name, first), *rest = recipe.arms.items()
    for name, arm in rest:
        for section in ("env", "expert", "eval"):
            if getattr(arm.config, section) != getattr(first.config, section):
                raise ConfigError(
                    f"arms.{name}: [{section}] differs from arm {first_name!r}. Arms of a recipe share their world "
                    "and its tasks; use two recipes."
                )
    return first.config


def _check_arms(recipe: Recipe, benchmark: Benchmark, train_tasks: Sequence[Task]) -> None:
    """Refuse now what an arm would refuse only after it has trained.

    Raises:
        ConfigError: more worked examples than tasks, or a method that makes tasks in a world that has no part in it.
    """
    for name, arm in recipe.arms.items():
        num = arm.config.chat.num_examples
        if num > len(train_tasks):
            raise ConfigError(f"arms.{name}: chat.num_examples is {num}, but there are {len(train_tasks)} tasks.")
        if arm.makes_tasks:
            synthesis_of(benchmark)
