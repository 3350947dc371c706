"""An env on a Ray cluster that is called as one in this process: tests of a world's own env run on it unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparring.core.types import Task
from sparring.envs.base import EnvStep
from sparring.envs.cluster import ClusterPool


class PooledEnv:
    """The env on a pool's one slot; a fault or a late answer raises, and nothing is played again."""

    def __init__(self, pool: ClusterPool) -> None:
        self.pool = pool

    def reset(self, task: Task, seed: int) -> str:
        return self.pool.reset(0, task, seed).result()

    def step(self, action: str) -> EnvStep:
        return self.pool.step(0, action).result()


@contextmanager
def on_cluster(env_id: str, options: Mapping[str, Any] | None = None) -> Iterator[PooledEnv]:
    """Start an env on the cluster that the fixture `ray_cluster` has started."""
    with ClusterPool(env_id, options, num_envs=1, reset_deadline_s=120, max_retries=0) as pool:
        yield PooledEnv(pool)
