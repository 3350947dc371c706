"""Files that survive a kill at any moment: whole JSON files, and JSONL of which the last line alone may be torn.

A checked journal ends each of its lines with a checksum, so that a changed byte is noticed as surely as a torn line.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sparring.core.errors import DataError, SparringError

log = logging.getLogger(__name__)

_CHECKSUM = re.compile(rb',"crc":"([0-9a-f]{8})"}$')
_ANEW = "Delete the line and run the same command again: what is missing is done anew."
_GO_ON = "Everything finished so far is kept: {}, and run the same command again, it goes on where it stopped."
_FULL = ("no space left on the disk", "free some space")
DISK_PROBLEMS: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: ("the file system is read-only", "make it writable"),
    errno.EFBIG: ("the file would be larger than this system or `ulimit -f` allows", "raise the limit"),
    errno.EIO: ("the disk can't be read or written", "look after the disk"),
    errno.EMFILE: ("too many files are open for `ulimit -n`", "raise the limit"),
    errno.ENFILE: ("too many files are open on this machine", "close some"),
    errno.ENAMETOOLONG: ("a name or path is too long for the file system", "choose a shorter one"),
}
"""What a file system may refuse in the middle of a run → what that means, and the remedy."""


def disk_problem(error: BaseException) -> str | None:
    """Say what the file system refused, with the remedy; None: the error is another."""
    for number, (what, remedy) in DISK_PROBLEMS.items():
        # Libraries written in Rust raise errors of their own, which hide the operating system's but for its text.
        is_it = isinstance(error, OSError) and error.errno == number
        if is_it or f"(os error {number})" in str(error) or (what is _FULL[0] and os.strerror(number) in str(error)):
            return f"{what}. {_GO_ON.format(remedy)}"
    return None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses, while `path` is written, into an error that says what to do.

    Raises:
        SparringError: the disk is full or read-only, a file too large, or another of `DISK_PROBLEMS`.
    """
    try:
        yield
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise SparringError(f"{path}: {problem}") from error


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as JSON so that `path` holds either what it held before or all of the new text, whatever happens.

    Raises:
        ValueError: a number that is not finite, which JSON does not have.
        SparringError: the disk is full.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _write_atomic(path, _encode(text) + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON; the message names the line.
    """
    try:
        return json.loads(_decode(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: can't be read ({error}).") from None
    except RecursionError:
        raise DataError(f"{path}: can't be read (nested too deep).") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: as for `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected an object, found {type(value).__name__}.")
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a user's JSONL file: record i stands on line i + 1. The last line may lack its line break.

    Args:
        path: what ends in `.gz` is unpacked.

    Raises:
        DataError: the file is missing or torn, or a line is not a JSON object; the message names the line.
    """
    lines = _content(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return _parse_lines(path, lines)


def read_journal(path: Path, *, is_checked: bool = False) -> list[dict[str, Any]]:
    """Read a journal without changing it: record i stands on line i + 1. A torn last line is left out.

    Args:
        path: what ends in `.gz` is unpacked.
        is_checked: every line must have a checksum; else only those that are there must be right.

    Raises:
        DataError: the file is missing or torn, or a line is not what was written; the message names the line.
    """
    content = _content(path)
    return _parse_lines(path, content[: _whole_length(content)].split(b"\n")[:-1], is_checked=is_checked)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}.") from None


class Journal:
    """An append-only JSONL file, one record a line. A record that `append` returned for is on the disk."""

    def __init__(self, path: Path, *, is_checked: bool = False) -> None:
        """Open the journal at `path`, which need not exist yet; `is_checked`: its lines have checksums."""
        self.path = path
        self._is_checked = is_checked
        self._is_repaired = False

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records, one line each, and wait until the disk has them.

        Raises:
            ValueError: a number that is not finite.
            SparringError: the disk is full; the lines of this call are then taken back.
        """
        lines = b"".join(self._line(record) for record in records)
        if not lines:
            return
        self._repair()
        with disk_errors(self.path):
            is_new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    _write_all(file, lines)
                except OSError:
                    file.truncate(size)
                    raise
            if is_new:
                sync(self.path.parent)

    def read(self) -> list[dict[str, Any]]:
        """Return all records; a torn last line, left by a kill in mid-write, is dropped with a notice.

        Raises:
            DataError: a line in the middle is not what was written; the message names it.
        """
        self._repair()
        if not self.path.exists():
            return []
        try:
            return read_journal(self.path, is_checked=self._is_checked)
        except DataError as error:
            raise DataError(f"{error} {_ANEW}") from None

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Put `records` in the place of all that is there, at once or not at all."""
        _write_atomic(self.path, b"".join(self._line(record) for record in records))

    def _line(self, record: Mapping[str, Any]) -> bytes:
        try:
            line = _encode(json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        if self._is_checked:
            assert record, "an empty record has no place for a checksum"
            line = line[:-1] + b',"crc":"%08x"}' % zlib.crc32(line)
        return line + b"\n"

    def _repair(self) -> None:
        if self._is_repaired:
            return
        self._is_repaired = True
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = _whole_length(content)
        if whole < len(content):
            log.warning(
                "%s: dropped a torn last line (%d bytes), left by an interrupted write.",
                self.path,
                len(content) - whole,
            )
            os.truncate(self.path, whole)


def _encode(text: str) -> bytes:
    # A world's text may hold lone surrogates; a journal must take them as they are.
    return text.encode("utf-8", "surrogatepass")


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _whole_length(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _parse_lines(path: Path, lines: Iterable[bytes], *, is_checked: bool = False) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(lines, start=1):
        checksum = _CHECKSUM.search(line)
        body = line[: checksum.start()] + b"}" if checksum else line
        try:
            record = json.loads(_decode(body))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}).") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected an object, found {type(record).__name__}.")
        if checksum is None and is_checked:
            raise DataError(f"{path}:{number}: without checksum: damaged, or of another version of Sparring.")
        if checksum is not None and int(checksum[1], 16) != zlib.crc32(body):
            raise DataError(f"{path}:{number}: damaged, its checksum is another.")
        records.append(record)
    return records


def _write_atomic(path: Path, content: bytes) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with temporary.open("wb", buffering=0) as file:
                _write_all(file, content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk; a rename or a new file is there only once its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it, and its entry in its parent."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)
