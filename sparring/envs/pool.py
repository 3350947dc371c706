"""Many live envs, each in a process of its own where its world asks for that: tasks and actions in, futures out.

A fault of infrastructure (a dead, silent or confused env process) costs no episode: the slot gets a fresh env, the same
reset and a replay of the actions so far, whose observations must be the ones already seen. Only when `max_retries` is
used up does the future carry an `EnvFault`. A fault never becomes a reward.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.base import Benchmark, Env, EnvConfig, EnvStep, load_benchmark, num_cores
from sparring.envs.faults import checked_observation, checked_step, describe_exception
from sparring.envs.variables import clean_environment, withheld_hint

CLOSE_DEADLINE_S = 5.0
"""Seconds an env process has to end by itself; then it is killed."""

T = TypeVar("T")


class EnvPool:
    """`num_envs` slots, each a live env with a thread that waits for it. Envs start at first use, side by side.

    Calls for one slot are played in the order they are made; different slots don't wait for each other. Deadlines hold
    for worlds with a process per env; an env that lives in this process can't be interrupted.
    """

    def __init__(
        self,
        env_id: str,
        options: Mapping[str, Any] | None = None,
        *,
        num_envs: int,
        reset_deadline_s: float = 60.0,
        step_deadline_s: float = 30.0,
        max_retries: int = 2,
        variables: Sequence[str] = (),
    ) -> None:
        """Prepare the slots; no env is started yet.

        Raises:
            ConfigError: an unknown world, options that it refuses, a variable that is not set, or no envs at all.
        """
        if num_envs < 1:
            raise ConfigError(f"env.num_envs: {num_envs} is not a number of envs. Give 1 or more.")
        benchmark = load_benchmark(env_id, options)
        clean_environment(variables)  # what is wrong with them is told now, and not by the first env
        starting = threading.BoundedSemaphore(num_cores())

        def start() -> _Connection:
            if not benchmark.env_per_process:
                return _LocalConnection(benchmark)
            with starting:  # a start is all work and no waiting: more at once would only miss their deadlines
                return _WorkerConnection(env_id, dict(options or {}), reset_deadline_s, variables)

        self._slots = [_Slot(start, reset_deadline_s, step_deadline_s, max_retries) for _ in range(num_envs)]
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"env-{i}") for i in range(num_envs)]

    @classmethod
    def of(cls, config: EnvConfig) -> EnvPool:
        """Prepare the slots that a config asks for."""
        return cls(
            config.id,
            config.constructor_options(),
            num_envs=config.num_envs,
            reset_deadline_s=config.reset_deadline_s,
            step_deadline_s=config.step_deadline_s,
            max_retries=config.max_retries,
            variables=config.variables,
        )

    def reset(self, slot: int, task: Task, seed: int) -> Future[str]:
        """Start a task on a slot's env; the future gives the first observation."""
        return self._threads[slot].submit(self._slots[slot].reset, task, seed)

    def step(self, slot: int, action: str) -> Future[EnvStep]:
        """Play an action on a slot's env."""
        return self._threads[slot].submit(self._slots[slot].step, action)

    def retries(self, slot: int) -> int:
        """Return how often the slot's episode was restored since its reset."""
        return self._slots[slot].num_retries

    def cpu_seconds(self) -> float:
        """Return the CPU time that the live envs' processes have used since they started (Linux; elsewhere 0)."""
        groups = {slot.env.process.pid for slot in self._slots if isinstance(slot.env, _WorkerConnection)}
        return _cpu_seconds_of_groups(groups) if groups else 0.0

    def close(self) -> None:
        """End every env and its process, those that hang included. Futures still open fail or are cancelled."""
        for slot, thread in zip(self._slots, self._threads, strict=True):
            slot.is_closed = True
            thread.shutdown(wait=False, cancel_futures=True)
        closers = [threading.Thread(target=slot.close) for slot in self._slots]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        for thread in self._threads:
            thread.shutdown(wait=True)

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Connection(Protocol):
    """A live env, wherever it runs. Every method raises EnvFault when infrastructure fails."""

    def reset(self, task: Task, seed: int, deadline_s: float) -> str: ...

    def step(self, action: str, deadline_s: float) -> EnvStep: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(slots=True)
class _Record:
    """An open episode as played so far, which is all that is needed to play it again."""

    task: Task
    seed: int
    first: str | None = None
    played: list[tuple[str, EnvStep]] = field(default_factory=list)


class _Slot:
    """One place for an env: plays episodes and restores them after faults. Used by one thread at a time."""

    def __init__(
        self, start: Callable[[], _Connection], reset_deadline_s: float, step_deadline_s: float, max_retries: int
    ) -> None:
        self.start = start
        self.reset_deadline_s, self.step_deadline_s = reset_deadline_s, step_deadline_s
        self.max_retries, self.num_retries = max_retries, 0
        self.env: _Connection | None = None
        self.record: _Record | None = None
        self.is_closed = False
        self.playing = threading.Lock()

    def reset(self, task: Task, seed: int) -> str:
        self.num_retries = 0
        record = self.record = _Record(task, seed)
        record.first = self._persist(lambda env: env.reset(task, seed, self.reset_deadline_s))
        return record.first

    def step(self, action: str) -> EnvStep:
        if self.record is None:
            raise EnvFault("No episode is open on this slot: it was given up or never started. Reset it first.")
        record = self.record
        answer = self._persist(lambda env: env.step(action, self.step_deadline_s))
        record.played.append((action, answer))
        return answer

    def close(self) -> None:
        """May be called while another thread waits for the env: that wait then ends in a fault."""
        is_idle = self.playing.acquire(blocking=False)
        try:
            env, self.env = self.env, None
            if env is not None and is_idle:
                env.close()
            elif env is not None:
                env.kill()
        finally:
            if is_idle:
                self.playing.release()

    def _persist(self, play: Callable[[_Connection], T]) -> T:
        """Play on the live env; after a fault, on a fresh one brought to the same point."""
        while True:
            try:
                with self.playing:
                    return play(self.env or self._restore())
            except (ConfigError, DataError):
                self.record = None
                self._discard()
                raise
            except EnvFault as fault:
                self._discard()
                if self.num_retries >= self.max_retries or self.is_closed:
                    self.record = None
                    raise EnvFault(f"{fault} (given up after {self.num_retries} fresh starts)") from fault
                self.num_retries += 1

    def _restore(self) -> _Connection:
        """Start an env and replay what the open episode had so far."""
        if self.is_closed:
            raise EnvFault("The pool is closed.")
        env = self.env = self.start()
        if self.is_closed:  # closed while the env was starting
            raise EnvFault("The pool is closed.")
        record = self.record
        if record is not None and record.first is not None:
            if env.reset(record.task, record.seed, self.reset_deadline_s) != record.first:
                raise EnvFault(f"{record.task.id} can't be restored: its first observation is another one.")
            for i, (action, answer) in enumerate(record.played):
                if env.step(action, self.step_deadline_s) != answer:
                    raise EnvFault(f"{record.task.id} can't be restored: turn {i + 1} is answered in another way.")
        return env

    def _discard(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            env.kill()


class _LocalConnection:
    """An env in this process. Whatever it raises counts as a fault, save what the user can mend."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.env: Env = self._guard(benchmark.make_env)

    def reset(self, task: Task, seed: int, deadline_s: float) -> str:
        return checked_observation(self.env, self._guard(lambda: self.env.reset(task, seed)))

    def step(self, action: str, deadline_s: float) -> EnvStep:
        return checked_step(self.env, self._guard(lambda: self.env.step(action)), EnvStep)

    def close(self) -> None:
        self.env.close()

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self.env.close()

    @staticmethod
    def _guard(call: Callable[[], T]) -> T:
        try:
            return call()
        except (ConfigError, DataError, EnvFault):
            raise
        except (Exception, SystemExit) as error:
            raise EnvFault(describe_exception(error)) from error


class _WorkerConnection:
    """An env in a process of its own (see `worker.py`), which leads a process group of its own.

    It gets no environment variables but those that programs need, and `variables`.
    """

    def __init__(self, env_id: str, options: dict[str, Any], deadline_s: float, variables: Sequence[str]) -> None:
        package_parent = str(Path(__file__).resolve().parents[2])
        search_path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        self.variables = variables
        self.folder = tempfile.TemporaryDirectory(prefix="sparring-env-")  # what a killed env leaves goes with it
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sparring.envs.worker", self.folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # its own group, so that Ctrl-C does not reach it and a kill takes its children
            env={**clean_environment(variables), "PYTHONPATH": search_path, "TMPDIR": self.folder.name},
        )
        self.rest = b""
        self.last_words: deque[bytes] = deque(maxlen=5)
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        path = [entry or str(Path.cwd()) for entry in sys.path]
        try:
            self._request({"op": "open", "env_id": env_id, "options": options, "path": path}, deadline_s)
        except BaseException:
            self.kill()
            raise

    def reset(self, task: Task, seed: int, deadline_s: float) -> str:
        fields = {"id": task.id, "kind": task.kind, "data": dict(task.data)}
        return self._request({"op": "reset", "task": fields, "seed": seed}, deadline_s)["observation"]

    def step(self, action: str, deadline_s: float) -> EnvStep:
        return EnvStep(**self._request({"op": "step", "action": action}, deadline_s))

    def close(self) -> None:
        with contextlib.suppress(EnvFault, OSError, ValueError):
            self._send({"op": "close"})
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

    def _request(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        until = time.monotonic() + deadline_s
        self._send(request)
        try:
            answer = json.loads(self._receive(until, f"{request['op']} within {deadline_s:g} s"))
        except ValueError:
            raise EnvFault("The env process broke its protocol.") from None
        if "fault" in answer:
            raise EnvFault(answer["fault"] + withheld_hint(answer["fault"], self.variables))
        if "error" in answer:
            message = answer["message"] + withheld_hint(answer["message"], self.variables)
            raise {"DataError": DataError}.get(answer["error"], ConfigError)(message)
        return answer

    def _send(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        line = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while line:
                line = line[self.process.stdin.write(line) :]
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
        words += withheld_hint(words, self.variables)
        return f"The env process ended with code {self.process.returncode}" + (f": {words}" if words else ".")


def _cpu_seconds_of_groups(groups: Set[int]) -> float:
    """Add up user and system time of all processes whose process group is one of `groups`."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()  # the name in parentheses may hold anything
            if int(fields[2]) in groups:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
