"""What an agent played on the training tasks over the rounds, and averages over records of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What one agent played on the training tasks for one purpose, over the rounds."""

    agent: str
    kind: str
    """Of the phases: `rollout`, `rollout-refreshed`, `branch`, `branch-steps`."""
    name: str
    """What readers call it: `failure agent`, `failure agent, second rollout`."""
    records: Mapping[int, Sequence[Mapping[str, Any]]]
    """Round → summaries, one a seed."""

    @property
    def rounds(self) -> list[int]:
        """List the rounds."""
        return sorted(self.records)

    def mean_of(self, number: int, *path: str) -> float | None:
        """Average a value of a round's summaries over the seeds; None where no seed has it."""
        return mean_over(self.records.get(number, ()), *path)


def mean_over(records: Sequence[Mapping[str, Any]], *path: str) -> float | None:
    """Average what lies at a path over records, those left out that have no number there; None where none has."""
    values = []
    for record in records:
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            values.append(float(value))
    return fmean(values) if values else None
