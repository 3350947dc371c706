"""How a world's own literature measures a run's last agents: a table beside mean reward, for the terminal and the page.

    python -m sparring.report.measures RUN [RUN …]      CoEvolve's headline, arm by arm

The headline is the mean of five columns: AppWorld's task and scenario goal completion on test-normal and on
test-challenge, and BFCL's multi-turn accuracy. Arms that have all five have it; runs are matched by their arms' names.

Source: arXiv 2604.15840 (the headline).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sparring.core.errors import DataError, SparringError
from sparring.core.journal import read_object
from sparring.core.terminal import open_console, write
from sparring.core.text import printable
from sparring.report.text import NOTHING
from sparring.report.view import ArmResults, Results, read_results

if TYPE_CHECKING:
    from rich.table import Table

Column = tuple[str, str]
"""Split and measure."""
HEADLINE: Sequence[tuple[str, str, str]] = (
    ("appworld", "test", "TGC"),
    ("appworld", "test", "SGC"),
    ("appworld", "test_challenge", "TGC"),
    ("appworld", "test_challenge", "SGC"),
    ("bfcl", "test", "accuracy"),
)
"""World, split and measure of the columns whose mean the paper reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTable:
    """Points out of 100, means over seeds; None where there are none."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, str, Sequence[float | None]]]
    """Arm, label, and a value for each column."""
    notes: Sequence[str]
    """Why there are none, each once."""

    def heads(self, split: str) -> list[str]:
        """Name the columns; those of another split than `split` say which."""
        return [name if own == split else f"{own}: {name}" for own, name in self.columns]


def measure_table(results: Results) -> MeasureTable | None:
    """Collect what the last target agents of a run measured; None where the world has no measures of its own."""
    found = {arm.name: _measured(results, arm) for arm in results.arms.values()}
    columns = list(dict.fromkeys(column for by_column in found.values() for column in by_column))
    if not columns:
        return None
    notes: dict[str, None] = {}
    rows = []
    for arm in results.arms.values():
        values = []
        for column in columns:
            seeds = found[arm.name].get(column, [])
            numbers = [value for value in seeds if not isinstance(value, str)]
            notes |= dict.fromkeys(f"{column[1]} ({column[0]}): {value}." for value in seeds if isinstance(value, str))
            values.append(fmean(numbers) if numbers else None)
        rows.append((arm.name, arm.label, values))
    return MeasureTable(columns=columns, rows=rows, notes=[printable(note) for note in notes])


def points(value: float | None) -> str:
    """Write points: `28.6`."""
    return NOTHING if value is None else f"{value:.1f}"


def show(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> Table:
    """Lay measures out for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("", *heads):
        table.add_column(
            Text(_over_lines(name)), justify="right" if name else "left", vertical="bottom", overflow="fold"
        )
    for label, values in rows:
        table.add_row(Text(label), *(Text(points(value)) for value in values))
    return table


def shown(results: Results) -> list[Table | str]:
    """Return what the terminal shows of a run's measures: a table and notes, or nothing."""
    found = measure_table(results)
    if found is None:
        return []
    seeds = ", means over seeds" if results.num_seeds > 1 else ""
    rows = [(label, values) for _, label, values in found.rows]
    return [show(f"The world's own measures, out of 100{seeds}", found.heads(results.split), rows), *found.notes]


def page_table(results: Results) -> dict[str, Any] | None:
    """Return the same for the page: heads, rows with what is best of each column, and notes."""
    found = measure_table(results)
    if found is None:
        return None
    best = [
        max((v for v in column if v is not None), default=None)
        for column in zip(*(values for _, _, values in found.rows), strict=True)
    ]
    rows = [
        {"label": label, "cells": [(points(v), v is not None and v == b) for v, b in zip(values, best, strict=True)]}
        for _, label, values in found.rows
    ]
    return {"heads": found.heads(results.split), "rows": rows, "notes": found.notes}


def shown_of(measures: Mapping[str, Mapping[str, float | str]]) -> list[Table | str]:
    """Return what the terminal shows of measures by model: a table and notes, or nothing."""
    heads = list(dict.fromkeys(name for found in measures.values() for name in found))
    if not heads:
        return []
    rows = [(model, [_number(found.get(name)) for name in heads]) for model, found in measures.items()]
    words = dict.fromkeys(
        f"{name}: {value}." for found in measures.values() for name, value in found.items() if isinstance(value, str)
    )
    return [show("The world's own measures, out of 100", heads, rows), *map(printable, words)]


def _over_lines(head: str) -> str:
    """Break a column's head where its parts end: worlds, splits and measures have long names."""
    return "\n".join(printable(part) for part in head.replace(", ", ",\n").replace(": ", ":\n").split("\n"))


def _number(value: float | str | None) -> float | None:
    return None if isinstance(value, str) else value


def _measured(results: Results, arm: ArmResults) -> dict[Column, list[float | str]]:
    """Return split and measure → what each seed has."""
    rounds = arm.rounds()
    last: list[tuple[str, Mapping[str, float | str]]] = [
        (results.split, one.measures)
        for seed in arm.seeds.values()
        for one in seed.evaluations
        if rounds and (one.agent, one.round) == ("target", rounds[-1])
    ]
    last += [(one["split"], one["measures"]) for seed in arm.seeds.values() for one in seed.also]
    found: dict[Column, list[float | str]] = {}
    for split, measures in last:
        for name, value in measures.items():
            found.setdefault((split, name), []).append(value)
    return found


# ── Several runs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def columns_of(runs: Sequence[Path]) -> dict[str, list[float | None]]:
    """Return by arm what several runs have of the headline's columns; None where none of them has it.

    Raises:
        DataError: a run is not finished or has none of the columns, or two have the same one, so that it is not clear
            which counts.
    """
    cells: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for run in runs:
        table, world = measure_table(read_results(run)), _world_of(run)
        found = [] if table is None else [(world, *column) for column in table.columns]
        if not set(found) & set(HEADLINE):
            raise DataError(f"{run}: has none of {', '.join(map(' '.join, HEADLINE))}.")
        for i, column in enumerate(found):
            if column in cells:
                raise DataError(f"{run}: measures {' '.join(column)}, and so does a run before it. Leave one out.")
            cells[column] = {arm: values[i] for arm, _, values in table.rows} if table else {}
    arms = dict.fromkeys(arm for column in HEADLINE for arm in cells.get(column, ()))
    return {arm: [cells.get(column, {}).get(arm) for column in HEADLINE] for arm in arms}


def headline_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of the five columns, None where one is missing: 1.2, 0.6, 8.4, 2.2 and 61.5 give 14.78."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if len(numbers) == len(HEADLINE) else None


def _world_of(run: Path) -> str:
    config: dict[str, Any] = read_object(run / "config.json")
    first = next(iter(config.get("arms", {}).values()), {})
    return str(first.get("env", {}).get("id", ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the measures of runs; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparring.report.measures", description="The mean of CoEvolve's five columns, arm by arm."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    chosen = parser.parse_args(arguments)
    try:
        by_arm = columns_of(chosen.runs)
    except SparringError as error:
        write(f"error: {error}", on_stderr=True)
        return 2 if isinstance(error, ValueError) else 1
    rows = [(arm, [*values, headline_of(values)]) for arm, values in by_arm.items()]
    open_console().print(show("Out of 100", [*map(": ".join, HEADLINE), "mean of five"], rows))
    by_column = zip(HEADLINE, zip(*by_arm.values(), strict=True), strict=True)
    missing = [" ".join(name) for name, values in by_column if all(value is None for value in values)]
    if missing:
        write(f"The mean of five needs {', '.join(missing)} too (eval.also names further splits).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
