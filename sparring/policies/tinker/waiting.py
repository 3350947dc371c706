"""Answers that a server owes: handed on as they come, or failed once the server is lost or too slow.

The Tinker client sends a request again for hours. Whoever waits here is told in time that nobody is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any, TypeVar

from sparring.core.errors import EnvFault, SparringError

T = TypeVar("T")
POLL_S = 2.0
"""Seconds between two looks at what is still owed."""


class Watch:
    """Watches over all requests to one server."""

    def __init__(
        self,
        ping: Callable[[], Any],
        told: Callable[[BaseException], SparringError],
        *,
        timeout_s: float,
        lost_after_s: float,
        lost: str,
    ) -> None:
        """Args:
        ping: asks for a sign of life, blocking; raises, or never returns, where there is none.
        told: turns a client's error into ours.
        timeout_s: within which an answer must be there.
        lost_after_s: without any sign of life, after which the server is lost.
        lost: what is said then.
        """
        self._ping, self._told, self._lost = ping, told, lost
        self._timeout_s, self._lost_after_s = timeout_s, lost_after_s
        self._owed: dict[Future[Any], float] = {}
        self._lock = threading.Lock()
        self._seen = time.monotonic()
        self._pinging: threading.Thread | None = None
        self._watching = False

    def over(self, asked: Future[T]) -> Future[T]:
        """Return an answer that fails with one of our errors, at the latest when the time is up."""
        answer: Future[T] = Future()
        with self._lock:
            if not self._owed:
                self._seen = time.monotonic()
            self._owed[answer] = time.monotonic() + self._timeout_s
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._look, name="tinker-watch", daemon=True).start()
        asked.add_done_callback(lambda done: self._take(answer, done))
        return answer

    def call(self, function: Callable[[], T]) -> T:
        """Run a blocking call of the client's in a thread of its own, and wait for it as long as it may take."""
        asked: Future[T] = Future()

        def work() -> None:
            try:
                asked.set_result(function())
            except BaseException as error:  # the boundary between two threads
                asked.set_exception(error)

        answer = self.over(asked)
        threading.Thread(target=work, name="tinker-call", daemon=True).start()
        return answer.result()

    def _take(self, answer: Future[Any], done: Future[Any]) -> None:
        with self._lock:
            self._owed.pop(answer, None)
            self._seen = time.monotonic()
        try:
            outcome: Any = done.result()
        except CancelledError:
            answer.cancel()
        except BaseException as error:  # whatever the client raises
            _fail(answer, error if isinstance(error, SparringError) else self._told(error))
        else:
            _set(answer, outcome)

    def _look(self) -> None:
        while True:
            time.sleep(POLL_S)
            now = time.monotonic()
            with self._lock:
                if not self._owed:
                    self._watching = False
                    return
                is_lost = now - self._seen > self._lost_after_s
                over = [one for one, deadline in self._owed.items() if is_lost or now > deadline]
                for one in over:
                    del self._owed[one]
            late = f"The Tinker server is alive and has not answered a request within {self._timeout_s:g} s. Raise "
            for one in over:
                _fail(one, EnvFault(self._lost if is_lost else f"{late}tinker.timeout_s, or see the server's log."))
            if self._pinging is None or not self._pinging.is_alive():
                self._pinging = threading.Thread(target=self._ask, name="tinker-ping", daemon=True)
                self._pinging.start()

    def _ask(self) -> None:
        try:
            self._ping()
        except Exception:  # no sign of life, whatever the reason
            return
        with self._lock:
            self._seen = time.monotonic()


def _set(answer: Future[Any], outcome: Any) -> None:
    try:
        answer.set_result(outcome)
    except InvalidStateError:  # given up meanwhile
        return


def _fail(answer: Future[Any], error: BaseException) -> None:
    try:
        answer.set_exception(error)
    except InvalidStateError:
        return
