"""A run's files are plain JSON to the report: where one holds what no run writes, one message names the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jinja2 import TemplateError

from sparring.core.errors import DataError, SparringError, quote

REMEDIES: Mapping[str, str] = {
    "results.json": "Delete the file and run the same recipe again: it is written anew, and what is finished is kept.",
}
"""What helps where a file is damaged; else a copy does."""


@contextmanager
def content_of(path: Path) -> Iterator[None]:
    """Turn the errors that a file's wrong content brings about into one that names the file.

    Raises:
        DataError: a field is missing, or is of another kind than a run writes.
    """
    try:
        yield
    except SparringError:
        raise
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        TemplateError,
    ) as error:
        remedy = REMEDIES.get(path.name, "Restore the file from a copy.")
        what = f"{type(error).__name__}: {quote(str(error), bare=True)}"
        raise DataError(f"{path}: holds what no run writes ({what}). {remedy}") from error
