"""PPO: proximal policy optimisation, with a value head on the agent that says what to expect before every token.

Source: arXiv 1707.06347 (Schulman et al.); offline, as a baseline of ETO (2403.02502) and so of 2511.22254, section 5.
Deviates: see docs/methods/ppo.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.ranges import Count, Range, Repeats, Share, Weight
from sparring.core.types import Trajectory
from sparring.methods.base import Agent, Session
from sparring.methods.loop import is_evaluation_due


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoConfig:
    """Proximal policy optimisation with a value head; how it is optimised is `[rl]`."""

    kind: Literal["online", "offline"] = "online"
    """`online`: each round plays anew. `offline`: round 1's trajectories serve all rounds, and the ratio compares with
    the agent at the round's start (ETO's baseline)."""
    rounds: Repeats = 3
    """Rounds; offline: passes over the trajectories."""
    num_tasks: Count | None = None
    """Training tasks played in a round; none: all."""
    num_per_task: Repeats = 1
    """Episodes per task."""
    clip: Share = 0.2
    """How far from 1 the importance ratio still counts."""
    value_clip: Weight = 0.2
    """How far a value may move in a round before its loss goes flat."""
    value_weight: Weight = 0.1
    """Weight of the value loss, whose gradient reaches the agent too."""
    value_lr: Annotated[float, Range(at_least=0, at_most=10)] = 0.01
    """Learning rate of the value head alone: about how far a value moves in an optimizer step."""
    kl_weight: Weight = 0.1
    """What a nat of log π / π_start costs, taken off the reward token by token; 0: the start is not asked."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """GAE's λ, per token."""
    evaluate_every: Repeats = 1
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        check_values(self)


def ppo(session: Session) -> Agent:
    """Play, let the value head say which tokens did better than expected, update both; repeat.

    Offline, the episodes of the first round are gone over again and again.
    """
    config = session.config.ppo
    start = target = session.imitate("target")
    session.evaluate(target, 0)
    episodes: list[Trajectory] = []

    for number in range(1, config.rounds + 1):
        if config.kind == "online" or not episodes:
            tasks = session.draw_tasks(number, config.num_tasks)
            episodes = session.sample(target, number, tasks=tasks, num_per_task=config.num_per_task)
        target = session.improve_with_critic(target, episodes, number, reference=start)
        if is_evaluation_due(config, number):
            session.evaluate(target, number)
    return target
