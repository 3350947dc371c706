"""How episodes ended, in words, with what to do about it: for errors and notes that must not guess at the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparring.core.filters import usable
from sparring.core.types import StopReason, Trajectory


def describe_endings(trajectories: Sequence[Trajectory]) -> str:
    """Say how most of some episodes ended: `8 of 8 episodes ended by context_limit, 8 before any action: raise …`.

    Args:
        trajectories: broken ones included; at least one.
    """
    stop, num = Counter(one.stop for one in trajectories).most_common(1)[0]
    ended = [one for one in trajectories if one.stop is stop]
    unplayed = sum(not one.turns for one in ended)
    before = f", {unplayed} before any action" if unplayed else ""
    remedy = {
        StopReason.CONTEXT_LIMIT: ": raise chat.max_context, or lower rollout.max_new_tokens or chat.num_examples",
        StopReason.ENV_FAULT: f"; the first: {ended[0].error}",
    }.get(stop, "")
    return f"{num} of {len(trajectories)} episodes ended by {stop.value}{before}{remedy}"


def why_no_pairs(trajectories: Sequence[Trajectory]) -> str:
    """Say why the trajectories of a round made no preference pair, with what to do about it."""
    if not trajectories or is_nothing_played(trajectories):
        return describe_endings(trajectories) if trajectories else "no episode was played"
    return (
        f"every rollout tied with its expert or broke ({describe_endings(trajectories)}). Raise env.num_train, "
        "rollout.num_per_task or rollout.temperature, or lower pairs.min_gap"
    )


def is_nothing_played(trajectories: Sequence[Trajectory]) -> bool:
    """Say whether no episode has an action that counts, though there are episodes."""
    return bool(trajectories) and not usable(trajectories)
