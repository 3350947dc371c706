"""Crashes at single file operations: what a kill at that moment leaves behind, without a process for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparring.core import journal

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
FIRST_PATH = ("os.mkdir", "os.truncate", "os.remove", "os.rmdir", "os.rename")
"""Audit events whose first argument is the path that changes."""


class Crash(BaseException):
    """What no code catches, as none catches a kill."""


class _Watch:
    """Counts the file operations under a folder; from number `deadline` on, each of them raises."""

    def __init__(self, folder: Path, deadline: int | None) -> None:
        self.folder = str(folder)
        self.deadline = deadline
        self.num = 0

    def count(self) -> None:
        self.num += 1
        if self.deadline is not None and self.num >= self.deadline:
            raise Crash

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._count_path(arguments[0])
        elif event == "os.symlink":
            self._count_path(arguments[1])
        elif event in FIRST_PATH:
            is_within_a_walk = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # by `shutil.rmtree`
            if is_within_a_walk:
                self.count()
            else:
                self._count_path(arguments[0])

    def _count_path(self, path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            self.count()


_watches: list[_Watch] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watches:
        _watches[0].hear(event, arguments)


sys.addaudithook(_audit)


def crash_at(number: int | None, folder: Path, do: Callable[[], object]) -> int:
    """Do something, and crash before its file operation `number`, from 1, under `folder`; none: let it end.

    Operations are: create or open for writing, write (the first half is written), flush, rename, delete, link, make or
    delete a folder. What the safetensors library writes by itself is whole or not there.

    Returns:
        How many operations there were.
    """
    watch = _Watch(folder, number)
    flush, write = os.fsync, journal._write_all

    def counted_flush(descriptor: int) -> None:
        watch.count()
        flush(descriptor)

    def counted_write(file: Any, content: bytes) -> None:
        try:
            watch.count()
        except Crash:
            if watch.num == number:
                file.write(content[: len(content) // 2])
            raise
        write(file, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted_flush)
        patch.setattr(journal, "_write_all", counted_write)
        _watches.append(watch)
        try:
            do()
        except Crash:
            assert number is not None
        finally:
            _watches.clear()
    return watch.num
