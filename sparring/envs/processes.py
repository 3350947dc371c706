"""Env processes on this machine: each a child with pipes, a process group and a temporary folder of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparring.core.errors import EnvFault
from sparring.envs.base import num_cores
from sparring.envs.variables import clean_environment

RELAY = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
"""Runs a program as a child and ends as it does."""
CLOSE_DEADLINE_S = 5.0
"""Seconds an env process has to end by itself; then it is killed."""


class WorkerProcess:
    """An env process (see `worker.py`), which leads a process group of its own."""

    def __init__(self, environment: Mapping[str, str], *, relay: Sequence[str] = ()) -> None:
        """Start the process.

        Args:
            environment: all the variables that it gets, besides where Sparring and its temporary files are.
            relay: a program between this process and it, such as `RELAY`, which leads the group then.
        """
        package_parent = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        self.folder = tempfile.TemporaryDirectory(prefix="sparring-env-")  # what a killed env leaves goes with it
        self.process = subprocess.Popen(
            [*relay, sys.executable, "-P", "-m", "sparring.envs.worker", self.folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # its own group, so that Ctrl-C does not reach it and a kill takes its children
            env={**environment, "PYTHONPATH": search_path, "TMPDIR": self.folder.name},
        )
        self.rest = b""
        self.last_words: deque[bytes] = deque(maxlen=5)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def ask(self, line: bytes, what: str, deadline_s: float) -> bytes:
        until = time.monotonic() + deadline_s
        self._send(line)
        return self._receive(until, f"{what} within {deadline_s:g} s")

    def close(self) -> None:
        with contextlib.suppress(EnvFault, OSError, ValueError):
            self._send(b'{"op": "close"}')
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(CLOSE_DEADLINE_S)
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.listener.join(timeout=1.0)
        with contextlib.suppress(OSError):
            self.folder.cleanup()

    def _send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) :]
        except (BrokenPipeError, ValueError):
            raise EnvFault(self._obituary()) from None

    def _receive(self, until: float, what: str) -> bytes:
        """Read one line before the monotonic clock shows `until`."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while b"\n" not in self.rest:
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise EnvFault(f"The env process did not answer {what}.")
            if poller.poll(remaining * 1000):
                block = os.read(fd, 1 << 16)
                if not block:
                    raise EnvFault(self._obituary())
                self.rest += block
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _listen(self) -> None:
        """Keep the last lines that the process writes to stderr, for the message of a fault."""
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError), open(self.process.stderr.fileno(), "rb", closefd=False) as lines:
            self.last_words.extend(lines)

    def _obituary(self) -> str:
        self.kill()
        words = b"".join(self.last_words).decode(errors="replace").strip()[-500:]
        return f"The env process ended with code {self.process.returncode}" + (f": {words}" if words else ".")


class LocalWorkers:
    """Env processes as children of this one. They get what programs need of its environment, and `variables`."""

    def __init__(self, variables: Sequence[str] = ()) -> None:
        self.variables = variables
        self.num_starting = num_cores()

    def start(self) -> WorkerProcess:
        return WorkerProcess(clean_environment(self.variables))

    def cpu_seconds(self, transports: Sequence[WorkerProcess]) -> float:
        """Add up user and system time of env processes and all that is in their groups."""
        groups = {one.process.pid for one in transports}
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat") if groups else ():
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = stat.read_text().rpartition(")")[2].split()  # the name in parentheses may hold anything
                if int(fields[2]) in groups:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Nothing is shared."""


def children_of(pid: int | None = None) -> set[int]:
    """Return the processes that a process (none: this one) and its children have started and that still run; elsewhere
    than on Linux none are known."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found, due = set[int](), {pid or os.getpid()}
    while due:
        due = {child for child, parent in parents.items() if parent in due}
        found |= due
    return found
