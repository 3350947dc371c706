"""What a method's calls do: one arm of a recipe with one seed, every call a resumable phase.

See `sparring.methods.base.Session` for what each call means. A phase depends on its inputs and its config alone, never
on time or on which phases were resumed.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparring.analysis.collapse import signs
from sparring.analysis.endings import describe_endings, is_nothing_played, why_no_pairs
from sparring.analysis.failures import summarise_rollouts, to_json
from sparring.core.errors import TrainingError
from sparring.core.filters import actions
from sparring.core.phases import ALSO
from sparring.core.types import PreferencePair, StopReason, Task, Trajectory
from sparring.data.batches import groups_from_pairs, groups_from_trajectories
from sparring.data.pairs import subsample
from sparring.envs.base import select_tasks
from sparring.learning.advantages import Credit, Spread
from sparring.learning.objectives import PreferenceObjective, SFTObjective
from sparring.learning.phase import SCORES, Training, grpo_training, ppo_training
from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
from sparring.methods.base import Agent
from sparring.rollouts.episodes import EpisodeSpec, branch_specs
from sparring.runs.acceptance import Guard
from sparring.runs.judging import Judging
from sparring.runs.keeping import drop_superseded
from sparring.runs.making import TaskMaking
from sparring.runs.phase_runner import PhaseRunner, Playing
from sparring.runs.seeds import derive_seed, digest
from sparring.runs.synthesis import action_pattern
from sparring.synthesis.curriculum import SynthesisResult

if TYPE_CHECKING:
    from sparring.data.preferences import Preferences
    from sparring.learning.objectives import LossConfig
    from sparring.rollouts.branch import Branch, Script
    from sparring.synthesis.curriculum import Curriculum
    from sparring.synthesis.pool import PoolEvent
    from sparring.synthesis.signals import Pattern


NO_REWARD = (
    "No episode of the first round earned anything. Start from an agent that succeeds now and then "
    '(grpo.start = "imitation", more sft.epochs), or raise grpo.num_tasks, grpo.num_per_task or rollout.temperature.'
)


class Session:
    """One arm with one seed; implements `sparring.methods.base.Session`."""

    def __init__(self, runner: PhaseRunner) -> None:
        self._runner, self._guard, self._making = runner, Guard(runner), TaskMaking(runner)
        self._judging = Judging(runner)
        self.world, self.config, self.arm, self.seed = runner.world, runner.config, runner.arm, runner.seed
        self.progress, self.warn = runner.progress, runner.warn
        self._buffers: dict[str, list[list[Trajectory]]] = {}
        self._firsts: dict[tuple[str, str], Mapping[str, object]] = {}
        """Agent and kind of tasks → what its first episodes on them looked like."""

    @property
    def experts(self) -> Sequence[Trajectory]:
        """The expert trajectories of the training tasks."""
        return self.world.experts

    @property
    def train_tasks(self) -> Sequence[Task]:
        """All training tasks."""
        return self.world.train_tasks

    @property
    def action_pattern(self) -> Pattern:
        """What kind of action a text is, as the world sees it."""
        return action_pattern(self.world.benchmark)

    def preferences(self) -> Preferences:
        """Return what the files of `prefer.*` hold, parted into what is trained on and what is held out."""
        return self._judging.preferences()

    def judge(self, agent: Agent, round_number: int) -> None:
        """Ask the agent how likely it finds both sides of the held-out preferences."""
        self._judging.judge(agent, f"round-{round_number}/judge-{agent.name}")

    def base(self, name: str) -> Agent:
        """Return the base model as an agent, untrained."""
        model, lora = self.config.model, self.config.lora
        made = digest(model) if lora.rank is None else digest(model, lora)
        if self.config.engine.kind == "tinker":  # what a server has trained, no other engine goes on with
            made = digest(made, self.config.engine)
        return Agent(name=name, checkpoint=model.path, lineage=made, is_start=True)

    def adopt(self, name: str, checkpoint: str) -> Agent:
        """Return weights that were trained elsewhere as an agent."""
        return Agent(name=name, checkpoint=checkpoint, lineage=digest("adopted", checkpoint), is_start=True)

    def draw_tasks(self, round_number: int, num: int | None, among: Sequence[Task] | None = None) -> Sequence[Task]:
        """Draw a round's training tasks, the same for every agent."""
        tasks = self.train_tasks if among is None else among
        if num is None or num >= len(tasks):
            return tasks
        drawn = random.Random(derive_seed(self.seed, "tasks of round", round_number)).sample(range(len(tasks)), num)
        return [tasks[index] for index in sorted(drawn)]

    # ── Playing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def rollout(
        self,
        agent: Agent,
        round_number: int,
        *,
        tasks: Sequence[Task] | None = None,
        num_per_task: int | None = None,
        is_refreshed: bool = False,
    ) -> list[Trajectory]:
        """Let the agent play training tasks, sampled."""
        (played,) = self.rollouts(
            [agent], round_number, tasks=tasks, num_per_task=num_per_task, is_refreshed=is_refreshed
        )
        return played

    def rollouts(
        self,
        agents: Sequence[Agent],
        round_number: int,
        *,
        tasks: Sequence[Task] | None = None,
        num_per_task: int | None = None,
        is_refreshed: bool = False,
    ) -> list[list[Trajectory]]:
        """Let agents play the same training tasks, sampled, at the same time where a server has both."""
        config, suffix = self.config.rollout, "-refreshed" if is_refreshed else ""
        tasks = self.draw_tasks(round_number, config.num_tasks) if tasks is None else tasks
        playings = [
            self._playing(agent, f"round-{round_number}/rollout-{agent.name}{suffix}", tasks, num_per_task)
            for agent in agents
        ]
        watched = None if is_refreshed else "training tasks"
        found = list[list[Trajectory]]()
        for agent, played in zip(
            agents, self._play(playings, temperature=config.temperature, watched=watched), strict=True
        ):
            buffer = self._buffers.setdefault(f"{agent.name} {is_refreshed}", [])
            buffer.append(played)
            found.append([one for rollouts in buffer[-self.config.loop.buffer_rounds :] for one in rollouts])
        return found

    def branch(
        self, agent: Agent, round_number: int, branches: Sequence[Branch], *, num_per_branch: int, name: str = ""
    ) -> list[Trajectory]:
        """Let the agent play on inside other episodes, sampled."""
        phase = f"round-{round_number}/branch-{agent.name}" + (f"-{name}" if name else "")
        specs = branch_specs(phase, branches, agent=agent.name, num_per_branch=num_per_branch)
        playing = Playing(agent=agent, name=phase, specs=specs)
        (played,) = self._play([playing], temperature=self.config.rollout.temperature, watched=None)
        self._warn_of_diverged(phase, played)
        return played

    def script(self, round_number: int, scripts: Sequence[Script], *, is_refreshed: bool = False) -> list[Trajectory]:
        """Do given actions inside other episodes, as the partner."""
        phase = f"round-{round_number}/branch-partner-script" + ("-refreshed" if is_refreshed else "")
        specs = branch_specs(phase, [one.branch for one in scripts], agent="partner", num_per_branch=1)
        done = {
            spec.id: (*actions(script.branch.of)[: script.branch.turn], *script.actions)
            for spec, script in zip(specs, scripts, strict=True)
        }
        played = self._runner.play_script(phase, specs, done)
        self._warn_of_diverged(phase, played)
        return played

    def likelihoods(self, agent: Agent, round_number: int, trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
        """Ask the agent how likely it is to act so: trajectory id → mean log-probability of an action token."""
        return self._runner.likelihoods(agent, trajectories, f"round-{round_number}/score-{agent.name}")

    def _warn_of_diverged(self, phase: str, played: Sequence[Trajectory]) -> None:
        diverged = [one for one in played if one.stop is StopReason.DIVERGED]
        if diverged:
            self.warn(
                f"{phase}: {len(diverged)} of {len(played)} branches were dropped, since the world is not the same "
                f"twice ({diverged[0].error})."
            )

    def sample(self, agent: Agent, round_number: int, *, tasks: Sequence[Task], num_per_task: int) -> list[Trajectory]:
        """Let the agent play tasks several times each, and keep the log-probabilities it sampled at."""
        playing = self._playing(agent, f"round-{round_number}/rollout-{agent.name}", tasks, num_per_task)
        temperature = self.config.rollout.temperature
        (played,) = self._play([playing], temperature=temperature, keep_logprobs=True, watched="training tasks")
        return played

    def evaluate(self, agent: Agent, round_number: int) -> list[Trajectory]:
        """Let the agent play the held-out tasks, greedily, one episode each."""
        phase = f"round-{round_number}/evaluate-{agent.name}"
        return self._evaluate(agent, phase, self.world.eval_tasks, watched="held-out tasks")

    def evaluate_on(self, agent: Agent, split: str, tasks: Sequence[Task]) -> list[Trajectory]:
        """Let the agent play the tasks of a further split, greedily, one episode each."""
        return self._evaluate(agent, f"{ALSO}-{agent.name}-{split}", tasks, watched=None)

    def _evaluate(self, agent: Agent, phase: str, tasks: Sequence[Task], *, watched: str | None) -> list[Trajectory]:
        specs = [
            EpisodeSpec(id=f"{phase}/{task.id}", task=task, agent=agent.name, seed=derive_seed(self.seed, task.id))
            for task in tasks
        ]
        (played,) = self._play([Playing(agent=agent, name=phase, specs=specs)], temperature=0.0, watched=watched)
        return played

    def _playing(self, agent: Agent, phase: str, tasks: Sequence[Task], num_per_task: int | None) -> Playing:
        """Return a phase in which the agent plays training tasks."""
        specs = [
            EpisodeSpec(
                id=f"{phase}/{task.id}/{attempt}",
                task=task,
                agent=agent.name,
                seed=derive_seed(self.seed, phase, task.id, attempt),
            )
            for task in tasks
            for attempt in range(num_per_task or self.config.rollout.num_per_task)
        ]
        return Playing(agent=agent, name=phase, specs=specs)

    def _play(
        self,
        playings: Sequence[Playing],
        *,
        temperature: float,
        watched: str | None,
        keep_logprobs: bool = False,
    ) -> list[list[Trajectory]]:
        """Play phases, and warn of what looks wrong in each."""
        found = self._runner.play(playings, temperature=temperature, keep_logprobs=keep_logprobs)
        for playing, (trajectories, is_new) in zip(playings, found, strict=True):
            if is_nothing_played(trajectories):
                self.warn(f"{playing.name}: {describe_endings(trajectories)}.")
            if watched:
                self._watch(playing.agent, playing.name, trajectories, tasks=watched, is_new=is_new)
        return [trajectories for trajectories, _ in found]

    def _watch(self, agent: Agent, name: str, trajectories: Sequence[Trajectory], *, tasks: str, is_new: bool) -> None:
        """Warn of signs that the agent's behaviour has broken, where the episodes were not played before."""
        bounds, eps = self.config.analysis, self.config.pairs.success_eps
        summary = to_json(summarise_rollouts(trajectories, bounds.hard_thresholds, eps))
        first = self._firsts.get((agent.name, tasks))
        self._firsts.setdefault((agent.name, tasks), summary)
        found = signs(first, summary, drop=bounds.collapse_drop, rise=bounds.collapse_rise)
        if found and is_new:
            self.warn(f"{name}: on the {tasks}, {'; '.join(found)}.")

    # ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def imitate(self, name: str, *, extra: Sequence[Trajectory] = (), round_number: int = 0) -> Agent:
        """Fine-tune the base model on the experts' trajectories (and `extra` ones): behavioural cloning."""
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
        phase = f"round-{round_number}/train-{name}" if round_number else f"sft-{name}"
        trained = self._runner.fit(base, phase, training, shared_key=None if extra else lineage)
        if round_number:
            drop_superseded(self._runner.phase, name, round_number, keep=config.run.keep)
        return dataclasses.replace(trained, lineage=lineage, is_start=not extra)

    def prefer(
        self, agent: Agent, pairs: Sequence[PreferencePair], round_number: int, *, loss: LossConfig | None = None
    ) -> Agent:
        """Train the agent on preference pairs; the reference is the agent as it is now."""
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
        return self._train(agent, round_number, training)

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
        """Train the agent on what it sampled, by policy gradient with `grpo.*`."""
        config, phase = self.config.grpo, f"round-{round_number}/train-{agent.name}"
        spread = Spread.of(trajectories)
        is_over = self._runner.phase(phase).is_done
        if not is_over and 2 * spread.num_flat > spread.num_groups:
            if spread.num_failed == spread.num_groups and round_number == 1 and not tasks_change:
                raise TrainingError(f"{self.arm}, {phase}: {spread}. {NO_REWARD}")
            self.warn(f"{phase}: {spread}.")
        if spread.num_flat == spread.num_groups > 0 and not config.kl_weight:
            if not is_over:
                self._runner.phase(phase).finish(
                    {"steps": 0, "stopped": str(spread), "metrics": {}, "pairs": {}, **spread.record()}
                )
            return agent
        objective = PolicyGradientObjective(
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            kl_weight=config.kl_weight,
            average=config.average,
            temperature=self.config.rollout.temperature,
            max_server_ratio=self.config.rl.max_server_ratio,
        )
        scored = self._runner.reference(reference, trajectories, phase) if config.kl_weight else None
        path = self._runner.phase(phase).path / SCORES / "agent.safetensors"
        training = grpo_training(objective, self.config.rl, trajectories, advantages, scored, path)
        return self._train(agent, round_number, training, needed=reference)

    def improve_with_critic(
        self, agent: Agent, trajectories: Sequence[Trajectory], round_number: int, *, reference: Agent
    ) -> Agent:
        """Train the agent and its value head by PPO with `ppo.*`."""
        config, phase = self.config.ppo, f"round-{round_number}/train-{agent.name}"
        temperature = self.config.rollout.temperature
        is_online = config.kind == "online"
        actor = PolicyGradientObjective(
            clip_low=config.clip,
            clip_high=config.clip,
            temperature=temperature,
            max_server_ratio=self.config.rl.max_server_ratio if is_online else None,
        )
        training = ppo_training(
            ActorCriticObjective(policy=actor, value_weight=config.value_weight, value_clip=config.value_clip),
            self.config.rl,
            trajectories,
            Credit(
                kl_weight=config.kl_weight,
                gamma=config.gamma,
                lam=config.lam,
                value_lr=config.value_lr,
                is_sampled=is_online,
                is_corrected=actor.max_server_ratio is not None,
            ),
            self._runner.reference(reference, trajectories, phase) if config.kl_weight else None,
            self._runner.phase(phase).path / SCORES / "agent.safetensors",
        )
        return self._train(agent, round_number, training)

    def _train(self, agent: Agent, round_number: int, training: Training, *, needed: Agent | None = None) -> Agent:
        """Train in a round, then delete what only this round needed of the round before, but for an agent's weights."""
        if agent.name == "target" and training.pairs and self.config.loop.accept_tasks and self.train_tasks:
            trained = self._guard.fit(agent, round_number, training)
        else:
            trained = self._runner.fit(agent, f"round-{round_number}/train-{agent.name}", training)
        needed_path = needed.checkpoint if needed else None
        drop_superseded(self._runner.phase, agent.name, round_number, keep=self.config.run.keep, needed=needed_path)
        return trained

    # ── Tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def bootstrap(self, agent: Agent) -> tuple[Sequence[Task], Sequence[Trajectory]]:
        """Return D_0 and how its tasks are solved."""
        return self._making.bootstrap(agent) if self.config.bootstrap.num else (self.train_tasks, self.experts)

    def synthesise(self, agent: Agent, curriculum: Curriculum, round_number: int) -> SynthesisResult:
        """Make tasks where the agent is weak, and validate them by acting; with `kind = "replay"` none are made."""
        if self.config.synthesis.kind == "replay":
            return SynthesisResult(step=curriculum.step)
        starts = {one.task.id: one.turns[0].observation for one in self.evaluate(agent, 0) if one.turns}
        return self._making.synthesise(agent, curriculum, round_number, starts)

    def references(self, result: SynthesisResult) -> list[Trajectory]:
        """Return how the sound tasks of a synthesis were solved when they were validated: one episode a task."""
        return self._making.references(result)

    def record_pool(self, round_number: int, events: Sequence[PoolEvent]) -> None:
        """Write down what happened to the pool of tasks in a round, for the report."""
        self._runner.phase(f"round-{round_number}").journal("pool.jsonl").replace(event.to_json() for event in events)
