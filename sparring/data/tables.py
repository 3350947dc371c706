"""Rows of a JSONL or Parquet file, read and written: the one place that knows both.

What ends in `.parquet` is Parquet and needs pyarrow; all else is JSON Lines, packed with gzip where it ends in `.gz`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, DataError
from sparring.core.journal import disk_errors, read_jsonl
from sparring.core.text import encodable

PARQUET = ".parquet"
NEEDS_PYARROW = "Parquet needs pyarrow: pip install pyarrow (it comes with `datasets`, too), or take a JSONL file."


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file's rows: row i is row or line i + 1 of the file.

    Raises:
        DataError: the file is missing or can't be read, or a line is no JSON object; the message names the line.
        ConfigError: pyarrow is missing.
    """
    if path.suffix != PARQUET:
        return read_jsonl(path)
    parquet = _pyarrow_parquet()
    if not path.is_file():
        raise DataError(f"{path}: No such file or directory.")
    try:
        return parquet.read_table(path).to_pylist()
    except Exception as error:  # whatever a damaged file makes of it
        raise DataError(f"{path}: can't be read as Parquet ({str(error).splitlines()[0]:.200}).") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to a file that appears once it is whole, and return how many.

    Raises:
        ConfigError: pyarrow is missing, or there is no row that could say what the columns are.
    """
    rows = list(map(_encodable, rows))
    write = _write_parquet if path.suffix == PARQUET else _write_jsonl
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            write(temporary, rows, path.suffix == ".gz")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return len(rows)


def check_writable(path: Path) -> None:
    """Refuse a Parquet file where pyarrow is missing.

    Raises:
        ConfigError: it is.
    """
    if path.suffix == PARQUET:
        _pyarrow_parquet()


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]], is_packed: bool) -> None:
    content = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if is_packed else content)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], _: bool) -> None:
    import pyarrow

    _pyarrow_parquet().write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError(NEEDS_PYARROW) from None
    return parquet


def _encodable(value: Any) -> Any:
    """Replace lone surrogates, which a world's text may hold and no UTF-8 file can."""
    rules: dict[type, Callable[[Any], Any]] = {
        str: encodable,
        dict: lambda one: {key: _encodable(item) for key, item in one.items()},
        list: lambda one: list(map(_encodable, one)),
    }
    return rules.get(type(value), lambda one: one)(value)
