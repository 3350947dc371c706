"""An expert's steps and what the agent did there become pairs that share the expert's beginning.

At a step of an expert's trajectory the agent acts in the expert's place, and plays on to the end. What a step is worth
is told by episodes that another policy, the scorer, plays on from after it. Where the expert's step is worth more, the
expert's rest is preferred to the agent's.

Source: arXiv 2406.11176 (IPR, Xiong et al.), section 3. Deviates: see docs/methods/ipr.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparring.core.filters import counted, usable
from sparring.core.types import PairKind, PreferencePair, Task, Trajectory
from sparring.data.pairs import ROUNDING, PairConfig, distinct, make_pair, prefers
from sparring.data.pivots import given


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action of an expert."""

    expert: Trajectory
    turn: int
    """Turns before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the expert and the agent did in the same place, and what each step is worth."""

    step: Step
    tried: Trajectory
    """The expert's turns before the step, then the agent's own to the end."""
    expert_reward: float | None
    """The expert's step reward; none: it could not be estimated."""
    agent_reward: float | None
    """The agent's."""


def expert_steps(experts: Iterable[Trajectory], tasks: Iterable[Task]) -> list[Step]:
    """List the steps of the experts' trajectories on some tasks, except each one's first.

    Three turns make two steps, after one turn and after two. From the first on a whole episode differs, and whole
    episodes are compared by outcome pairs.

    Args:
        experts: of any tasks; broken ones are left out.
        tasks: whose experts count.
    """
    known = {task.id for task in tasks}
    return [
        Step(expert=one, turn=turn)
        for one in usable(experts)
        if one.task.id in known
        for turn in range(1, len(one.turns))
    ]


def draw_steps(steps: Sequence[Step], num: int | None, *, key: str) -> list[Step]:
    """Draw `num` steps without replacement, each equally likely, order kept; none, or no more than there are: all."""
    if num is None or len(steps) <= num:
        return list(steps)
    return [steps[i] for i in sorted(random.Random(key).sample(range(len(steps)), num))]


def may_pair(step: Step, tried: Trajectory, pairs: PairConfig) -> bool:
    """Say whether a pair may come of a step, so that it is worth while to estimate its rewards.

    Not where the branch was broken or the agent never acted, where it acted as the expert, or where both ended alike.
    """
    if not usable([tried]) or tried.turns[step.turn].action == step.expert.turns[step.turn].action:
        return False
    return prefers(step.expert, tried, pairs.min_gap) or (
        pairs.expert_beaten == "choose_agent" and prefers(tried, step.expert, pairs.min_gap)
    )


def step_reward(continuations: Iterable[Trajectory]) -> float | None:
    """Return the mean final reward of the episodes that go on after a step.

    Rewards 1.0, .25 and .25, and one that infrastructure broke, make .5. None where all were broken.

    Source: arXiv 2406.11176, the Monte-Carlo estimate of a step's reward.
    """
    rewards = [one.reward for one in counted(continuations)]
    return fmean(rewards) if rewards else None


def step_pairs(compared: Iterable[Compared], min_gap: float, pairs: PairConfig) -> list[PreferencePair]:
    """Pair the expert's rest with the agent's where step and outcome both speak for the same side.

    Step rewards .8 (expert) and .4 (agent), final rewards 1.0 and .5: expert over agent. The same with step rewards .4
    and .8, or .4 and .4: no pair.

    Args:
        compared: one for each step.
        min_gap: the step rewards must lie further apart than this.
        pairs: how far apart the final rewards must lie, what becomes of an agent that beats the expert, and how many
            turns of a rejected side count.

    Source: arXiv 2406.11176, contrastive action pairs; its code asks for both gaps, too.
    """
    found: list[PreferencePair] = []
    for one in compared:
        if one.expert_reward is None or one.agent_reward is None or not may_pair(one.step, one.tried, pairs):
            continue
        gap, expert = one.expert_reward - one.agent_reward, given(one.step.expert, one.step.turn)
        if gap > min_gap + ROUNDING and prefers(expert, one.tried, pairs.min_gap):
            found.append(make_pair(PairKind.PIVOT, expert, one.tried, pairs))
        elif -gap > min_gap + ROUNDING and prefers(one.tried, expert, pairs.min_gap):
            found.append(make_pair(PairKind.PIVOT, one.tried, expert, pairs))
    return distinct(found) if pairs.dedupe else found
