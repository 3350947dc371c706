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
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.batches import Group, groups_from_pairs, groups_from_trajectories
from sparring.chat import Chat, ContextOverflow, Encoded
from sparring.envs.base import Benchmark
from sparring.envs.pool import EnvPool
from sparring.errors import EnvFault, TrainingError
from sparring.journal import disk_errors, sync_tree
from sparring.pairs import count_kinds, subsample
from sparring.policies.base import Policy
from sparring.rollout import EpisodeSpec, cut_waves, rollout
from sparring.run import Phase, Run, pair_to_json, read_trajectories, trajectory_to_json
from sparring.types import PreferencePair, StopReason, Task, Trajectory

if TYPE_CHECKING:
    from sparring.config import Config
    from sparring.objectives import LossConfig, Objective
    from sparring.progress import Progress
    from sparring.trainer import TrainConfig


@dataclass(frozen=True, kw_only=True)
class World:
    """What all arms of a recipe share: the benchmark, its live envs, the tasks and their experts."""

    benchmark: Benchmark
    pool: EnvPool
    train_tasks: Sequence[Task]
    eval_tasks: Sequence[Task]
    experts: Sequence[Trajectory]


@dataclass(frozen=True, kw_only=True)
class Agent:
    """An agent as it stands: a name and the weights it has now."""

    name: str
    """`target` or `partner`."""
    checkpoint: str
    """A Hugging Face folder, a Hub id or the bundled model's name."""
    lineage: str
    """A hash of everything that made the weights; equal lineages have equal weights."""
    is_start: bool = False
    """True until the agent learns from its own rollouts: its phases are then shared between arms."""


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
        self._buffers: dict[str, list[list[Trajectory]]] = {}

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
        from sparring.objectives import SFTObjective

        config = self.config
        base = Agent(name=name, checkpoint=config.model.path, lineage=digest(config.model))
        demonstrations = [*self.experts, *extra]
        lineage = digest(base.lineage, name, self.seed, config.chat, config.sft, [t.id for t in demonstrations])
        trained = self._fit(
            base,
            phase or f"sft-{name}",
            objective=SFTObjective(),
            train=config.sft,
            make_groups=lambda encode: groups_from_trajectories(demonstrations, encode),
            shared_key=None if extra else lineage,
        )
        return dataclasses.replace(trained, lineage=lineage, is_start=not extra)

    def rollout(
        self, agent: Agent, round_number: int, *, num_per_task: int | None = None, is_refreshed: bool = False
    ) -> list[Trajectory]:
        """Let the agent play the training tasks, sampled; broken episodes are included and marked.

        With `loop.buffer_rounds` above 1 the trajectories of the last rounds are returned with this one's.

        Args:
            round_number: from 1; it enters the seeds, so that each round samples anew.
            num_per_task: episodes a task; the config's `rollout.num_per_task` where not given.
            is_refreshed: this is the agent's second rollout in the round, after it has trained.
        """
        config = self.config.rollout
        phase = f"round-{round_number}/rollout-{agent.name}{'-refreshed' if is_refreshed else ''}"
        specs = [
            EpisodeSpec(
                id=f"{phase}/{task.id}/{attempt}",
                task=task,
                agent=agent.name,
                seed=derive_seed(self.seed, phase, task.id, attempt),
            )
            for task in self._tasks_of_round(round_number)
            for attempt in range(num_per_task or config.num_per_task)
        ]
        buffer = self._buffers.setdefault(f"{agent.name} {is_refreshed}", [])
        buffer.append(self._play(agent, phase, specs, temperature=config.temperature))
        return [trajectory for rollouts in buffer[-self.config.loop.buffer_rounds :] for trajectory in rollouts]

    def evaluate(self, agent: Agent, round_number: int) -> list[Trajectory]:
        """Let the agent play the held-out tasks, greedily, one episode each."""
        phase = f"round-{round_number}/evaluate-{agent.name}"
        specs = [
            EpisodeSpec(id=f"{phase}/{task.id}", task=task, agent=agent.name, seed=derive_seed(self.seed, task.id))
            for task in self.world.eval_tasks
        ]
        return self._play(agent, phase, specs, temperature=0.0)

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
        from sparring.objectives import PreferenceObjective

        config, loop = self.config, self.config.loop
        phase = f"round-{round_number}/train-{agent.name}"
        if agent.name == "target" and config.pairs.num_pairs is not None:
            pairs = subsample(pairs, config.pairs.num_pairs, derive_seed(self.seed, phase, "subsample"))
        if not pairs:
            raise TrainingError(
                f"{self.arm}, {phase}: no preference pairs. Every rollout tied with its expert or broke: "
                "raise env.num_train, rollout.num_per_task or rollout.temperature, or lower pairs.min_gap."
            )
        loss, lr = loss or config.loss, config.dpo.lr
        if round_number > 1:
            loss = dataclasses.replace(loss, beta=loop.later_beta or loss.beta)
            lr = loop.later_lr or lr
        if agent.name == "partner":  # a rate of its own holds in every round
            lr = config.partner.lr or lr
        return self._fit(
            agent,
            phase,
            objective=PreferenceObjective(config=loss),
            train=dataclasses.replace(config.dpo, lr=lr),
            make_groups=lambda encode: groups_from_pairs(pairs, encode),
            pairs=pairs,
        )

    def eto_loss(self) -> LossConfig:
        """Return the loss without Eq. 9's weights: ETO's on expert pairs, plain DPO (Eq. 7) on failure pairs."""
        eto = self.config.eto
        return dataclasses.replace(
            self.config.loss,
            expert_dpo=eto.dpo_weight,
            expert_sft=eto.sft_weight,
            failure_dpo=1.0,
            failure_sft=0.0,
        )

    def warn(self, message: str) -> None:
        """Tell the user of something that changes what the run means, and go on."""
        self.progress.note(f"{self.arm}: {message}")

    def _tasks_of_round(self, round_number: int) -> Sequence[Task]:
        tasks, num = self.world.train_tasks, self.config.rollout.num_tasks
        if num is None or num >= len(tasks):
            return tasks
        drawn = random.Random(derive_seed(self.seed, "tasks of round", round_number)).sample(range(len(tasks)), num)
        return [tasks[index] for index in sorted(drawn)]

    # ── Playing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _play(self, agent: Agent, name: str, specs: Sequence[EpisodeSpec], *, temperature: float) -> list[Trajectory]:
        chat, play = self.config.chat, self.config.rollout
        settings = (agent.lineage, chat, play.max_new_tokens, play.wave_size, self.config.env.num_envs, temperature)
        phase = self._phase(name, shared_key=digest(settings, specs) if agent.is_start else None)
        path = phase.path / "trajectories.jsonl"
        if not phase.is_done:
            with self._timed(name), self.progress.phase(self._title(name), total=len(specs)) as bar:
                self._play_rest(agent, phase, specs, temperature, bar.advance)
            phase.finish({"num": len(specs)})
        by_id = {trajectory.id: trajectory for trajectory in read_trajectories(path)}
        return [by_id[spec.id] for spec in specs]

    def _play_rest(
        self,
        agent: Agent,
        phase: Phase,
        specs: Sequence[EpisodeSpec],
        temperature: float,
        advance: Callable[[int], None],
    ) -> None:
        journal = phase.journal("trajectories.jsonl")
        rest, kept = _unfinished_waves(cut_waves(specs, self.config.rollout.wave_size), journal.read())
        journal.replace(kept)
        advance(len(kept))
        if not rest:
            return

        def finished(wave: Sequence[Trajectory]) -> None:
            if all(trajectory.stop is StopReason.ENV_FAULT for trajectory in wave):
                raise EnvFault(
                    f"{phase.path}: every episode of a wave broke ({wave[0].error}). `sparring envs` "
                    "says whether the world runs here; fewer env.num_envs need less memory."
                )
            journal.append([trajectory_to_json(trajectory) for trajectory in wave])

        rollout(
            self._policy(agent, temperature),
            self.world.pool,
            self.world.benchmark,
            rest,
            num_slots=self.config.env.num_envs,
            finished=finished,
            on_episode=lambda _: advance(1),
        )

    def _policy(self, agent: Agent, temperature: float) -> Policy:
        from sparring.policies.local import LocalPolicy, load_model

        model, tokenizer = load_model(self._model_config(agent))
        return LocalPolicy(
            model,
            self._chat(tokenizer),
            temperature=temperature,
            max_new_tokens=self.config.rollout.max_new_tokens,
            num_slots_per_lane=max(1, self.config.env.num_envs // 2),
        )

    # ── Training ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fit(
        self,
        agent: Agent,
        name: str,
        *,
        objective: Objective,
        train: TrainConfig,
        make_groups: Callable[[Callable[[Trajectory], Encoded | None]], list[Group]],
        pairs: Sequence[PreferencePair] = (),
        shared_key: str | None = None,
    ) -> Agent:
        phase = self._phase(name, shared_key=shared_key)
        checkpoint = phase.path / "checkpoint"
        if not phase.is_done:
            with self._timed(name):
                self._fit_phase(agent, phase, name, objective, train, make_groups, pairs)
        return Agent(name=agent.name, checkpoint=str(checkpoint), lineage=digest(agent.lineage, self.arm, name))

    def _fit_phase(
        self,
        agent: Agent,
        phase: Phase,
        name: str,
        objective: Objective,
        train: TrainConfig,
        make_groups: Callable[[Callable[[Trajectory], Encoded | None]], list[Group]],
        pairs: Sequence[PreferencePair],
    ) -> None:
        from sparring.policies.local import load_model, save_model
        from sparring.trainer import completed_steps, fit

        if pairs:
            phase.journal("pairs.jsonl").replace(pair_to_json(pair) for pair in pairs)
        model, tokenizer = load_model(dataclasses.replace(self._model_config(agent), dtype="float32"))
        encode, overflows = _counting_encoder(self._chat(tokenizer))
        groups = make_groups(encode)
        if overflows:
            self.warn(f"{name}: {len(overflows)} trajectories exceed chat.max_context and are left out.")
        state_dir, journal = phase.path / "state", phase.journal("log.jsonl")
        done = completed_steps(state_dir)
        journal.replace([record for record in journal.read() if record["step"] <= done])
        with self.progress.phase(self._title(name)) as bar:
            result = fit(
                model,
                groups,
                objective,
                train,
                seed=derive_seed(self.seed, name),
                state_dir=state_dir,
                log=lambda record: journal.append([record]),
                progress=bar.update,
            )
        with disk_errors(phase.path / "checkpoint"):
            save_model(model, tokenizer, phase.path / "checkpoint")
            sync_tree(phase.path / "checkpoint")
        counts = {str(kind): num for kind, num in count_kinds(pairs).items() if num}
        phase.finish(
            {
                "steps": result.steps,
                "stopped": result.stopped,
                "overflows": len(overflows),
                "pairs": counts,
                "metrics": result.metrics,
            }
        )
        shutil.rmtree(state_dir, ignore_errors=True)

    # ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _model_config(self, agent: Agent) -> Any:
        return dataclasses.replace(self.config.model, path=agent.checkpoint)

    def _chat(self, tokenizer: Any) -> Chat:
        config = self.config.chat
        examples = self.experts[: config.num_examples]
        return Chat(tokenizer, config, instruction=self.world.benchmark.instruction, examples=examples)

    def _phase(self, name: str, *, shared_key: str | None = None) -> Phase:
        own = f"seed-{self.seed}/{self.arm}/{name}"
        if shared_key is None:
            return self.run.phase(own)
        shared = self.run.phase(f"seed-{self.seed}/shared/{name.replace('/', '-')}-{shared_key}")
        _link(self.run.folder / own, shared.path)
        return shared

    def _title(self, name: str) -> str:
        return f"{self.arm} · {name}" if self.seed == 0 else f"seed {self.seed} · {self.arm} · {name}"

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        wall, cpu, env_cpu = time.perf_counter(), time.process_time(), self.world.pool.cpu_seconds()
        yield
        self.run.add_timing(
            seed=self.seed,
            arm=self.arm,
            phase=name,
            wall_s=round(time.perf_counter() - wall, 3),
            cpu_s=round(time.process_time() - cpu, 3),
            env_cpu_s=round(max(0.0, self.world.pool.cpu_seconds() - env_cpu), 3),  # a restart loses what was used
        )


def _counting_encoder(chat: Chat) -> tuple[Callable[[Trajectory], Encoded | None], set[str]]:
    """Return an encoder that answers None for a trajectory that exceeds the context, and the set of such ids."""
    overflows: set[str] = set()

    def encode(trajectory: Trajectory) -> Encoded | None:
        try:
            return chat.encode(trajectory)
        except ContextOverflow:
            overflows.add(trajectory.id)
            return None

    return encode, overflows


def _unfinished_waves(
    waves: Sequence[Sequence[EpisodeSpec]], records: Sequence[dict[str, Any]]
) -> tuple[list[Sequence[EpisodeSpec]], list[dict[str, Any]]]:
    """Split into waves still to be played and records to keep: a wave counts only as a whole.

    A wave's batches depend on all of its episodes, so half of one can't be gone on with bit for bit.
    """
    by_id = {record["id"]: record for record in records}
    rest: list[Sequence[EpisodeSpec]] = []
    kept: list[dict[str, Any]] = []
    for wave in waves:
        if all(spec.id in by_id for spec in wave):
            kept += [by_id[spec.id] for spec in wave]
        else:
            rest.append(wave)
    return rest, kept


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)


def _plain(value: Any) -> Any:
    assert dataclasses.is_dataclass(value) and not isinstance(value, type), f"can't hash {value!r}"
    return dataclasses.asdict(value)
