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
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Real
from typing import Annotated, Protocol

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.ranges import Count, Range, Repeats, Temperature
from sparring.core.text import encodable
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.envs.base import Benchmark, EnvStep
from sparring.policies.base import Episode, Policy, Reply

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """An episode to play."""

    id: str
    """Becomes the trajectory's id, and keys its random draws."""
    task: Task
    agent: str
    seed: int


class Pool(Protocol):
    """What rollout needs of an `EnvPool`: a future's exception is a fault of infrastructure."""

    def reset(self, slot: int, task: Task, seed: int) -> Future[str]:
        """Start a task on a slot's env."""
        ...

    def step(self, slot: int, action: str) -> Future[EnvStep]:
        """Play an action on a slot's env."""
        ...

    def retries(self, slot: int) -> int:
        """Return how often the slot's episode was restored after a fault."""
        ...


def episode_specs(prefix: str, tasks: Sequence[Task], *, agent: str, seed: int, num_per_task: int) -> list[EpisodeSpec]:
    """List the episodes of a rollout, task by task: `prefix/task/0`, `prefix/task/1`, …"""
    return [
        EpisodeSpec(id=f"{prefix}/{task.id}/{k}", task=task, agent=agent, seed=seed)
        for task in tasks
        for k in range(num_per_task)
    ]


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
    policy: Policy,
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
        policy: acts in this thread, for one lane at a time.
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
    lanes = _lanes(_World(policy, pool, benchmark, on_episode or _ignore), waves, num_slots)
    played: dict[str, Trajectory] = {}
    try:
        for lane in lanes:
            lane.start()
        while any(lane.is_busy for lane in lanes):
            for lane in lanes:
                whole = lane.advance()
                if whole is not None:
                    played.update((trajectory.id, trajectory) for trajectory in whole)
                    (finished or _ignore)(whole)
    finally:
        for lane in lanes:
            lane.abandon()
    return [played[spec.id] for spec in specs]


def _lanes(world: _World, waves: Sequence[Sequence[EpisodeSpec]], num_slots: int) -> list[_Lane]:
    num_lanes = count_lanes(world.benchmark, num_slots)
    share = num_slots // num_lanes
    return [
        _Lane(world, number, range(number * share, (number + 1) * share), deque(waves[number::num_lanes]))
        for number in range(num_lanes)
    ]


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _World:
    """What all episodes share."""

    policy: Policy
    pool: Pool
    benchmark: Benchmark
    on_episode: Callable[[Trajectory], None]


@dataclass(slots=True)
class _Play:
    """An open episode on its slot."""

    spec: EpisodeSpec
    slot: int
    episode: Episode
    answer: Future[str] | Future[EnvStep] | None
    """Of its env; none while the policy acts."""
    reply: Reply | None = None
    """What the env was sent and has yet to answer; None while it resets."""


@dataclass(slots=True)
class _Lane:
    """A stream of batches: a wave at a time."""

    world: _World
    number: int
    slots: Sequence[int]
    waves: deque[Sequence[EpisodeSpec]]
    wave: Sequence[EpisodeSpec] = ()
    waiting: deque[EpisodeSpec] = field(default_factory=deque)
    open: list[_Play] = field(default_factory=list)
    """In spec order."""
    done: dict[str, Trajectory] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        """Is anything left to play?"""
        return bool(self.waves or self.open)

    def start(self) -> None:
        """Begin the next wave, if there is one."""
        self.wave = self.waves.popleft() if self.waves else ()
        self.waiting.extend(self.wave)
        self._refill()

    def advance(self) -> list[Trajectory] | None:
        """Take the envs' answers, act, send the actions. Return the wave's trajectories if that ended it."""
        for play in [play for play in self.open if play.answer]:
            self._receive(play)
        ready = list(self.open)
        self._refill()
        if ready:
            replies = self.world.policy.act([play.episode for play in ready], lane=self.number)
            for play, reply in zip(ready, replies, strict=True):
                if reply is not None:
                    self._send(play, reply)
            self._refill()
        if self.open or not self.wave:
            return None
        whole = [self.done.pop(spec.id) for spec in self.wave]
        self.start()
        return whole

    def abandon(self) -> None:
        """Let the policy forget what is still open."""
        for play in self.open:
            self.world.policy.close(play.episode.id)
        self.open.clear()

    def _refill(self) -> None:
        """Start the wave's next episodes on the slots that are free."""
        taken = {play.slot for play in self.open}
        for slot in self.slots:
            if slot in taken or not self.waiting:
                continue
            spec = self.waiting.popleft()
            episode = Episode(id=spec.id, task=spec.task, seed=spec.seed, observation="")
            self.open.append(_Play(spec, slot, episode, self.world.pool.reset(slot, spec.task, spec.seed)))

    def _receive(self, play: _Play) -> None:
        """Wait for a play's env and record what it answered; a fault ends the episode."""
        assert play.answer is not None
        try:
            answer, play.answer = play.answer.result(), None
            if play.reply is None:
                play.episode.observation = encodable(_checked_text(answer))
            else:
                self._record(play, play.reply, _checked_step(answer))
        except (ConfigError, DataError):  # what a user can mend stops the run
            raise
        except Exception as error:  # the boundary: whatever failed out there ends this episode alone
            self._finish(play, StopReason.ENV_FAULT, error=encodable(f"{type(error).__name__}: {error}"))

    def _record(self, play: _Play, reply: Reply, step: EnvStep) -> None:
        episode = play.episode
        best = max(step.reward, episode.turns[-1].reward if episode.turns else 0.0)
        episode.turns.append(
            Turn(
                observation=episode.observation,
                text=reply.text,
                action=reply.action,
                reward=min(max(float(best), 0.0), 1.0),
                token_ids=reply.token_ids,
                logprobs=reply.logprobs,
            )
        )
        episode.observation = encodable(step.observation)
        if step.is_done:
            self._finish(play, StopReason.DONE)
        elif len(episode.turns) >= self.world.benchmark.turn_limit(play.spec.task):
            self._finish(play, StopReason.TURN_LIMIT)

    def _send(self, play: _Play, reply: Reply) -> None:
        if reply.stop is not None:
            self._finish(play, reply.stop, error=encodable(reply.error))
            return
        play.reply = replace(reply, text=encodable(reply.text), action=encodable(reply.action))
        play.answer = self.world.pool.step(play.slot, play.reply.action)

    def _finish(self, play: _Play, stop: StopReason, *, error: str = "") -> None:
        episode = play.episode
        is_fault = stop is StopReason.ENV_FAULT
        trajectory = Trajectory(
            id=episode.id,
            task=episode.task,
            agent=play.spec.agent,
            turns=tuple(episode.turns),
            final_observation=episode.observation,
            reward=episode.turns[-1].reward if episode.turns and not is_fault else 0.0,
            stop=stop,
            seed=episode.seed,
            num_retries=self.world.pool.retries(play.slot),
            error=error,
        )
        self.open = [other for other in self.open if other is not play]
        self.world.policy.close(episode.id)
        self.done[episode.id] = trajectory
        self.world.on_episode(trajectory)


def _checked_text(answer: object) -> str:
    if not isinstance(answer, str):
        raise EnvFault(f"reset gave {type(answer).__name__}, not text.")
    return answer


def _checked_step(answer: object) -> EnvStep:
    if not isinstance(answer, EnvStep):
        raise EnvFault(f"step gave {type(answer).__name__}, not an EnvStep.")
    if not isinstance(answer.observation, str):
        raise EnvFault(f"step gave an observation of type {type(answer.observation).__name__}, not text.")
    if not isinstance(answer.reward, Real) or not math.isfinite(answer.reward):
        raise EnvFault(f"step gave the reward {answer.reward!r}, not a finite number.")
    return answer
