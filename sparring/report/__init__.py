"""A run's folder comes in, one static HTML page goes out; the terminal's table and lines are in `text`."""

from __future__ import annotations

from pathlib import Path


def write_report(run_dir: Path) -> Path:
    """Write the run's page, `report.html`, self-contained and without any network access, and return its path.

    Raises:
        DataError: the run is not finished, or a file of it can't be read.
    """
    from sparring.report.page import write_page

    return write_page(run_dir)
