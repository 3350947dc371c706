"""`sparring run`: a recipe is run, and a table of what came out is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sparring.cli.output import Quiet, showing
from sparring.core.ranges import Count, Name, Seed
from sparring.core.terminal import open_console
from sparring.models.loading import hush_loading
from sparring.runs.config import Config
from sparring.runs.recipe_files import load_recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run a recipe: every arm with every seed, then results.json and report.html.

    A run that was stopped goes on with the same command, and ends with the same numbers as one that was not.
    """

    recipe: tyro.conf.Positional[Path]
    """The recipe: a TOML file, or the name of one that comes with Sparring (`sparring recipes` lists them)."""
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


def do(options: Options, overrides: Mapping[str, Any]) -> None:
    """Run a recipe and print what came out."""
    recipe = load_recipe(options.recipe, overrides, seeds=options.seeds or None, arms=options.arms or None)
    out = options.out or Path("runs") / recipe.name
    hush_loading([arm.config.model.path for arm in recipe.arms.values()])
    with showing(options.quiet) as progress, progress.phase(f"{recipe.name} → {out}"):
        from sparring.runs.recipe import run_recipe

        results = run_recipe(recipe, out, progress, num_jobs=options.jobs)
    from sparring.report.falls import fall_lines
    from sparring.report.measures import shown
    from sparring.report.preferences import preference_table
    from sparring.report.text import (
        broken_lines,
        contribution_lines,
        notice_lines,
        odd_reward_lines,
        pool_lines,
        summary_table,
    )
    from sparring.report.view import results_from_json

    console = open_console()
    console.print(preference_table(results) or summary_table(results))
    for part in shown(results_from_json(results)):
        console.print(part, markup=False, highlight=False)
    told = (contribution_lines, pool_lines, fall_lines, notice_lines, broken_lines, odd_reward_lines)
    for line in [line for lines in told for line in lines(results)]:
        console.print(line, markup=False, highlight=False)
    console.print(f"Report: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
