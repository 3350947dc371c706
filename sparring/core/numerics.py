"""What numerical libraries read from the environment when they are loaded; what the user has set stays."""

from __future__ import annotations

import os


def prepare() -> None:
    """Ask for threads that don't spin, and for products that are the same each time; before torch is loaded."""
    # Threads that spin while they wait double the cost of training beside busy env processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # MKL's products otherwise depend on where in memory a matrix lies, which for mapped weights is the file's affair.
    os.environ.setdefault("MKL_CBWR", "AUTO")
