"""A run's jobs: every arm with every seed. They share their start alone, so they may be done in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.core.convert import to_dict
from sparring.methods.table import find_method
from sparring.runs.phase_runner import PhaseRunner
from sparring.runs.seeds import digest
from sparring.runs.session import Session
from sparring.runs.trackers import FOLDER, Tracked, Trackers
from sparring.runs.tracking import Tracking

if TYPE_CHECKING:
    from sparring.core.folder import Run
    from sparring.core.progress import Progress
    from sparring.runs.config import Recipe
    from sparring.runs.engines import Engines
    from sparring.runs.world import World


@dataclass(frozen=True, kw_only=True)
class Job:
    """An arm with a seed."""

    seed: int
    arm: str

    def __str__(self) -> str:
        return f"seed {self.seed} · {self.arm}"


def list_jobs(recipe: Recipe) -> list[Job]:
    """List a recipe's jobs, seed by seed."""
    return [Job(seed=seed, arm=arm) for seed in recipe.seeds for arm in recipe.arms]


def do_job(job: Job, recipe: Recipe, run: Run, world: World, engines: Engines, progress: Progress) -> None:
    """Do a job; what of it was finished before is skipped.

    Raises:
        SparringError: whatever the user can mend; nothing that was finished is lost.
    """
    arm = recipe.arms[job.arm]
    engine, method = engines.of(arm.config), find_method(arm.method)
    engine.hold(method.num_agents)
    runner = PhaseRunner(run, world, arm.config, arm=job.arm, seed=job.seed, progress=progress, engine=engine)
    with _trackers(job, recipe, run, runner.warn) as trackers:
        runner.tracking = Tracking(arm.config, trackers)
        session = Session(runner)
        last = method.run(session)
        for split, tasks in world.also.items():
            session.evaluate_on(last, split, tasks)


def _trackers(job: Job, recipe: Recipe, run: Run, warn: Callable[[str], None]) -> Trackers:
    """Start the trackers of a job."""
    arm, folder = recipe.arms[job.arm], run.folder.absolute()
    tracked = Tracked(
        project=arm.config.run.project or recipe.name,
        group=folder.name,
        name=f"{job.arm}-seed-{job.seed}",
        id=digest(str(folder), job.arm, job.seed),
        config={"method": arm.method, "seed": job.seed, **to_dict(arm.config)},
        folder=folder / FOLDER,
    )
    return Trackers(arm.config.run.tracker, tracked, warn)
