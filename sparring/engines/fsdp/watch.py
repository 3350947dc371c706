"""Heartbeats between ranks: one that dies or hangs ends all of them, with one message on the first rank's stderr.

Each rank has a thread that says over a store of its own (not torchrun's) that it lives, and how far its work is. The
first rank judges the others; the others judge the first. Nobody who waits for work runs out of time: only silence
counts, or work that stands still.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

BEAT_S = 0.5
"""Seconds between heartbeats."""
SILENT_S = 15.0
"""Seconds without a heartbeat after which a rank counts as dead or stopped."""
SUSPECT_S = 3.0
"""The same once torchrun has asked the first rank to end, which it does if another rank has ended."""
JUDGE_S = 8.0
"""Seconds in which that is found out; after them, whoever asked meant the run."""
STALL_S = 45.0
"""Seconds without progress on any rank, while all work together, after which the one that is behind counts as hung."""
REPORT_S = 5.0
"""Seconds that a rank's error has to reach the first rank in the ordinary way, before it ends the run in this one."""
OVER = "over"
"""Set in the store once the first rank has said why all end."""
KEPT = "Nothing that was saved is lost: the same command goes on where it stopped."


@dataclass(slots=True)
class Pulse:
    """What a rank says of itself."""

    call: int = 0
    """Number of the last call that it began."""
    tick: int = 0
    """How far it is in it."""
    is_working: bool = False
    """Whether it is in a call."""
    error: str = ""
    """What went wrong in it."""
    is_alone: bool = False
    """Whether it does something that takes its time, and nobody waits for it meanwhile."""


@dataclass(slots=True)
class _Heard:
    """What the first rank knows of a rank."""

    text: bytes = b""
    at: float = field(default_factory=time.monotonic)
    """When it said something new."""
    pulse: Pulse = field(default_factory=Pulse)


class Watch:
    """This rank's heartbeat, and its eye on the others. The main thread changes `pulse`."""

    def __init__(self, rank: int, world: int, host: str, port: int = 0) -> None:
        """Args:
        rank: this one.
        world: how many there are.
        host: where the first rank is.
        port: of the first rank's store; 0 on the first rank, which opens it.
        """
        self.pulse = Pulse()
        self.rank, self._world = rank, world
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, port, is_master=rank == 0, wait_for_workers=False, timeout=timedelta(seconds=SILENT_S)
        )
        judged = range(1, world) if rank == 0 else (0,)
        self._heard = {other: _Heard() for other in judged}
        self._moved, self._furthest = time.monotonic(), (0, 0)
        self._over, self._fatal = threading.Event(), threading.Lock()
        self._asked_at: float | None = None
        self._stuck_since: float | None = None
        self._wake: int | None = None
        self._num_beats = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    @property
    def port(self) -> int:
        """Of the store."""
        return self._store.port

    def start(self) -> None:
        """Begin to beat, once all ranks have the store. Signals to end are taken from now on."""
        if self.rank == 0:
            self._wake, wake_in = os.pipe()
            os.set_blocking(wake_in, False)
            signal.signal(signal.SIGTERM, lambda *_: None)
            signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)  # also while the main thread is deep in torch
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first rank says when it is over
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._beat()
        self._thread.start()
        if self.rank:
            threading.Thread(target=self._guard, daemon=True, name="guard").start()

    def stop(self) -> None:
        """End the watch."""
        self._over.set()
        self._thread.join()

    def tick(self) -> None:
        """Note that work goes on."""
        self.pulse.tick += 1

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do something that may take long (a download) and does not count as standing still."""
        self.pulse.is_alone = True
        try:
            yield
        finally:
            self.pulse.is_alone = False

    def fail(self, what: str) -> NoReturn:
        """Print why all ranks end, and end this one; the others follow."""
        from sparring.core.terminal import write

        with self._fatal:  # never released: one message
            write(f"sparring: {what} All ranks end. {KEPT}", on_stderr=True)
            if self.rank == 0:
                with suppress(RuntimeError):
                    self._store.set(OVER, "")
                    time.sleep(2 * BEAT_S)  # the others read it, and are silent
            os._exit(1)

    def lost(self, error: BaseException) -> NoReturn:
        """End after what ranks do together has failed, with the name of the rank at fault where it shows soon."""
        until = time.monotonic() + JUDGE_S
        while time.monotonic() < until:
            if culprits := self._silent(SUSPECT_S):
                self.fail(_died(culprits))
            time.sleep(BEAT_S)
        self.fail(
            f"ranks lost each other ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})."
        )

    def abandoned(self) -> NoReturn:
        """Wait for the end, which the first rank says, or its silence."""
        time.sleep(3 * SILENT_S)
        os._exit(1)

    # ── The thread ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        judge: Callable[[], None] = self._judge_all if self.rank == 0 else self._judge_first
        while not self._over.is_set():
            self._pause()
            try:
                self._beat()
                self._listen()
            except RuntimeError:  # the store is gone, and with it the first rank
                if not self._over.is_set():
                    self._first_is_lost()
                return
            judge()

    def _pause(self) -> None:
        if self._wake is None:
            self._over.wait(BEAT_S)
        elif select.select([self._wake], [], [], BEAT_S)[0] and signal.SIGTERM in os.read(self._wake, 512):
            self._asked_at = self._asked_at or time.monotonic()

    def _beat(self) -> None:
        self._num_beats += 1
        pulse = self.pulse
        said = [self._num_beats, pulse.call, pulse.tick, pulse.is_working, pulse.error, pulse.is_alone]
        self._store.set(str(self.rank), json.dumps(said))

    def _listen(self) -> None:
        now = time.monotonic()
        for other, heard in self._heard.items():
            text = self._store.get(str(other)) if heard.text or self._store.check([str(other)]) else b""
            if text != heard.text:
                heard.text, heard.at = text, now
                heard.pulse = Pulse(*json.loads(text)[1:])

    def _judge_first(self) -> None:
        if self._store.check([OVER]):
            os._exit(1)

    def _guard(self) -> None:
        """Judge the first rank's silence: the store of one that was stopped never answers."""
        while not self._over.wait(BEAT_S):
            if self._silent(SILENT_S):
                self._first_is_lost()

    def _first_is_lost(self) -> NoReturn:
        """End without the first rank. The second one says so."""
        if self.rank == 1:
            self.fail(_died([0]))
        os._exit(1)

    def _judge_all(self) -> None:
        if culprits := self._silent(SILENT_S):
            self.fail(_died(culprits))
        if self._asked_at is not None:
            self._judge_request(self._asked_at)
        self._judge_errors()
        self._judge_stall()

    def _judge_request(self, asked_at: float) -> None:
        if culprits := self._silent(SUSPECT_S):
            self.fail(_died(culprits))
        if time.monotonic() - asked_at > JUDGE_S:
            self._asked_at = None
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [other for other, heard in self._heard.items() if now - heard.at > seconds]

    def _judge_errors(self) -> None:
        """End the run where a rank's error leaves the others waiting for it."""
        said = {other: heard.pulse for other, heard in self._heard.items()} | {self.rank: self.pulse}
        stuck = {rank: pulse.error for rank, pulse in said.items() if pulse.error and pulse.call == self.pulse.call}
        if not stuck or not self.pulse.is_working:
            self._stuck_since = None
            return
        now = time.monotonic()
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since > REPORT_S:
            rank, error = min(stuck.items())
            self.fail(f"rank {rank}: {error.rstrip('.')}.")

    def _judge_stall(self) -> None:
        now = time.monotonic()
        places = {other: (heard.pulse.call, heard.pulse.tick) for other, heard in self._heard.items()}
        places[self.rank] = (self.pulse.call, self.pulse.tick)
        total = (sum(call for call, _ in places.values()), sum(tick for _, tick in places.values()))
        is_free = any(one.is_alone for one in (self.pulse, *(heard.pulse for heard in self._heard.values())))
        if total != self._furthest or is_free or not self.pulse.is_working:
            self._moved, self._furthest = now, total
        elif now - self._moved > STALL_S:
            least = min(places.values())
            behind = [rank for rank, place in places.items() if place == least]
            who = _ranks(sorted(behind)) if len(behind) < len(places) else "a rank"
            self.fail(f"{who} hung: nothing moved for {STALL_S:.0f} s while all ranks worked together.")


def _died(ranks: list[int]) -> str:
    return f"{_ranks(ranks)} died, or was stopped: no heartbeat."


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
