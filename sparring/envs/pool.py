"""Many live envs, each in a process of its own where its world asks for that: tasks and actions in, futures out.

A fault of infrastructure (a dead, silent or confused env process) costs no episode: the slot gets a fresh env, the same
reset and a replay of the actions so far, whose observations must be the ones already seen. Only when `max_retries` is
used up does the future carry an `EnvFault`. A fault never becomes a reward.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sparring.core.errors import ClusterError, ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.base import Benchmark, EnvConfig, EnvStep, load_benchmark
from sparring.envs.connections import Connection, LocalConnection, Transport, WorkerConnection
from sparring.envs.processes import LocalWorkers
from sparring.envs.rewards import Rewards
from sparring.envs.variables import clean_environment

T = TypeVar("T")
Carrier = TypeVar("Carrier", bound=Transport)


class Workers(Protocol[Carrier]):
    """Where env processes run."""

    num_starting: int
    """How many may start at once: a start is all work and no waiting, more would only miss their deadlines."""

    def start(self) -> Carrier:
        """Start an env process. Raises EnvFault where that fails."""
        ...

    def cpu_seconds(self, transports: Sequence[Carrier]) -> float:
        """Return the CPU time that these processes, and their children, have used (elsewhere than on Linux 0)."""
        ...

    def close(self) -> None:
        """Free what they share, when all are closed."""
        ...


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
            ConfigError: an unknown world, options that it refuses, a rule of rewards that is none, a variable that is
                not set, or no envs at all.
        """
        if num_envs < 1:
            raise ConfigError(f"env.num_envs: {num_envs} is not a number of envs. Give 1 or more.")
        benchmark = load_benchmark(env_id, options)
        self.rewards = Rewards.of(env_id, benchmark)
        clean_environment(variables)  # what is wrong with them is told now, and not by the first env
        workers = self._workers = self._choose_workers(benchmark, num_envs, variables)
        self._is_closed = False
        starting = threading.BoundedSemaphore(workers.num_starting if workers else 1)

        def start() -> Connection:
            if workers is None:
                return LocalConnection(benchmark)
            with starting:
                if self._is_closed:  # closed while others were starting
                    raise EnvFault("The pool is closed.")
                return WorkerConnection(workers.start(), env_id, options or {}, reset_deadline_s, variables)

        self._slots = [_Slot(start, reset_deadline_s, step_deadline_s, max_retries) for _ in range(num_envs)]
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"env-{i}") for i in range(num_envs)]

    @classmethod
    def of(cls, config: EnvConfig) -> EnvPool:
        """Prepare the slots that a config asks for, on this machine or on a cluster.

        Raises:
            ConfigError: as the constructor does; or there is no Ray, or no cluster.
        """
        from sparring.envs.cluster import ClusterPool

        kind = ClusterPool if config.pool == "ray" else EnvPool
        pool = kind(
            config.id,
            config.constructor_options(),
            num_envs=config.num_envs,
            reset_deadline_s=config.reset_deadline_s,
            step_deadline_s=config.step_deadline_s,
            max_retries=config.max_retries,
            variables=config.variables,
        )
        pool.rewards = pool.rewards.chosen(config.reward, config.reward_range)
        return pool

    def _choose_workers(self, benchmark: Benchmark, num_envs: int, variables: Sequence[str]) -> Workers[Any] | None:
        """Return where env processes run; None: envs live in this process."""
        return LocalWorkers(variables) if benchmark.env_per_process else None

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
        if self._workers is None:
            return 0.0
        live = [slot.env for slot in self._slots]
        return self._workers.cpu_seconds([env.transport for env in live if isinstance(env, WorkerConnection)])

    def close(self) -> None:
        """End every env and its process, those that hang included. Futures still open fail or are cancelled."""
        self._is_closed = True
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
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        self, start: Callable[[], Connection], reset_deadline_s: float, step_deadline_s: float, max_retries: int
    ) -> None:
        self.start = start
        self.reset_deadline_s, self.step_deadline_s = reset_deadline_s, step_deadline_s
        self.max_retries, self.num_retries = max_retries, 0
        self.env: Connection | None = None
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

    def _persist(self, play: Callable[[Connection], T]) -> T:
        """Play on the live env; after a fault, on a fresh one brought to the same point."""
        while True:
            try:
                with self.playing:
                    return play(self.env or self._restore())
            except (ConfigError, DataError, ClusterError):
                self.record = None
                self._discard()
                raise
            except EnvFault as fault:
                self._discard()
                if self.num_retries >= self.max_retries or self.is_closed:
                    self.record = None
                    raise EnvFault(f"{fault} (given up after {self.num_retries} fresh starts)") from fault
                self.num_retries += 1

    def _restore(self) -> Connection:
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
