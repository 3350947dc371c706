"""GRPO: group-relative policy optimisation. Play a task several times; what did better than its group grows likelier.

Source: arXiv 2402.03300 (Shao et al.), with DAPO's two bounds and mean over tokens (2503.14476), as CoEvolve uses it
(2604.15840). Deviates: see docs/methods/grpo.md.
"""

from __future__ import annotations

from sparring.experience import advantages_by_task
from sparring.methods.config import is_evaluation_due
from sparring.session import Agent, Session


def grpo(session: Session) -> Agent:
    """Sample groups, compare each episode with its group, update; repeat."""
    config = session.config.grpo
    start = target = session.imitate("target") if config.start == "imitation" else session.base("target")
    session.evaluate(target, 0)

    for number in range(1, config.rounds + 1):
        tasks = session.draw_tasks(number, config.num_tasks)
        episodes = session.sample(target, number, tasks=tasks, num_per_task=config.num_per_task)
        advantages = advantages_by_task(episodes, is_scaled=config.scale == "deviation")
        target = session.improve(target, episodes, advantages, number, reference=start)
        if is_evaluation_due(config, number):
            session.evaluate(target, number)
    return target
