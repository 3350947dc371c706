"""A run's folder comes in, one static HTML page goes out; the terminal's table and lines are in `text`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_report(run_dir: Path, compare: Sequence[str] = ()) -> Path:
    """Write the run's page, `report.html`, self-contained and without any network access, and return its path.

    Args:
        run_dir: the run's folder.
        compare: two arms that are set side by side on held-out tasks; none: the first ETO and the arm that the page
            follows closest.

    Raises:
        ConfigError: it is not two arms of the run that are to be compared.
        DataError: the run is not finished, or a file of it can't be read.
    """
    from sparring.report.page import write_page

    return write_page(run_dir, compare)
