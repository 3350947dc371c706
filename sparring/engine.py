"""A recipe comes in, a finished run folder goes out: every arm with every seed, then results.json and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.analysis import counted, rewards_by_task, summarise_rollouts, to_json
from sparring.base_models import check_base_models
from sparring.collapse import notices
from sparring.convert import adjustable_keys, to_dict
from sparring.envs.base import Benchmark, select_tasks, tasks_of
from sparring.envs.pool import EnvPool
from sparring.envs.synthesis import synthesis_of
from sparring.errors import ConfigError, DataError
from sparring.journal import Journal, write_json_atomic
from sparring.methods.coevolve import coevolve
from sparring.methods.coevolving_agents import coevolving_agents
from sparring.methods.coevolving_agents_and_tasks import coevolving_agents_and_tasks
from sparring.methods.eto import eto
from sparring.methods.grpo import grpo
from sparring.methods.ppo import ppo
from sparring.methods.rft import rft
from sparring.methods.sft import sft
from sparring.methods.zero_shot import zero_shot
from sparring.report.folder import list_phases
from sparring.report.growth import round_numbers, summarise_growth
from sparring.run import Phase, Run, check_checkpoint, check_place, read_trajectories, trajectory_to_json, versions
from sparring.session import Agent, Session, World
from sparring.types import Task, Trajectory

if TYPE_CHECKING:
    from sparring.config import Arm, Config, Recipe
    from sparring.progress import Progress

METHODS: Mapping[str, Callable[[Session], Agent]] = {
    "zero_shot": zero_shot,
    "sft": sft,
    "rft": rft,
    "eto": eto,
    "coevolving_agents": coevolving_agents,
    "ppo": ppo,
    "grpo": grpo,
    "coevolve": coevolve,
    "coevolving_agents_and_tasks": coevolving_agents_and_tasks,
}
"""The algorithms by the name that recipes give them."""


def run_recipe(recipe: Recipe, out: Path, progress: Progress, *, with_report: bool = True) -> dict[str, Any]:
    """Run every arm of a recipe with every seed, resuming whatever is finished, and return the results.

    Raises:
        SparringError: whatever the user can mend; nothing that was finished is lost.
    """
    from sparring.policies.local import check_room, resolve_device, resolve_model

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
                METHODS[arm.method](Session(run, world, arm.config, arm=name, seed=seed, progress=progress))
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
        from sparring.demonstrations import expert_trajectories

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


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def collect_results(recipe: Recipe, out: Path, eval_task_ids: Sequence[str]) -> dict[str, Any]:
    """Read a finished run folder and return what it found: a pure function of the folder, without clock times."""
    config = _shared_config(recipe)
    return {
        "name": recipe.name,
        "split": config.eval.split,
        "success_eps": config.pairs.success_eps,
        "num_demonstrations": len({record.task.id for record in read_trajectories(out / "experts.jsonl")}),
        "num_eval_tasks": len(eval_task_ids),
        "broken": count_broken(recipe, out),
        "arms": {
            name: {
                "method": arm.method,
                "label": arm.label,
                "config": to_dict(arm.config),
                "seeds": {str(seed): _arm_results(arm, out / f"seed-{seed}" / name) for seed in recipe.seeds},
            }
            for name, arm in recipe.arms.items()
        },
    }


def count_broken(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Count the episodes that infrastructure broke, in all phases of a run; one that arms share counts once.

    Returns:
        `num` of `episodes`, their `share`, and `phases`: how many in each phase that lost one.
    """
    num, episodes, phases = 0, 0, dict[str, int]()
    found = list_phases(out, list(map(str, recipe.seeds)), list(recipe.arms))
    for path, phase in {phase.path: phase for phase in reversed(found)}.items():
        result = Phase(path).result()
        if lost := result.get("broken", 0):
            phases[f"seed-{phase.seed}/{phase.arm}/{phase.name}"] = lost
        num, episodes = num + lost, episodes + (result["num"] if "broken" in result else 0)
    share = num / episodes if episodes else 0.0
    return {"num": num, "episodes": episodes, "share": share, "phases": dict(sorted(phases.items()))}


def _arm_results(arm: Arm, folder: Path) -> dict[str, Any]:
    names = ("evaluations", "rollouts", "refreshed", "pairs", "training", "checks")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    thresholds, eps = arm.config.analysis.hard_thresholds, arm.config.pairs.success_eps
    sampled: dict[int, dict[str, list[float]]] = {}
    for number in round_numbers(folder):
        for agent in ("target", "partner"):
            key = {"round": number, "agent": agent}
            played = Phase(folder / f"round-{number}" / f"evaluate-{agent}")
            if played.is_done:
                trajectories = played.trajectories()
                rewards = {t.task.id: t.reward for t in sorted(counted(trajectories), key=lambda t: t.task.id)}
                summary = to_json(summarise_rollouts(trajectories, thresholds, eps))
                found["evaluations"].append({**key, **summary, "rewards": rewards})
            for name, suffix in (("rollouts", ""), ("refreshed", "-refreshed")):
                explored = Phase(folder / f"round-{number}" / f"rollout-{agent}{suffix}")
                if explored.is_done:
                    trajectories = explored.trajectories()
                    summary = to_json(summarise_rollouts(trajectories, thresholds, eps))
                    found[name].append({**key, **summary})
                    if (name, agent) == ("rollouts", "target"):
                        sampled[number] = rewards_by_task(trajectories)
            trained = Phase(folder / f"round-{number}" / f"train-{agent}")
            if trained.is_done:
                result = trained.result()
                found["training"].append({**key, "steps": result["steps"], "metrics": result["metrics"]})
                if result["pairs"]:
                    found["pairs"].append({**key, "counts": result["pairs"]})
            checked = Phase(folder / f"round-{number}" / f"accept-{agent}")
            if checked.is_done:
                found["checks"].append({**key, **checked.result()})
    bounds = arm.config.analysis
    found["notices"] = [
        notice
        for section, tasks in (("evaluations", "held-out tasks"), ("rollouts", "training tasks"))
        for notice in notices(found[section], tasks, drop=bounds.collapse_drop, rise=bounds.collapse_rise)
    ]
    return {**found, **summarise_growth(folder, sampled, eps)}
