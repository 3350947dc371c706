"""Flags come in, proposals go out, without a language model: what the world offers, applied where the agent is weak.

Four strategies, each grounded in what was played or what the world's own experts know:

    restart     the task begins where a near miss left the way of a solution, or went wrong; solved by that solution
    variation   the same kind of task with other entities; solved by the world's expert
    relabel     what the trajectory did bring about becomes the goal; solved by its own actions
    chain       one goal after another; solved by one reference after the other

Their references are candidates: validation replays them, and what does not reach its goal is refused.

Source: arXiv 2604.15840 has a language model for this; the strategies are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparring.core.filters import actions as actions_of
from sparring.core.filters import num_shared
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import Draft, Synthesis, synthesis_of
from sparring.synthesis.arena import Arena
from sparring.synthesis.proposals import STRATEGY_NAMES, Findings, Proposal, Proposed, StrategyName, origin_of
from sparring.synthesis.signals import ROUNDING, SUCCESS_EPS, Flag, Signal, draw

MAX_REFERENCES = 3
"""Most references that a proposal carries: each may cost an episode."""

MAX_TRIES = 8
"""Most other tasks that a strategy tries to vary or to chain with, for one flag."""

Made = tuple[Task, Sequence[Sequence[str]]]
"""A task and its references, best first."""


@dataclass(frozen=True, slots=True)
class Context:
    """What all strategies share in one synthesis."""

    benchmark: Benchmark
    world: Synthesis
    solutions: Mapping[str, Sequence[Trajectory]]
    """Task id → episodes that solved it, the shortest first."""
    known_ids: frozenset[str]
    seed: int
    strategies: Sequence[StrategyName] = STRATEGY_NAMES
    """Those that may be followed."""


Strategy = Callable[[Flag, Context], Iterator[Made]]


class Programmatic:
    """The synthesiser without a language model. It plays nothing: all of its episodes are validation's."""

    name = "programmatic"

    def __init__(self, benchmark: Benchmark, strategies: Sequence[StrategyName] = STRATEGY_NAMES) -> None:
        """Take a benchmark that offers its part, and the strategies that may be followed.

        Raises:
            ConfigError: it does not.
        """
        self._benchmark = benchmark
        self._world = synthesis_of(benchmark)
        self._strategies = strategies

    def propose(self, findings: Findings, arena: Arena, *, num: int, seed: int) -> Proposed:
        """Let each flag make one task in turn, the most pressing first, until there are `num` or no more to be made.

        Neighbouring flags begin with different strategies, so that all have their turn before a budget is spent.
        """
        context = Context(
            benchmark=self._benchmark,
            world=self._world,
            solutions=solutions_of(findings),
            known_ids=findings.known_ids,
            seed=seed,
            strategies=self._strategies,
        )
        makers = [_proposals(flag, place, context) for place, flag in enumerate(findings.flags)]
        proposals: dict[str, Proposal] = {}
        counts: Counter[str] = Counter()
        while makers and len(proposals) < num:
            for maker in list(makers):
                proposal = next(maker, None)
                if proposal is None:
                    makers.remove(maker)
                elif len(proposals) < num and proposal.task.id not in findings.known_ids | proposals.keys():
                    proposals[proposal.task.id] = proposal
                    counts[proposal.origin.strategy] += 1
                else:
                    counts["repeated"] += 1
        return Proposed(proposals=tuple(proposals.values()), counts=dict(counts))


def solutions_of(findings: Findings) -> dict[str, list[Trajectory]]:
    """Return the episodes that solved their task, experts' and agents', by task id, the shortest first."""
    played = [*findings.experts, *(rollout for visit in findings.visits for rollout in visit.rollouts)]
    solved: dict[str, list[Trajectory]] = {}
    for trajectory in played:
        if trajectory.reward >= 1.0 - SUCCESS_EPS:
            solved.setdefault(trajectory.task.id, []).append(trajectory)
    return {task_id: sorted(found, key=lambda one: len(one.turns)) for task_id, found in solved.items()}


# ── Strategies ────────────────────────────────────────────────────────────────────────────────────────────────────────


def restart(flag: Flag, context: Context) -> Iterator[Made]:
    """Begin the flagged task where its trajectory left the way of a solution, and where it was last right.

    Where it left that way is the surer mistake, and what is left of the solution is its reference. A mistake may lie
    further back than the reward shows (the wrong thing was picked up long before it was put into the box), so that
    from where the trajectory was last right no known solution may go on.
    """
    trajectory = flag.trajectory
    solutions = context.solutions.get(trajectory.task.id, ())
    actions = [turn.action for turn in trajectory.turns]
    for num in dict.fromkeys((left_the_way(actions, solutions), flag.turn)):
        earned = trajectory.turns[num - 1].reward if num else 0.0
        if num == 0 or earned >= 1.0 - SUCCESS_EPS:
            continue  # the whole task, or nothing left to do
        references = continuations(solutions, actions[:num], earned)
        task = context.world.restart(trajectory.task, actions[:num]) if references else None
        if task is not None:
            yield task, references


def left_the_way(actions: Sequence[str], solutions: Sequence[Trajectory]) -> int:
    """Return how many first actions are those of a solution, of the one that is followed longest.

    a b x against the solutions a c and a b c: 2.
    """
    return max((num_shared(actions, actions_of(solution)) for solution in solutions), default=0)


def continuations(solutions: Sequence[Trajectory], prefix: Sequence[str], earned: float) -> list[tuple[str, ...]]:
    """Return how solutions of the whole task may go on after `prefix`, the likeliest first.

    Where a solution begins with the prefix, its rest, which is sure. Else, of each solution, its rest from where it had
    earned as much, and all of it. Solution a b c d with the rewards so far .25 .5 .75 1: after a b its rest c d; after
    a x b with .5 earned c d, then a b c d.
    """
    sure, likely, whole = [], [], []
    for solution in solutions:
        actions = tuple(turn.action for turn in solution.turns)
        if actions[: len(prefix)] == tuple(prefix):
            sure.append(actions[len(prefix) :])
        level = next((i for i, turn in enumerate(solution.turns, start=1) if turn.reward >= earned - ROUNDING), 0)
        likely.append(actions[level if earned > 0 else 0 :])
        whole.append(actions)
    found = sure[:1] if any(sure) else [*likely, *whole]
    return [rest for rest in dict.fromkeys(found) if rest][:MAX_REFERENCES]


def variation(flag: Flag, context: Context) -> Iterator[Made]:
    """Take other tasks of the flagged task's kind that the run does not use yet."""
    others = [one for one in context.world.variations(flag.trajectory.task) if one.id not in context.known_ids]
    others.sort(key=lambda one: draw(context.seed, "variation", flag.trajectory.id, one.id))
    for task in others[:MAX_TRIES]:
        actions = context.benchmark.expert_actions([task]).get(task.id)
        if actions:
            yield task, [tuple(actions)]


def relabel(flag: Flag, context: Context) -> Iterator[Made]:
    """Make a goal of what the flagged trajectory brought about."""
    draft = hindsight(flag, context)
    if draft is not None:
        yield draft.task, [draft.actions]


def chain(flag: Flag, context: Context) -> Iterator[Made]:
    """Let a known solution follow what the flagged trajectory brought about, or the flagged task's own solution."""
    task = flag.trajectory.task
    firsts = [hindsight(flag, context), *(_draft(one) for one in context.solutions.get(task.id, ())[:1])]
    seconds = [_draft(found[0]) for found in context.solutions.values() if found[0].task.kind == task.kind]
    seconds.sort(key=lambda one: draw(context.seed, "chain", flag.trajectory.id, one.task.id))
    for first in firsts:
        for second in seconds[:MAX_TRIES]:
            made = context.world.chain(first, second) if first is not None else None
            if made is not None:
                yield made.task, [made.actions]


def hindsight(flag: Flag, context: Context) -> Draft | None:
    """Relabel what a trajectory did well; where that is no goal, all that it did.

    The turn in which the world ended it was badly played, and may be the very act that brings anything about: a
    purchase, or the submission of an answer.
    """
    turns = flag.trajectory.turns
    for num in dict.fromkeys((flag.turn or len(turns), len(turns))):
        task = context.world.relabel(cut(flag.trajectory, num))
        if task is not None:
            return Draft(task=task, actions=tuple(turn.action for turn in turns[:num]))
    return None


def cut(trajectory: Trajectory, num_turns: int) -> Trajectory:
    """Return the trajectory as it stood after `num_turns` turns."""
    if num_turns >= len(trajectory.turns):
        return trajectory
    kept, after = trajectory.turns[:num_turns], trajectory.turns[num_turns]
    return replace(trajectory, turns=kept, final_observation=after.observation, reward=kept[-1].reward if kept else 0.0)


STRATEGIES: Mapping[str, Strategy] = {
    "restart": restart,
    "variation": variation,
    "relabel": relabel,
    "chain": chain,
}

PREFERENCES: Mapping[Signal, tuple[StrategyName, ...]] = {
    Signal.FORGETTING: ("variation", "restart", "chain"),  # what was known is practised on other entities
    Signal.BOUNDARY: ("restart", "variation", "chain"),  # the turn that decides is practised by itself
    Signal.NEAR_MISS: ("restart", "variation", "chain"),
    Signal.RARE: ("relabel", "chain", "variation"),  # the rare action becomes needed
}
"""Which strategies a signal calls for, in order; each next flag begins with the next. Unguided flags take one of these
orders by chance. Where none of an order's may be followed, those are that may."""


def _proposals(flag: Flag, place: int, context: Context) -> Iterator[Proposal]:
    """Yield a flag's proposals, one strategy after the other, and then what else they have."""
    order = tuple(name for name in _preference(flag, context.seed) if name in context.strategies) or context.strategies
    first = place % len(order)
    makers = {name: STRATEGIES[name](flag, context) for name in (*order[first:], *order[:first])}
    while makers:
        for name in list(makers):
            made = next(makers[name], None)
            if made is None:
                del makers[name]
                continue
            task, references = made
            yield Proposal(
                task=task,
                references=tuple(tuple(actions) for actions in references),
                origin=origin_of(flag, Programmatic.name, name),
            )


def _preference(flag: Flag, seed: int) -> tuple[StrategyName, ...]:
    if flag.signal in PREFERENCES:
        return PREFERENCES[flag.signal]
    orders = list(PREFERENCES.values())
    return orders[int(draw(seed, "preference", flag.trajectory.id) * len(orders))]


def _draft(solution: Trajectory) -> Draft:
    return Draft(task=solution.task, actions=tuple(turn.action for turn in solution.turns))


class ReplayOnly:
    """The control arm: makes no tasks. The pool is re-weighted instead (`pool.replay_weights`)."""

    name = "replay"

    def propose(self, findings: Findings, arena: Arena, *, num: int, seed: int) -> Proposed:
        """Return nothing."""
        return Proposed()
