"""Take chance and real time out of an episode: what code draws, reads off clocks or asks of addresses repeats.

AppWorld seeds the module `random` and freezes the time of day. What is left is done here: the system's randomness, the
clocks of the process, and `id`. Nothing here holds against code that looks for a way around it.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

ADDR_NO_RANDOMIZE = 0x0040000
ASK = 0xFFFFFFFF
FIXED = "SPARRING_ADDRESSES_FIXED"

FIRST_ID, BETWEEN_IDS = 0x10000, 16


def fix_addresses() -> None:
    """Start this program again with memory laid out the same each time, where the kernel lets it.

    Hashes of objects and types are made of addresses, and the order of a set of them hangs on it.
    """
    if FIXED in os.environ or not sys.platform.startswith("linux"):
        return
    personality = ctypes.CDLL(None).personality
    personality.argtypes = [ctypes.c_ulong]
    now = personality(ASK)
    if now == -1 or now & ADDR_NO_RANDOMIZE or personality(now | ADDR_NO_RANDOMIZE) == -1:
        return
    os.environ[FIXED] = "1"  # whatever comes of it, once
    os.execv(sys.executable, sys.orig_argv)


def take_out(names: dict[str, Any]) -> None:
    """Make this process repeatable, for good, and give the names that code sees an `id` that is."""
    _seed_the_system()
    _stop_clocks()
    names["id"] = _counted_ids()


def _seed_the_system() -> None:
    """Draw what comes from the system (`uuid4`, `SystemRandom`, a generator without a seed) from a fixed seed."""
    source = random.Random(0)
    seed_given = random.Random.seed

    def urandom(size: int, /) -> bytes:
        return source.randbytes(size)

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed_given(self, source.getrandbits(256) if a is None else a, version)

    os.urandom = urandom
    random._urandom = urandom  # pyright: ignore[reportAttributeAccessIssue]
    random.Random.seed = seed
    random.seed = random._inst.seed  # pyright: ignore[reportAttributeAccessIssue]


def _stop_clocks() -> None:
    """Let the process's clocks stand at 0, and the others at the time at which AppWorld has frozen the day."""
    of_process = {time.CLOCK_PROCESS_CPUTIME_ID, getattr(time, "CLOCK_THREAD_CPUTIME_ID", None)}
    ctime, asctime = time.ctime, time.asctime
    for name in ("process_time", "thread_time"):
        setattr(time, name, lambda: 0.0)
        setattr(time, f"{name}_ns", lambda: 0)
    time.clock_gettime = lambda clock, /: 0.0 if clock in of_process else time.time()
    time.clock_gettime_ns = lambda clock, /: 0 if clock in of_process else time.time_ns()
    time.ctime = lambda seconds=None, /: ctime(time.time() if seconds is None else seconds)
    time.asctime = lambda *moment: asctime(*(moment or [time.localtime()]))


def _counted_ids() -> Callable[[Any], int]:
    """Return an `id` that numbers objects in the order in which it is asked for them."""
    known: dict[int, tuple[int, Any]] = {}  # an object stays alive, so that its address is nobody else's
    address = id

    def counted(thing: Any, /) -> int:
        return known.setdefault(address(thing), (FIRST_ID + BETWEEN_IDS * len(known), thing))[0]

    counted.__name__ = counted.__qualname__ = "id"
    return counted
