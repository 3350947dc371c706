"""Which learners stay alive between phases, and whose weights each of them has: what engines have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.data.chat import Chat

if TYPE_CHECKING:
    from sparring.engines.base import Learner

MAX_LEARNERS = 3
"""Learners that stay alive at most: both agents', and one that they are compared with."""
MakeChat = Callable[[Any, Any], Chat]
"""From a model and its tokenizer."""


@dataclass(slots=True)
class Held:
    """A learner, and whose weights it has."""

    learner: Any
    checkpoint: str
    """Whose weights it holds."""
    chat: Chat


class Holder:
    """Which learner holds which checkpoint's weights."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        """The one that was used last stands last."""
        self._num_large = MAX_LEARNERS

    def hold(self, num_agents: int) -> None:
        """Keep the weights of at most so many agents alive from now on, where each has large ones of its own."""
        self._num_large = num_agents
        while len(self._held) > self._room():
            self._let_go(self._held[0])

    def trained(self, learner: Learner, checkpoint: str) -> None:
        """Take note that a learner's weights are those of another checkpoint now."""
        self.forget(checkpoint)
        for held in self._held:
            if held.learner is learner:
                held.checkpoint = checkpoint

    def forget(self, checkpoint: str) -> None:
        """Let the weights go that were a checkpoint's, or were so until a training that failed."""
        for held in [one for one in self._held if one.checkpoint == checkpoint]:
            self._let_go(held)

    def keep(self, checkpoint: str) -> None:
        """Let all weights go but a checkpoint's."""
        for held in [one for one in self._held if one.checkpoint != checkpoint]:
            self._let_go(held)

    def chat_server(self) -> None:
        """See `engines.base.Engine`: there is none."""

    def close(self) -> None:
        """See `engines.base.Engine`: there is nothing outside of this process."""

    def _let_go(self, held: Held) -> None:
        self._held.remove(held)

    def _make_room(self) -> None:
        """Let learners go until there is room for another."""
        while len(self._held) >= self._room():
            self._let_go(self._held[0])

    def _room(self) -> int:
        """Return how many learners may stay alive."""
        return MAX_LEARNERS

    def _find(self, checkpoint: str) -> Held | None:
        return next((one for one in self._held if one.checkpoint == checkpoint), None)

    def _use(self, held: Held) -> None:
        """Take note that a learner is used now; where it is a new one, another may have to go."""
        if held in self._held:
            self._held.remove(held)
        self._make_room()
        self._held.append(held)

    def _hold(self, held: Held, moments: Path | None) -> tuple[Any, Chat]:
        self._use(held)
        held.learner.activate()
        if moments is not None:
            held.learner.go_on_from(moments)
        return held.learner, held.chat
