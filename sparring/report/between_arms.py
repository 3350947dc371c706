"""Two arms come in; held-out tasks on which their target agents differ go out, seen from both sides.

The paper shows such tasks to say what its method does better. Here as many are shown on which the other one is better,
and all are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError
from sparring.core.types import Trajectory
from sparring.report.folder import PhaseFolder
from sparring.report.parting import Parting, Side, evenly_spaced
from sparring.report.view import ArmResults, Results

MAX_SHOWN = 3
"""Tasks that are shown of each outcome."""
ROUNDING = 1e-9
"""Rewards that differ by no more are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two arms on the same held-out tasks after their last rounds, seed by seed."""

    arms: tuple[ArmResults, ArmResults]
    gaps: Mapping[tuple[str, str], float]
    """(seed, task) → reward of the second arm minus that of the first."""

    def better(self, place: int) -> list[tuple[str, str]]:
        """List seeds and tasks on which an arm does better, the largest difference first."""
        gaps = {key: gap if place else -gap for key, gap in self.gaps.items()}
        return sorted((key for key, gap in gaps.items() if gap > ROUNDING), key=lambda key: -gaps[key])

    def shown(self, place: int) -> list[tuple[str, str]]:
        """List those that are shown: the largest difference, the smallest, and one half way."""
        return evenly_spaced(self.better(place), MAX_SHOWN)


def duel(results: Results, names: Sequence[str] = ()) -> Duel | None:
    """Set two arms against each other; where none are named, the first ETO (or else reference) and the featured one.

    Returns:
        none where there is nothing to compare.

    Raises:
        ConfigError: it is not two arms that are named, or the run has no such arm.
    """
    if names:
        arms = _named(results, names)
    else:
        featured = results.featured
        others = [one for one in (results.first("eto"), *reversed(results.references)) if one not in (None, featured)]
        if not others or others[0] is None:
            return None
        arms = others[0], featured
        if not results.are_alike(*arms):
            return None
    first, second = (arm.final() for arm in arms)
    gaps = {
        (seed, task): reward - first[seed][task]
        for seed, rewards in second.items()
        for task, reward in rewards.items()
        if task in first.get(seed, {})
    }
    return Duel(arms=arms, gaps=gaps) if gaps else None


def _named(results: Results, names: Sequence[str]) -> tuple[ArmResults, ArmResults]:
    unknown = [name for name in names if name not in results.arms]
    if len(set(names)) != 2 or len(names) != 2 or unknown:
        what = f"no arm {unknown[0]!r}" if unknown else f"expected two arms, found {len(set(names))}"
        raise ConfigError(f"--compare: {what}. This run's arms are {', '.join(results.arms)}.")
    arms = results.arms[names[0]], results.arms[names[1]]
    if not results.are_alike(*arms):
        raise ConfigError(f"--compare: {names[0]} and {names[1]} are of different worlds or splits. Name two of one.")
    return arms


def wanted_of(one: Duel, phases: Sequence[PhaseFolder]) -> dict[Path, set[str]]:
    """Return the folders in which the shown episodes lie, and the ids that are wanted of each."""
    wanted: dict[Path, set[str]] = {}
    for key in (*one.shown(0), *one.shown(1)):
        for arm in one.arms:
            if (place := _place(arm, key, phases)) is not None:
                wanted.setdefault(place[0], set()).add(place[1])
    return wanted


def show(
    one: Duel, results: Results, phases: Sequence[PhaseFolder], found: Mapping[tuple[Path, str], Trajectory]
) -> dict[str, Any]:
    """Return counts and chosen tasks, for the template.

    Args:
        one: the two arms.
        results: of the run.
        phases: of the run.
        found: folder and id → trajectory, of what `wanted_of` asked for; what is not there is not shown.
    """
    groups = []
    for place in (1, 0):
        pairs = [_parting(one, results, key, phases, found) for key in one.shown(place)]
        groups.append(
            {
                "title": f"{one.arms[place].label} ends higher",
                "num": len(one.better(place)),
                "pairs": [pair for pair in pairs if pair],
            }
        )
    num = sum(group["num"] for group in groups)
    return {
        "arms": [arm.label for arm in one.arms],
        "groups": groups,
        "num": len(one.gaps),
        "num_alike": len(one.gaps) - num,
    }


def _parting(
    one: Duel,
    results: Results,
    key: tuple[str, str],
    phases: Sequence[PhaseFolder],
    found: Mapping[tuple[Path, str], Trajectory],
) -> Parting | None:
    sides = []
    for arm in one.arms:
        place = _place(arm, key, phases)
        if place is None or place not in found:
            return None
        who = f"target agent, after round {arm.rounds()[-1]}" if arm.rounds()[-1] else "target agent at its start"
        sides.append(Side(title=arm.label, who=who, agent="target", trajectory=found[place]))
    return Parting(place=f"seed {key[0]}" if results.num_seeds > 1 else "", sides=(sides[0], sides[1]))


def _place(arm: ArmResults, key: tuple[str, str], phases: Sequence[PhaseFolder]) -> tuple[Path, str] | None:
    """Return folder and id of an arm's last held-out episode on a seed and task."""
    seed, task = key
    name = f"round-{arm.rounds()[-1]}/evaluate-target"
    path = next((p.path for p in phases if (p.arm, p.seed, p.name) == (arm.name, seed, name)), None)
    return None if path is None else (path, f"{name}/{task}")
