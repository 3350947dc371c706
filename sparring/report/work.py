"""An arm's finished phases come in; the episodes that it played and the optimizer steps that it took go out.

Markers of finished phases say both, so they are known where times are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.core.phases import Phase
from sparring.report.folder import PhaseFolder

PLAYING = ("rollout", "branch", "check", "synthesis")
"""Acts whose episodes a method needs in order to learn; those on held-out tasks only measure it."""
TRAINING = ("sft", "train", "rejected")
"""Acts that take optimizer steps, a training that the guard took back among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one arm did with one seed, phases that it shares with other arms included."""

    episodes: dict[str, int]
    """Kind of phase and agent, for instance `rollout-partner` → episodes, broken ones included."""
    steps: dict[str, int]
    """The same → optimizer steps."""


def read_work(phases: Iterable[PhaseFolder]) -> dict[tuple[str, str], Work]:
    """Return (seed, arm) → work; an arm without a phase that is known is not in it.

    Raises:
        DataError: a phase's marker is damaged.
    """

    @cache
    def result(path: Path) -> dict[str, Any]:
        return Phase(path).result()

    found: dict[tuple[str, str], Work] = {}
    for phase in phases:
        work = found.setdefault((phase.seed, phase.arm), Work(episodes={}, steps={}))
        for acts, key, counts in ((PLAYING, "num", work.episodes), (TRAINING, "steps", work.steps)):
            if phase.act in acts:
                name = f"{phase.act}-{phase.agent}"
                counts[name] = counts.get(name, 0) + int(result(phase.path).get(key) or 0)
    return found


def mean_count(counts: Sequence[Mapping[str, float] | None], agent: str = "") -> float | None:
    """Add up each seed's counts, and average over the seeds of which they are known; None where there is none.

    {rollout-target: 30, rollout-partner: 10} and {rollout-target: 32} make 36, and 5 for `partner`.

    Args:
        counts: of each seed: kind of phase and agent → number; None where nothing is known of it.
        agent: whose; none given: everybody's.
    """
    known = [one for one in counts if one is not None]
    if not known:
        return None
    return fmean(sum(n for name, n in one.items() if not agent or name.endswith(f"-{agent}")) for one in known)
