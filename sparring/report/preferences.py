"""What agents made of held-out preferences, as a table for the terminal and the page, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.analysis.statistics import Interval, bootstrap_mean, to_table
from sparring.report.text import NOTHING, between, percent
from sparring.report.view import ArmResults, Results, results_from_json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: Mapping[str, str] = {
    "likelihood_accuracy": "accuracy by likelihood",
    "reward_accuracy": "accuracy by reward",
    "margin": "margin, nats",
    "chosen_gain": "Δ log π(chosen), nats",
    "nll": "−log π a token",
}
"""What is measured → what readers call it."""
SHARES = ("likelihood_accuracy", "reward_accuracy")
AGAINST_START = ("reward_accuracy", "margin", "chosen_gain")
"""What compares with the start, so that the start itself has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm before or after its training."""

    label: str
    when: str
    num: int
    """Pairs a seed, or conversations."""
    cells: Mapping[str, tuple[str, str]]
    """Column → value and interval."""


def rows(results: Results) -> list[Row]:
    """List what each arm's agents made of the held-out preferences; nothing for runs that play."""
    return [
        row
        for arm in results.arms.values()
        for number in arm.record_rounds("preferences", "target")
        if (row := _row(results, arm, number)) is not None
    ]


def columns(found: list[Row]) -> list[str]:
    """Return the columns that hold something."""
    return [name for name in COLUMNS if any(row.cells[name][0] != NOTHING for row in found)]


def preference_table(results: Mapping[str, Any] | Results) -> Table | None:
    """Lay the rows out for a terminal; none where there are none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    view = results if isinstance(results, Results) else results_from_json(results)
    found = rows(view)
    if not found:
        return None
    seeds = f", {view.num_seeds} seeds" if view.num_seeds > 1 else ""
    title = f"{view.name}: held-out preferences{seeds}; 95 % intervals over prompts"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    shown = columns(found)
    for name in ("arm", "", "held out", *(COLUMNS[one] for one in shown)):
        table.add_column(Text(name), justify="left" if name in ("arm", "") else "right")
    for row in found:
        cells = [Text.assemble(row.cells[one][0], "\n", (row.cells[one][1], "dim")) for one in shown]
        table.add_row(Text(row.label), Text(row.when), Text(str(row.num)), *cells)
    return table


def section(results: Results) -> dict[str, Any] | None:
    """Return the rows for the page."""
    found = rows(results)
    shown = columns(found)
    cells = [[row.cells[one] for one in shown] for row in found]
    return {"heads": [COLUMNS[one] for one in shown], "rows": list(zip(found, cells, strict=True))} if found else None


def sentence(results: Results, arm: ArmResults) -> str:
    """Say what an arm's training brought; empty where nothing was judged."""
    numbers = arm.record_rounds("preferences", "target")
    if not numbers:
        return ""
    last, name = numbers[-1], "reward_accuracy" if numbers[-1] else "likelihood_accuracy"
    found = interval_of(results, arm, last, name)
    if found.num:
        interval = between(found.low, found.high, as_percent=True)
        return (
            f"{arm.label} ranks {percent(found.mean)} {interval} of the held-out pairs right, by {COLUMNS[name][12:]}."
        )
    found = interval_of(results, arm, last, "nll")
    interval = between(found.low, found.high)
    return f"{arm.label}: {found.mean:.2f} {interval} nats a token on held-out conversations." if found.num else ""


def interval_of(results: Results, arm: ArmResults, number: int, name: str) -> Interval:
    """Average one measure over seeds and prompts, with an interval."""
    by_seed = {
        seed: record[name]
        for seed, content in arm.seeds.items()
        for record in content.preferences
        if (record["agent"], record["round"]) == ("target", number)
    }
    return bootstrap_mean(to_table(by_seed), num_resamples=results.num_resamples)


def _row(results: Results, arm: ArmResults, number: int) -> Row | None:
    records = arm.records("preferences", "target", number)
    num = max(record["num_pairs"] or len(record["nll"]) for record in records)
    if not num:
        return None
    cells = {}
    for name in COLUMNS:
        found = interval_of(results, arm, number, name)
        if not found.num or (number == 0 and name in AGAINST_START):
            cells[name] = (NOTHING, "")
        elif name in SHARES:
            cells[name] = (percent(found.mean), between(found.low, found.high, as_percent=True))
        else:
            cells[name] = (f"{found.mean:.2f}".replace("-", "−"), between(found.low, found.high))
    return Row(label=arm.label, when="after" if number else "before", num=num, cells=cells)
