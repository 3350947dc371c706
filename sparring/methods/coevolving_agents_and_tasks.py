"""Both papers in one loop: the agents co-evolve, and so do their tasks, with one store of near misses between them.

What both agents play makes the preference pairs; the same trajectories flag tasks, and the failure agent's near misses
say where a solution was left: new tasks begin there. A new task was validated by acting, so it comes with a solution,
which stands on the chosen side of its pairs as an expert's does.

Source: arXiv 2511.22254 (agents), arXiv 2604.15840 (tasks); their meeting is ours: docs/methods/coevolve.md.
"""

from __future__ import annotations

from sparring.methods.base import Agent, Session
from sparring.methods.coevolving_agents import evaluate, improve, play, solutions, start
from sparring.synthesis.curriculum import CoEvolveConfig, begin, draw_tasks, extend, notice, observe


def coevolving_agents_and_tasks(session: Session) -> Agent:
    """Play the pool with both agents, improve both, and make tasks where they nearly succeeded."""
    config, evolve = session.config, CoEvolveConfig.of(session.config)
    duo = start(session)
    evaluate(session, duo, 0)
    initial, experts = session.bootstrap(duo.target)
    num_tasks = config.rollout.num_tasks or len(initial)
    curriculum, events = begin(initial, experts)
    session.record_pool(0, events)

    for number in range(1, config.loop.rounds + 1):
        tasks = draw_tasks(curriculum, num_tasks, session.seed, number, evolve.synthesis)
        f_tgt, f_fail = play(session, duo, experts, number, tasks=tasks)
        experts = solutions(session, experts, [*f_tgt, *f_fail])
        duo = improve(session, duo, experts, f_tgt, f_fail, number, tasks=tasks)

        curriculum, events = observe(curriculum, number, f_tgt, session.action_pattern, evolve)
        curriculum = notice(curriculum, number, f_fail, evolve.signals)
        if evolve.synthesis.is_due(number) and number < config.loop.rounds:
            result = session.synthesise(duo.target, curriculum, number)
            curriculum, grown = extend(curriculum, result, evolve.pool)
            experts, events = [*experts, *session.references(result)], events + grown
        session.record_pool(number, events)
        evaluate(session, duo, number)
    return duo.target
