"""A run's jobs side by side, each in a process of its own: results are those of one after another.

A worker takes one job after another. Phases that arms share are done by whoever comes first; others wait for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sparring.core.errors import SparringError
from sparring.runs.jobs import Job
from sparring.runs.worker import GRACE_S

if TYPE_CHECKING:
    from sparring.core.folder import Run
    from sparring.core.progress import Bar, Progress
    from sparring.runs.config import Recipe

LAST_WORDS = 2000
"""Characters of a worker's log that are searched for why it ended."""


class WorkerEndedError(Exception):
    """A worker's process is gone in the middle of a job."""


class Worker:
    """A process on this machine that does jobs; see `runs.worker` for what is said."""

    def __init__(self, recipe: Recipe, folder: Path, number: int, gpu: str | None = None) -> None:
        """Start the process.

        Args:
            recipe: whose jobs it does.
            folder: the run's.
            number: from 1, for its log's name.
            gpu: the one that it sees; none: as this process.
        """
        self.log_path = folder / f"worker-{number}.log"
        places = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)  # a world of the user's own is found
        environment = os.environ | {"PYTHONPATH": places}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sparring.runs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches this process, which then ends the workers
            )
        self._tell("run", recipe.to_dict(), str(folder.absolute()))

    def do(self, job: Job) -> Iterator[list[Any]]:
        """Give it a job, and yield what it tells until the job has ended.

        Raises:
            WorkerEndedError: its process has ended.
        """
        self._tell("job", job.seed, job.arm)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            yield message
            if message[0] in ("done", "failed"):
                return
        raise WorkerEndedError(self.last_words())

    def last_words(self) -> str:
        """Say how the process ended, with the last line that it wrote."""
        code = self._process.wait()
        lines = self.log_path.read_text(errors="replace")[-LAST_WORDS:].strip().splitlines()
        return f"its process ended with code {code} ({lines[-1] if lines else 'it said nothing'}); see {self.log_path}"

    def hang_up(self) -> None:
        """Let the process end: at once where it waits, else as at Ctrl-C."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """Wait until the process has ended; the log of one that ended well is deleted."""
        self.hang_up()
        try:
            self._process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode == 0:
            self.log_path.unlink(missing_ok=True)

    def _tell(self, *message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which reading tells
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()


class AnyWorker(Protocol):
    """What does jobs: see `Worker`."""

    def do(self, job: Job) -> Iterator[list[Any]]: ...
    def hang_up(self) -> None: ...
    def end(self) -> None: ...


def on_this_machine(recipe: Recipe, folder: Path, num_workers: int) -> Callable[[int], Worker]:
    """Return what starts a worker of a number, from 1, here; with several GPUs they are spread over them."""
    gpus = gpus_of(num_workers)
    return lambda number: Worker(recipe, folder, number, gpus[(number - 1) % len(gpus)] if gpus else None)


def do_side_by_side(
    recipe: Recipe,
    run: Run,
    jobs: Sequence[Job],
    start: Callable[[int], AnyWorker],
    num_workers: int,
    progress: Progress,
    bar: Bar,
) -> None:
    """Do jobs, as many at once as there are workers. One that fails does not stop the others.

    Args:
        recipe: whose jobs they are.
        run: gets the timings.
        jobs: in the order in which they are named.
        start: starts a worker of a number, from 1.
        num_workers: how many there are at once.
        progress: shows what they are at.
        bar: counts jobs.

    Raises:
        SparringError: jobs failed; the message names them. All others are finished.
    """
    # Jobs of different seeds share nothing, so they come first.
    waiting = deque(sorted(jobs, key=lambda job: list(recipe.arms).index(job.arm)))
    work = _Work(run, waiting, start, progress, bar)
    num_workers = min(num_workers, len(jobs))
    try:
        with ThreadPoolExecutor(num_workers) as threads:
            serving = [threads.submit(copy_context().run, work.serve, number + 1) for number in range(num_workers)]
            try:
                for one in serving:
                    one.result()
            except BaseException:
                work.stop()
                raise
    finally:
        run.drop_claims()
    if work.failures:
        told = "".join(f"\n  {job}: {work.failures[job]}" for job in jobs if job in work.failures)
        raise SparringError(
            f"{len(work.failures)} of {len(jobs)} jobs failed. The others are finished, and the same command goes on "
            f"with these:{told}"
        )


def gpus_of(num_workers: int) -> list[str]:
    """Return the GPUs that workers are spread over, as `CUDA_VISIBLE_DEVICES` names them; none where there is one."""
    import torch

    num = torch.cuda.device_count() if num_workers > 1 else 0
    if num < 2:
        return []
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return seen.split(",")[:num] if seen else [str(number) for number in range(num)]


@dataclass(slots=True)
class _Work:
    run: Run
    waiting: deque[Job]
    start: Callable[[int], AnyWorker]
    progress: Progress
    bar: Bar
    failures: dict[Job, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    workers: set[AnyWorker] = field(default_factory=set)
    """Those that are alive."""
    is_stopped: bool = False

    def serve(self, number: int) -> None:
        """Do jobs until none is left, with one worker, and another where that has ended."""
        worker: AnyWorker | None = None
        try:
            while (job := self._next()) is not None:
                worker = worker or self._start(number)
                try:
                    self._follow(worker, job)
                except WorkerEndedError as error:
                    self.failures[job] = str(error)
                    worker = self._end(worker)
                with self.lock:
                    self.bar.advance()
        finally:
            if worker is not None:
                self._end(worker)

    def stop(self) -> None:
        """End the workers, whatever they are at: what they have written is gone on with."""
        with self.lock:
            self.is_stopped = True
            for worker in self.workers:
                worker.hang_up()

    def _next(self) -> Job | None:
        with self.lock:
            return self.waiting.popleft() if self.waiting and not self.is_stopped else None

    def _start(self, number: int) -> AnyWorker:
        worker = self.start(number)
        with self.lock:
            self.workers.add(worker)
            if self.is_stopped:
                worker.hang_up()
        return worker

    def _end(self, worker: AnyWorker) -> None:
        with self.lock:
            self.workers.discard(worker)
        worker.end()

    def _follow(self, worker: AnyWorker, job: Job) -> None:
        """Let a worker do a job, and show how it goes."""
        bars: list[Bar] = []
        with ExitStack() as open_phases:
            closing: list[ExitStack] = []
            for kind, *rest in worker.do(job):
                match kind, rest:
                    case "begin", [name, total]:
                        closing.append(open_phases.enter_context(ExitStack()))
                        bars.append(closing[-1].enter_context(self.progress.phase(name, total)))
                    case "update", [done, total, note]:
                        bars[-1].update(done, total, note)
                    case "end", _:
                        bars.pop()
                        closing.pop().close()
                    case "note", [message]:
                        self.progress.note(message)
                    case "timing", [record]:
                        with self.lock:
                            self.run.add_timing(**record)
                    case "failed", [message]:
                        self.failures[job] = message
                    case _:
                        pass
