"""A server's warden: starts it, and ends it with all of its children once the run is gone, however the run ended.

Run as a file, `python -I vllm_warden.py COMMAND …`, in a session of its own; it imports nothing of the package. It
writes the server's process group to standard output. When standard input ends, which is the run's death, or a signal
asks for it, the whole group is asked to end and then killed. A server that ends by itself ends the warden with its
code, or 128 and the number of the signal that killed it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL; vLLM takes about one."""
LOOK_S = 1.0
"""Seconds between two looks at the parent: a process that the run forked may hold standard input open."""
CANNOT_START = 127

ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def watch(command: list[str]) -> int:
    """Run a command until it ends or is no longer wanted, and return its code."""
    parent = os.getppid()
    signals = _signals()
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START
    try:
        print(server.pid, flush=True)
        while server.poll() is None and os.getppid() == parent:
            ready, _, _ = select.select([0, signals], [], [], LOOK_S)
            if 0 in ready and not os.read(0, 1024):
                break
            if signals in ready and ENDING & set(os.read(signals, 1024)):
                break
    finally:
        code = _end(server)
    return code if code >= 0 else 128 - code


def _signals() -> int:
    """Return a pipe that gets the number of each signal that arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def _end(server: subprocess.Popen[bytes]) -> int:
    """End the server and what it left in its process group, and return its code."""
    if server.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter on macOS, of zombies
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
