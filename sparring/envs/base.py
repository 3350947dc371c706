"""The Env and Benchmark protocols, the literal table of known worlds, and the selection of tasks.

A benchmark lists tasks per split and may give an expert's actions for a task; an env is one live world.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, DataError, quote
from sparring.core.ranges import (
    ADJUSTABLE,
    ADJUSTABLE_WITH_NOTE,
    Count,
    Deadline,
    Name,
    Place,
    Range,
    Retries,
    Reward,
    Share,
)
from sparring.core.text import encodable
from sparring.core.types import Task
from sparring.envs.faults import describe_exception, told
from sparring.envs.rewards import RewardRule

BENCHMARKS: Mapping[str, str] = {
    "scienceworld": "sparring.envs.scienceworld:ScienceWorld",
    "webshop": "sparring.envs.webshop:WebShop",
    "intercode_sql": "sparring.envs.intercode_sql:InterCodeSQL",
    "bfcl": "sparring.envs.bfcl:BFCL",
    "appworld": "sparring.envs.appworld:AppWorld",
}
"""Known worlds: id → `module:Class`. A user's own world is named by `package.module:Class` directly."""
ADAPTERS: Mapping[str, str] = {
    "gymnasium": "sparring.envs.adapters.gymnasium:Gymnasium",
    "textarena": "sparring.envs.adapters.textarena:TextArena",
    "openenv": "sparring.envs.adapters.openenv:OpenEnv",
    "verifiers": "sparring.envs.adapters.verifiers:Verifiers",
    "mcp": "sparring.envs.adapters.mcp:McpTools",
}
"""Adapters to worlds of other libraries, which `env.options` names (docs/adapters.md): id → `module:Class`."""
BENCHMARK_METHODS = ("tasks", "turn_limit", "make_env", "expert_actions")
"""What a benchmark's class must have."""
BENCHMARK_VALUES = ("instruction", "env_per_process")
"""What a benchmark must have besides, which its constructor may set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvStep:
    """What an env answers to an action."""

    observation: str
    reward: float
    """Any finite number. By default it is the reward so far: the highest of an episode counts, clamped to [0,1]; see
    `env.reward` and `env.reward_range`."""
    is_done: bool


@runtime_checkable
class Env(Protocol):
    """One live world. Any text is a legal action and gets an in-world reply."""

    def reset(self, task: Task, seed: int) -> str:
        """Start `task` afresh and return the first observation (the instruction included)."""
        ...

    def step(self, action: str) -> EnvStep:
        """Play one action."""
        ...

    def close(self) -> None:
        """Free everything; no process is left behind."""
        ...


@runtime_checkable
class Benchmark(Protocol):
    """A world's tasks, splits and experts. Built as `Class(**options)` with JSON options, in every env process anew.

    An attribute `reward` may say how its rewards are read, where `env.reward` does not.
    """

    instruction: str
    """How to act in this world, in a few lines: the prompt's first part. The answer's format is not its business."""
    env_per_process: bool
    """True: each env runs in a process of its own (it blocks, leaks or has global state). False: envs share ours."""

    def tasks(self, split: str) -> Sequence[Task]:
        """List the tasks of a split (`train`, `dev`, `test`, …), in a fixed order. Raises ConfigError if unknown."""
        ...

    def turn_limit(self, task: Task) -> int:
        """Return the most actions an episode of this task may take."""
        ...

    def make_env(self) -> Env:
        """Make one live world."""
        ...

    def expert_actions(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[str]]:
        """Return actions that solve tasks, as far as the world knows: task id → actions.

        They are played before they are used. A world without experts of its own returns nothing; demonstrations then
        come from `expert.path`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which world, which of its tasks, and how many live envs."""

    id: Name = "scienceworld"
    """World: an id that `sparring envs` lists, or `package.module:Class` for your own."""
    kinds: tuple[Name, ...] = ()
    """Task types to use; empty: all."""
    num_train: Count | None = None
    """Training tasks, spread evenly over the types; none given: all."""
    num_envs: Annotated[int, Range(at_least=1, at_most=4096), ADJUSTABLE_WITH_NOTE] = 16
    """Live envs (ScienceWorld: one JVM each, about 0.5 GB of memory)."""
    pool: Annotated[Literal["local", "ray"], ADJUSTABLE_WITH_NOTE] = "local"
    """Where envs run: on this machine, or over a Ray cluster (docs/ray.md)."""
    reset_deadline_s: Annotated[Deadline, ADJUSTABLE] = 60.0
    """Seconds within which an env must have started a task."""
    step_deadline_s: Annotated[Deadline, ADJUSTABLE] = 30.0
    """Seconds within which an env must have answered an action."""
    max_retries: Annotated[Retries, ADJUSTABLE] = 2
    """How often an episode is restored on a fresh env after infrastructure failed."""
    max_broken: Annotated[Share, ADJUSTABLE] = 0.02
    """Largest share of a phase's episodes that faults may cost (they count nowhere); above it the run stops, and plays
    them again when it is started again."""
    reward: RewardRule | None = None
    """How the rewards of steps become the episode's: the highest (`so_far`), their `sum`, or the `last`; none: as the
    world says, else `so_far`."""
    reward_range: tuple[Reward, Reward] = (0.0, 1.0)
    """Which rewards of an episode are 0 and 1; those between are scaled, those beyond clamped."""
    check: Annotated[Literal["stop", "warn", "off"], ADJUSTABLE] = "stop"
    """What a run does where the world fails a short check on two of its envs, before anything is trained: other answers
    each time, or a reset that does not forget."""
    path: Place | None = None
    """Folder with data of yours for this world, such as official files (docs/environments.md); none: what it brings."""
    variables: tuple[str, ...] = ()
    """Names of environment variables that env processes get besides the usual ones (docs/environments.md)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Passed to the benchmark's constructor besides `path`, for instance `{graded = true}`."""

    def __post_init__(self) -> None:
        """Refuse a range without an extent."""
        check_values(self)
        if not self.reward_range[0] < self.reward_range[1]:
            raise ValueError("reward_range: expected [low, high], low below high")

    def constructor_options(self) -> dict[str, Any]:
        """Return what the benchmark is built with.

        Raises:
            ConfigError: the path is given twice.
        """
        if self.path is None:
            return dict(self.options)
        if "path" in self.options:
            raise ConfigError("env.path is given, and a path in env.options too. Keep env.path.")
        return {**self.options, "path": self.path}

    def load(self) -> Benchmark:
        """Import and build the benchmark. Raises ConfigError as `load_benchmark` does."""
        return load_benchmark(self.id, self.constructor_options())


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_benchmark(env_id: str, options: Mapping[str, Any] | None = None) -> Benchmark:
    """Import and build a benchmark from its id or `package.module:Class`.

    Raises:
        ConfigError: unknown id, module that can't be imported, class that is not there, or options it refuses.
    """
    target = {**BENCHMARKS, **ADAPTERS}.get(env_id, env_id)
    module_name, _, class_name = target.partition(":")
    if not class_name:
        known = ", ".join([*sorted(BENCHMARKS), *ADAPTERS])
        raise ConfigError(
            f"env.id: unknown world {quote(env_id)}. Known: {known}; or your own as package.module:Class."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"env.id: can't import {module_name!r} ({error}). Is it on PYTHONPATH?") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"env.id: importing {module_name!r} raised {describe_exception(error)}.") from error
    benchmark_class = getattr(module, class_name, None)
    if benchmark_class is None:
        raise ConfigError(f"env.id: module {module_name!r} has no class {class_name!r}.")
    # Before it is called: a recipe of somebody else's may name anything that is installed, with arguments.
    if not isinstance(benchmark_class, type):
        raise ConfigError(f"env.id: {target} is no class, so it is no world.")
    if lacking := [name for name in BENCHMARK_METHODS if not hasattr(benchmark_class, name)]:
        raise ConfigError(f"env.id: {class_name} is no Benchmark: it lacks {', '.join(lacking)}.")
    try:
        benchmark = told(f"class {class_name}", lambda: benchmark_class(**(options or {})))
    except ConfigError as error:
        if isinstance(error.__cause__, TypeError):
            what = describe_exception(error.__cause__)
            raise ConfigError(f"env.path or env.options: {class_name} refuses them: {what}") from None
        raise
    if lacking := [name for name in BENCHMARK_VALUES if not hasattr(benchmark, name)]:
        raise ConfigError(f"env.id: {class_name} is no Benchmark: it lacks {', '.join(lacking)}.")
    return benchmark


def tasks_of(benchmark: Benchmark, split: str) -> list[Task]:
    """List the tasks of a split.

    Raises:
        ConfigError: the world has no such split, raised, or answered with anything but distinct tasks.
    """
    tasks = told(f"tasks({split!r})", lambda: list(benchmark.tasks(split)))
    if any(not isinstance(task, Task) for task in tasks):
        raise ConfigError(f"env.id: the world's tasks({split!r}) are not all of type sparring.Task.")
    if len({task.id for task in tasks}) < len(tasks):
        twice = next(task.id for i, task in enumerate(tasks) if any(task.id == other.id for other in tasks[:i]))
        raise ConfigError(f"env.id: the world's tasks({split!r}) hold the id {quote(twice)} twice.")
    return tasks


def select_tasks(tasks: Sequence[Task], *, kinds: Sequence[str] = (), num: int | None = None) -> list[Task]:
    """Keep the tasks of the given types, at most `num`, spread evenly over the types and over each type's list.

    Raises:
        ConfigError: a type that no task has, or a negative number.
        DataError: a task's id or type has lone surrogates.
    """
    if num is not None and num < 0:
        raise ConfigError(f"A number of tasks can't be negative, but is {num}.")
    for task in tasks:
        if encodable(name := f"{task.id}{task.kind}") != name:
            raise DataError(f"The world's task {task.id!r} of type {task.kind!r} has a name that no file can hold.")
    present = sorted({task.kind for task in tasks})
    for kind in kinds:
        if kind not in present:
            raise ConfigError(f"env.kinds: no task of type {kind!r} in this split. Types: {', '.join(present)}.")
    by_kind = {kind: [task for task in tasks if task.kind == kind] for kind in (kinds or present)}
    total = sum(len(group) for group in by_kind.values())
    if num is None or num >= total:
        return [task for group in by_kind.values() for task in group]
    quotas = dict.fromkeys(by_kind, 0)
    while num:
        for kind, group in by_kind.items():
            if num and quotas[kind] < len(group):
                quotas[kind] += 1
                num -= 1
    return [group[i * len(group) // quotas[kind]] for kind, group in by_kind.items() for i in range(quotas[kind])]
