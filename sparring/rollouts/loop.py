"""Env × Policy → Trajectories, batched; an episode that fails is data, not a crash.

Episodes are cut into fixed waves. A lane plays one wave after another: all of its envs have answered, then the policy
acts for its open episodes at once, then those envs step that it has answered (all of them, unless it returns early).
Where envs have processes of their own, two lanes share the env slots, one plays the even waves and one the odd ones,
and they take turns, so that the envs of one step while the policy acts for the other. Which episodes share a batch
depends on the specs and what is played alone, never on timing, so the same specs give the same trajectories.

Source: arXiv 2511.22254, section 3 (trajectories and their rewards).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.ranges import Count, Range, Repeats, Temperature
from sparring.core.types import Trajectory
from sparring.envs.base import Benchmark
from sparring.policies.base import AnyPolicy, FreePolicy, Policy
from sparring.rollouts.episodes import EpisodeSpec, Plays, Pool
from sparring.rollouts.free import play_freely

LEAST_TEMPERATURE = 1e-4
"""Below it, logits divided by the temperature would leave float32's range."""
LEAST_WAVE, EPISODES_PER_SLOT = 32, 4
"""A wave's size where none is set: at least so many episodes in all, and for each slot of the lane."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How the agents play the training tasks."""

    num_per_task: Repeats = 1
    """Episodes per task and agent in a round (the paper: 1)."""
    num_tasks: Count | None = None
    """Training tasks that are played in a round, drawn anew each round and the same for both agents; none: all."""
    temperature: Temperature = 0.7
    """Sampling temperature of both agents; 0 is greedy."""
    max_new_tokens: Annotated[int, Range(at_least=1, at_most=1_000_000)] = 64
    """Most tokens in an action; one that has not ended by then is sent as it is."""
    wave_size: Count | None = None
    """Most episodes that are played, saved and resumed together; none: 32, or four for each env slot of a lane."""

    def __post_init__(self) -> None:
        """Refuse a temperature so low that dividing by it overflows."""
        check_values(self)
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature: {self.temperature} is too low to divide by; 0 is greedy")


def count_lanes(benchmark: Benchmark, num_slots: int) -> int:
    """Return how many lanes share the slots: two where envs step while the policy acts, else one, of larger batches."""
    return 2 if benchmark.env_per_process and num_slots > 1 else 1


def cut_waves(
    specs: Sequence[EpisodeSpec], wave_size: int | None = None, *, num_slots: int = 1, num_lanes: int = 2
) -> list[Sequence[EpisodeSpec]]:
    """Cut specs into contiguous waves of at most `wave_size`.

    They differ by one episode at most, and each lane has as many of them. By default they are long for their slots,
    since towards the end of a wave fewer and fewer of them are in play.

    Raises:
        ConfigError: `wave_size` is below 1.
    """
    if wave_size is None:
        wave_size = max(LEAST_WAVE, EPISODES_PER_SLOT * (num_slots // num_lanes))
    if wave_size < 1:
        raise ConfigError("rollout.wave_size must be at least 1.")
    num = num_lanes * math.ceil(len(specs) / (num_lanes * wave_size))
    bounds = [len(specs) * i // num for i in range(num + 1)] if num else []
    return [specs[start:end] for start, end in pairwise(bounds) if end > start]


def rollout(
    policy: AnyPolicy,
    pool: Pool,
    benchmark: Benchmark,
    waves: Sequence[Sequence[EpisodeSpec]],
    *,
    num_slots: int,
    finished: Callable[[list[Trajectory]], None] | None = None,
    on_episode: Callable[[Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Play the waves' episodes and return the trajectories in their order.

    Args:
        policy: acts in this thread, for one lane at a time; or answers each episode by itself (`rollouts.free`).
        pool: live envs; slots 0 … num_slots−1 are used.
        benchmark: for its turn limits.
        waves: what `cut_waves` gives, or what of it is still to be played; ids are distinct.
        num_slots: envs that play at once, in all lanes together.
        finished: gets a wave's trajectories, in its order, once the wave is whole: the unit of resuming.
        on_episode: gets each trajectory as it ends.

    Returns:
        Trajectories, those with `ENV_FAULT` included: their reward (0) means nothing and must not be used.

    Raises:
        ConfigError: no slots, or an id that occurs twice; and what an env refuses with `ConfigError` or `DataError`.
    """
    if num_slots < 1:
        raise ConfigError("env.num_envs must be at least 1.")
    specs = [spec for wave in waves for spec in wave]
    if len({spec.id for spec in specs}) != len(specs):
        raise ConfigError("rollout: two episodes have the same id.")
    played: dict[str, Trajectory] = {}

    def whole(wave: list[Trajectory]) -> None:
        played.update((trajectory.id, trajectory) for trajectory in wave)
        (finished or _ignore)(wave)

    plays = partial(Plays, pool, benchmark, policy.close, on_episode or _ignore)
    if isinstance(policy, FreePolicy):
        play_freely(policy, plays(), waves, num_slots=num_slots, finished=whole)
    else:
        _play_in_lanes(policy, plays, waves, num_slots, whole)
    return [played[spec.id] for spec in specs]


def _play_in_lanes(
    policy: Policy,
    plays: Callable[[], Plays],
    waves: Sequence[Sequence[EpisodeSpec]],
    num_slots: int,
    finished: Callable[[list[Trajectory]], None],
) -> None:
    num_lanes = count_lanes(plays().benchmark, num_slots)
    share = num_slots // num_lanes
    lanes = [
        _Lane(policy, plays(), number, range(number * share, (number + 1) * share), deque(waves[number::num_lanes]))
        for number in range(num_lanes)
    ]
    try:
        for lane in lanes:
            lane.start()
        while any(lane.is_busy for lane in lanes):
            for lane in lanes:
                whole = lane.advance()
                if whole is not None:
                    finished(whole)
    finally:
        for lane in lanes:
            lane.plays.abandon()


def _ignore(_: object) -> None:
    pass


@dataclass(slots=True)
class _Lane:
    """A stream of batches: a wave at a time."""

    policy: Policy
    plays: Plays
    number: int
    slots: Sequence[int]
    waves: deque[Sequence[EpisodeSpec]]
    wave: Sequence[EpisodeSpec] = ()
    waiting: deque[EpisodeSpec] = field(default_factory=deque)

    @property
    def is_busy(self) -> bool:
        """Is anything left to play?"""
        return bool(self.waves or self.plays.open)

    def start(self) -> None:
        """Begin the next wave, if there is one."""
        self.wave = self.waves.popleft() if self.waves else ()
        self.waiting.extend(self.wave)
        self._refill()

    def advance(self) -> list[Trajectory] | None:
        """Take the envs' answers, act, send the actions. Return the wave's trajectories if that ended it."""
        for play in [play for play in self.plays.open if play.answer]:
            self.plays.receive(play)
        ready = [play for play in self.plays.open if play.answer is None]  # not those whose beginning is replayed
        self._refill()
        if ready:
            replies = self.policy.act([play.episode for play in ready], lane=self.number)
            for play, reply in zip(ready, replies, strict=True):
                if reply is not None:
                    self.plays.send(play, reply)
            self._refill()
        if self.plays.open or not self.wave:
            return None
        whole = [self.plays.done.pop(spec.id) for spec in self.wave]
        self.start()
        return whole

    def _refill(self) -> None:
        """Start the wave's next episodes on the slots that are free."""
        taken = {play.slot for play in self.plays.open}
        for slot in self.slots:
            if slot not in taken and self.waiting:
                self.plays.begin(self.waiting.popleft(), slot)
