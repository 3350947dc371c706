"""Training phases come in; their preference pairs go out, as they were written down and with their trajectories.

A pair names its sides by their ids: an expert's, or an episode of a phase of the same arm and seed. `ID@3` is the
trajectory of ID whose first three turns are context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.journal import read_journal
from sparring.core.phases import Phase
from sparring.core.records import pairs_from_json
from sparring.core.types import PreferencePair, Trajectory
from sparring.report.folder import PhaseFolder

PAIRS = "pairs.jsonl"
"""What a training phase learnt from, in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPairs:
    """The pairs of one training, as they were written down."""

    phase: PhaseFolder
    records: Sequence[Mapping[str, Any]]

    def names(self) -> set[str]:
        """Return the ids of the trajectories that the pairs name, without what is context."""
        return {own_id(record[side]) for record in self.records for side in ("chosen", "rejected")}


def read_pairs(phases: Iterable[PhaseFolder], *, of_all: bool = False) -> list[KeptPairs]:
    """Read the pairs that target agents were trained on; a phase that keeps none is left out.

    Args:
        phases: of the run.
        of_all: those of other agents, too.

    Raises:
        DataError: a file is damaged.
    """
    found = []
    for phase in phases:
        path = phase.path / PAIRS
        is_meant = phase.act == "train" and (of_all or phase.agent == "target")
        if not is_meant or not path.exists():
            continue
        records = read_journal(path)
        Phase(phase.path).check(PAIRS)
        for number, record in enumerate(records, start=1):
            if not all(isinstance(record.get(key), str) for key in ("kind", "chosen", "rejected")):
                raise DataError(f"{path}:{number}: not a pair. {Phase(phase.path).remedy}")
        found.append(KeptPairs(phase=phase, records=records))
    return found


def own_id(name: str) -> str:
    """Return a trajectory's own id: that of `ID@3` is ID."""
    own, at, num = name.rpartition("@")
    return own if at and num.isdecimal() else name


def phase_name(name: str, names: Iterable[str]) -> str | None:
    """Return which of some phases an id belongs to: `round-1/rollout-target` for `round-1/rollout-target/find/3/0`."""
    return next((one for one in names if name.startswith(f"{one}/")), None)


def wanted_of(pairs: Iterable[KeptPairs], phases: Sequence[PhaseFolder]) -> dict[Path, set[str]]:
    """Return the folders in which the pairs' trajectories lie, and the ids that are wanted of each."""
    wanted: dict[Path, set[str]] = {}
    for kept in pairs:
        places = places_of(kept.phase, phases)
        for name in kept.names():
            if (place := phase_name(name, places)) is not None:
                wanted.setdefault(places[place], set()).add(name)
    return wanted


def pairs_of(
    kept: KeptPairs,
    phases: Sequence[PhaseFolder],
    found: Mapping[tuple[Path, str], Trajectory],
    experts: Mapping[str, Trajectory],
) -> list[PreferencePair]:
    """Return a training's pairs with their trajectories, those left out of which a side is not there any more.

    Args:
        kept: as they were written down.
        phases: of the run.
        found: folder and id → trajectory, of what `wanted_of` asked for.
        experts: id → trajectory.

    Raises:
        DataError: a pair's record is wrong.
    """
    places = places_of(kept.phase, phases)
    by_id = dict(experts)
    for name in kept.names():
        place = phase_name(name, places)
        if place is not None and (places[place], name) in found:
            by_id[name] = found[places[place], name]
    there = [r for r in kept.records if own_id(r["chosen"]) in by_id and own_id(r["rejected"]) in by_id]
    try:
        return pairs_from_json(there, by_id)
    except DataError as error:
        raise DataError(f"{kept.phase.path / PAIRS}: {error} {Phase(kept.phase.path).remedy}") from None


def places_of(training: PhaseFolder, phases: Sequence[PhaseFolder]) -> dict[str, Path]:
    """Return the phases of the training's own arm and seed, by name."""
    return {one.name: one.path for one in phases if (one.seed, one.arm) == (training.seed, training.arm)}
