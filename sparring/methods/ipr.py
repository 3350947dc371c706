"""IPR: iterative step-level process refinement. Along an expert's path the agent's steps are weighed one by one.

Each round adds to ETO's pairs of whole trajectories such as begin alike: at a step of an expert the agent acts in its
place and plays on, and the SFT agent tells what both steps are worth by playing on from them.

Source: arXiv 2406.11176 (Xiong et al.). Deviates: see docs/methods/ipr.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sparring.core.convert import check_values
from sparring.core.ranges import Count, Repeats, Share, Weight
from sparring.core.types import PairKind, PreferencePair, Trajectory
from sparring.data.pairs import adopt_successes, expert_pairs
from sparring.data.steps import Compared, Step, draw_steps, expert_steps, may_pair, step_pairs, step_reward
from sparring.methods.base import Agent, Session
from sparring.methods.loop import is_evaluation_due
from sparring.rollouts.branch import Branch

if TYPE_CHECKING:
    from sparring.learning.objectives import LossConfig
    from sparring.methods.base import MethodConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class IprConfig:
    """Step-level pairs; rounds are `loop.rounds`, and whole trajectories are played and paired as in ETO."""

    num_steps: Count | None = None
    """Expert steps a round at which the agent acts in the expert's place, drawn anew; none: all steps of the experts of
    the round's tasks (paper)."""
    num_samples: Repeats = 5
    """Episodes of the SFT agent that estimate a step's reward (paper: 5)."""
    min_gap: Share = 0.01
    """Two step rewards must lie further apart than this to make a pair."""
    outcome_weight: Weight = 1.0
    """λ of the DPO term of outcome pairs: whole trajectories."""
    step_weight: Weight = 1.0
    """λ of the DPO term of step pairs."""
    sft_weight: Weight = 1.0
    """λ of the NLL term, which both have."""

    def __post_init__(self) -> None:
        check_values(self)


def ipr(session: Session) -> Agent:
    """Explore, compare outcomes and single steps with the experts', prefer what was better; repeat."""
    config = session.config
    start = target = session.imitate("target")
    session.evaluate(target, 0)
    experts, scorer = session.experts, Scorer(session=session, agent=start)

    for number in range(1, config.loop.rounds + 1):
        explored = session.rollout(target, number)
        if config.loop.adopt_successes:
            experts = adopt_successes(experts, explored, config.pairs.success_eps)
        outcome_pairs = expert_pairs(experts, explored, PairKind.EXPERT_TARGET, config.pairs)
        pairs = [*outcome_pairs, *play_steps(session, target, scorer, experts, number)]
        learner = start if config.loop.restart else target
        target = session.prefer(learner, pairs, number, loss=ipr_loss(config))
        if is_evaluation_due(config.loop, number):
            session.evaluate(target, number)
    return target


def ipr_loss(config: MethodConfig) -> LossConfig:
    """Return the sum of outcome DPO, step DPO and likelihood, as `ipr` weighs them."""
    ipr = config.ipr
    return replace(
        config.loss,
        expert_dpo=ipr.outcome_weight,
        expert_sft=ipr.sft_weight,
        pivot_dpo=ipr.step_weight,
        pivot_sft=ipr.sft_weight,
    )


def play_steps(
    session: Session, target: Agent, scorer: Scorer, experts: Sequence[Trajectory], number: int
) -> list[PreferencePair]:
    """Return a round's step pairs.

    Args:
        session: plays.
        target: acts in the experts' place.
        scorer: tells what steps are worth.
        experts: of any tasks; those of the round's tasks count.
        number: of the round.
    """
    config, pairs = session.config.ipr, session.config.pairs
    tasks = session.draw_tasks(number, session.config.rollout.num_tasks)
    steps = draw_steps(expert_steps(experts, tasks), config.num_steps, key=f"{session.seed}/{number}/steps")
    branches = [Branch(of=step.expert, turn=step.turn) for step in steps]
    tried = session.branch(target, number, branches, num_per_branch=1, name="steps") if branches else []
    differing = [(step, one) for step, one in zip(steps, tried, strict=True) if may_pair(step, one, pairs)]
    compared = scorer.compare(differing, number)
    found = step_pairs(compared, config.min_gap, pairs)
    if not found:
        session.warn(f"round {number}: no step pairs, of {len(steps)} steps and {len(differing)} that ended otherwise.")
    return found


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The SFT agent, which estimates what steps are worth by playing on from them."""

    session: Session
    agent: Agent
    known: dict[tuple[str, int], float | None] = field(default_factory=dict)
    """An expert's id and the turns before its step → what it is worth: the scorer never changes, so it is asked
    once."""

    def compare(self, differing: Sequence[tuple[Step, Trajectory]], number: int) -> list[Compared]:
        """Estimate both rewards of steps.

        Args:
            differing: the expert's step, and the episode in which the agent acted in its place.
            number: of the round.
        """
        new = [step for step, _ in differing if (step.expert.id, step.turn) not in self.known]
        after = [Branch(of=one, turn=step.turn + 1) for step, one in differing]
        rewards = self._rewards([*after, *(Branch(of=step.expert, turn=step.turn + 1) for step in new)], number)
        for step, reward in zip(new, rewards[len(after) :], strict=True):
            self.known[step.expert.id, step.turn] = reward
        return [
            Compared(step=step, tried=one, expert_reward=self.known[step.expert.id, step.turn], agent_reward=reward)
            for (step, one), reward in zip(differing, rewards, strict=False)
        ]

    def _rewards(self, branches: Sequence[Branch], number: int) -> list[float | None]:
        """Play on from each place; where an episode ended there, its reward is the step's."""
        num = self.session.config.ipr.num_samples
        going_on = [branch for branch in branches if branch.turn < len(branch.of.turns)]
        played = (
            self.session.branch(self.agent, number, going_on, num_per_branch=num, name="scores") if going_on else []
        )
        samples = iter(played[i : i + num] for i in range(0, len(played), num))
        return [
            step_reward(next(samples)) if branch.turn < len(branch.of.turns) else branch.of.reward
            for branch in branches
        ]
