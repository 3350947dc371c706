"""A run's folder comes in, one static HTML page goes out; several runs are compared on one. `text` has the terminal's
table and lines, `tables` what is taken elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_report(run_dir: Path, compare: Sequence[str] = (), *, out: Path | None = None) -> Path:
    """Write the run's page, `report.html`, self-contained and without any network access, and return its path.

    An unfinished run has a page of what is finished, which says so.

    Args:
        run_dir: the run's folder.
        compare: two arms that are set side by side on held-out tasks; none: the first ETO and the arm that the page
            follows closest.
        out: where it is written; none: `report.html` in the run's folder.

    Raises:
        ConfigError: it is not two arms of the run that are to be compared.
        DataError: it is no run's folder, or a file of it can't be read.
    """
    from sparring.report.page import write_page

    return write_page([run_dir], compare, out=out)


def compare_runs(run_dirs: Sequence[Path], compare: Sequence[str] = (), *, out: Path | None = None) -> Path:
    """Write one page on several runs, their arms side by side, and return its path; errors as for `write_report`.

    Args:
        run_dirs: the runs' folders.
        compare: two arms, each named `run/arm`.
        out: where it is written; none: `compare-A-B.html` beside the first run's folder.
    """
    from sparring.report.page import write_page

    return write_page(run_dirs, compare, out=out)
