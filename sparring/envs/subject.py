"""A world that is checked: its benchmark, a few of its tasks, live envs, and what it answered to fixed actions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from sparring.core.errors import ConfigError, quote
from sparring.core.text import printable
from sparring.core.types import Task
from sparring.envs.base import Benchmark, EnvConfig, EnvStep, select_tasks, tasks_of
from sparring.envs.connections import Connection, LocalConnection, WorkerConnection
from sparring.envs.faults import told
from sparring.envs.pool import Workers
from sparring.envs.processes import LocalWorkers
from sparring.envs.rewards import Rewards, Score

GENERIC = ("look", "help", "1", "go on", "done")
"""Actions that are tried in a world of which none are known."""
SHOWN = 60
"""Characters of an observation that a sentence shows."""

NUM_ENVS = 2
"""Envs on a cluster that are live at once."""

Played = list[str | EnvStep]
"""The first observation, and the answers to actions."""


class Failed(Exception):
    """A check fails: what was seen, and what to do about it."""

    def __init__(self, said: str, remedy: str = "") -> None:
        super().__init__(said)
        self.said, self.remedy = said, remedy


class Skipped(Exception):
    """A check has nothing to look at: why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found."""

    check: str
    verdict: Literal["pass", "fail", "skip"]
    said: str
    remedy: str = ""
    error: Exception | None = None
    """What kept the check from being done: a fault of infrastructure or code (`EnvFault`), or what users can mend."""


@dataclass(kw_only=True)
class Subject:
    """A world that is checked, with a few of its training tasks."""

    config: EnvConfig
    benchmark: Benchmark
    tasks: Sequence[Task]
    """At least one."""
    actions: Sequence[str] = ()
    """Actions that change something or are answered in several ways; none: those of experts, and generic ones."""
    experts: Mapping[str, Sequence[str]] | None = None
    """Task id → actions; none: the world's own."""
    goals: Mapping[str, float] = field(default_factory=dict)
    """Task id → what its expert must come to, where that is not 1."""
    num_actions: int = 12
    """Actions with which a world is compared with itself."""
    envs: list[Connection] = field(default_factory=list)
    """Live envs."""
    forgets: bool = True
    """Whether a used env is as good as a fresh one, as far as is known."""
    played: dict[str, Played] = field(default_factory=dict)
    """What each task answered when it was played first, on an env that was fresh or had been reset."""
    workers: Workers[Any] | None = field(default=None, init=False)
    """Where env processes run, once one has been started."""

    @classmethod
    def of(cls, config: EnvConfig, *, num_tasks: int, task_ids: Sequence[str] = ()) -> Subject:
        """Load a world.

        Raises:
            ConfigError: it can't be loaded, or has no such training tasks.
        """
        benchmark = config.load()
        train = tasks_of(benchmark, "train")
        if task_ids:
            by_id = {task.id: task for task in train}
            if unknown := [id for id in task_ids if id not in by_id]:
                raise ConfigError(f"check-env: no training task is called {quote(unknown[0])}.")
            tasks = [by_id[id] for id in task_ids]
        else:
            tasks = select_tasks(train, kinds=config.kinds, num=num_tasks)
        if not tasks:
            raise ConfigError(f"env.id: {config.id} has no tasks in the split 'train'.")
        return cls(config=config, benchmark=benchmark, tasks=tasks)

    @property
    def rewards(self) -> Rewards:
        """How step rewards are read, without warnings."""
        own = Rewards.of(self.config.id, self.benchmark)
        return replace(own.chosen(self.config.reward, self.config.reward_range), is_silent=True, told={})

    @cached_property
    def solutions(self) -> dict[str, Sequence[str]]:
        """The experts' actions of the tasks, as far as they are known."""
        known = self.experts
        if known is None:
            known = told("expert_actions", lambda: self.benchmark.expert_actions(self.tasks))
        return {task.id: list(known[task.id]) for task in self.tasks if task.id in known}

    @cached_property
    def wandering(self) -> list[str]:
        """A fixed sequence of actions."""
        known = list(self.actions)
        if not known:
            known = list(dict.fromkeys(action for path in self.solutions.values() for action in path[:6]))
            known += GENERIC
        return random.Random(0).choices(known, k=self.num_actions)

    def env(self, number: int) -> Connection:
        """Return a live env, which is started at first use."""
        while len(self.envs) <= number:
            self.envs.append(self.start())
        return self.envs[number]

    @property
    def shares_process(self) -> bool:
        """Whether envs live in this process, as they would in a run."""
        return not self.benchmark.env_per_process and self.config.pool == "local"

    def start(self) -> Connection:
        """Start an env where a run would have it."""
        if self.shares_process:
            return LocalConnection(self.benchmark)
        if self.workers is None:
            self.workers = self._choose_workers()
        return self._in_process_of(self.workers)

    def start_elsewhere(self) -> Connection:
        """Start an env in a process of its own on this machine."""
        return self._in_process_of(LocalWorkers(self.config.variables))

    def _in_process_of(self, workers: Workers[Any]) -> Connection:
        config = self.config
        options, deadline_s = config.constructor_options(), config.reset_deadline_s
        return WorkerConnection(workers.start(), config.id, options, deadline_s, config.variables)

    def _choose_workers(self) -> Workers[Any]:
        if self.config.pool == "local":
            return LocalWorkers(self.config.variables)
        from sparring.envs.cluster import Cluster

        return Cluster(NUM_ENVS, self.config.variables)

    def play(self, env: Connection, task: Task, actions: Sequence[str]) -> Played:
        """Play actions until the world ends, or its turn limit is reached."""
        answers: Played = [env.reset(task, 0, self.config.reset_deadline_s)]
        for action in actions[: self.benchmark.turn_limit(task)]:
            answer = env.step(action, self.config.step_deadline_s)
            answers.append(answer)
            if answer.is_done:
                break
        return answers

    def first(self, task: Task) -> Played:
        """Return what the first env answers to a task; it is played once."""
        if task.id not in self.played:
            self.played[task.id] = self.play(self.env(0), task, self.wandering)
        return self.played[task.id]

    def close(self) -> None:
        """End the live envs, and what they run on."""
        while self.envs:
            self.envs.pop().close()
        if self.workers is not None:
            self.workers.close()
            self.workers = None


def compare(known: Played, again: Played, what: str, remedy: str) -> None:
    """Expect the same answers.

    Raises:
        Failed: they differ; `what` says of what, and the first difference is shown.
    """
    for turn, (one, other) in enumerate(zip(known, again, strict=False)):
        if one != other:
            where = "its first observation" if turn == 0 else f"the answer to turn {turn}"
            raise Failed(f"{what}, {where}: {_difference(one, other)}.", remedy)
    if len(known) != len(again):
        raise Failed(f"{what}: it ends after {len(known) - 1} turns or after {len(again) - 1}.", remedy)


def _difference(one: str | EnvStep, other: str | EnvStep) -> str:
    """Show two answers from where their texts part."""
    if isinstance(one, EnvStep) and isinstance(other, EnvStep) and one.observation == other.observation:
        return f"reward {one.reward:g} and is_done {one.is_done}, then {other.reward:g} and {other.is_done}"
    texts = [answer.observation if isinstance(answer, EnvStep) else answer for answer in (one, other)]
    place = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(0, place - SHOWN // 3)
    parts = [shown(text[start : start + SHOWN]) for text in texts]
    return f"{parts[0]}, then {parts[1]}"


def shown(text: str) -> str:
    """Return the beginning of a text, in quotes, fit for a terminal."""
    line = printable(text[:SHOWN]).replace("\n", "␊").replace("\t", "␉")
    return f"'{line}{'…' if len(text) > SHOWN else ''}'"


def score_of(answers: Played, rewards: Rewards, task: Task) -> Score:
    """Read the rewards of an episode."""
    score = Score(rewards)
    for turn, answer in enumerate(answers[1:], start=1):
        assert isinstance(answer, EnvStep)
        score.add(answer.reward, f"{task.id}, turn {turn}")
    score.oddities = score.end(f"{task.id}, at its end")
    return score
