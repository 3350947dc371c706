"""Preference pairs come in; those whose sides begin alike go out, to be shown from the turn where they part.

Such a pair says what is better in one place: pivot pairs and step pairs share their beginning by construction, others
by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sparring.core.types import PairKind, PreferencePair, Trajectory
from sparring.report.charts import kind_class, kind_name
from sparring.report.folder import PhaseFolder
from sparring.report.kept_pairs import KeptPairs, pairs_of
from sparring.report.parting import Parting, Side, evenly_spaced, num_alike, who_played
from sparring.report.view import ArmResults, Results

MAX_PIVOTS = 3
"""Pivot pairs of an arm that are shown."""
MAX_OTHERS = 2
"""Other pairs of an arm that are shown."""


def last_pairs(kept: Iterable[KeptPairs]) -> list[KeptPairs]:
    """Keep each arm's pairs of its first seed and last round."""
    last: dict[str, KeptPairs] = {}
    for one in kept:
        known = last.get(one.phase.arm)
        if known is None or (one.phase.seed == known.phase.seed and one.phase.round > known.phase.round):
            last[one.phase.arm] = one
    return list(last.values())


def choose(
    results: Results,
    kept: Iterable[KeptPairs],
    phases: Sequence[PhaseFolder],
    found: Mapping[tuple[Path, str], Trajectory],
    experts: Mapping[str, Trajectory],
) -> list[dict[str, Any]]:
    """Return a section per arm: how many of its pairs begin alike, and some of them; arguments as for `pairs_of`.

    They are drawn evenly over the round's pairs, pivots before others: none is picked for what it shows.
    """
    sections = []
    for one in kept:
        arm = results.arms[one.phase.arm]
        alike: dict[PairKind, list[tuple[int, PreferencePair]]] = {}
        totals: dict[PairKind, int] = {}
        for pair in pairs_of(one, phases, found, experts):
            totals[pair.kind] = totals.get(pair.kind, 0) + 1
            if num := num_alike(pair.chosen, pair.rejected):
                alike.setdefault(pair.kind, []).append((num, pair))
        pivots = [pair for _, pair in alike.get(PairKind.PIVOT, [])]
        others = [pair for kind, own in alike.items() if kind is not PairKind.PIVOT for _, pair in own]
        shown = [*evenly_spaced(pivots, MAX_PIVOTS), *evenly_spaced(others, MAX_OTHERS)]
        if shown:
            sections.append(
                {
                    "title": arm.label,
                    "round": one.phase.round,
                    "seed": one.phase.seed,
                    "is_open": arm is results.featured,
                    "counts": [_count(kind, num, alike.get(kind, [])) for kind, num in totals.items()],
                    "pairs": [_shown(arm, pair, one.phase.round) for pair in shown],
                }
            )
    return sorted(sections, key=lambda section: not section["is_open"])


def _count(kind: PairKind, total: int, alike: Sequence[tuple[int, PreferencePair]]) -> dict[str, Any]:
    return {
        "name": kind_name(kind.value),
        "total": total,
        "alike": len(alike),
        "turns": fmean(num for num, _ in alike) if alike else None,
    }


def _shown(arm: ArmResults, pair: PreferencePair, number: int) -> dict[str, Any]:
    sides = tuple(
        Side(title=title, who=who_played(arm, one), agent=one.agent, trajectory=one, num_counted=num)
        for title, one, num in (
            ("Chosen", pair.chosen, pair.chosen_turns),
            ("Rejected", pair.rejected, pair.rejected_turns),
        )
    )
    parting = Parting(place=f"round {number}", sides=(sides[0], sides[1]))
    return {"parting": parting, "kind": kind_name(pair.kind.value), "class": kind_class(pair.kind.value)}
