"""A method of your own: each round the agent's best episode of a task stands in the expert's place."""

from sparring import Agent, PairKind, Session, expert_pairs


def own_best(session: Session) -> Agent:
    config = session.config
    agent = session.imitate("target")
    session.evaluate(agent, 0)
    for number in range(1, config.loop.rounds + 1):
        played = session.rollout(agent, number, num_per_task=4)
        best = {episode.task.id: episode for episode in sorted(played, key=lambda episode: episode.reward)}
        pairs = expert_pairs(best.values(), played, PairKind.EXPERT_TARGET, config.pairs)
        agent = session.prefer(agent, pairs, number)
        session.evaluate(agent, number)
    return agent
