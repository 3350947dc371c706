"""What a method is written against: one arm of a recipe with one seed, every call a resumable phase.

Agents come in and go out as checkpoints; trajectories come out of rollouts, pairs go into training. A method says in
which order; this module says where it is written, from which seed it draws, and what is skipped because it was finished
before. A phase depends on its inputs and its config alone, never on time or on which phases were resumed.

Phases that start from the same agent with the same settings are the same in every arm (the imitation of the experts,
its evaluation, the first round's rollouts). They are played once, in the seed's `shared` folder, and linked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.methods.base import Agent
from sparring.runs.acceptance import MAX_ATTEMPTS, Verdict, describe, judge
from sparring.methods.base import Agent
from sparring.runs.acceptance import to_json as verdicts_to_json
from sparring.analysis.failures import counted, summarise_rollouts, to_json
from sparring.data.batches import groups_from_pairs, groups_from_trajectories
from sparring.data.chat import Chat
from sparring.analysis.collapse import signs
from sparring.core.convert import without_adjustable
from sparring.analysis.endings import describe_endings, is_nothing_played, why_no_pairs
from sparring.envs.base import Benchmark, select_tasks
from sparring.envs.pool import EnvPool
from sparring.core.errors import TrainingError
from sparring.core.memory import give_back
from sparring.data.pairs import actions, subsample, successes
from sparring.rollouts.stage import Stage, played
from sparring.policies.base import Policy
from sparring.rollouts.loop import EpisodeSpec, count_lanes
from sparring.core.phases import CHECKPOINT, TRAJECTORIES, Phase, shared_phase
from sparring.core.folder import Run
from sparring.learning.phase import (
    MOMENTS,
    SCORES,
    Learner,
    Training,
    drop_state,
    grpo_training,
    keep_weights,
    ppo_training,
    train_phase,
)
from sparring.core.types import PreferencePair, Task, Trajectory

if TYPE_CHECKING:
    from sparring.runs.config import Config
    from sparring.learning.advantages import Scores
    from sparring.core.journal import Journal
    from sparring.learning.objectives import LossConfig
    from sparring.core.progress import Progress
    from sparring.synthesis.arena import Attempt
    from sparring.synthesis.curriculum import Curriculum, SynthesisResult
    from sparring.synthesis.pool import PoolEvent
    from sparring.synthesis.signals import Pattern


NO_REWARD = (
    "No episode of the first round earned anything. Start from an agent that succeeds now and then "
    '(grpo.start = "imitation", more sft.epochs), or raise grpo.num_tasks, grpo.num_per_task or rollout.temperature.'
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What all arms of a recipe share: the benchmark, its live envs, the tasks and their experts."""

    benchmark: Benchmark
    pool: EnvPool
    train_tasks: Sequence[Task]
    eval_tasks: Sequence[Task]
    experts: Sequence[Trajectory]


def digest(*parts: Any) -> str:
    """Hash JSON-like values (dataclasses included) to twelve hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(*parts: Any) -> int:
    """Derive a 31-bit seed from what it is for."""
    return int(digest(*parts), 16) % 2**31


class Session:
    """One arm with one seed."""

    def __init__(self, run: Run, world: World, config: Config, *, arm: str, seed: int, progress: Progress) -> None:
        self.run = run
        self.world = world
        self.config = config
        self.arm = arm
        self.seed = seed
        self.progress = progress
        self._stage = Stage(
            benchmark=world.benchmark,
            pool=world.pool,
            num_slots=config.env.num_envs,
            wave_size=config.rollout.wave_size,
            max_broken=config.env.max_broken,
        )
        self._buffers: dict[str, list[list[Trajectory]]] = {}
        self._checks: dict[str, Mapping[str, float]] = {}
        """Lineage → rewards on `loop.accept_tasks`, of the target's start and of what was accepted since, in order."""
        self._firsts: dict[tuple[str, str], Mapping[str, Any]] = {}
        """Agent and kind of tasks → what its first episodes on them looked like."""

    # ── What methods call ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def experts(self) -> Sequence[Trajectory]:
        """The expert trajectories of the training tasks."""
        return self.world.experts

    def imitate(self, name: str, *, extra: Sequence[Trajectory] = (), phase: str | None = None) -> Agent:
        """Fine-tune the base model on the experts' trajectories (and `extra` ones): behavioural cloning.

        Target and partner draw from seeds of their own, so that they start as two different agents.

        Source: arXiv 2511.22254, Eq. 5.
        """
        from sparring.learning.objectives import SFTObjective

        config = self.config
        base = self.base(name)
        cloned = {task.id for task in select_tasks([one.task for one in self.experts], num=config.expert.num_cloned)}
        demonstrations = [*(one for one in self.experts if one.task.id in cloned), *extra]
        lineage = digest(base.lineage, name, self.seed, config.chat, config.sft, [t.id for t in demonstrations])
        training = Training(
            objective=SFTObjective(),
            train=config.sft,
            make_groups=lambda encode, _: groups_from_trajectories(demonstrations, encode),
        )
        trained = self._fit(base, phase or f"sft-{name}", training, shared_key=None if extra else lineage)
        return dataclasses.replace(trained, lineage=lineage, is_start=not extra)

    def base(self, name: str) -> Agent:
        """Return the base model as an agent, untrained."""
        model = self.config.model
        return Agent(name=name, checkpoint=model.path, lineage=digest(model), is_start=True)

    def rollout(
        self,
        agent: Agent,
        round_number: int,
        *,
        tasks: Sequence[Task] | None = None,
        num_per_task: int | None = None,
        is_refreshed: bool = False,
    ) -> list[Trajectory]:
        """Let the agent play training tasks, sampled; broken episodes are included and marked.

        With `loop.buffer_rounds` above 1 the trajectories of the last rounds are returned with this one's.

        Args:
            round_number: from 1; it enters the seeds, so that each round samples anew.
            tasks: what is played; the round's drawn tasks where not given.
            num_per_task: episodes a task; the config's `rollout.num_per_task` where not given.
            is_refreshed: this is the agent's second rollout in the round, after it has trained.
        """
        config = self.config.rollout
        phase = f"round-{round_number}/rollout-{agent.name}{'-refreshed' if is_refreshed else ''}"
        tasks = self.draw_tasks(round_number, config.num_tasks) if tasks is None else tasks
        specs = self._training_specs(agent, phase, tasks, num_per_task or config.num_per_task)
        buffer = self._buffers.setdefault(f"{agent.name} {is_refreshed}", [])
        watched = None if is_refreshed else "training tasks"
        buffer.append(self._play(agent, phase, specs, temperature=config.temperature, watched=watched))
        return [trajectory for rollouts in buffer[-self.config.loop.buffer_rounds :] for trajectory in rollouts]

    def draw_tasks(self, round_number: int, num: int | None) -> Sequence[Task]:
        """Draw a round's training tasks, the same for every agent; none, or more than there are: all of them."""
        tasks = self.world.train_tasks
        if num is None or num >= len(tasks):
            return tasks
        drawn = random.Random(derive_seed(self.seed, "tasks of round", round_number)).sample(range(len(tasks)), num)
        return [tasks[index] for index in sorted(drawn)]

    def sample(self, agent: Agent, round_number: int, *, tasks: Sequence[Task], num_per_task: int) -> list[Trajectory]:
        """Let the agent play tasks several times each, and keep the log-probabilities it sampled at.

        Args:
            round_number: from 1; it enters the seeds.
            tasks: what is played.
            num_per_task: episodes a task.
        """
        phase = f"round-{round_number}/rollout-{agent.name}"
        specs = self._training_specs(agent, phase, tasks, num_per_task)
        temperature = self.config.rollout.temperature
        return self._play(agent, phase, specs, temperature=temperature, keep_logprobs=True, watched="training tasks")

    def evaluate(self, agent: Agent, round_number: int) -> list[Trajectory]:
        """Let the agent play the held-out tasks, greedily, one episode each."""
        phase = f"round-{round_number}/evaluate-{agent.name}"
        specs = [
            EpisodeSpec(id=f"{phase}/{task.id}", task=task, agent=agent.name, seed=derive_seed(self.seed, task.id))
            for task in self.world.eval_tasks
        ]
        return self._play(agent, phase, specs, temperature=0.0, watched="held-out tasks")

    def prefer(
        self, agent: Agent, pairs: Sequence[PreferencePair], round_number: int, *, loss: LossConfig | None = None
    ) -> Agent:
        """Train the agent on preference pairs; the reference is the agent as it is now.

        Args:
            round_number: from 1; the first round may have another rate and beta than the later ones.
            loss: in place of the config's.

        Raises:
            TrainingError: there are no pairs, or training ran into a loss that is not finite.
        """
        from sparring.learning.objectives import PreferenceObjective

        config, loop = self.config, self.config.loop
        phase = f"round-{round_number}/train-{agent.name}"
        if agent.name == "target" and config.pairs.num_pairs is not None:
            pairs = subsample(pairs, config.pairs.num_pairs, derive_seed(self.seed, phase, "subsample"))
        if not pairs:
            rolled_out = [one for rollouts in self._buffers.values() for one in rollouts[-1]]
            raise TrainingError(f"{self.arm}, {phase}: no preference pairs: {why_no_pairs(rolled_out)}.")
        loss, lr = loss or config.loss, config.dpo.lr
        if round_number > 1:
            loss = dataclasses.replace(loss, beta=loop.later_beta or loss.beta)
            lr = loop.later_lr or lr
        if agent.name == "partner":  # a rate of its own holds in every round
            lr = config.partner.lr or lr
        training = Training(
            objective=PreferenceObjective(config=loss),
            train=dataclasses.replace(config.dpo, lr=lr),
            make_groups=lambda encode, _: groups_from_pairs(pairs, encode),
            pairs=pairs,
        )
        if agent.name == "target" and loop.accept_tasks:
            return self._fit_accepted(agent, round_number, training)
        return self._fit(agent, phase, training)

    def improve(
        self,
        agent: Agent,
        trajectories: Sequence[Trajectory],
        advantages: Mapping[str, float],
        round_number: int,
        *,
        reference: Agent,
        tasks_change: bool = False,
    ) -> Agent:
        """Train the agent on what it sampled, by policy gradient with `grpo.*`; weights of the round before go.

        Args:
            trajectories: of `sample`.
            advantages: trajectory id → advantage; trajectories without one are left out.
            round_number: from 1.
            reference: whom the KL term holds on to; it is asked only if `grpo.kl_weight` is above 0.
            tasks_change: later rounds have other tasks, so that a first one without any reward is no reason to end.

        Where all groups have rewards that are alike and there is no KL term, the agent stays as it is.

        Raises:
            TrainingError: there is no trajectory to learn from, or training ran into a loss that is not finite; or no
                episode of the first round earned anything, and no easier tasks are to come.
        """
        from sparring.learning.advantages import Spread
        from sparring.learning.policy_gradient import PolicyGradientObjective

        config, phase = self.config.grpo, f"round-{round_number}/train-{agent.name}"
        spread = Spread.of(trajectories)
        is_over = self._phase(phase).is_done
        if not is_over and 2 * spread.num_flat > spread.num_groups:
            if spread.num_failed == spread.num_groups and round_number == 1 and not tasks_change:
                raise TrainingError(f"{self.arm}, {phase}: {spread}. {NO_REWARD}")
            self.warn(f"{phase}: {spread}.")
        if spread.num_flat == spread.num_groups > 0 and not config.kl_weight:
            if not is_over:
                self._phase(phase).finish({"steps": 0, "stopped": str(spread), "metrics": {}, **spread.record()})
            return agent
        objective = PolicyGradientObjective(
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl_weight=config.kl_weight,
            average=config.average,
            temperature=self.config.rollout.temperature,
        )
        scored = self._reference(reference, trajectories, phase) if config.kl_weight else None
        training = grpo_training(objective, self.config.rl, trajectories, advantages, scored)
        return self._reinforce(agent, phase, round_number, training)

    def improve_with_critic(
        self, agent: Agent, trajectories: Sequence[Trajectory], round_number: int, *, reference: Agent
    ) -> Agent:
        """Train the agent and its value head by PPO with `ppo.*`; weights of the round before go.

        Args:
            trajectories: of `sample`; with `ppo.kind = "offline"` those of an earlier round.
            round_number: from 1.
            reference: the distance from it is taken off the reward, if `ppo.kl_weight` is above 0.

        Raises:
            TrainingError: as for `improve`.
        """
        from sparring.learning.advantages import Credit
        from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective

        config, phase = self.config.ppo, f"round-{round_number}/train-{agent.name}"
        temperature = self.config.rollout.temperature
        actor = PolicyGradientObjective(clip_low=config.clip, clip_high=config.clip, temperature=temperature)
        training = ppo_training(
            ActorCriticObjective(policy=actor, value_weight=config.value_weight, value_clip=config.value_clip),
            self.config.rl,
            trajectories,
            Credit(
                kl_weight=config.kl_weight,
                gamma=config.gamma,
                lam=config.lam,
                value_lr=config.value_lr,
                is_sampled=config.kind == "online",
            ),
            self._reference(reference, trajectories, phase) if config.kl_weight else None,
            self._phase(phase).path / SCORES / "agent.safetensors",
        )
        return self._reinforce(agent, phase, round_number, training)

    @property
    def action_pattern(self) -> Pattern:
        """What kind of action a text is, as the world sees it."""
        from sparring.runs.synthesis import action_pattern

        return action_pattern(self.world.benchmark)

    def synthesise(self, agent: Agent, curriculum: Curriculum, round_number: int) -> SynthesisResult:
        """Make tasks where the agent is weak, and validate them by acting; with `kind = "replay"` none are made.

        Args:
            agent: probes what is proposed.
            curriculum: where the run stands.
            round_number: from 1; it enters the seeds.

        Raises:
            ConfigError: the world offers no synthesis, or no server is named for a language model.
        """
        from sparring.runs.synthesis import Synthesis, read_synthesis
        from sparring.synthesis.curriculum import SynthesisResult

        if self.config.synthesis.kind == "replay":
            return SynthesisResult(step=curriculum.step)
        name = f"round-{round_number}/synthesis"
        phase = self._phase(name)
        if phase.is_done:
            return read_synthesis(phase)
        journal = phase.journal(TRAJECTORIES)
        journal.replace([])  # a synthesis that was cut short begins anew
        with self._timed(name), self.progress.phase(self._title(name)) as bar:
            synthesis = Synthesis(
                config=self.config,
                benchmark=self.world.benchmark,
                held_out=self.world.eval_tasks,
                starts={one.task.id: one.turns[0].observation for one in self.evaluate(agent, 0) if one.turns},
                play=partial(self._play_attempts, agent.name, journal, bar.advance),
                agent=self._policy(agent, self.config.rollout.temperature, keep_logprobs=False),
            )
            return synthesis.run(curriculum, phase, seed=derive_seed(self.seed, name))

    def references(self, result: SynthesisResult) -> list[Trajectory]:
        """Return how the sound tasks of a synthesis were solved when they were validated: one episode a task."""
        found = {
            one.proposal.task.id: one.reference
            for one in result.verdicts
            if one.reference and (one.is_accepted or one.is_quarantined)
        }
        phase = self._phase(f"round-{result.step}/synthesis")
        solved: dict[str, Trajectory] = {}
        for one in successes(phase.trajectories(), self.config.pairs.success_eps) if found else ():
            if actions(one) == found.get(one.task.id, ())[: len(one.turns)]:
                solved.setdefault(one.task.id, one)
        return [solved[task_id] for task_id in found if task_id in solved]

    def record_pool(self, round_number: int, events: Sequence[PoolEvent]) -> None:
        """Write down what happened to the pool of tasks in a round, for the report."""
        self._phase(f"round-{round_number}").journal("pool.jsonl").replace(event.to_json() for event in events)

    def warn(self, message: str) -> None:
        """Tell the user of something that changes what the run means, and go on."""
        self.progress.note(f"{self.arm}: {message}")

    def _training_specs(self, agent: Agent, phase: str, tasks: Sequence[Task], num_per_task: int) -> list[EpisodeSpec]:
        return [
            EpisodeSpec(
                id=f"{phase}/{task.id}/{attempt}",
                task=task,
                agent=agent.name,
                seed=derive_seed(self.seed, phase, task.id, attempt),
            )
            for task in tasks
            for attempt in range(num_per_task)
        ]

    # ── Playing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _play(
        self,
        agent: Agent,
        name: str,
        specs: Sequence[EpisodeSpec],
        *,
        temperature: float,
        keep_logprobs: bool = False,
        watched: str | None = None,
    ) -> list[Trajectory]:
        chat, play = self.config.chat, self.config.rollout
        settings = (agent.lineage, chat, play.max_new_tokens, play.wave_size, temperature)
        if keep_logprobs:  # another file than without them
            settings = (*settings, "log-probabilities")
        phase = self._phase(name, shared_key=digest(settings, specs) if agent.is_start else None)
        if is_new := not phase.is_done:
            with self._timed(name), self.progress.phase(self._title(name), total=len(specs)) as bar:
                make_policy = partial(self._policy, agent, temperature, keep_logprobs)
                self._stage.play_phase(make_policy, specs, phase, bar.advance)
        trajectories = played(phase, specs)
        if is_nothing_played(trajectories):
            self.warn(f"{name}: {describe_endings(trajectories)}.")
        if watched:
            self._watch(agent, name, trajectories, tasks=watched, is_new=is_new)
        return trajectories

    def _watch(self, agent: Agent, name: str, trajectories: Sequence[Trajectory], *, tasks: str, is_new: bool) -> None:
        """Warn of signs that the agent's behaviour has broken, where the episodes were not played before."""
        bounds, eps = self.config.analysis, self.config.pairs.success_eps
        summary = to_json(summarise_rollouts(trajectories, bounds.hard_thresholds, eps))
        first = self._firsts.get((agent.name, tasks))
        self._firsts.setdefault((agent.name, tasks), summary)
        found = signs(first, summary, drop=bounds.collapse_drop, rise=bounds.collapse_rise)
        if found and is_new:
            self.warn(f"{name}: on the {tasks}, {'; '.join(found)}.")

    def _play_attempts(
        self,
        agent_name: str,
        journal: Journal,
        advance: Callable[[int], None],
        policy: Policy,
        attempts: Sequence[Attempt],
    ) -> list[Trajectory]:
        """Play synthesis's episodes, whoever acts, and write them down."""
        specs = [EpisodeSpec(id=one.id, task=one.task, agent=agent_name, seed=one.seed) for one in attempts]
        return self._stage.play(policy, specs, journal, advance)

    def _policy(self, agent: Agent, temperature: float, keep_logprobs: bool) -> Policy:
        from sparring.policies.local.policy import LocalPolicy
        from sparring.models.loading import load_model

        num_envs = self.config.env.num_envs
        num_lanes = count_lanes(self.world.benchmark, num_envs)
        model, tokenizer = load_model(self._model_config(agent))
        return LocalPolicy(
            model,
            self._chat(model, tokenizer),
            temperature=temperature,
            max_new_tokens=self.config.rollout.max_new_tokens,
            num_slots_per_lane=num_envs // num_lanes,
            keep_logprobs=keep_logprobs,
            returns_early=num_lanes == 1,
        )

    # ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fit(self, agent: Agent, name: str, training: Training, *, shared_key: str | None = None) -> Agent:
        phase = self._phase(name, shared_key=shared_key)
        if phase.is_done:
            drop_state(phase)  # which stays if the run was killed as the phase was finished
        else:
            moments = self._moments(agent) if training.is_continued else None
            learner = Learner(model=self._model_config(agent), moments=moments, make_chat=self._chat, warn=self.warn)
            with self._timed(name), self.progress.phase(self._title(name)) as bar:
                train_phase(learner, training, phase, name, seed=derive_seed(self.seed, name), bar=bar)
        checkpoint = str(phase.path / CHECKPOINT)
        return Agent(name=agent.name, checkpoint=checkpoint, lineage=digest(agent.lineage, self.arm, name))

    def _moments(self, agent: Agent) -> Path | None:
        """Return the optimizer's state that the agent's last training left, none where it left none."""
        phase = self._trained(agent)
        if phase is None or not phase.has(MOMENTS):
            return None
        phase.check(MOMENTS)
        return phase.path / MOMENTS

    def _trained(self, agent: Agent) -> Phase | None:
        """Return the phase that made the agent's weights, none for the base model."""
        if agent.checkpoint == self.config.model.path:
            return None
        return self.run.phase(str(Path(agent.checkpoint).parent.relative_to(self.run.folder)))

    def _fit_accepted(self, agent: Agent, round_number: int, training: Training) -> Agent:
        """Train; where the agent plays training tasks worse for it, train again at half the rate (`acceptance`).

        A rejected training is moved aside, so that the phase of the training always holds what the round ends with.
        """
        place, max_drop = f"round-{round_number}", self.config.loop.accept_drop
        phase = self._phase(f"{place}/train-{agent.name}")
        if agent.lineage not in self._checks:
            self._checks[agent.lineage] = self._check(agent, f"{place}/check-{agent.name}-0")
        earlier = [next(iter(self._checks.values())), self._checks[agent.lineage]]
        verdicts: list[Verdict] = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            rejected = self._phase(f"{place}/rejected-{agent.name}-{attempt}")
            trained = agent
            if not rejected.is_done:
                trained = self._fit(agent, f"{place}/train-{agent.name}", training.at_rate(0.5 ** (attempt - 1)))
            after = self._check(trained, f"{place}/check-{agent.name}-{attempt}")
            verdicts.append(verdict := judge(earlier, after, max_drop))
            if verdict.is_accepted:
                self._checks[trained.lineage] = after
                break
            if not rejected.is_done:
                self.warn(f"round {round_number}: {describe(verdict, attempt)}")
                phase.path.rename(rejected.path)
        else:
            trained = agent
            if not phase.is_done:
                keep_weights(agent.checkpoint, phase)
        told = self._phase(f"{place}/accept-{agent.name}")
        if not told.is_done:
            told.finish(verdicts_to_json(verdicts))
        return trained

    def _check(self, agent: Agent, name: str) -> dict[str, float]:
        """Return task id → reward of the guard's training tasks, played greedily."""
        tasks, num = self.world.train_tasks, self.config.loop.accept_tasks
        drawn = random.Random(derive_seed(self.seed, "accept")).sample(range(len(tasks)), min(num, len(tasks)))
        specs = [
            EpisodeSpec(
                id=f"{name}/{tasks[index].id}",
                task=tasks[index],
                agent=agent.name,
                seed=derive_seed(self.seed, tasks[index].id),
            )
            for index in sorted(drawn)
        ]
        return {one.task.id: one.reward for one in counted(self._play(agent, name, specs, temperature=0.0))}

    def _reinforce(self, agent: Agent, name: str, round_number: int, training: Training) -> Agent:
        """Train by policy gradient, then delete what only this round needed of the round before.

        There may be hundreds of rounds: weights are kept of those that were evaluated, and of the last.
        """
        improved = self._fit(agent, name, training)
        before = self._phase(f"round-{round_number - 1}/train-{agent.name}")
        (before.path / MOMENTS).unlink(missing_ok=True)
        if not self._phase(f"round-{round_number - 1}/evaluate-{agent.name}").is_done:
            shutil.rmtree(before.path / "checkpoint", ignore_errors=True)
        return improved

    def _reference(self, agent: Agent, trajectories: Sequence[Trajectory], name: str) -> Scores | None:
        """Ask an agent for the log-probabilities of trajectories, once per phase; none for a phase that is done."""
        from sparring.learning.advantages import read_scores, score

        phase = self._phase(name)
        path = phase.path / SCORES / "reference.safetensors"
        if phase.is_done:
            return None
        if (known := read_scores(path)) is not None:
            return known
        learner = Learner(model=self._model_config(agent), make_chat=self._chat, warn=self.warn)
        with self._timed(name):
            model, _, encode, _ = learner.load()
            temperature = self.config.rollout.temperature
            return score(model, trajectories, encode, path, train=self.config.rl, temperature=temperature)

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _model_config(self, agent: Agent) -> Any:
        """Return which model to load; a trained one's files are compared with what was saved."""
        if phase := self._trained(agent):
            phase.check(CHECKPOINT)
        return dataclasses.replace(self.config.model, path=agent.checkpoint)

    def _chat(self, model: Any, tokenizer: Any) -> Chat:
        from sparring.models.loading import end_ids_of

        return Chat(
            tokenizer,
            self.config.chat,
            instruction=self.world.benchmark.instruction,
            examples=self.experts[: self.config.chat.num_examples],
            end_ids=end_ids_of(model),
        )

    def _phase(self, name: str, *, shared_key: str | None = None) -> Phase:
        own = f"seed-{self.seed}/{self.arm}/{name}"
        if shared_key is None:
            return self.run.phase(own)
        shared = f"seed-{self.seed}/shared/{name.replace('/', '-')}-{shared_key}"
        folder = shared_phase(self.run.folder / own, self.run.folder / shared)
        return self.run.phase(str(folder.relative_to(self.run.folder)))

    def _title(self, name: str) -> str:
        return f"{self.arm} · {name}" if self.seed == 0 else f"seed {self.seed} · {self.arm} · {name}"

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        wall, cpu, env_cpu = time.perf_counter(), time.process_time(), self.world.pool.cpu_seconds()
        yield
        give_back()
        self.run.add_timing(
            seed=self.seed,
            arm=self.arm,
            phase=name,
            wall_s=round(time.perf_counter() - wall, 3),
            cpu_s=round(time.process_time() - cpu, 3),
            env_cpu_s=round(max(0.0, self.world.pool.cpu_seconds() - env_cpu), 3),  # a restart loses what was used
        )


def _plain(value: Any) -> Any:
    assert dataclasses.is_dataclass(value) and not isinstance(value, type), f"can't hash {value!r}"
    return without_adjustable(value)
