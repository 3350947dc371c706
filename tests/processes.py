"""Waiting for other processes, and asking whether they live."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition, and fail if it never comes true."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


def is_alive(process: psutil.Process | int) -> bool:
    """Say whether a process, or the one with this id, is still there and no zombie."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Return how a process was started; nothing for one that has ended since it was listed."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie, too
        return []
