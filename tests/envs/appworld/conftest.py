"""The live engine, once a module; without it what asks for it skips, and says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.appworld.benchmark import AppWorld, AppWorldEnv

QUICK = {"cpu_s": 1.0, "memory_mb": 300}


@pytest.fixture(scope="module")
def world() -> AppWorld:
    try:
        return AppWorld(limits=QUICK)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def env(world: AppWorld) -> Iterator[AppWorldEnv]:
    env = world.make_env()
    yield env
    env.close()
