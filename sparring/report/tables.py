"""Results → the two tables that people take elsewhere: by method, and by task and method; as CSV, JSON and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sparring.analysis.statistics import Interval, summarise
from sparring.core.text import printable
from sparring.report.load import Loaded
from sparring.report.sections import COSTS, Source, spent
from sparring.report.view import ArmResults

Cell = str | int | float | None
DIGITS = 6
"""Digits after the point in CSV and JSON."""
ESCAPES: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≥": r"$\geq$",
    "−": r"$-$",
    **{one: f"\\{one}" for one in "&%$#_{}"},
}
"""What LaTeX reads as a command → the same as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A head and rows of values as they are, unrounded but for the last digits."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def methods_table(source: Source, loaded: Loaded) -> Table:
    """Return a row for each arm: what it reached, with 95 % intervals, paired differences, and what it took."""
    arms = list(source.results.arms.values())
    references = source.results.references
    head = ["run", "arm", "method", "label", "held_out_episodes", "held_out_tasks", "seeds"]
    head += ["mean_reward", "mean_low", "mean_high", "success", "success_low", "success_high"]
    head += [f"minus_{other.name}{end}" for other in references for end in ("", "_low", "_high")]
    head += [name.lower().replace(" ", "_").replace("-", "_") for name in COSTS]
    rows: list[list[Cell]] = []
    for arm in arms:
        run = loaded.run_of(arm.name)
        own = summarise(arm.final(), source.results.success_eps, num_resamples=source.results.num_resamples)
        row: list[Cell] = [run.name, arm.name.removeprefix(f"{run.name}/"), arm.method, arm.label]
        row += [own.num, own.num_tasks, own.num_seeds, own.mean, own.ci_low, own.ci_high]
        row += [own.success, own.success_ci_low, own.success_ci_high]
        for other in references:
            gap = source.difference(arm, other) if source.results.compares(arm, other) else None
            row += _values(gap)
        rows.append([*row, *(total for total, _ in spent(source, arm).values())])
    return Table(head=head, rows=[[_shown(cell) for cell in row] for row in rows])


def tasks_table(source: Source) -> Table:
    """Return a row for each held-out task: its type, each arm's mean reward over seeds, and their spread."""
    means = {arm.name: task_means(arm) for arm in source.results.arms.values()}
    tasks = sorted({task for own in means.values() for task in own}, key=_in_order)
    rows: list[list[Cell]] = []
    for task in tasks:
        values = [own.get(task) for own in means.values()]
        there = [value for value in values if value is not None]
        rows.append([task, source.episodes.kinds.get(task, ""), *values, max(there) - min(there)])
    return Table(head=["task", "type", *means, "spread"], rows=[[_shown(cell) for cell in row] for row in rows])


def task_means(arm: ArmResults) -> dict[str, float]:
    """Return task → mean over seeds of an arm's last held-out rewards."""
    by_task: dict[str, list[float]] = {}
    for rewards in arm.final().values():
        for task, value in rewards.items():
            by_task.setdefault(task, []).append(value)
    return {task: fmean(values) for task, values in by_task.items()}


def to_csv(table: Table) -> str:
    """Write a table as CSV. Text that a spreadsheet would take for a formula has `'` before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (table.head, *table.rows):
        writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def to_json(methods: Table, tasks: Table, loaded: Loaded) -> str:
    """Write both tables as JSON, with what was run."""
    about = [
        {
            "name": run.name,
            "world": run.world,
            "split": run.results.split,
            "model": run.model,
            "seeds": run.seeds,
            "is_finished": run.state is None,
        }
        for run in loaded.runs
    ]
    content = {"runs": about, "methods": _records(methods), "tasks": _records(tasks)}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def to_latex(source: Source) -> str:
    """Write the table by method for LaTeX, with booktabs' rules; the best mean of each column is bold."""
    results = source.results
    arms, references = list(results.arms.values()), results.references
    columns = ["Method", "Mean reward", "Success (\\%)", *(f"$\\Delta$ {latex(other.label)}" for other in references)]
    summaries = [summarise(arm.final(), results.success_eps, num_resamples=results.num_resamples) for arm in arms]
    best, highest = (max((getattr(s, key) for s in summaries if s.num), default=None) for key in ("mean", "success"))
    lines = []
    for arm, own in zip(arms, summaries, strict=True):
        cells = [latex(arm.label)]
        cells.append(_latex_value(own.mean, (own.ci_low, own.ci_high), own.mean == best, 3))
        success = (100 * value for value in (own.success_ci_low, own.success_ci_high))
        cells.append(_latex_value(100 * own.success, tuple(success), own.success == highest, 0))
        for other in references:
            gap = source.difference(arm, other) if results.compares(arm, other) else None
            cells.append("--" if gap is None else _latex_value(gap.mean, (gap.low, gap.high), False, 3, sign="+"))
        lines.append("  " + " & ".join(cells) + " \\\\")
    seeds = f", {results.num_seeds} seeds" if results.num_seeds > 1 else ""
    caption = f"{latex(results.name)}: {results.num_tasks} held-out tasks{seeds}; 95\\,\\% bootstrap intervals."
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            "  \\toprule",
            "  " + " & ".join(columns) + " \\\\",
            "  \\midrule",
            *lines,
            "  \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """Write text so that LaTeX shows it as it is: `a_b & 5 %` → `a\\_b \\& 5 \\%`."""
    return "".join(ESCAPES.get(one, one) for one in " ".join(printable(text).split()))


def _latex_value(mean: float, interval: Sequence[float], is_best: bool, digits: int, sign: str = "") -> str:
    if mean != mean:
        return "--"
    number = f"{mean:{sign}.{digits}f}"
    shown = f"\\mathbf{{{number}}}" if is_best else number
    low, high = (f"{value:{sign}.{max(0, digits - 1)}f}" for value in interval)
    return f"${shown}$ {{\\scriptsize $[{low}, {high}]$}}"


def _values(gap: Interval | None) -> list[Cell]:
    return [None, None, None] if gap is None or not gap.num else [gap.mean, gap.low, gap.high]


def _shown(cell: Cell) -> Cell:
    """Round numbers, and show what would steer a terminal."""
    if isinstance(cell, float):
        return None if cell != cell else round(cell, DIGITS)
    return printable(cell) if isinstance(cell, str) else cell


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _records(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def _in_order(task: str) -> list[tuple[int, int | str]]:
    """Sort by name, numbers in it by their value: a/9 before a/10."""
    parts = re.split(r"(\d+)", task)
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts]
