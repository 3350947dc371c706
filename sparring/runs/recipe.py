"""A recipe comes in, a finished run folder goes out: every arm with every seed, then results.json and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparring.core.convert import adjustable_keys
from sparring.core.errors import ConfigError
from sparring.core.folder import Run, check_place, versions
from sparring.core.journal import write_json_atomic
from sparring.core.phases import check_checkpoint
from sparring.core.types import Task
from sparring.envs.base import Benchmark
from sparring.envs.measures import missing_measures
from sparring.envs.pool import EnvPool
from sparring.envs.synthesis import exploration_of, synthesis_of
from sparring.methods.table import find_method
from sparring.runs.base_models import check_base_models
from sparring.runs.config import Config
from sparring.runs.engines import Engines
from sparring.runs.jobs import do_job, list_jobs
from sparring.runs.judging import check_files
from sparring.runs.memory_check import check_memory
from sparring.runs.ranks import check_ranks, led
from sparring.runs.recipe_files import completed
from sparring.runs.results import collect_results
from sparring.runs.side_by_side import do_side_by_side, on_this_machine
from sparring.runs.trackers import check_trackers
from sparring.runs.world import build_world, choose_further, choose_tasks

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.runs.config import Recipe
    from sparring.runs.side_by_side import AnyWorker

FEW_STEPS = 30
"""Steps of imitation below which it is told of. 48 demonstrations in 18 steps made .47 on BFCL, in 72 .63."""


def run_recipe(
    recipe: Recipe, out: Path, progress: Progress, *, with_report: bool = True, num_jobs: int | Literal["ray"] = 1
) -> dict[str, Any]:
    """Run every arm of a recipe with every seed, resuming whatever is finished, and return the results.

    Args:
        recipe: what to run.
        out: the run's folder.
        progress: shows how it goes.
        with_report: write report.html, too.
        num_jobs: arms and seeds that are run at the same time, each in a process of its own; `ray`: as many as a Ray
            cluster has room for.

    Raises:
        SparringError: whatever the user can mend; nothing that was finished is lost.
    """
    check_ranks(recipe, num_jobs)
    check_place(out)
    config = recipe.shared_config()
    models = _check_models(recipe)
    _check_jobs(recipe, num_jobs)
    check_trackers(name for arm in recipe.arms.values() for name in arm.config.run.tracker)
    check_memory(recipe, progress, 1 if num_jobs == "ray" else num_jobs)
    benchmark = config.env.load()
    tasks = choose_tasks(config, benchmark)
    _check_arms(recipe, benchmark, tasks[0])
    if not (out / "config.json").exists():
        check_files(recipe)
    _note_missing_measures(config, benchmark, tasks, progress)
    with led(recipe) as leader, Run.open(out, recipe.to_dict(), versions(), adjustable_keys(Config), completed) as run:
        check_base_models(out, models, is_new=run.is_new)
        jobs = list_jobs(recipe)
        with progress.phase(f"{recipe.name} → {out}", total=len(jobs)) as bar:
            with EnvPool.of(config.env) as pool:
                world = build_world(run, config, benchmark, tasks, pool, progress, needs_experts=recipe.needs_experts)
                _note_imitation(recipe, len(world.experts), progress)
                with Engines(run, world, leader) as engines:
                    for job in jobs if num_jobs == 1 else ():
                        do_job(job, recipe, run, world, engines, progress)
                        bar.advance()
            if num_jobs != 1:
                with _workers(recipe, out, num_jobs) as (start, num_workers):
                    do_side_by_side(recipe, run, jobs, start, num_workers, progress, bar)
        results = collect_results(recipe, out, world)
        write_json_atomic(out / "results.json", results)
    if with_report:
        from sparring.report import write_report

        write_report(out)
    return results


def _note_missing_measures(
    config: Config, benchmark: Benchmark, tasks: tuple[Sequence[Task], Sequence[Task]], progress: Progress
) -> None:
    """Say before anything is played which of the world's measures can't be told of the held-out tasks.

    Raises:
        ConfigError: a further split has no tasks, or the world's measures are none.
    """
    train_tasks, eval_tasks = tasks
    splits = {config.eval.split: eval_tasks, **choose_further(config, benchmark, train_tasks)}
    for split, held_out in splits.items():
        for note in missing_measures(benchmark, held_out):
            progress.note(f"{config.env.id}, {split}: {note}")


def _note_imitation(recipe: Recipe, num_experts: int, progress: Progress) -> None:
    """Say before anything is trained where imitation would learn next to nothing."""
    _note_rates(recipe, progress)
    _note_few_steps(recipe, num_experts, progress)


def _note_rates(recipe: Recipe, progress: Progress) -> None:
    """Say where a small bundled model would clone its experts at a rate that is meant for billions of parameters."""
    from sparring.models.loading import BUNDLED

    default = Config().sft.lr
    for arm in recipe.arms.values():
        path, lr = arm.config.model.path, arm.config.sft.lr
        if arm.learns_from_experts and path in BUNDLED and lr == default:
            progress.note(
                f"{path} is small, and the default rates are for models of billions of parameters: at "
                f"sft.lr {lr:g} it learns next to nothing. 1e-3 suits it, and dpo.lr 3e-5 to 1e-4."
            )
            return


def _note_few_steps(recipe: Recipe, num_experts: int, progress: Progress) -> None:
    """Say where imitation has so few steps that whatever follows would gain by more of them."""
    for arm in recipe.arms.values():
        num, sft = min(num_experts, arm.config.expert.num_cloned or num_experts), arm.config.sft
        steps = sft.epochs * math.ceil(num / sft.batch_size)
        if arm.learns_from_experts and 0 < steps < FEW_STEPS:
            progress.note(
                f"{num} demonstrations, sft.epochs {sft.epochs} and sft.batch_size {sft.batch_size} are {steps} steps: "
                "the agents may hardly have learnt them. Take more epochs or smaller batches (docs/methods/sft.md)."
            )
            return


def _check_jobs(recipe: Recipe, num_jobs: int | Literal["ray"]) -> None:
    """Refuse what can't be done side by side.

    Raises:
        ConfigError: each job would start a server; or jobs and envs are both spread over a cluster.
    """
    if num_jobs != 1 and any(arm.config.vllm.launch for arm in recipe.arms.values()):
        raise ConfigError("--jobs: each would start a vLLM server. Take a running one (--vllm.base_urls URL).")
    if num_jobs == "ray" and recipe.shared_config().env.pool == "ray":
        raise ConfigError(
            "--jobs ray: env.pool is 'ray', too, so that jobs and envs would wait for each other's cores. Spread one "
            "of them: leave env.pool 'local', or name a number of jobs."
        )


@contextmanager
def _workers(
    recipe: Recipe, folder: Path, num_jobs: int | Literal["ray"]
) -> Iterator[tuple[Callable[[int], AnyWorker], int]]:
    """Give what starts a worker, and how many there may be at once."""
    if num_jobs != "ray":
        yield on_this_machine(recipe, folder, num_jobs), num_jobs
        return
    from sparring.runs.cluster_jobs import ClusterOfJobs, RemoteWorker

    cluster = ClusterOfJobs(wants_gpu=any(arm.config.model.device != "cpu" for arm in recipe.arms.values()))
    try:
        yield lambda number: RemoteWorker(cluster, recipe, folder, number), cluster.num_slots
    finally:
        cluster.close()


def _check_models(recipe: Recipe) -> dict[str, str]:
    """Look into the folders of all arms' models, and return them by what the arms call them.

    Raises:
        SparringError: one is not there, or can't be used as asked.
    """
    from sparring.engines.starts import check_adopted, check_start
    from sparring.models.loading import check_room, resolve_model

    models: dict[str, str] = {}
    for arm in recipe.arms.values():
        check_checkpoint(arm.config.model.path)
        # Before anything is written that another config would then refuse.
        trusts_code = arm.config.model.trust_remote_code
        models[arm.config.model.path] = path = resolve_model(arm.config.model.path, trusts_code=trusts_code)
        check_room(path, arm.config.chat.max_context, trusts_code=trusts_code)
        check_start(arm.config.model, arm.config.lora, trains=find_method(arm.method).trains)
        adopted = arm.config.partner.checkpoint
        if adopted is not None and find_method(arm.method).has_partner:
            check_checkpoint(adopted)
            models[adopted] = path = resolve_model(adopted, key="partner.checkpoint", trusts_code=trusts_code)
            check_room(path, arm.config.chat.max_context, trusts_code=trusts_code)
            check_adopted(adopted, arm.config.model, arm.config.lora)
    return models


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
        if arm.explores or (arm.makes_tasks and arm.config.synthesis.kind == "exploration"):
            exploration_of(benchmark)
