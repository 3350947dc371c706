"""Memory that was freed goes back to the operating system between a run's phases.

glibc keeps what was freed, a heap for each thread, and after some rounds of rollouts and training most of a process is
gaps: a dozen rounds of GRPO with a model of 11 MB came to 5 GB, where 0.4 are in use between phases.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Collect cycles and let the C library return its free pages; without glibc, the former alone."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
