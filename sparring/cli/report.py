"""`sparring report`: the page of one run, or of several side by side; its tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sparring.cli.output import showing
from sparring.core.errors import ConfigError, DataError
from sparring.core.folder import check_place
from sparring.core.ranges import Name, Range
from sparring.core.terminal import write
from sparring.core.text import encodable

if TYPE_CHECKING:
    from sparring.report.load import Loaded

MOST_RUNS = 12
"""Runs that one page compares."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a run's report, also while the run is in progress; or compare several runs on one page."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs. One: its report.html is written. Several: one page compares them."""
    compare: tuple[Name, ...] = ()
    """Two arms that are set side by side on the held-out tasks (of several runs: RUN/ARM each); none: the first ETO and
    the arm with the failure agent."""
    out: Path | None = None
    """HTML file to write; none: report.html in the run's folder, or compare-A-B.html beside the first run's folder."""
    format: Literal["html", "csv", "json", "latex"] | None = None
    """Write this to standard output, and no file: the page; a table as CSV; both tables as JSON; the table by method
    for LaTeX (booktabs)."""
    table: Literal["methods", "tasks"] = "methods"
    """Table that `--format csv` writes: a row for each arm, or for each held-out task."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the page again and again until the run is finished. The page reloads itself in the browser."""
    every: Annotated[int, Range(at_least=1, at_most=86_400)] = 10
    """Seconds between two pages of `--watch`."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Write a report and print its path, or print its tables."""
    from sparring.report.page import write_page

    _check(options)
    if options.format is not None:
        return print(encodable(_formatted(options)), end="")
    if options.watch:
        from sparring.report.watch import watch

        return watch(options.runs, options.compare, out=options.out, every=options.every)
    with showing(quiet=True):
        path = write_page(options.runs, options.compare, out=options.out)
    write(str(path))
    return None


def _check(options: Options) -> None:
    if not options.runs:
        raise ConfigError("report: name a run's folder, or several to compare them.")
    if len(options.runs) > MOST_RUNS:
        raise ConfigError(f"report: {len(options.runs)} runs are too many for a page. Name at most {MOST_RUNS}.")
    for run in options.runs:
        if not (run / "config.json").is_file():
            raise DataError(f"{run}: is no run's folder (it has no config.json).")
    if options.format is not None and (options.watch or options.out):
        raise ConfigError("--format: writes to standard output. Leave out --watch and --out.")
    if options.out is not None:
        if options.out.is_dir():
            raise ConfigError(f"--out {options.out}: is a folder. Name a file, for instance {options.out}/report.html.")
        check_place(options.out.parent)
        if not options.out.parent.is_dir():
            raise ConfigError(f"--out {options.out}: {options.out.parent} is no folder. Create it first.")


def _formatted(options: Options) -> str:
    from sparring.report import tables
    from sparring.report.load import load
    from sparring.report.page import read_source, render

    loaded: Loaded = load(options.runs)
    if options.format == "html":
        return render(loaded, options.compare)
    source = read_source(loaded)
    if options.format == "latex":
        return tables.to_latex(source)
    methods, tasks = tables.methods_table(source, loaded), tables.tasks_table(source)
    if options.format == "json":
        return tables.to_json(methods, tasks, loaded)
    return tables.to_csv(tasks if options.table == "tasks" else methods)
