"""`sparring export`: a run's pairs or trajectories, for other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from sparring.core.errors import ConfigError
from sparring.core.folder import check_place
from sparring.core.ranges import CountOrZero, Name, Seed, Share
from sparring.core.terminal import write


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write what a run learnt from as data for other libraries (docs/data.md).

    Without a selection: all pairs that target agents were trained on, or all of their usable episodes on training tasks
    with the experts'.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: tyro.conf.Positional[Path]
    """The file to write (`.jsonl`, `.jsonl.gz`, `.parquet`), with `--format parquet` a folder; it must be new."""
    format: Literal["trl-preference", "trl-sft", "messages", "parquet"] = "trl-preference"
    """`trl-preference`: prompt, chosen, rejected; `trl-sft`: prompt, completion; `messages`: whole conversations, with
    rewards; `parquet`: pairs and conversations, as two Parquet files."""
    arms: tuple[Name, ...] = ()
    """Arms; none: all."""
    seeds: tuple[Seed, ...] = ()
    """Seeds; none: all."""
    rounds: tuple[CountOrZero, ...] = ()
    """Rounds; none: all, and the experts' episodes."""
    agents: tuple[Name, ...] = ("target",)
    """Agents whose training the pairs were for, or who played the episodes: `target`, `partner`."""
    min_reward: Share = 0.0
    """Least reward of an episode."""
    held_out: bool = False
    """Export episodes on held-out tasks, too."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Export, and print what was written."""
    from sparring.runs.export import Selection, export

    check_place(options.out.parent)
    if options.out.exists():
        raise ConfigError(f"{options.out}: exists already. Choose another place, or delete it.")
    selection = Selection(
        arms=options.arms,
        seeds=options.seeds,
        rounds=options.rounds,
        agents=options.agents,
        min_reward=options.min_reward,
        held_out=options.held_out,
    )
    for path, num in export(options.run, options.out, options.format, selection).items():
        write(f"{num} rows: {path}")
