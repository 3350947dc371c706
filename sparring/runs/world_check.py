"""The short form of a world's check, on the live envs that a run or a rollout is about to use, before it uses them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.core.errors import ClusterError, ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.base import Benchmark, EnvConfig, EnvStep, select_tasks
from sparring.envs.conformance import SHORT, check
from sparring.envs.pool import EnvPool
from sparring.envs.subject import GENERIC, Subject

if TYPE_CHECKING:
    from sparring.core.progress import Progress

log = logging.getLogger(__name__)

NUM_TASKS, NUM_ACTIONS = 2, 3
"""Tasks that are played, and actions in each: nine resets and two dozen actions in all, on two envs."""


@dataclass(frozen=True, slots=True)
class PooledEnv:
    """A slot of a pool, as an env. Deadlines and fresh starts are the pool's."""

    pool: EnvPool
    slot: int

    def reset(self, task: Task, seed: int, deadline_s: float) -> str:
        """Start a task."""
        return self.pool.reset(self.slot, task, seed).result()

    def step(self, action: str, deadline_s: float) -> EnvStep:
        """Play an action."""
        return self.pool.step(self.slot, action).result()

    def close(self) -> None:
        """Leave the env to the pool."""

    def kill(self) -> None:
        """Leave the env to the pool."""


def check_world(
    config: EnvConfig, benchmark: Benchmark, tasks: Sequence[Task], pool: EnvPool, progress: Progress
) -> None:
    """See that the world answers in its right types, alike each time, and forgets old episodes.

    Raises:
        ConfigError: it does not, and `env.check` is `stop`; or its answers have another shape. What breaks an episode
            is left to those that play: they retry and count it.
    """
    if config.check == "off" or not tasks:
        return
    envs = [PooledEnv(pool, slot) for slot in (0, min(1, config.num_envs - 1))]
    subject = Subject(
        config=config,
        benchmark=benchmark,
        tasks=select_tasks(tasks, num=NUM_TASKS),
        actions=GENERIC,
        num_actions=NUM_ACTIONS,
        envs=[*envs],
    )
    takes_long = benchmark.env_per_process  # processes are started; elsewhere it is a matter of milliseconds
    with progress.phase(f"checking {config.id}") if takes_long else nullcontext():
        failed = [finding for finding in check(subject, SHORT) if finding.verdict == "fail"]
    for first in failed:
        if isinstance(first.error, ConfigError | DataError | ClusterError):
            raise first.error
    failed = [finding for finding in failed if finding.error is None]
    if not failed:
        return
    first = failed[0]
    what = f"{config.id} fails the check {first.check!r}: {' '.join(filter(None, (first.said, first.remedy)))}"
    if config.check == "warn":
        log.warning("%s", what)
        return
    raise ConfigError(
        f'env.id: {what} `sparring check-env {config.id}` checks all; env.check = "warn" goes on in spite of it.'
    )
