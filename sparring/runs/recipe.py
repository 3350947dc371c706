"""A recipe comes in, a finished run folder goes out: every arm with every seed, then results.json and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.convert import adjustable_keys
from sparring.core.errors import ConfigError
from sparring.core.folder import Run, check_place, versions
from sparring.core.journal import write_json_atomic
from sparring.core.phases import check_checkpoint
from sparring.core.types import Task
from sparring.envs.base import Benchmark
from sparring.envs.pool import EnvPool
from sparring.envs.synthesis import synthesis_of
from sparring.methods.table import METHODS
from sparring.runs.base_models import check_base_models
from sparring.runs.engines import Engines
from sparring.runs.jobs import do_job, list_jobs
from sparring.runs.memory_check import check_memory
from sparring.runs.results import collect_results
from sparring.runs.side_by_side import do_side_by_side
from sparring.runs.world import build_world, choose_tasks

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.runs.config import Recipe


def run_recipe(
    recipe: Recipe, out: Path, progress: Progress, *, with_report: bool = True, num_jobs: int = 1
) -> dict[str, Any]:
    """Run every arm of a recipe with every seed, resuming whatever is finished, and return the results.

    Args:
        recipe: what to run.
        out: the run's folder.
        progress: shows how it goes.
        with_report: write report.html, too.
        num_jobs: arms and seeds that are run at the same time, each in a process of its own.

    Raises:
        SparringError: whatever the user can mend; nothing that was finished is lost.
    """
    from sparring.engines.local import check_start
    from sparring.models.loading import check_room, resolve_model

    check_place(out)
    config = recipe.shared_config()
    models: dict[str, str] = {}
    for arm in recipe.arms.values():
        check_checkpoint(arm.config.model.path)
        # Before anything is written that another config would then refuse.
        trusts_code = arm.config.model.trust_remote_code
        models[arm.config.model.path] = path = resolve_model(arm.config.model.path, trusts_code=trusts_code)
        check_room(path, arm.config.chat.max_context, trusts_code=trusts_code)
        check_start(arm.config.model, arm.config.lora, trains=METHODS[arm.method].trains)
    if num_jobs > 1 and any(arm.config.vllm.launch for arm in recipe.arms.values()):
        raise ConfigError("--jobs: each would start a vLLM server. Take a running one (--vllm.base_urls URL).")
    check_memory(recipe, progress, num_jobs)
    benchmark = config.env.load()
    tasks = choose_tasks(config, benchmark)
    _check_arms(recipe, benchmark, tasks[0])
    adjustable = adjustable_keys(type(config))
    with Run.open(out, recipe.to_dict(), versions(), adjustable) as run:
        check_base_models(out, models, is_new=run.is_new)
        jobs = list_jobs(recipe)
        with progress.phase(f"{recipe.name} → {out}", total=len(jobs)) as bar:
            with EnvPool.of(config.env) as pool:
                world = build_world(run, config, benchmark, tasks, pool, progress)
                with Engines(run, world) as engines:
                    for job in jobs if num_jobs == 1 else ():
                        do_job(job, recipe, run, world, engines, progress)
                        bar.advance()
            if num_jobs > 1:
                do_side_by_side(recipe, run, jobs, num_jobs, progress, bar)
        results = collect_results(recipe, out, [task.id for task in world.eval_tasks])
        write_json_atomic(out / "results.json", results)
    if with_report:
        from sparring.report import write_report

        write_report(out)
    return results


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
