"""The checks that a proposal has to pass, each a pure function of what was played, and the config that chooses them.

    form        the proposal is one that can be played at all, and its task is not known already
    overlap     it is no evaluation task: the gate (`novelty.py`)
    replay      its reference reaches the goal, from a fresh reset, twice, with the same answers
    duplicate   it is not nearly the same as a known task (`novelty.py`)
    change      the reference does something to the world
    empty       a policy that says nothing fails
    random      a policy that plays actions by chance fails
    query       an agent that sees the task alone, and no solution, solves it at least once (not made by default)
    probe       the agent solves it sometimes, or half; else it is sound, but quarantined: by its first rollouts on it

The first two are always made. `validation.py` does the playing.

Source: arXiv 2604.15840, where an agent executes query and solution and what is solved is kept. We read that as
`query`: the agent plays the query, and the solution says what it has to bring about. Everything else here is ours.
Deviates: the paper also keeps failures with a positive reward, which lets unsolvable tasks in (`keep_partial`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Literal

from sparring.core.convert import check_values
from sparring.core.filters import counted, is_broken
from sparring.core.ranges import CountOrZero, Repeats, Share, ShareBelowOne
from sparring.core.types import Task, Trajectory
from sparring.envs.synthesis import Synthesis
from sparring.synthesis.proposals import Proposal, content_key
from sparring.synthesis.signals import ROUNDING

CheckName = Literal["duplicate", "replay", "change", "empty", "random", "query", "probe"]
CHECKS: tuple[CheckName, ...] = ("duplicate", "replay", "change", "empty", "random", "probe")
"""Those that are made by default."""

MAX_ACTION = 2000
"""Most characters of a reference's action."""


class Reason(StrEnum):
    """Why a proposal did not enter the pool."""

    FORM = "malformed"
    DUPLICATE = "duplicate"
    OVERLAP = "overlaps an evaluation task"
    NOT_SOLVED = "its reference does not reach the goal"
    NOT_REPRODUCED = "its reference is answered differently the second time"
    UNCHANGED = "its reference changes nothing"
    EMPTY_SOLVES = "doing nothing solves it"
    RANDOM_SOLVES = "chance solves it"
    QUERY_FAILS = "nobody who saw its query alone solved it"
    TOO_EASY = "quarantined: too easy for the agent"
    TOO_HARD = "quarantined: too hard for the agent"
    FAULT = "the world broke while it was checked"
    BUDGET = "the budget was spent before it was checked"


QUARANTINED = (Reason.TOO_EASY, Reason.TOO_HARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """What a proposal has to pass."""

    checks: tuple[CheckName, ...] = CHECKS
    """Checks that are made besides form and the gate against evaluation tasks, which always are. None: the ablation
    without validation. The paper's: `("query",)`. `duplicate` (nearly the same) and `change` judge what the replay
    showed, and need it."""
    num_replays: Repeats = 2
    """How often the reference is replayed (paper: once)."""
    keep_partial: bool = False
    """For parity with the paper alone: a positive reward that falls short of the goal will do, of a reference and of a
    try of the query."""
    max_similarity: Share = 0.8
    """From this Jaccard similarity on, of looks and of solution, a task is a duplicate."""
    num_random: Repeats = 1
    """Episodes of the chance policy; one that solves the task is one too many."""
    num_query_tries: Repeats = 4
    """Most episodes in which an agent tries the query; the first that solves it is enough (paper: 1)."""
    query_agent: Literal["target", "explorer"] = "target"
    """Who tries the query. `target`: the agent that is trained; its probes are its tries. `explorer`: the language
    model of `[openai]`, which plays as any agent does."""
    probe_by: Literal["rollouts", "episodes"] = "rollouts"
    """Which episodes of the agent are its probes. `rollouts`: its first ones on the task in the pool, so that probing
    costs nothing; a task that it then solves always or never is quarantined. `episodes`: of their own, before the task
    enters."""
    num_probes: Repeats = 4
    """Episodes of the agent; of rollouts, at least so many."""
    num_again: CountOrZero = 4
    """Most quarantined tasks that a synthesis probes again, or lets in again, drawn by chance: else they would eat up
    its budget."""
    probe_range: tuple[Share, Share] = (0.1, 0.9)
    """The probes' mean reward must lie within; of rewards of 0 and 1, it is the share solved."""
    success_eps: ShareBelowOne = 1e-6
    """A reward of at least one minus this reaches the goal."""
    num_in_full: CountOrZero = 8
    """Proposals of a synthesis that are all replayed again and played by silence and by chance."""
    spot_share: Share = 0.25
    """Of the others, the share that is, drawn by chance, each of these three checks by itself; where one refuses a
    proposal, it is made of all. 1: of all in any case."""

    def __post_init__(self) -> None:
        """Refuse checks that check nothing."""
        check_values(self)
        if "replay" not in self.checks and {"duplicate", "change"} & set(self.checks):
            raise ValueError('checks: "duplicate" and "change" judge a replay; add "replay"')
        low, high = self.probe_range
        if low > high:
            raise ValueError(f"probe_range: expected the lower number first, not {self.probe_range}")

    def cost(self, num_references: int) -> int:
        """Return the most episodes that a proposal with so many references can cost."""
        parts = {
            "replay": num_references + self.num_replays - 1,
            "empty": 1,
            "random": self.num_random,
            "query": self.num_query_tries,
            "probe": self.num_probes if self.probe_by == "episodes" else 0,
        }
        made = {check: num for check, num in parts.items() if check in self.checks}
        shared = min(made.get("query", 0), made.get("probe", 0)) if self.query_agent == "target" else 0
        return sum(made.values()) - shared

    @property
    def asks_explorer(self) -> bool:
        """Whether the language model of `[openai]` is to play."""
        return "query" in self.checks and self.query_agent == "explorer"

    @property
    def probes_apart(self) -> bool:
        """Whether probes are episodes of their own."""
        return "probe" in self.checks and self.probe_by == "episodes"

    @property
    def probes_in_pool(self) -> bool:
        """Whether the first rollouts on a new task are its probes."""
        return "probe" in self.checks and self.probe_by == "rollouts"

    @property
    def least_reward(self) -> float:
        """The reward from which on a goal counts as reached."""
        return 1e-9 if self.keep_partial else 1.0 - self.success_eps


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a check turned a proposal down."""

    reason: Reason
    detail: str = ""


def check_form(proposal: Proposal, turn_limit: int) -> Refusal | None:
    """Refuse what can't be played: no reference, an overlong one, actions that are no text, data not JSON."""
    try:
        json.dumps([proposal.task.id, proposal.task.kind, dict(proposal.task.data)], allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return Refusal(reason=Reason.FORM, detail=f"data: {error}")
    if not proposal.task.id.strip() or not proposal.references or not all(proposal.references):
        return Refusal(reason=Reason.FORM, detail="no id, or no reference")
    for actions in proposal.references:
        if len(actions) > turn_limit:
            return Refusal(reason=Reason.FORM, detail=f"{len(actions)} actions, but the limit is {turn_limit} turns")
        if any(not action.strip() or len(action) > MAX_ACTION or not _is_text(action) for action in actions):
            return Refusal(reason=Reason.FORM, detail="an action is empty, too long or no text")
    return None


def check_known(proposal: Proposal, known: Sequence[Task]) -> Refusal | None:
    """Refuse a task whose id or content is known already."""
    key = content_key(proposal.task)
    for task in known:
        if task.id == proposal.task.id or content_key(task) == key:
            return Refusal(reason=Reason.DUPLICATE, detail=f"the same as {task.id}")
    return None


def check_goal(trajectory: Trajectory, config: ValidationConfig) -> Refusal | None:
    """Refuse a reference that does not reach the goal; a broken episode proves nothing."""
    if is_broken(trajectory):
        return Refusal(reason=Reason.FAULT, detail=trajectory.error)
    if trajectory.reward < config.least_reward:
        return Refusal(reason=Reason.NOT_SOLVED, detail=f"reward {trajectory.reward:.2f}")
    return None


def check_replays(replays: Sequence[Trajectory], config: ValidationConfig) -> Refusal | None:
    """Refuse a reference that is answered in another way, or rewarded in another way, from a fresh reset."""
    for number, replay in enumerate(replays, start=1):
        if is_broken(replay):
            return Refusal(reason=Reason.FAULT, detail=replay.error)
        if _answers(replay) != _answers(replays[0]):
            return Refusal(reason=Reason.NOT_REPRODUCED, detail=f"replay {number} differs from the first")
        if refusal := check_goal(replay, config):
            return refusal
    return None


def check_change(replay: Trajectory, world: Synthesis) -> Refusal | None:
    """Refuse a task whose reference leaves the world as it was: its reward would be for looking."""
    return None if world.has_changed(replay) else Refusal(reason=Reason.UNCHANGED)


def check_null(episodes: Sequence[Trajectory], reason: Reason, config: ValidationConfig) -> Refusal | None:
    """Refuse a task that a policy without any sense solves."""
    for episode in episodes:
        if is_broken(episode):
            return Refusal(reason=Reason.FAULT, detail=episode.error)
        if episode.reward >= 1.0 - config.success_eps:
            return Refusal(reason=reason, detail=f"in {len(episode.turns)} turns")
    return None


def check_query(tries: Sequence[Trajectory], config: ValidationConfig) -> Refusal | None:
    """Refuse a task that no try of its query solves: rewards (0, 0.5, 1) pass, (0.5, 0.5) don't.

    Source: arXiv 2604.15840 (validation).
    """
    rewards = [one.reward for one in counted(tries)]
    if not rewards:
        return Refusal(reason=Reason.FAULT, detail=tries[0].error if tries else "")
    if max(rewards) < config.least_reward:
        return Refusal(reason=Reason.QUERY_FAILS, detail=f"best reward {max(rewards):.2f} of {len(rewards)} tries")
    return None


def check_probe(episodes: Sequence[Trajectory], config: ValidationConfig) -> Refusal | None:
    """Quarantine a task with nothing to learn from: rewards (0, 0, 0, 1) pass, (1, 1, 1, 1) are too easy."""
    rewards = [one.reward for one in counted(episodes)]
    if not rewards:
        return Refusal(reason=Reason.FAULT, detail=episodes[0].error)
    return judge_probes(fmean(rewards), len(rewards), config)


def judge_probes(mean: float, num: int, config: ValidationConfig) -> Refusal | None:
    """Quarantine a task by the mean reward of its probes."""
    low, high = config.probe_range
    detail = f"mean reward {mean:.2f} of {num} probes"
    if mean < low - ROUNDING:
        return Refusal(reason=Reason.TOO_HARD, detail=detail)
    return Refusal(reason=Reason.TOO_EASY, detail=detail) if mean > high + ROUNDING else None


def _answers(trajectory: Trajectory) -> list[tuple[str, float]]:
    """Return all that the world said and gave."""
    answers = [(turn.observation, turn.reward) for turn in trajectory.turns]
    return [*answers, (trajectory.final_observation, trajectory.reward)]


def _is_text(action: str) -> bool:
    try:
        action.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return action == action.strip("\n") and all(char.isprintable() or char in "\n\t" for char in action)
