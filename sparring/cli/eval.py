"""`sparring eval`: models play a split of a world, and a table is printed for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sparring.analysis.endings import describe_endings
from sparring.cli.output import Quiet, new_file, note_endings, showing
from sparring.core.errors import ConfigError, EnvFault
from sparring.core.filters import counted
from sparring.core.ranges import Place
from sparring.core.terminal import open_console
from sparring.envs.base import Benchmark
from sparring.models.loading import BUNDLED_NAMES, hush_loading
from sparring.runs.config import PlayConfig
from sparring.runs.recipe_files import find_config, play_config


@dataclass(frozen=True, kw_only=True)
class Options:
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


def do(options: Options, overrides: Mapping[str, Any]) -> None:
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
    hush_loading(models)
    out = new_file(options.out)
    benchmark = config.env.load()
    for split in dict.fromkeys((config.eval.split, *config.eval.also)):
        own = replace(config, eval=replace(config.eval, split=split))
        _evaluate_on_split(own, models, options, benchmark, out)


def _evaluate_on_split(
    config: PlayConfig, models: Sequence[str], options: Options, benchmark: Benchmark, out: Path | None
) -> None:
    from sparring.report.measures import shown_of
    from sparring.report.text import evaluation_table
    from sparring.runs.play import evaluate_models, measures_of_models

    with showing(options.quiet) as progress:
        played = evaluate_models(config, models, out, progress, player=options.policy, benchmark=benchmark)
    console = open_console()
    title = f"{config.env.id}: {config.eval.split}"
    console.print(evaluation_table(title, played, num_resamples=config.eval.num_resamples))
    for part in shown_of(measures_of_models(config, benchmark, played)):
        console.print(part, markup=False, highlight=False)
    for model, trajectories in played.items():
        if trajectories and not counted(trajectories):
            raise EnvFault(f"{model}: {describe_endings(trajectories)}.")
    note_endings([one for trajectories in played.values() for one in trajectories])
