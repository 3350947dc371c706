"""`sparring check-env`: a world is played, and what it does wrong is named, with what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring.core.errors import ConfigError, quote
from sparring.core.ranges import Count, Name, Place
from sparring.core.terminal import write
from sparring.envs.base import EnvConfig, tasks_of
from sparring.envs.conformance import CHECKS, check
from sparring.envs.subject import Finding, Subject
from sparring.rollouts.demonstrations import ExpertConfig, read_demonstrations
from sparring.runs.recipe_files import play_config

WORDS = {"pass": "pass", "fail": "fail", "skip": "have nothing to look at"}


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What a world is built with, and where its experts are."""

    env: EnvConfig = field(default_factory=EnvConfig)
    """The world."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """Its experts."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check a world: determinism, resets that forget, odd actions, rewards, splits, experts, processes.

    Each check passes or says what is wrong and what to do about it; the exit code is 1 where one fails.
    """

    target: tyro.conf.Positional[Place]
    """The world: an id, `package.module:Class`, or a recipe (.toml) whose settings are used."""
    num_tasks: Count = 3
    """Training tasks that are played, spread evenly over the types."""
    tasks: tuple[Name, ...] = ()
    """Training tasks that are played, by their ids, in place of some that are spread evenly."""
    actions: tuple[str, ...] = ()
    """Actions to play; none: those of experts, and generic ones. The more they change, the more is compared."""
    only: tuple[Name, ...] = ()
    """Do these checks alone."""
    config: Annotated[CheckConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=CheckConfig
    )
    """Overrides: they win over the recipe."""


def do(options: Options, overrides: Mapping[str, Any]) -> None:
    """Check a world and print what was found."""
    if unknown := [name for name in options.only if name not in CHECKS]:
        raise ConfigError(f"--only: there is no check {quote(unknown[0])}. Checks: {', '.join(CHECKS)}.")
    is_recipe = options.target.endswith(".toml")
    source = Path(options.target) if is_recipe else None
    config = play_config(source, {**({} if is_recipe else {"env.id": options.target}), **overrides})
    subject = Subject.of(config.env, num_tasks=options.num_tasks, task_ids=options.tasks)
    subject.actions = options.actions
    if config.expert.path is not None:
        known = tasks_of(subject.benchmark, "train")
        shown = read_demonstrations(Path(config.expert.path), subject.tasks, "code", known=known)
        subject.experts = {one.task.id: [turn.action for turn in one.turns] for one in shown}
        subject.goals = {one.task.id: one.reward for one in shown}
    names, verdicts = options.only or tuple(CHECKS), Counter[str]()
    try:
        for finding in check(subject, names):
            verdicts[finding.verdict] += 1
            write(_line(finding, max(map(len, names))))
    finally:
        subject.close()
    counts = [f"{verdicts[one]} {word}" for one, word in WORDS.items() if verdicts[one]]
    write(f"{config.env.id}: of {len(names)} checks {', '.join(counts)}.")
    if verdicts["fail"]:
        raise SystemExit(1)


def _line(finding: Finding, width: int) -> str:
    verdict = {"pass": "pass", "fail": "FAIL", "skip": "  – "}[finding.verdict]
    remedy = f"\n{'':{width + 6}}→ {finding.remedy}" if finding.remedy else ""
    return f"{verdict}  {finding.check:{width}}  {finding.said}{remedy}"
