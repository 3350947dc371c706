"""GRPO: group-relative policy optimisation. Play a task several times; what did better than its group grows likelier.

Source: arXiv 2402.03300 (Shao et al.), with DAPO's two bounds and mean over tokens (2503.14476), as CoEvolve uses it
(2604.15840). Deviates: see docs/methods/grpo.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.ranges import Count, Range, Repeats, Share, Weight
from sparring.learning.advantages import advantages_by_task
from sparring.methods.base import Agent, Session
from sparring.methods.loop import is_evaluation_due


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation; how it is optimised is `[rl]`, how it is sampled `rollout.temperature`."""

    rounds: Repeats = 120
    """Rounds of rollout and update (CoEvolve: 120)."""
    num_tasks: Count = 32
    """Training tasks played in a round, drawn anew each time (CoEvolve: 32)."""
    num_per_task: Annotated[int, Range(at_least=2, at_most=10_000)] = 8
    """Episodes per task: the group whose rewards are compared (CoEvolve: 8)."""
    start: Literal["imitation", "base"] = "imitation"
    """`imitation`: from the SFT agent, as the other methods. `base`: from the base model (CoEvolve)."""
    scale: Literal["deviation", "none"] = "deviation"
    """`deviation`: advantages are divided by the group's standard deviation (GRPO). `none`: they are not (Dr. GRPO)."""
    clip_low: Share = 0.2
    """How far below 1 the importance ratio still counts."""
    clip_high: Annotated[float, Range(at_least=0, at_most=100)] = 0.28
    """How far above 1; more than below lets rare tokens grow (DAPO)."""
    kl_weight: Weight = 1e-3
    """Weight of the KL to the agent as it started (CoEvolve: 1e-3); 0: the start is not asked."""
    average: Literal["token", "sequence"] = "token"
    """The loss's mean: over all action tokens of a step (DAPO), or over each trajectory's tokens first (GRPO)."""
    evaluate_every: Repeats = 10
    """Rounds between two evaluations on held-out tasks; the last round is always evaluated."""

    def __post_init__(self) -> None:
        check_values(self)


def grpo(session: Session) -> Agent:
    """Sample groups, compare each episode with its group, update; repeat."""
    config = session.config.grpo
    start = target = session.imitate("target") if config.start == "imitation" else session.base("target")
    session.evaluate(target, 0)
    initial, _ = session.bootstrap(target)

    for number in range(1, config.rounds + 1):
        tasks = session.draw_tasks(number, config.num_tasks, initial)
        episodes = session.sample(target, number, tasks=tasks, num_per_task=config.num_per_task)
        advantages = advantages_by_task(episodes, is_scaled=config.scale == "deviation")
        target = session.improve(target, episodes, advantages, number, reference=start)
        if is_evaluation_due(config, number):
            session.evaluate(target, number)
    return target
