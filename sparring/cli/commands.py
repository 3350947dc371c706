"""What each subcommand takes and does. Options come in; the work is done elsewhere; a table or a path is printed.

The options of `run`, `eval` and `rollout` include the config, as `--section.key value`. Only what was typed overrides a
recipe: a default here never does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sparring.analysis.endings import describe_endings, is_nothing_played
from sparring.cli.words import parse
from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.filters import counted
from sparring.core.folder import check_place
from sparring.core.progress import Progress, heard, terminal_progress
from sparring.core.ranges import Count, Name, Place, Seed
from sparring.core.terminal import open_console, write
from sparring.core.types import Trajectory
from sparring.envs.base import Benchmark
from sparring.models.loading import BUNDLED, BUNDLED_NAMES
from sparring.runs.config import Config, PlayConfig
from sparring.runs.ranks import follow, rank_here
from sparring.runs.recipe_files import find_config, load_recipe, play_config

Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"])]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run a recipe: every arm with every seed, then results.json and report.html.

    A run that was stopped goes on with the same command, and ends with the same numbers as one that was not.
    """

    recipe: tyro.conf.Positional[Path]
    """The recipe, a TOML file."""
    out: Path | None = None
    """The run's folder; none: runs/ and the recipe's name."""
    seeds: tuple[Seed, ...] = ()
    """Seeds in place of the recipe's."""
    arms: tuple[Name, ...] = ()
    """Run only these arms of the recipe."""
    jobs: Count | Literal["ray"] = 1
    """Arms and seeds that are run at the same time, each in a process of its own with its own envs; `ray`: as many as
    a Ray cluster has room for (docs/scale.md)."""
    quiet: Quiet = False
    """Show no progress."""
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(default_factory=Config)
    """Overrides: they win over the recipe, in every arm. Defaults shown here are those without a recipe."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Play a split of a world (and those of `eval.also`) with one or more models, greedily, one episode a task.

    A checkpoint inside a run's folder is played with that run's settings. With `--policy openai` the models are those
    of a server (`--openai.base_url`), which act from the instruction and worked examples alone.
    """

    models: tyro.conf.Positional[tuple[Place, ...]]
    """Folders, Hub ids, names of bundled models (`sparring-worlds`, …); or a server's models (none: `openai.model`)."""
    policy: Literal["model", "openai"] = "model"
    """Who plays: models in this process, or those of an OpenAI-compatible server (docs/openai.md)."""
    recipe: Path | None = None
    """A recipe or a run's folder whose settings are used; none: those of the run that the first model lies in."""
    out: Path | None = None
    """JSONL file to write the trajectories to; it must not exist yet."""
    quiet: Quiet = False
    """Show no progress."""
    config: Annotated[PlayConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=PlayConfig
    )
    """Overrides: they win over the recipe."""


@dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """Play a world and write the trajectories, one JSON object a line."""

    out: Path
    """JSONL file to write to; it must not exist yet."""
    policy: Literal["model", "openai", "expert", "random"] = "model"
    """Who plays: `model.path`; a server's `openai.model`; the experts; or actions drawn from what experts play."""
    split: Name = "train"
    """Split whose tasks are played."""
    num_tasks: Count | None = None
    """Tasks, spread evenly over the types; none: all."""
    seed: Seed = 0
    """Seed of every draw."""
    recipe: Path | None = None
    """A recipe or a run's folder whose settings are used."""
    quiet: Quiet = False
    """Show no progress."""
    config: Annotated[PlayConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=PlayConfig
    )
    """Overrides: they win over the recipe."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Rebuild report.html from a run's folder."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    compare: tuple[Name, ...] = ()
    """Two arms that are set side by side on the held-out tasks; none: the first ETO and the arm with the failure
    agent."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Add an adapter's weights to its base model's, and write a plain Hugging Face folder that needs no PEFT."""

    adapter: tyro.conf.Positional[Path]
    """The adapter's folder (adapter_config.json, adapter_model.safetensors)."""
    out: tyro.conf.Positional[Path]
    """The folder to write; it must not exist yet."""
    base: Place | None = None
    """The base model's folder, Hub id or bundled name; none: the one that the adapter names."""


@dataclass(frozen=True, kw_only=True)
class EnvsOptions:
    """List the worlds: what works on this machine, and how to get what does not."""


def run_command(name: str, words: Sequence[str]) -> None:
    """Parse a subcommand's words and do it.

    Raises:
        SparringError: whatever the user can mend.
        SystemExit: after `--help`, or with code 2 where a word can't be parsed.
    """
    if (rank := rank_here()) is not None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else torch shows its stack where another rank has died
    if rank:  # the first alone reads, prints and writes
        return follow() if name == "run" else None
    options_class, do = {
        "run": (RunOptions, run),
        "eval": (EvalOptions, evaluate),
        "rollout": (RolloutOptions, rollout),
        "report": (ReportOptions, report),
        "merge": (MergeOptions, merge),
        "envs": (EnvsOptions, envs),
    }[name]
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)  # as `python -m` does, so that a world of the user's own is found where they stand
    options, overrides = parse(options_class, f"sparring {name}", words)
    do(options, overrides)


def run(options: RunOptions, overrides: Mapping[str, Any]) -> None:
    """Run a recipe and print what came out."""
    recipe = load_recipe(options.recipe, overrides, seeds=options.seeds or None, arms=options.arms or None)
    out = options.out or Path("runs") / recipe.name
    _hush_loading([arm.config.model.path for arm in recipe.arms.values()])
    with _heard(options.quiet) as progress, progress.phase(f"{recipe.name} → {out}"):
        from sparring.runs.recipe import run_recipe

        results = run_recipe(recipe, out, progress, num_jobs=options.jobs)
    from sparring.report.measures import shown
    from sparring.report.text import broken_lines, contribution_lines, notice_lines, pool_lines, summary_table
    from sparring.report.view import results_from_json

    console = open_console()
    console.print(summary_table(results))
    for part in shown(results_from_json(results)):
        console.print(part, markup=False, highlight=False)
    told = (contribution_lines, pool_lines, notice_lines, broken_lines)
    for line in [line for lines in told for line in lines(results)]:
        console.print(line, markup=False, highlight=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def evaluate(options: EvalOptions, overrides: Mapping[str, Any]) -> None:
    """Play the held-out split, and those of `eval.also`, with each model, and print a table for each."""
    is_served = options.policy == "openai"
    served = overrides.get("openai.model")
    models = options.models or ((served,) if is_served and served else ())
    if not models:
        what = "as the server calls it" if is_served else f"a folder, a Hub id, {BUNDLED_NAMES}"
        raise ConfigError(f"eval: name at least one model: {what}.")
    source = options.recipe or (None if is_served else find_config(Path(models[0])))
    config = play_config(source, overrides, arm_of=None if is_served else Path(models[0]))
    if source and not options.recipe:
        open_console().print(f"Settings: {source}", markup=False, highlight=False, soft_wrap=True)
    _hush_loading(models)
    out = _new_file(options.out)
    benchmark = config.env.load()
    for split in dict.fromkeys((config.eval.split, *config.eval.also)):
        own = replace(config, eval=replace(config.eval, split=split))
        _evaluate_on_split(own, models, options, benchmark, out)


def _evaluate_on_split(
    config: PlayConfig, models: Sequence[str], options: EvalOptions, benchmark: Benchmark, out: Path | None
) -> None:
    from sparring.report.measures import shown_of
    from sparring.report.text import evaluation_table
    from sparring.runs.play import evaluate_models, measures_of_models

    with _heard(options.quiet) as progress:
        played = evaluate_models(config, models, out, progress, player=options.policy, benchmark=benchmark)
    console = open_console()
    title = f"{config.env.id}: {config.eval.split}"
    console.print(evaluation_table(title, played, num_resamples=config.eval.num_resamples))
    for part in shown_of(measures_of_models(config, benchmark, played)):
        console.print(part, markup=False, highlight=False)
    for model, trajectories in played.items():
        if trajectories and not counted(trajectories):
            raise EnvFault(f"{model}: {describe_endings(trajectories)}.")
    _note_endings([one for trajectories in played.values() for one in trajectories])


def rollout(options: RolloutOptions, overrides: Mapping[str, Any]) -> None:
    """Play a split and write the trajectories."""
    from sparring.runs.play import play

    config = play_config(options.recipe, overrides)
    out = _new_file(options.out)
    _hush_loading([config.model.path])
    with _heard(options.quiet) as progress:
        trajectories = play(
            config,
            options.policy,
            split=options.split,
            num_tasks=options.num_tasks,
            seed=options.seed,
            out=out,
            progress=progress,
        )
    rewards = [trajectory.reward for trajectory in counted(trajectories)]
    if trajectories and not rewards:
        raise EnvFault(f"{describe_endings(trajectories)}. They are in {out}.")
    faults = [trajectory.error for trajectory in trajectories if trajectory.stop.value == "env_fault"]
    mean = f"mean reward {sum(rewards) / len(rewards):.3f}" if rewards else "no reward"
    broken = f", {len(faults)} broken by infrastructure (the first: {faults[0]})" if faults else ""
    write(f"{len(rewards)} trajectories{broken}, {mean}: {out}")
    _note_endings(trajectories)


def report(options: ReportOptions, _: Mapping[str, Any]) -> None:
    """Rebuild a report and print its path."""
    from sparring.report import write_report

    if not (options.run / "config.json").is_file():
        raise DataError(f"{options.run}: is no run's folder (it has no config.json).")
    with _heard(quiet=True):
        path = write_report(options.run, options.compare)
    write(str(path))


def merge(options: MergeOptions, _: Mapping[str, Any]) -> None:
    """Merge an adapter and print the folder's path."""
    from sparring.models.merge import merge

    check_place(options.out.parent)
    _hush_loading([options.base or ""])
    with _heard(quiet=True):
        merge(options.adapter, options.out, options.base)
    write(str(options.out))


def envs(_: EnvsOptions, __: Mapping[str, Any]) -> None:
    """Print what works here."""
    from sparring.envs.status import status_table

    open_console().print(status_table(), soft_wrap=True)


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _heard(quiet: bool) -> Iterator[Progress]:
    """Show progress, and with it what the package has to say."""
    with terminal_progress(quiet=quiet) as progress, heard(progress):
        yield progress


def _hush_loading(models: Sequence[str]) -> None:
    """Keep transformers from drawing a bar for each model it loads; a download from the Hub keeps its bar."""
    if all(model in BUNDLED or Path(model).expanduser().is_dir() for model in models):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _note_endings(trajectories: Sequence[Trajectory]) -> None:
    if is_nothing_played(trajectories):
        write(f"sparring: {describe_endings(trajectories)}.", on_stderr=True)


def _new_file(path: Path | None) -> Path | None:
    if path is not None:
        check_place(path.parent)
        if path.exists():
            raise ConfigError(f"--out {path}: exists already. Choose another file, or delete it.")
    return path
