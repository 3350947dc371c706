"""A process that does jobs of a run for another process, which holds the run's folder and shows the progress.

It is told on standard input, and tells on standard output, one JSON array a line:

    in    ["run", recipe, folder]   once
          ["job", seed, arm]        and so on; the end of the input ends the process, whatever it is at
    out   ["begin", name, total] ["update", done, total, note] ["end"]     phases, which may lie in one another
          ["note", message] ["timing", record]
          ["done"] ["failed", message]                                     how a job ended
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from sparring.core.errors import SparringError
from sparring.core.folder import Run
from sparring.core.journal import disk_problem
from sparring.core.progress import Bar, heard
from sparring.envs.pool import EnvPool
from sparring.runs.engines import Engines
from sparring.runs.jobs import Job, do_job
from sparring.runs.recipe_files import recipe_from_dict
from sparring.runs.world import build_world, choose_tasks

TELL_EVERY_S = 0.2
"""Least seconds between two messages on how much of a phase is done."""
GRACE_S = 10.0
"""Seconds to end in once the input has ended: a training writes its state."""


def main() -> None:
    """Do jobs until there are no more."""
    channel = Channel.take_over()
    tasks = _listen(sys.stdin)
    if (first := tasks.get()) is None:
        return
    _, values, folder = first
    with suppress(KeyboardInterrupt), heard(channel):
        _work(channel, tasks, recipe_from_dict(values), Path(folder))


def _work(channel: Channel, tasks: SimpleQueue[list[Any] | None], recipe: Any, folder: Path) -> None:
    config = recipe.shared_config()
    benchmark = config.env.load()
    run = Run.join(folder, lambda **record: channel.send("timing", record))
    with EnvPool.of(config.env) as pool:
        chosen = choose_tasks(config, benchmark)
        world = build_world(run, config, benchmark, chosen, pool, channel, needs_experts=recipe.needs_experts)
        with Engines(run, world) as engines:
            while (task := tasks.get()) is not None:
                _, seed, arm = task
                try:
                    do_job(Job(seed=seed, arm=arm), recipe, run, world, engines, channel)
                except SparringError as error:
                    channel.send("failed", str(error))
                except Exception as error:
                    if (problem := disk_problem(error)) is None:
                        raise
                    channel.send("failed", f"{folder}: {problem}")
                else:
                    channel.send("done")


def _listen(stream: IO[str]) -> SimpleQueue[list[Any] | None]:
    """Return a queue of what is told, None at its end; the end interrupts whatever is being done."""
    tasks: SimpleQueue[list[Any] | None] = SimpleQueue()

    def read() -> None:
        for line in stream:
            tasks.put(json.loads(line))
        tasks.put(None)
        _thread.interrupt_main()
        time.sleep(GRACE_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return tasks


class Channel:
    """A `Progress` that another process shows."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._lock = stream, threading.Lock()

    @classmethod
    def take_over(cls) -> Channel:
        """Speak on what was standard output; what libraries print goes to standard error from now on."""
        stream = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogateescape")
        os.dup2(2, 1)
        return cls(stream)

    def send(self, *message: Any) -> None:
        """Tell the other process."""
        with self._lock, suppress(BrokenPipeError):  # it has ended: the input's end ends this one
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Bar]:
        """See `core.progress.Progress`."""
        self.send("begin", name, total)
        bar = _Bar(self, total)
        try:
            yield bar
        finally:
            bar.tell()
            self.send("end")

    def note(self, message: str) -> None:
        """See `core.progress.Progress`."""
        self.send("note", message)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Bar:
    def __init__(self, channel: Channel, total: float | None) -> None:
        self._channel, self._total = channel, total
        self._done: float = 0
        self._note, self._told_at = "", 0.0

    def advance(self, num: float = 1) -> None:
        self.update(self._done + num)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._done = done
        self._total = total if total is not None else self._total
        self._note = note or self._note
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._told_at = time.monotonic()
        self._channel.send("update", self._done, self._total, self._note)


if __name__ == "__main__":
    main()
