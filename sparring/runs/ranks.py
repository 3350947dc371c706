"""A run under `torchrun`: the first rank does it, the others hold their part of the weights and do as they are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError

if TYPE_CHECKING:
    from sparring.engines.fsdp.codec import Kinds
    from sparring.engines.fsdp.engine import Leader
    from sparring.runs.config import Recipe


def rank_here() -> int | None:
    """Return this process's rank under `torchrun`, none where there is none."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ else None


def ranks_here() -> int:
    """Return how many ranks `torchrun` has started, 1 where there is none."""
    return int(os.environ["WORLD_SIZE"]) if rank_here() is not None else 1


def follow() -> None:
    """Do what the first rank says, until its run is over."""
    from sparring.engines.fsdp.group import Group
    from sparring.engines.fsdp.host import Host

    group = Group()
    group.follow(Host(group, sent_kinds()))


@contextmanager
def led(recipe: Recipe) -> Iterator[Leader | None]:
    """Lead the other ranks for a while, where a recipe's engine has any; none elsewhere."""
    if not has_ranks(recipe):
        yield None
        return
    from sparring.engines.fsdp.engine import Leader
    from sparring.engines.fsdp.group import Group

    leader = Leader(Group(), sent_kinds())
    try:
        yield leader
    finally:
        leader.group.end()


def has_ranks(recipe: Recipe) -> bool:
    """Say whether any of a recipe's arms spreads its weights over ranks."""
    return any(arm.config.engine.kind == "fsdp" for arm in recipe.arms.values())


def check_ranks(recipe: Recipe, num_jobs: int | str) -> None:
    """Refuse ranks without an engine for them, and the other way round.

    Raises:
        ConfigError: one without the other, or ranks that would be shared by jobs.
    """
    if not has_ranks(recipe):
        if ranks_here() > 1:
            kinds = " and ".join(sorted({f"'{arm.config.engine.kind}'" for arm in recipe.arms.values()}))
            raise ConfigError(
                f"torchrun started {ranks_here()} processes, and engine.kind is {kinds}, which takes one. "
                "Add --engine.kind fsdp, or start sparring without torchrun."
            )
        return
    if rank_here() is None:
        raise ConfigError(
            "engine.kind is 'fsdp', which runs under torchrun: torchrun --nproc-per-node NUM_GPUS -m sparring run "
            "RECIPE …; or set engine.kind to 'local'."
        )
    if num_jobs != 1:
        raise ConfigError("--jobs: engine.kind 'fsdp' does one job at a time, on all ranks. Leave --jobs out.")
    if any(arm.config.lora.quantize != "none" for arm in recipe.arms.values()):
        raise ConfigError("lora.quantize: engine.kind 'fsdp' has no 4-bit weights. Set it to 'none'.")


def sent_kinds() -> Kinds:
    """Return the objectives that ranks know, and what they consist of."""
    from sparring.engines.fsdp.codec import kinds_of
    from sparring.learning.objectives import LossConfig, PreferenceObjective, SFTObjective
    from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective

    return kinds_of(SFTObjective, PreferenceObjective, LossConfig, PolicyGradientObjective, ActorCriticObjective)
