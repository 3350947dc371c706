"""Trainings' preference pairs → those that the page lists, each side named by where its trajectory lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.report.kept_pairs import KeptPairs, own_id, phase_name, places_of
from sparring.report.load import Loaded
from sparring.report.parting import evenly_spaced

MAX_PAIRS = 3000
"""Pairs that the page lists at most; fewer where their trajectories are long."""

Place = tuple[Path, str]
"""Folder and id of a trajectory; an expert's lies in its run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPair:
    """A pair as the page lists it."""

    arm: str
    seed: str
    round: int
    agent: str
    """Whose training it is of."""
    kind: str
    sides: tuple[Place, Place]
    """Chosen and rejected."""
    counted: tuple[int, int]
    """Turns up to which each side counts in the loss."""
    given: tuple[int, int]
    """First turns of each side that are context."""


def list_pairs(loaded: Loaded, trainings: Sequence[KeptPairs], *, at_most: int = MAX_PAIRS) -> list[ListedPair]:
    """Return pairs, spread evenly over trainings and kinds, and evenly inside each.

    Args:
        loaded: the runs.
        trainings: what their trainings kept.
        at_most: pairs in all, about; each training and kind has at least one.
    """
    groups: dict[tuple[int, str], list[ListedPair]] = {}
    for number, kept in enumerate(trainings):
        for pair in _pairs_of(loaded, kept):
            groups.setdefault((number, pair.kind), []).append(pair)
    shares = even_shares([len(group) for group in groups.values()], at_most)
    return [
        pair
        for group, share in zip(groups.values(), shares, strict=True)
        for pair in evenly_spaced(group, max(1, share))
    ]


def even_shares(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` out as evenly as the sizes allow: sizes 10, 100 and 200 with a total of 150 get 10, 70 and 70."""
    shares, left = [0] * len(sizes), total
    for done, place in enumerate(sorted(range(len(sizes)), key=lambda place: sizes[place])):
        shares[place] = min(sizes[place], left // (len(sizes) - done))
        left -= shares[place]
    return shares


def sides_by_folder(pairs: Iterable[ListedPair]) -> dict[Path, set[str]]:
    """Return folder → ids of the trajectories that pairs name."""
    found: dict[Path, set[str]] = {}
    for pair in pairs:
        for folder, name in pair.sides:
            found.setdefault(folder, set()).add(name)
    return found


def _pairs_of(loaded: Loaded, kept: KeptPairs) -> Iterable[ListedPair]:
    phase, run = kept.phase, loaded.run_of(kept.phase.arm)
    places, home = places_of(phase, run.phases), run.folder.resolve()
    experts = {one.id for one in run.experts}
    for record in kept.records:
        sides = [_place(record[side], places, experts, home) for side in ("chosen", "rejected")]
        chosen, rejected = sides
        if chosen is None or rejected is None:
            continue
        yield ListedPair(
            arm=phase.arm,
            seed=phase.seed,
            round=phase.round,
            agent=phase.agent,
            kind=str(record["kind"]),
            sides=(chosen, rejected),
            counted=(_whole(record, "chosen_turns"), _whole(record, "rejected_turns")),
            given=(_given(record["chosen"]), _given(record["rejected"])),
        )


def _place(name: str, places: Mapping[str, Path], experts: set[str], home: Path) -> Place | None:
    own = own_id(name)
    if own in experts:
        return home, own
    phase = phase_name(own, places)
    return None if phase is None else (places[phase], own)


def _given(name: str) -> int:
    return 0 if own_id(name) == name else int(name.rpartition("@")[2])


def _whole(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) else 0
