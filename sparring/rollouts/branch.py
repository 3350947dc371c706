"""Where an episode begins inside another: its first turns are replayed in the env, then a policy plays on.

The replayed turns are the policy's context, not its actions. An env that answers a replayed action otherwise than it
did then ends the branch as `DIVERGED`: its world is not the same twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparring.core.errors import ConfigError
from sparring.core.types import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A turn of an episode, before which another begins."""

    of: Trajectory
    turn: int
    """Turns that are replayed: 0 begins anew, and as many as the trajectory has go on where it ended."""

    def __post_init__(self) -> None:
        """Refuse a turn that the trajectory does not have."""
        if not 0 <= self.turn <= len(self.of.turns):
            raise ConfigError(
                f"A branch can't begin after turn {self.turn} of {self.of.id}, which has {len(self.of.turns)}."
            )

    def observation(self, num_turns: int) -> str:
        """Return what the agent saw after a number of turns, at most `turn`."""
        turns = self.of.turns
        return turns[num_turns].observation if num_turns < len(turns) else self.of.final_observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is done inside another episode, action by action, whatever the world answers."""

    branch: Branch
    actions: tuple[str, ...]
    """The episode ends with the last, where the world has not ended it before."""
