"""Training phases come in; which update of the partner reached which round of the target agent goes out.

In the paper's order a partner's update shows only in what it plays in the next round. So what counts is read from the
pairs that the target agent was trained on: each names the episodes it is made of, and an episode's phase tells whether
the partner played it before or after its training of that round.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparring.core.phases import Phase
from sparring.report.folder import PhaseFolder
from sparring.report.kept_pairs import KeptPairs
from sparring.report.text import NOTHING, count
from sparring.report.view import ArmResults, Results

_PLAYED = re.compile(r"round-(?P<round>\d+)/(?:rollout|branch)-partner(?P<part>(?:-[^/]+)?)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one training of a target agent took from the partner."""

    seed: str
    round: int
    updates: frozenset[int]
    """Rounds in which the partner was updated before it played what is in these pairs."""
    num_pairs: int
    """Pairs with an episode of the partner's."""
    num_updated: int
    """Those among them with an episode that it played after at least one update."""


def trained_rounds(phases: Iterable[PhaseFolder]) -> dict[tuple[str, str], list[int]]:
    """Return (seed, arm) → the rounds in which the partner took optimizer steps; one that rested is not in it."""
    found: dict[tuple[str, str], list[int]] = {}
    for phase in phases:
        if (phase.act, phase.agent) == ("train", "partner") and Phase(phase.path).result().get("steps"):
            found.setdefault((phase.seed, phase.arm), []).append(phase.round)
    return found


def lesson(kept: KeptPairs, trained: Sequence[int]) -> Lesson:
    """Say what a training of the target agent took from the partner.

    With updates in rounds 1 and 2, an episode of `round-2/rollout-partner` was played after that of round 1 alone, one
    of `round-2/rollout-partner-refreshed` after both.

    Args:
        kept: the training's pairs.
        trained: rounds in which the partner was updated.
    """
    num_pairs, num_updated, reached = 0, 0, set[int]()
    for record in kept.records:
        places = [place for side in ("chosen", "rejected") if (place := _PLAYED.match(record[side]))]
        before = {
            number
            for place in places
            for number in trained
            if number < int(place["round"]) + place["part"].endswith("-refreshed")
        }
        num_pairs += bool(places)
        num_updated += bool(before)
        reached |= before
    return Lesson(
        seed=kept.phase.seed,
        round=kept.phase.round,
        updates=frozenset(reached),
        num_pairs=num_pairs,
        num_updated=num_updated,
    )


def reached(results: Results, kept: Sequence[KeptPairs], phases: Sequence[PhaseFolder]) -> list[dict[str, Any]]:
    """Tabulate, per arm with a partner and per round, the partner's updates that the target agent learnt from."""
    trained, sections = trained_rounds(phases), []
    for arm in results.arms.values():
        lessons = [
            lesson(one, trained.get((one.phase.seed, arm.name), ())) for one in kept if one.phase.arm == arm.name
        ]
        if not arm.partner or not lessons:
            continue
        own = {seed: trained.get((seed, arm.name), []) for seed in arm.seeds}
        rows = [_row(number, [one for one in lessons if one.round == number], own) for number in _rounds(lessons)]
        sections.append({"title": arm.label, "line": _line(arm, lessons, own), "rows": rows})
    return sections


def _rounds(lessons: Iterable[Lesson]) -> list[int]:
    return sorted({one.round for one in lessons})


def _row(number: int, lessons: Sequence[Lesson], trained: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    seeds = [one.seed for one in lessons]
    return {
        "round": number,
        "is_updated": _by_seed(["yes" if number in trained.get(seed, ()) else "no" for seed in seeds]),
        "updates": _by_seed([_listed(one.updates) for one in lessons]),
        "num_pairs": fmean(one.num_pairs for one in lessons),
        "num_updated": fmean(one.num_updated for one in lessons),
    }


def _listed(updates: Iterable[int]) -> str:
    numbers = sorted(updates)
    if not numbers:
        return "none"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"rounds {numbers[0]}–{numbers[-1]}"
    return f"round{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _by_seed(words: Sequence[str]) -> str:
    """Say what holds in every seed, else how often each holds: `none`, `round 1 (in 2 seeds), none (in 1)`."""
    counts = Counter(words)
    if len(counts) <= 1:
        return next(iter(counts), NOTHING)
    return ", ".join(f"{word} (in {num} seed{'s' if num > 1 else ''})" for word, num in counts.most_common())


def _line(arm: ArmResults, lessons: Sequence[Lesson], trained: Mapping[str, Sequence[int]]) -> str:
    """Say in a sentence how many of the partner's updates reached the target agent."""
    name, per = arm.agent_name("partner"), ", per seed" if len(arm.seeds) > 1 else ""
    num = fmean(len(rounds) for rounds in trained.values()) if trained else 0.0
    if not num:
        return f"The {name} was never updated: what it played came from its start in every round."
    seeds = {seed: {n for one in lessons if one.seed == seed for n in one.updates} for seed in arm.seeds}
    arrived = fmean(len(updates) for updates in seeds.values())
    times = "once" if num == 1 else f"{count(num)} times"
    return f"The {name} was updated {times}{per}; {count(arrived)} of its updates reached the target agent."
