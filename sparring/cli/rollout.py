"""`sparring rollout`: a world is played, and the trajectories are written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sparring.analysis.endings import describe_endings
from sparring.cli.output import Quiet, new_file, note_endings, showing
from sparring.core.errors import EnvFault
from sparring.core.filters import counted
from sparring.core.ranges import Count, Name, Seed
from sparring.core.terminal import write
from sparring.envs.rewards import ADDED_UP, ADDS_UP, describe_odd_rewards, odd_rewards
from sparring.models.loading import hush_loading
from sparring.runs.config import PlayConfig
from sparring.runs.recipe_files import play_config


@dataclass(frozen=True, kw_only=True)
class Options:
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


def do(options: Options, overrides: Mapping[str, Any]) -> None:
    """Play a split and write the trajectories."""
    from sparring.runs.play import play

    config = play_config(options.recipe, overrides)
    out = new_file(options.out)
    hush_loading([config.model.path])
    with showing(options.quiet) as progress:
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
    for line in describe_odd_rewards(odd_rewards(trajectories), config.env.id, len(rewards)):
        write(line)
    num_added = sum(ADDS_UP in trajectory.odd_rewards for trajectory in trajectories)
    if options.policy == "expert" and num_added:
        write(f"{config.env.id}: in {num_added} episodes {ADDED_UP}")
    note_endings(trajectories)
