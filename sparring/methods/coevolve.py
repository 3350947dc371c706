"""CoEvolve: the agent and its training tasks evolve together.

GRPO on a pool of tasks. What it forgets and where it is unsure flags trajectories; new tasks are made there, validated
by acting, and join the pool; what is solved for good or hopeless leaves it.

Source: arXiv 2604.15840. Deviates: see docs/methods/coevolve.md.
"""

from __future__ import annotations

from sparring.evolution import coevolve_config
from sparring.experience import advantages_by_task
from sparring.methods.config import is_evaluation_due
from sparring.session import Agent, Session
from sparring.synthesis.course import begin, draw_tasks, grow, observe


def coevolve(session: Session) -> Agent:
    """Sample the pool, update, flag; every so many rounds make tasks where the agent is weak."""
    config, evolve = session.config.grpo, coevolve_config(session.config)
    start = target = session.imitate("target") if config.start == "imitation" else session.base("target")
    session.evaluate(target, 0)
    course, events = begin(session.world.train_tasks, session.experts)
    session.record_pool(0, events)

    for number in range(1, config.rounds + 1):
        tasks = draw_tasks(course, config.num_tasks, session.seed, number, evolve.synthesis)
        episodes = session.sample(target, number, tasks=tasks, num_per_task=config.num_per_task)
        advantages = advantages_by_task(episodes, is_scaled=config.scale == "deviation")
        target = session.improve(target, episodes, advantages, number, reference=start, tasks_change=True)

        course, events = observe(course, number, episodes, session.action_pattern, evolve)
        if evolve.synthesis.is_due(number) and number < config.rounds:
            course, grown = grow(course, session.synthesise(target, course, number), evolve.pool)
            events += grown
        session.record_pool(number, events)
        if is_evaluation_due(config, number):
            session.evaluate(target, number)
    return target
