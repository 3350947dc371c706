"""`sparring quickstart`: the bundled quickstart is run, as `sparring run quickstart` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring.cli import run
from sparring.cli.output import Quiet
from sparring.core.ranges import Count, Name, Seed
from sparring.runs.config import Config


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train SFT, ETO and Co-Evolving Agents on ScienceWorld, with a bundled model, and write a report: about eight
    minutes on two cores.

    The same as `sparring run quickstart`. It needs ScienceWorld: pip install 'sparring[scienceworld]'.
    """

    out: Path | None = None
    """The run's folder; none: runs/quickstart."""
    seeds: tuple[Seed, ...] = ()
    """Seeds in place of the recipe's, which is 0."""
    arms: tuple[Name, ...] = ()
    """Run only these: sft, eto, coevolving_agents."""
    jobs: Count = 1
    """Arms and seeds that are run at the same time, each in a process of its own with its own envs."""
    quiet: Quiet = False
    """Show no progress."""
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(default_factory=Config)
    """Overrides: they win over the recipe, in every arm. Defaults shown here are those without a recipe."""


def do(options: Options, overrides: Mapping[str, Any]) -> None:
    """Run the quickstart and print what came out."""
    own = {name: getattr(options, name) for name in ("out", "seeds", "arms", "jobs", "quiet")}
    run.do(run.Options(recipe=Path("quickstart"), **own), overrides)
