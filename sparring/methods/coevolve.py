"""CoEvolve: the agent and its training tasks evolve together.

GRPO on a pool of tasks. What it forgets and where it is unsure flags trajectories; new tasks are made there, validated
by acting, and join the pool; what is solved for good or hopeless leaves it.

Source: arXiv 2604.15840. Deviates: see docs/methods/coevolve.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparring.learning.advantages import advantages_by_task
from sparring.methods.base import Agent, Session
from sparring.methods.loop import is_evaluation_due
from sparring.synthesis.curriculum import CoEvolveConfig, begin, draw_tasks, extend, observe

if TYPE_CHECKING:
    from sparring.core.types import Trajectory


def coevolve(session: Session) -> Agent:
    """Sample the pool, update, flag; every so many rounds make tasks where the agent is weak.

    With `synthesis.clone_solutions` such a round's update is imitation: of the experts, and of what solved new tasks.
    """
    config, evolve = session.config.grpo, CoEvolveConfig.of(session.config)
    start = target = session.imitate("target") if config.start == "imitation" else session.base("target")
    session.evaluate(target, 0)
    curriculum, events = begin(*session.bootstrap(target))
    session.record_pool(0, events)
    solved: list[Trajectory] = []

    for number in range(1, config.rounds + 1):
        tasks = draw_tasks(curriculum, config.num_tasks, session.seed, number, evolve.synthesis)
        episodes = session.sample(target, number, tasks=tasks, num_per_task=config.num_per_task)
        makes_tasks = evolve.synthesis.is_due(number) and number < config.rounds
        clones = makes_tasks and evolve.synthesis.clone_solutions
        if not clones:
            advantages = advantages_by_task(episodes, is_scaled=config.scale == "deviation")
            target = session.improve(target, episodes, advantages, number, reference=start, tasks_change=True)

        curriculum, events = observe(curriculum, number, episodes, session.action_pattern, evolve)
        if makes_tasks:
            result = session.synthesise(target, curriculum, number)
            curriculum, grown = extend(curriculum, result, evolve.pool)
            events += grown
            if clones and (new := session.references(result)):
                solved += new
                target = start = session.imitate("target", extra=solved, round_number=number)
        session.record_pool(number, events)
        if is_evaluation_due(config, number):
            session.evaluate(target, number)
    return target
