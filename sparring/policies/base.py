"""The protocols of policies: open episodes in, next actions out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from sparring.core.types import StopReason, Task, Turn

LOGPROB_DIGITS = 6
"""Decimals of a kept log-probability: as many as single precision has, and short in a file."""


@dataclass(slots=True, kw_only=True)
class Episode:
    """An episode in play, as a policy sees it. Rollout owns and updates it; a policy only reads it."""

    id: str
    """Becomes the trajectory's id; also keys every random draw, so that results depend on nothing else."""
    task: Task
    seed: int
    observation: str
    """The observation to answer now."""
    turns: list[Turn] = field(default_factory=list)
    """The turns already played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A policy's answer to one observation."""

    text: str
    action: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """As in `Turn`."""
    stop: StopReason | None = None
    """Where the episode can't go on: `CONTEXT_LIMIT`, or `ENV_FAULT` for a fault of infrastructure that hit it alone.

    `text` and `action` are then empty and no turn is recorded.
    """
    error: str = ""
    """What the fault was."""


class Policy(Protocol):
    """Acts for a batch of episodes.

    `lane` names an independent stream of batches. The rollout never mixes episodes of two lanes in one call, so a
    policy may keep one cache per lane.
    """

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> Sequence[Reply | None]:
        """Answer the current observation of each episode, in order.

        None: the policy is still at it, and wants to be handed the episode again, as it is, with the lane's next batch.
        At least one reply is there.
        """
        ...

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended (frees its cache slot). Unknown ids are ignored."""
        ...


@runtime_checkable
class FreePolicy(Protocol):
    """Acts for each episode by itself: none waits for another's answer."""

    def submit(self, episode: Episode) -> Future[Reply]:
        """Answer an episode's current observation.

        What every episode would run into (a server that refuses all, one that is gone for good) the future raises.
        """
        ...

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended. Unknown ids are ignored."""
        ...


AnyPolicy = Policy | FreePolicy
"""What a rollout takes."""
