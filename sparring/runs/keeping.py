"""Which checkpoints of a run stay on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.phases import CHECKPOINT, Phase
from sparring.core.ranges import ADJUSTABLE, Name
from sparring.learning.phase import MOMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What a run writes; no number depends on it."""

    keep: Annotated[Literal["all", "evaluated", "last"], ADJUSTABLE] = "evaluated"
    """Checkpoints that stay once the next round has trained on from them. `evaluated`: of agents that played the
    held-out tasks in that round. `last`: none. An agent's last checkpoint and the agents' start always stay."""

    tracker: Annotated[tuple[Name, ...], ADJUSTABLE] = ()
    """Experiment trackers that are told how it goes: `wandb`, `trackio`, `tensorboard`, `mlflow`, or one of your own as
    `package.module:Class` (docs/trackers.md). The run's own files are written whether there are any or not."""
    project: Annotated[Name | None, ADJUSTABLE] = None
    """What trackers call the project; none: the recipe's name."""

    def __post_init__(self) -> None:
        check_values(self)


def drop_superseded(
    phase: Callable[[str], Phase],
    agent: str,
    round_number: int,
    *,
    keep: Literal["all", "evaluated", "last"],
    needed: str | None = None,
) -> None:
    """Delete what an agent's training in a round has made superfluous of the round before.

    Args:
        phase: returns the arm's phase of a name.
        agent: the agent's name.
        round_number: the round whose training is finished.
        keep: as in `RunConfig`.
        needed: weights that later rounds hold on to, and which stay.
    """
    before = phase(f"round-{round_number - 1}/train-{agent}")
    (before.path / MOMENTS).unlink(missing_ok=True)
    is_evaluated = phase(f"round-{round_number - 1}/evaluate-{agent}").is_done
    if str(before.path / CHECKPOINT) != needed and (keep == "last" or (keep == "evaluated" and not is_evaluated)):
        shutil.rmtree(before.path / CHECKPOINT, ignore_errors=True)
