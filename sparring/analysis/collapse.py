"""Signs that an agent's behaviour has broken, from what its episodes look like now and looked like at its start.

A loss can look excellent while the agent has stopped acting sensibly: it runs into the turn limit, repeats itself, or
does the same in every task. The signs are notices alone and change no training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIN_EPISODES = 8
"""With fewer episodes nothing is said."""
ALIKE_FROM_THE_START = 0.9
"""Share of episodes with one and the same sequence of actions from which an agent does not seem to read its task."""

NUM_ERRORS = 3.0
"""Standard errors of their difference that two mean rewards must be apart: tasks of a round are drawn, and few."""

LIMITS = ("turn_limit", "context_limit")
"""Stop reasons of episodes that the agent did not end itself."""


def signs(start: Mapping[str, Any] | None, now: Mapping[str, Any], *, drop: float, rise: float) -> list[str]:
    """Return the signs of a collapse in plain words; none where there is nothing to say.

    From .65 to .00 with every episode at the turn limit: "mean reward fell from 0.650 to 0.000", "100 % of the episodes
    end at the turn or context limit (0 % at the start)".

    Args:
        start: a `RolloutSummary` as JSON values, of the agent's first episodes of this kind; none: these are the first.
        now: the same of what it played now.
        drop: fall of the mean reward that is a sign, where it is beyond what the draw of the tasks explains.
        rise: rise of a share that is a sign: episodes at a limit, episodes with repetition, the same actions in
            different tasks, the same action in all turns.
    """
    if now["num"] < MIN_EPISODES:
        return []
    if start is None:
        if (now["alike"] or 0.0) < ALIKE_FROM_THE_START:
            return []
        return [
            f"{_percent(now['alike'])} of the episodes have the same actions, whatever the task: the agent does not "
            "read its task yet. Imitate longer (sft.epochs, sft.lr) or from more demonstrations"
        ]
    found = []
    error = NUM_ERRORS * math.hypot(start.get("mean_error") or 0.0, now.get("mean_error") or 0.0)
    if start["mean"] is not None and now["mean"] < start["mean"] - max(drop, error):
        found.append(f"mean reward fell from {start['mean']:.3f} to {now['mean']:.3f}")
    for share, what in (
        (_limited, "of the episodes end at the turn or context limit"),
        (_looping, "of the episodes repeat an action that changed nothing"),
        (lambda one: one["alike"] or 0.0, "of the episodes have the same actions, whatever the task"),
        (lambda one: one["commonest"] or 0.0, "of all actions are the same"),
    ):
        before, after = share(start), share(now)
        if after > before + rise:
            found.append(f"{_percent(after)} {what} ({_percent(before)} at the start)")
    return found


def notices(summaries: Sequence[Mapping[str, Any]], tasks: str, *, drop: float, rise: float) -> list[dict[str, Any]]:
    """Return the signs of an arm's rounds, each agent compared with its own first round.

    Args:
        summaries: of `RolloutSummary` as JSON values, with `round` and `agent`, in order of rounds.
        tasks: what was played, for the reader: "held-out tasks" or "training tasks".
        drop: as for `signs`.
        rise: as for `signs`.
    """
    first: dict[str, Mapping[str, Any]] = {}
    found = []
    for one in summaries:
        start = first.get(one["agent"])
        told = signs(start, one, drop=drop, rise=rise)
        first.setdefault(one["agent"], one)
        if told:
            key = {"round": one["round"], "agent": one["agent"]}
            found.append({**key, "tasks": tasks, "signs": told, "is_start": start is None})
    return found


def _limited(summary: Mapping[str, Any]) -> float:
    stops = summary["stops"]
    return sum(stops.get(reason, 0) for reason in LIMITS) / summary["num"] if summary["num"] else 0.0


def _looping(summary: Mapping[str, Any]) -> float:
    return summary["looping"] / summary["num"] if summary["num"] else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
