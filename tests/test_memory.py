"""What was freed goes back to the operating system."""

from __future__ import annotations

import platform

import psutil
import pytest

from sparring.core.memory import give_back

BLOCK, NUM_BLOCKS = 64 * 1024, 3000
"""Too small for the C library to map each block by itself, and so many that what it keeps shows."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to return its free pages")
def test_freed_pages_are_returned_even_below_one_that_is_in_use() -> None:
    process = psutil.Process()
    blocks = [bytearray(b"x" * BLOCK) for _ in range(NUM_BLOCKS)]
    last = blocks[-1]  # the heap can't shrink from its end
    del blocks
    kept = process.memory_info().rss
    give_back()
    assert kept - process.memory_info().rss > BLOCK * NUM_BLOCKS // 2
    assert len(last) == BLOCK
