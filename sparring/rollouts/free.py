"""Rollouts without lockstep: each episode goes on as soon as its own env or its own answer is there.

For policies that answer each episode by itself, such as a server's, which makes its batches itself. Which requests
share a batch then depends on timing, and with it the rounding of their log-probabilities: the same specs give the same
trajectories up to that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from sparring.core.types import Trajectory
from sparring.policies.base import Episode, FreePolicy, Reply
from sparring.rollouts.episodes import EpisodeSpec, Play, Plays


def play_freely(
    policy: FreePolicy,
    plays: Plays,
    waves: Sequence[Sequence[EpisodeSpec]],
    *,
    num_slots: int,
    finished: Callable[[list[Trajectory]], None],
) -> None:
    """Play the waves' episodes, as many at once as there are slots.

    Args:
        policy: answers each episode by itself.
        plays: with no episode open.
        waves: of any size; an episode does not wait for its wave.
        num_slots: slots 0 … num_slots−1 of the pool are used.
        finished: gets a wave's trajectories, in its order, once they are all there.
    """
    wave_of = {spec.id: wave for wave in waves for spec in wave}
    waiting = deque(spec for wave in waves for spec in wave)
    stream = _Stream(policy, plays)
    try:
        for slot in range(min(num_slots, len(waiting))):
            stream.begin(waiting.popleft(), slot)
        while plays.open:
            play = stream.advance()
            if plays.is_open(play):
                continue
            wave = wave_of[play.spec.id]
            if all(spec.id in plays.done for spec in wave):
                finished([plays.done[spec.id] for spec in wave])
            if waiting:
                stream.begin(waiting.popleft(), play.slot)
    finally:
        stream.abandon()


@dataclass(frozen=True, slots=True)
class Joined:
    """Several policies as one: agents that play at the same time."""

    policy_of: Mapping[str, FreePolicy]
    """By episode."""

    def submit(self, episode: Episode) -> Future[Reply]:
        """Let the episode's own policy answer; see `policies.base.FreePolicy`."""
        return self.policy_of[episode.id].submit(episode)

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        if policy := self.policy_of.get(episode_id):
            policy.close(episode_id)


@dataclass(slots=True)
class _Stream:
    """Open episodes, each of which waits for its env or for its answer."""

    policy: FreePolicy
    plays: Plays
    thinking: dict[str, Future[Reply]] = field(default_factory=dict)
    """Answers that are awaited, by episode."""
    events: SimpleQueue[Play] = field(default_factory=SimpleQueue)
    """Episodes whose env or answer is there."""

    def begin(self, spec: EpisodeSpec, slot: int) -> None:
        """Start an episode on a slot that is free."""
        play = self.plays.begin(spec, slot)
        assert play.answer is not None
        self._watch(play, play.answer)

    def advance(self) -> Play:
        """Wait for the next event, and let its episode go on."""
        play = self.events.get()
        if (reply := self.thinking.pop(play.spec.id, None)) is not None:
            self.plays.send(play, reply.result())
        else:
            self.plays.receive(play)
        if self.plays.is_open(play):
            if play.answer is None:
                self.thinking[play.spec.id] = self.policy.submit(play.episode)
            self._watch(play, play.answer or self.thinking[play.spec.id])
        return play

    def abandon(self) -> None:
        """Let go of what is still open."""
        for future in self.thinking.values():
            future.cancel()
        self.plays.abandon()

    def _watch(self, play: Play, future: Future[Any]) -> None:
        future.add_done_callback(lambda _: self.events.put(play))
