"""Plays and trains for one arm with one seed, a resumable phase at a time.

It says where a phase is written, and skips what was finished before. Phases that start from the same agent with the
same settings are the same in every arm (the imitation of the experts, its evaluation, the first round's rollouts). They
are done once, in the seed's `shared` folder, and linked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.core.errors import TrainingError
from sparring.core.folder import Run
from sparring.core.memory import give_back
from sparring.core.phases import CHECKPOINT, Phase, shared_phase
from sparring.core.types import Trajectory
from sparring.learning.advantages import read_scores, score
from sparring.learning.phase import MOMENTS, SCORES, Encoder, Training, TrainingPhase, drop_state
from sparring.learning.trainer import compute_of
from sparring.methods.base import Agent
from sparring.models.memory import out_of_memory
from sparring.policies.factory import Sampling
from sparring.policies.scripted import ScriptedPolicy
from sparring.rollouts.episodes import EpisodeSpec
from sparring.rollouts.loop import count_lanes
from sparring.rollouts.stage import Part, Stage, played
from sparring.runs.engines import is_served, make_engine
from sparring.runs.seeds import derive_seed, digest
from sparring.runs.tracking import Tracking
from sparring.runs.world import World

if TYPE_CHECKING:
    from sparring.core.journal import Journal
    from sparring.core.progress import Progress
    from sparring.data.chat import Chat
    from sparring.engines.base import Engine, Learner
    from sparring.learning.advantages import Scores
    from sparring.policies.base import AnyPolicy
    from sparring.runs.config import Config
    from sparring.synthesis.arena import Attempt


@dataclass(frozen=True, kw_only=True)
class Playing:
    """What an agent is to play in a phase."""

    agent: Agent
    name: str
    """Of the phase."""
    specs: Sequence[EpisodeSpec]


class PhaseRunner:
    """The phases of one arm with one seed."""

    def __init__(
        self,
        run: Run,
        world: World,
        config: Config,
        *,
        arm: str,
        seed: int,
        progress: Progress,
        engine: Engine | None = None,
    ) -> None:
        """Args:
        engine: holds the weights; none: one of its own, once weights are needed.
        """
        self.run, self.world, self.config = run, world, config
        self.arm, self.seed, self.progress = arm, seed, progress
        self._engine = engine
        self.tracking = Tracking(config)
        """Told how it goes; it tells nobody unless `do_job` gives it trackers."""
        self._is_served = is_served(config)
        self._plays_together = self._is_served and config.lora.rank is not None
        """A server has both agents' adapters, and takes their episodes into one batch."""
        self._num_lanes = 1 if self._is_served else count_lanes(world.benchmark, config.env.num_envs)
        self._stage = Stage(
            benchmark=world.benchmark,
            pool=world.pool,
            num_slots=1 if config.sampler.deterministic else config.env.num_envs,
            wave_size=config.rollout.wave_size,
            max_broken=config.env.max_broken,
            is_free=self._is_served,
        )

    @property
    def engine(self) -> Engine:
        """Who holds the weights."""
        if self._engine is None:
            self._engine = make_engine(self.config, self.world, self.run)
        return self._engine

    def phase(self, name: str, *, shared_key: str | None = None) -> Phase:
        """Return a phase of this arm; one with a key may be shared with other arms."""
        own = f"seed-{self.seed}/{self.arm}/{name}"
        if shared_key is None:
            return self.run.phase(own)
        shared = f"seed-{self.seed}/shared/{name.replace('/', '-')}-{shared_key}"
        folder = shared_phase(self.run.folder / own, self.run.folder / shared)
        return self.run.phase(str(folder.relative_to(self.run.folder)))

    def warn(self, message: str) -> None:
        """Tell the user of something that changes what the run means, and go on."""
        self.progress.note(f"{self.arm}: {message}")

    # ── Playing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def play(
        self, playings: Sequence[Playing], *, temperature: float, keep_logprobs: bool = False
    ) -> list[tuple[list[Trajectory], bool]]:
        """Let agents play episodes; return them, and whether they were played just now, in the order of `playings`.

        The agents take turns, or play at the same time where a server has the adapters of both.
        """
        phases = [self._playing_phase(playing, temperature, keep_logprobs) for playing in playings]
        with self.claim([phase for playing, phase in zip(playings, phases, strict=True) if playing.agent.is_start]):
            return self._play(playings, phases, temperature, keep_logprobs)

    def _play(
        self, playings: Sequence[Playing], phases: Sequence[Phase], temperature: float, keep_logprobs: bool
    ) -> list[tuple[list[Trajectory], bool]]:
        parts = [
            Part(
                make_policy=partial(self.policy, playing.agent, temperature, keep_logprobs=keep_logprobs),
                specs=playing.specs,
                phase=phase,
            )
            for playing, phase in zip(playings, phases, strict=True)
        ]
        is_new = [not phase.is_done for phase in phases]
        due = [(playing.name, part) for playing, part, new in zip(playings, parts, is_new, strict=True) if new]
        for batch in [due] if self._plays_together and due else [[one] for one in due]:
            name = " and ".join(name for name, _ in batch)
            num = sum(len(part.specs) for _, part in batch)
            with self.timed(name), self.progress.phase(self.title(name), total=num) as bar:
                self._stage.play_phases([part for _, part in batch], bar.advance)
        found = [(played(part.phase, part.specs), new) for part, new in zip(parts, is_new, strict=True)]
        for playing, (trajectories, new) in zip(playings, found, strict=True):
            if new:
                self.tracking.played(playing.agent.name, playing.name, trajectories)
        return found

    def _playing_phase(self, playing: Playing, temperature: float, keep_logprobs: bool) -> Phase:
        """Return where an agent's episodes are written; other arms share those of an agent at its start."""
        agent, play = playing.agent, self.config.rollout
        settings = (agent.lineage, self.config.chat, play.max_new_tokens, play.wave_size, temperature)
        if keep_logprobs:  # another file than without them
            settings = (*settings, "log-probabilities")
        if self._is_served:
            settings = (*settings, self.config.sampler)
        return self.phase(playing.name, shared_key=digest(settings, playing.specs) if agent.is_start else None)

    def play_script(
        self, name: str, specs: Sequence[EpisodeSpec], actions: Mapping[str, Sequence[str]]
    ) -> list[Trajectory]:
        """Do what is written down: episode's id → its actions, those of the turns that are given included."""
        phase = self.phase(name)
        if not phase.is_done:
            policy = ScriptedPolicy(lambda one: next(iter(actions[one.id][len(one.turns) :]), None))
            part = Part(make_policy=lambda: policy, specs=specs, phase=phase)
            with self.timed(name), self.progress.phase(self.title(name), total=len(specs)) as bar:
                replace(self._stage, is_free=False).play_phases([part], bar.advance)
        return played(phase, specs)

    def play_attempts(
        self,
        agent_name: str,
        journal: Journal,
        advance: Callable[[int], None],
        policy: AnyPolicy,
        attempts: Sequence[Attempt],
    ) -> list[Trajectory]:
        """Play synthesis's episodes, whoever acts, and write them down."""
        specs = [EpisodeSpec(id=one.id, task=one.task, agent=agent_name, seed=one.seed) for one in attempts]
        return self._stage.play(policy, specs, journal, advance)

    def policy(self, agent: Agent, temperature: float, *, keep_logprobs: bool = False) -> AnyPolicy:
        """Return a policy that plays with an agent's weights."""
        sampling = Sampling(
            temperature=temperature,
            max_new_tokens=self.config.rollout.max_new_tokens,
            num_envs=self.config.env.num_envs,
            num_lanes=self._num_lanes,
            keep_logprobs=keep_logprobs,
        )
        self._check(agent)
        return self.engine.policy(agent.checkpoint, sampling, moments=self._moments(agent))

    # ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def fit(self, agent: Agent, name: str, training: Training, *, shared_key: str | None = None) -> Agent:
        """Train an agent, and return it as it then stands."""
        phase = self.phase(name, shared_key=shared_key)
        with self.claim([phase] if shared_key else []):
            if phase.is_done:
                drop_state(phase)  # which stays if the run was killed as the phase was finished
            else:
                self._train(agent, name, training, phase)
        self.tracking.trained(phase.result()["steps"])
        checkpoint = str(phase.path / CHECKPOINT)
        return Agent(name=agent.name, checkpoint=checkpoint, lineage=digest(agent.lineage, self.arm, name))

    def _train(self, agent: Agent, name: str, training: Training, phase: Phase) -> None:
        with self.timed(name), self.progress.phase(self.title(name)) as bar:
            learner, chat = self.learner(agent)
            watch = self.tracking.training(agent.name, name, training)
            work = TrainingPhase(learner=learner, chat=chat, phase=phase, name=name, warn=self.warn, watch=watch)
            try:
                work.run(training, seed=derive_seed(self.seed, name), bar=bar)
            except BaseException:
                self.engine.forget(agent.checkpoint)
                raise
            self.engine.trained(learner, str(phase.path / CHECKPOINT))

    def reference(self, agent: Agent, trajectories: Sequence[Trajectory], name: str) -> Scores | None:
        """Ask an agent for the log-probabilities of trajectories, once per phase; none for a phase that is done."""
        phase = self.phase(name)
        path = phase.path / SCORES / "reference.safetensors"
        if phase.is_done:
            return None
        if (known := read_scores(path)) is not None:
            return known
        with self.timed(name):
            learner, chat = self.learner(agent)
            compute = compute_of(self.config.rl, self.config.rollout.temperature)
            return score(learner, trajectories, Encoder(chat), path, compute)

    def likelihoods(self, agent: Agent, trajectories: Sequence[Trajectory], name: str) -> Mapping[str, float]:
        """Ask an agent for the mean log-probability of trajectories' action tokens; a phase of its own."""
        phase = self.phase(name)
        if not phase.is_done:
            with self.timed(name), self.progress.phase(self.title(name)):
                learner, chat = self.learner(agent)
                compute = compute_of(self.config.dpo, temperature=1.0)
                scores = score(learner, trajectories, Encoder(chat), phase.path / SCORES / "agent.safetensors", compute)
                phase.finish({"mean_logprobs": {one: row.mean().item() for one, row in scores.logprobs.items()}})
        drop_state(phase)
        return phase.result()["mean_logprobs"]

    def learner(self, agent: Agent) -> tuple[Learner, Chat]:
        """Return who holds an agent's weights, and how its trajectories become tokens."""
        self._check(agent)
        seed = derive_seed(self.seed, "adapter", agent.name)
        return self.engine.learner(agent.checkpoint, seed=seed, moments=self._moments(agent))

    def _moments(self, agent: Agent) -> Path | None:
        """Return the optimizer's state that the agent's last training left, none where it left none."""
        phase = self._trained(agent)
        if phase is None or not phase.has(MOMENTS) or not (phase.path / MOMENTS).exists():
            return None
        phase.check(MOMENTS)
        return phase.path / MOMENTS

    def _trained(self, agent: Agent) -> Phase | None:
        """Return the phase that made the agent's weights, none for those that the run did not make."""
        place = Path(agent.checkpoint)
        if agent.checkpoint == self.config.model.path or not place.is_relative_to(self.run.folder):
            return None
        return self.run.phase(str(place.parent.relative_to(self.run.folder)))

    def _check(self, agent: Agent) -> None:
        """Compare the files of a trained agent with what was saved."""
        if phase := self._trained(agent):
            phase.check(CHECKPOINT)

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def claim(self, phases: Sequence[Phase]) -> AbstractContextManager[None]:
        """Keep shared phases from other jobs of the run, or wait for a job that is at one."""
        return self.run.claim(phases, lambda: self.progress.phase(self.title("waits for another job")))

    def title(self, name: str) -> str:
        """Return what the progress calls a phase."""
        return f"{self.arm} · {name}" if self.seed == 0 else f"seed {self.seed} · {self.arm} · {name}"

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Write down how long something took, and give freed memory back.

        Raises:
            TrainingError: memory ran out on the way.
        """
        wall, cpu, env_cpu = time.perf_counter(), time.process_time(), self.world.pool.cpu_seconds()
        try:
            yield
        except Exception as error:
            if advice := out_of_memory(error):
                raise TrainingError(f"{self.arm}, {name}: {advice}") from error
            raise
        give_back()
        self.run.add_timing(
            seed=self.seed,
            arm=self.arm,
            phase=name,
            wall_s=round(time.perf_counter() - wall, 3),
            cpu_s=round(time.process_time() - cpu, 3),
            env_cpu_s=round(max(0.0, self.world.pool.cpu_seconds() - env_cpu), 3),  # a restart loses what was used
        )
