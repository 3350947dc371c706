"""Files come in, fingerprints go out; later the same files come in, and what changed about them goes out.

A fingerprint is a file's size with a SHA-256 over the digests of its blocks. Blocks are hashed side by side, so that a
checkpoint of many gigabytes takes seconds. A JSON object may be *sealed*: it then carries a digest of its own content,
and a changed digit in it does not pass for a result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError
from sparring.core.journal import read_json, write_json_atomic

BLOCK = 1 << 24
"""Bytes that are hashed in one piece."""
MAX_THREADS = 8
SEAL = "seal"
"""The key of a sealed object's own digest."""

Fingerprint = tuple[int, str]
"""Size in bytes, and digest; a list in JSON."""


def fingerprint(path: Path) -> Fingerprint:
    """Return a file's fingerprint."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        starts = range(0, max(size, 1), BLOCK)
        if len(starts) == 1:
            return size, _digest([hashlib.sha256(file.read()).digest()])
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
            blocks = threads.map(lambda start: hashlib.sha256(os.pread(file.fileno(), BLOCK, start)).digest(), starts)
            return size, _digest(blocks)


def fingerprints(folder: Path, files: Iterable[Path]) -> dict[str, Fingerprint]:
    """Return file → fingerprint, named as seen from `folder` and in the order of their names."""
    named = {Path(os.path.relpath(path, folder)).as_posix(): path for path in files}
    return {name: fingerprint(named[name]) for name in sorted(named)}


def find_change(folder: Path, known: Mapping[str, Any]) -> tuple[Path, str] | None:
    """Return the first file that is not what it was when `fingerprints` was taken, and what is wrong with it."""
    paths = {folder / name: expected for name, expected in known.items()}
    for path, (size, _) in paths.items():  # before anything is hashed
        if not path.is_file():
            return path, "is missing"
        if (found := path.stat().st_size) != size:
            return path, f"has {found} bytes instead of {size}"
    for path, (_, digest) in paths.items():
        if fingerprint(path)[1] != digest:
            return path, "has other content than was written"
    return None


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest, whole or not at all.

    Raises:
        ValueError: a number that is not finite.
        SparringError: the disk is full.
    """
    plain = json.loads(json.dumps(record))
    write_json_atomic(path, plain | {SEAL: _seal(plain)})


def read_sealed(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Args:
        path: the file.
        remedy: a sentence for the message.

    Raises:
        DataError: it is missing or is not what was written.
    """
    try:
        record = read_json(path)
    except DataError as error:
        raise DataError(f"{error} {remedy}") from None
    if not isinstance(record, dict) or record.pop(SEAL, None) != _seal(record):
        raise DataError(f"{path}: damaged, or written by another version of Sparring. {remedy}")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _digest(blocks: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(blocks)).hexdigest()[:32]
