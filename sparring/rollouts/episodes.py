"""An episode on its slot: what its env and its policy answer is recorded, turn by turn, until it ends as a trajectory.

An env's fault ends its episode alone, as data. What a user can mend stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from sparring.core.errors import ClusterError, ConfigError, DataError
from sparring.core.text import encodable
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.envs.base import Benchmark, EnvStep
from sparring.envs.rewards import Rewards, Score
from sparring.policies.base import Episode, Reply
from sparring.rollouts.branch import Branch


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """An episode to play."""

    id: str
    """Becomes the trajectory's id, and keys its random draws."""
    task: Task
    agent: str
    seed: int
    branch: Branch | None = None
    """Where it begins inside another episode, whose seed it has then; none: at the task's beginning."""


class Pool(Protocol):
    """What rollout needs of an `EnvPool`: answers that were checked; an exception is a fault of infrastructure."""

    rewards: Rewards
    """How the world's step rewards are read."""

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


def branch_specs(prefix: str, branches: Sequence[Branch], *, agent: str, num_per_branch: int) -> list[EpisodeSpec]:
    """List the episodes that begin inside others: `prefix/task/0/0`, `prefix/task/0/1`, `prefix/task/1/0`, …"""
    counts = Counter[str]()
    specs: list[EpisodeSpec] = []
    for branch in branches:
        task, seed = branch.of.task, branch.of.seed
        place = f"{prefix}/{task.id}/{counts[task.id]}"
        counts[task.id] += 1
        specs += [
            EpisodeSpec(id=f"{place}/{k}", task=task, agent=agent, seed=seed, branch=branch)
            for k in range(num_per_branch)
        ]
    return specs


@dataclass(slots=True)
class Play:
    """An open episode on its slot."""

    spec: EpisodeSpec
    slot: int
    episode: Episode
    answer: Future[str] | Future[EnvStep] | None
    """Of its env; none while the policy acts."""
    score: Score
    reply: Reply | None = None
    """What the env was sent and has yet to answer; None while it resets."""


@dataclass(slots=True)
class Plays:
    """The open episodes of a stream, and the trajectories of those that ended."""

    pool: Pool
    benchmark: Benchmark
    close: Callable[[str], None]
    """Lets the policy forget an episode."""
    on_episode: Callable[[Trajectory], None]
    open: list[Play] = field(default_factory=list)
    """In the order in which they began."""
    done: dict[str, Trajectory] = field(default_factory=dict)

    def begin(self, spec: EpisodeSpec, slot: int) -> Play:
        """Start an episode on a slot that is free."""
        episode = Episode(id=spec.id, task=spec.task, seed=spec.seed, observation="")
        first = self.pool.reset(slot, spec.task, spec.seed)
        play = Play(spec, slot, episode, first, Score(self.pool.rewards))
        self.open.append(play)
        return play

    def receive(self, play: Play) -> None:
        """Wait for a play's env and record what it answered; a fault ends the episode."""
        assert play.answer is not None
        try:
            answer, play.answer = play.answer.result(), None
            if play.reply is None:
                play.episode.observation = encodable(cast(str, answer))
            else:
                self._record(play, play.reply, cast(EnvStep, answer))
            if play.spec.branch is not None and self.is_open(play):
                self._replay(play, play.spec.branch)
        except (ConfigError, DataError, ClusterError):  # what a user can mend stops the run
            raise
        except Exception as error:  # the boundary: whatever failed out there ends this episode alone
            self._finish(play, StopReason.ENV_FAULT, error=encodable(f"{type(error).__name__}: {error}"))

    def send(self, play: Play, reply: Reply) -> None:
        """Send a policy's action to the env, or end the episode where the policy can't go on."""
        if reply.stop is not None:
            self._finish(play, reply.stop, error=encodable(reply.error))
            return
        play.reply = replace(reply, text=encodable(reply.text), action=encodable(reply.action))
        play.answer = self.pool.step(play.slot, play.reply.action)

    def _replay(self, play: Play, branch: Branch) -> None:
        """Send the env the next of the turns that are given, as long as it answers as it did then."""
        num = len(play.episode.turns)
        if num > branch.turn:
            return
        if play.episode.observation != branch.observation(num):
            self._finish(play, StopReason.DIVERGED, error=f"the replay of {branch.of.id} differs before turn {num + 1}")
        elif num < branch.turn:
            given = branch.of.turns[num]
            self.send(play, Reply(text=given.text, action=given.action, token_ids=given.token_ids))

    def is_open(self, play: Play) -> bool:
        """Say whether an episode still goes on."""
        return play.spec.id not in self.done

    def abandon(self) -> None:
        """Let the policy forget what is still open."""
        for play in self.open:
            self.close(play.episode.id)
        self.open.clear()

    def _record(self, play: Play, reply: Reply, step: EnvStep) -> None:
        episode = play.episode
        where = f"{episode.task.id}, turn {len(episode.turns) + 1}"
        episode.turns.append(
            Turn(
                observation=episode.observation,
                text=reply.text,
                action=reply.action,
                reward=play.score.add(step.reward, where),
                token_ids=reply.token_ids,
                logprobs=reply.logprobs,
            )
        )
        episode.observation = encodable(step.observation)
        if step.is_done:
            self._finish(play, StopReason.DONE)
        elif len(episode.turns) >= self.benchmark.turn_limit(play.spec.task):
            self._finish(play, StopReason.TURN_LIMIT)

    def _finish(self, play: Play, stop: StopReason, *, error: str = "") -> None:
        episode = play.episode
        is_void = stop in (StopReason.ENV_FAULT, StopReason.DIVERGED)
        trajectory = Trajectory(
            id=episode.id,
            task=episode.task,
            agent=play.spec.agent,
            turns=tuple(episode.turns),
            final_observation=episode.observation,
            reward=0.0 if is_void else play.score.value,
            stop=stop,
            num_given=min(len(episode.turns), play.spec.branch.turn if play.spec.branch else 0),
            seed=episode.seed,
            num_retries=self.pool.retries(play.slot),
            error=error,
            odd_rewards=() if is_void else play.score.end(f"{episode.task.id}, at its end"),
        )
        self.open = [other for other in self.open if other is not play]
        self.close(episode.id)
        self.done[episode.id] = trajectory
        self.on_episode(trajectory)
