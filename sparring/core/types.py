"""The records that flow through Sparring: tasks in, trajectories and preference pairs out. Frozen, no behaviour.

Source: arXiv 2511.22254, section 3 (trajectory, Eq. 2) and section 4 (preference pairs, Eq. 6 and 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StopReason(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The world ended it: solved, or lost for good."""
    TURN_LIMIT = "turn_limit"
    """The benchmark's turn limit for this task was reached."""
    CONTEXT_LIMIT = "context_limit"
    """The next observation or action would not fit the model's context; nothing was cut."""
    DIVERGED = "diverged"
    """A branch whose replayed beginning gave other observations: the world is not the same twice there. It was not
    played, and its reward is never used."""
    ENV_FAULT = "env_fault"
    """Infrastructure failed for good (after retries): the reward means nothing and is never used."""


class PairKind(StrEnum):
    """Which two parties a preference pair compares, chosen side first."""

    EXPERT_TARGET = "expert>target"
    EXPERT_PARTNER = "expert>partner"
    TARGET_EXPERT = "target>expert"
    """The agent beat the expert, so its trajectory is chosen (ETO)."""
    PARTNER_EXPERT = "partner>expert"
    FAILURE_FAILURE = "failure>failure"
    PIVOT = "pivot"
    """Both sides begin alike, and what follows is compared: from where a near miss went wrong, what leads to success
    over what it did; or from a step of an expert's on, its rest over the agent's (IPR)."""
    GIVEN = "given"
    """A preference out of a file: nobody here played either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One instance of a benchmark."""

    id: str
    """Unique within its benchmark, for instance `find-animal/17`."""
    kind: str
    """Task type, for instance `find-animal`."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What the env needs to set the task up; JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One observation and the agent's answer to it."""

    observation: str
    """What the agent saw before it acted."""
    text: str
    """All that the agent wrote, for instance `Thought: … Action: …`."""
    action: str
    """The part of `text` that was sent to the world."""
    reward: float
    """The episode's reward so far, in [0,1], after the action: by default the highest."""
    token_ids: tuple[int, ...] = ()
    """The ids as sampled, end-of-turn token included; empty where no local policy wrote the text (experts)."""
    logprobs: tuple[float, ...] = ()
    """Per sampled id, its log-probability (nats) under the distribution it was drawn from, so at the sampling
    temperature; empty where nobody asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One finished episode: e = (u, a1, o1, …, an)."""

    id: str
    """Unique within a run, for instance `round-1/target-rollout/find-animal/17/0`."""
    task: Task
    agent: str
    """`expert`, `target` or `partner`."""
    turns: tuple[Turn, ...]
    final_observation: str
    """What the world answered to the last action."""
    reward: float
    """In [0,1], that of its last turn; 1 is success."""
    stop: StopReason
    num_given: int = 0
    """Turns at the beginning that were replayed from another episode: the agent's context, not its own actions."""
    seed: int = 0
    num_retries: int = 0
    """How often infrastructure failed and the episode was restored."""
    error: str = ""
    """Type and message of the fault, where there was one."""
    odd_rewards: tuple[str, ...] = ()
    """What of the env's rewards looks like a mistake; see `envs.rewards`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Of two trajectories of one task, which one is preferred.

    The number of turns that count on each side lies with the pair, so that one forward pass of a trajectory serves
    every pair it belongs to: a cut side is a prefix sum of its turns' log-probabilities.
    """

    kind: PairKind
    chosen: Trajectory
    rejected: Trajectory
    chosen_turns: int
    rejected_turns: int
    weight: float = 1.0
    """What its loss is multiplied by."""
