"""`sparring report`: the report of a run's folder is built anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sparring.cli.output import showing
from sparring.core.errors import DataError
from sparring.core.ranges import Name
from sparring.core.terminal import write


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rebuild report.html from a run's folder."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    compare: tuple[Name, ...] = ()
    """Two arms that are set side by side on the held-out tasks; none: the first ETO and the arm with the failure
    agent."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Rebuild a report and print its path."""
    from sparring.report import write_report

    if not (options.run / "config.json").is_file():
        raise DataError(f"{options.run}: is no run's folder (it has no config.json).")
    with showing(quiet=True):
        path = write_report(options.run, options.compare)
    write(str(path))
