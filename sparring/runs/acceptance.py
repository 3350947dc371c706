"""Whether a training made an agent worse: its rewards on the same tasks before and after, and what follows from them.

Preference training can break an agent while its loss looks excellent (docs/methods/coevolving_agents.md, "Small models
are brittle"). So the target agent plays some training tasks greedily before and after each training, and one that lost
too much is done again from its start at half the rate.

Source: ours; the papers have no such guard, and their recipes turn it off.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from sparring.core.filters import counted
from sparring.core.phases import CHECKPOINT
from sparring.learning.phase import Training, keep_weights
from sparring.methods.base import Agent
from sparring.rollouts.episodes import EpisodeSpec
from sparring.runs.phase_runner import PhaseRunner, Playing
from sparring.runs.seeds import derive_seed

MAX_ATTEMPTS = 3
"""Trainings, each at half the rate of the one before, after which the weights stay as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one attempt."""

    before: float
    """Mean reward before the training."""
    after: float
    """Mean reward on the same tasks after it."""
    num: int
    """Tasks that both means are of."""
    is_accepted: bool


def judge(before: Iterable[Mapping[str, float]], after: Mapping[str, float], max_drop: float) -> Verdict:
    """Compare rewards by task; of several earlier agents the best one counts, so that small losses do not add up.

    Start .6 and .8, round before .5 and .5, after .7 and .6: against the start's mean of .7 the agent lost .05.

    Args:
        before: task id → reward, of each earlier agent.
        after: the same of the trained agent. Tasks that any of them lacks (their episode broke) are left out.
        max_drop: the largest loss that is accepted. Without a task in common nothing is known, and it is accepted.
    """
    earlier = list(before)
    tasks = set(after).intersection(*earlier)
    if not tasks:
        return Verdict(before=0.0, after=0.0, num=0, is_accepted=True)
    best = max(fmean(rewards[task] for task in tasks) for rewards in earlier)
    now = fmean(after[task] for task in tasks)
    return Verdict(before=best, after=now, num=len(tasks), is_accepted=now >= best - max_drop - 1e-9)


def describe(verdict: Verdict, attempt: int) -> str:
    """Say what a rejected attempt lost and what follows, for the user; attempts count from 1."""
    lost = f"mean reward on {verdict.num} training tasks fell from {verdict.before:.3f} to {verdict.after:.3f}"
    if attempt < MAX_ATTEMPTS:
        rate = "half" if attempt == 1 else "a quarter of"
        return f"{lost}, more than loop.accept_drop: trained again from the round's start at {rate} the rate."
    return f"{lost} at a quarter of the rate, too: the weights stay as they were. Lower dpo.lr."


def to_json(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Return what was tried as JSON values; `kept` is the attempt whose weights stay, from 1, none: those before."""
    tried = list(verdicts)
    attempts = [{"before": one.before, "after": one.after, "num": one.num} for one in tried]
    return {"attempts": attempts, "kept": len(tried) if tried[-1].is_accepted else None}


class Guard:
    """Trains the target agent of one arm with one seed, and takes back what made it worse."""

    def __init__(self, runner: PhaseRunner) -> None:
        self._runner = runner
        self._loop = runner.config.loop
        self._checks: dict[str, Mapping[str, float]] = {}
        """Lineage → rewards on `loop.accept_tasks`, of the target's start and of what was accepted since, in order."""

    def fit(self, agent: Agent, round_number: int, training: Training) -> Agent:
        """Train; where the agent plays training tasks worse for it, train again at half the rate.

        A rejected training is moved aside, so that the phase of the training always holds what the round ends with.
        """
        runner, place = self._runner, f"round-{round_number}"
        phase = runner.phase(f"{place}/train-{agent.name}")
        if agent.lineage not in self._checks:
            self._checks[agent.lineage] = self._check(agent, f"{place}/check-{agent.name}-0")
        earlier = [next(iter(self._checks.values())), self._checks[agent.lineage]]
        verdicts: list[Verdict] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            rejected = runner.phase(f"{place}/rejected-{agent.name}-{attempt}")
            trained = agent
            if not rejected.is_done:
                trained = runner.fit(agent, f"{place}/train-{agent.name}", training.at_rate(0.5 ** (attempt - 1)))
            after = self._check(trained, f"{place}/check-{agent.name}-{attempt}")
            verdicts.append(verdict := judge(earlier, after, self._loop.accept_drop))
            if verdict.is_accepted:
                self._checks[trained.lineage] = after
                break
            if not rejected.is_done:
                runner.warn(f"round {round_number}: {describe(verdict, attempt)}")
                runner.engine.forget(trained.checkpoint)
                phase.path.rename(rejected.path)
        else:
            if not phase.is_done:
                keep_weights(agent.checkpoint, phase)
            trained = replace(agent, checkpoint=str(phase.path / CHECKPOINT))
        told = runner.phase(f"{place}/accept-{agent.name}")
        if not told.is_done:
            told.finish(to_json(verdicts))
        return trained

    def _check(self, agent: Agent, name: str) -> dict[str, float]:
        """Return task id → reward of the guard's training tasks, played greedily."""
        seed, tasks, num = self._runner.seed, self._runner.world.train_tasks, self._loop.accept_tasks
        drawn = random.Random(derive_seed(seed, "accept")).sample(range(len(tasks)), min(num, len(tasks)))
        specs = [
            EpisodeSpec(
                id=f"{name}/{tasks[index].id}",
                task=tasks[index],
                agent=agent.name,
                seed=derive_seed(seed, tasks[index].id),
            )
            for index in sorted(drawn)
        ]
        playing = Playing(agent=agent, name=name, specs=specs)
        ((played, _),) = self._runner.play([playing], temperature=0.0)
        return {one.task.id: one.reward for one in counted(played)}
