"""PPO: proximal policy optimisation, with a value head on the agent that says what to expect before every token.

Source: arXiv 1707.06347 (Schulman et al.); offline, as a baseline of ETO (2403.02502) and so of 2511.22254, section 5.
Deviates: see docs/methods/ppo.md.
"""

from __future__ import annotations

from sparring.methods.config import is_evaluation_due
from sparring.session import Agent, Session
from sparring.types import Trajectory


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
