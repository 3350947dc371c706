"""Sparring from Python: train a recipe, evaluate a model, read a run. Each call shows its progress as suits the place.

Env processes and jobs side by side are programs of their own, started anew and not forked. So a script needs no
`if __name__ == "__main__"`, and a notebook may train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparring.analysis.statistics import Summary, summarise
from sparring.core import numerics
from sparring.core.errors import ConfigError, quote
from sparring.core.filters import counted
from sparring.core.journal import read_object
from sparring.core.phases import CHECKPOINT
from sparring.core.progress import heard, library_progress
from sparring.core.types import Trajectory
from sparring.envs.measures import Measures
from sparring.models.loading import hush_loading
from sparring.report.folder import list_phases
from sparring.report.text import between, percent, reward, summary_table
from sparring.report.view import read_results
from sparring.runs.config import Recipe
from sparring.runs.recipe_files import find_config, load_recipe, play_config, recipe_from_dict

if TYPE_CHECKING:
    import pandas

    from sparring.report.view import Results

WIDTH = 110
"""Columns of a result that is printed."""


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    num_jobs: int | Literal["ray"] = 1,
    progress: bool | None = None,
) -> RunResult:
    """Run a recipe: every arm with every seed, then results and a report. The same call goes on where it was stopped.

    `sparring.train("quickstart", overrides={"loop.rounds": 1}, arms=["eto"])` trains ETO for one round.

    Args:
        recipe: the name of a bundled recipe, a TOML file, or what would stand in one.
        out: the run's folder; none: `runs/` and the recipe's name.
        overrides: values by dotted key, which win over the recipe in every arm.
        seeds: in place of the recipe's.
        arms: run only these.
        num_jobs: arms and seeds that are run at the same time, each in a process of its own; `ray`: over a cluster.
        progress: show it; none: in a notebook and on a terminal, and not where standard error is a file.

    Raises:
        SparringError: whatever can be mended; nothing that was finished is lost.
    """
    numerics.prepare()
    from sparring.runs.recipe import run_recipe

    if isinstance(recipe, Recipe):
        if overrides or seeds is not None or arms is not None:
            raise ConfigError("train: overrides, seeds and arms go into a recipe before it is resolved: load_recipe.")
    elif isinstance(recipe, Mapping):
        recipe = recipe_from_dict(recipe, overrides, seeds=seeds, arms=arms)
    else:
        recipe = load_recipe(recipe, overrides, seeds=seeds, arms=arms)
    folder = Path("runs") / recipe.name if out is None else Path(out)
    hush_loading([arm.config.model.path for arm in recipe.arms.values()])
    with library_progress(shows=progress) as shown, heard(shown), shown.phase(f"{recipe.name} → {folder}"):
        run_recipe(recipe, folder, shown, num_jobs=num_jobs)
    return load_run(folder)


def load_run(folder: str | Path) -> RunResult:
    """Read a finished run's folder.

    Raises:
        DataError: it is no run's, or the run is not finished, or a file of it can't be read.
    """
    folder = Path(folder)
    return RunResult(folder=folder, results=read_results(folder))


def evaluate(
    model: str | Path,
    env: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    recipe: str | Path | None = None,
    split: str | None = None,
    num_tasks: int | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Let a model play held-out tasks of a world greedily, one episode each.

    Args:
        model: a folder, a Hub id or a bundled model's name. A checkpoint inside a run's folder is played with that
            run's settings.
        env: the world's id, or `package.module:Class`; none: the recipe's.
        overrides: values by dotted key, which win over everything else.
        recipe: whose settings are used: a file, a bundled recipe's name or a run's folder.
        split: whose tasks are played; none: the recipe's `eval.split`.
        num_tasks: how many, spread evenly over the types; none: the recipe's number, or all.
        progress: as in `train`.

    Raises:
        SparringError: whatever can be mended.
    """
    numerics.prepare()
    from sparring.runs.play import evaluate_models, measures_of_models

    name = str(model)
    given = {"env.id": env, "eval.split": split, "eval.num_tasks": num_tasks}
    values = {key: value for key, value in given.items() if value is not None} | dict(overrides or {})
    source = Path(recipe) if recipe is not None else find_config(Path(name))
    config = play_config(source, values, arm_of=Path(name))
    hush_loading([name])
    benchmark = config.env.load()
    with library_progress(shows=progress) as shown, heard(shown):
        played = evaluate_models(config, [name], None, shown, benchmark=benchmark)
    trajectories = played[name]
    return Evaluation(
        model=name,
        env=config.env.id,
        split=config.eval.split,
        score=summarise({0: _rewards(trajectories)}, num_resamples=config.eval.num_resamples),
        measures=measures_of_models(config, benchmark, played)[name],
        trajectories=trajectories,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """How a model did on the tasks of a split."""

    model: str
    env: str
    split: str
    score: Summary
    """Mean reward and success, with 95 % intervals over tasks."""
    measures: Measures
    """What the world's own measures say; empty where it has none."""
    trajectories: Sequence[Trajectory]
    """All episodes, in the order of the tasks; broken ones count nowhere else."""

    @property
    def rewards(self) -> dict[str, float]:
        """Task id → reward."""
        return _rewards(self.trajectories)

    def __repr__(self) -> str:
        """Say it in a line."""
        where = f"{self.model} on {self.env}, {self.split}"
        return f"<Evaluation {where}: {_in_words(self.score)}, {self.score.num} tasks>"


@dataclass(frozen=True, kw_only=True, repr=False)
class RunResult:
    """A finished run. `print` shows it as a table."""

    folder: Path
    results: Results = field(repr=False)
    """All that the report is made of."""

    @property
    def scores(self) -> dict[str, Summary]:
        """Arm → how its target agent did on held-out tasks after the last round, with 95 % intervals."""
        view = self.results
        return {
            name: summarise(arm.final(), view.success_eps, num_resamples=view.num_resamples)
            for name, arm in view.arms.items()
        }

    @property
    def best_arm(self) -> str:
        """The arm with the highest mean reward on the held-out tasks; the first of equals.

        To choose between arms and report the choice, hold out other tasks for each: choose on `eval.split = "dev"`.

        Raises:
            ConfigError: nothing was played on held-out tasks.
        """
        scores = {name: score for name, score in self.scores.items() if score.num}
        if len(self.results.arms) == 1:
            return next(iter(self.results.arms))
        if not scores:
            raise ConfigError(f"{self.folder}: no arm has played held-out tasks. Name the arm: checkpoint(arm).")
        return max(scores, key=lambda name: scores[name].mean)

    @property
    def best_checkpoint(self) -> str:
        """The model's folder that the best arm ended with, of its best seed."""
        return self.checkpoint(self.best_arm)

    @property
    def report(self) -> Path:
        """The report, an HTML page that needs no network."""
        return self.folder / "report.html"

    def checkpoint(self, arm: str, seed: int | str | None = None, agent: str = "target") -> str:
        """Return the model's folder that an arm's agent ended with; of an arm that trains nothing, its base model.

        Args:
            arm: its name.
            seed: none: the one whose mean held-out reward is highest.
            agent: `target` or `partner`.

        Raises:
            ConfigError: there is no such arm, seed or agent.
        """
        if arm not in self.results.arms:
            raise ConfigError(f"{self.folder}: has no arm {quote(arm)}. Arms: {', '.join(self.results.arms)}.")
        final, seeds = self.results.arms[arm].final(), list(self.results.arms[arm].seeds)
        if seed is None:
            scores = {one: summarise({0: final[one]}).mean for one in seeds if final.get(one)}
            seed = max(scores, key=lambda one: scores[one]) if scores else seeds[0]
        if str(seed) not in seeds:
            raise ConfigError(f"{self.folder}: {arm} has no seed {seed}. Seeds: {', '.join(seeds)}.")
        phases = [phase for phase in list_phases(self.folder, [str(seed)], [arm]) if phase.agent == agent]
        place = self.folder / f"seed-{seed}" / arm
        trained = [place / phase.name / CHECKPOINT for phase in phases if phase.act in ("sft", "train")]
        kept = [folder for folder in trained if folder.is_dir()]
        if kept:
            return str(kept[-1])
        if agent != "target":
            raise ConfigError(f"{self.folder}: {arm} has no weights of an agent {quote(agent)}.")
        config = read_object(self.folder / "config.json")
        return config["arms"][arm]["model"]["path"]

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row for each held-out episode: arm, label, seed, agent, round, task, reward.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas: takes pandas: pip install pandas") from None
        rows = [
            (name, arm.label, int(seed), one.agent, one.round, task, earned)
            for name, arm in self.results.arms.items()
            for seed, found in arm.seeds.items()
            for one in found.evaluations
            for task, earned in one.rewards.items()
        ]
        return pandas.DataFrame(rows, columns=["arm", "label", "seed", "agent", "round", "task", "reward"])

    def __repr__(self) -> str:
        """Show the table that `sparring run` ends with, and where the run and its best checkpoint are."""
        from rich.console import Console

        console = Console(width=WIDTH, color_system=None, force_jupyter=False, force_terminal=False)
        with console.capture() as shown:
            console.print(summary_table(self.results))
        table = "\n".join(line.rstrip() for line in shown.get().strip().splitlines())
        return f"{table}\n\nrun: {self.folder}\nreport: {self.report}"


def _rewards(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    return {one.task.id: one.reward for one in counted(trajectories)}


def _in_words(score: Summary) -> str:
    mean = f"mean reward {reward(score.mean)} {between(score.ci_low, score.ci_high)}"
    interval = between(score.success_ci_low, score.success_ci_high, as_percent=True)
    return f"{mean}, success {percent(score.success)} {interval}"
