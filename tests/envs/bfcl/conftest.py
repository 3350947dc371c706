"""Fixtures for the BFCL tests: the wheel, or a reason to skip."""

from __future__ import annotations

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.bfcl import BFCL


@pytest.fixture(scope="session")
def world() -> BFCL:
    """The benchmark, where the wheel is installed."""
    try:
        return BFCL()
    except ConfigError as error:
        pytest.skip(str(error))
