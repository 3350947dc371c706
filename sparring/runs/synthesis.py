"""Where a CoEvolve run stands comes in, a synthesis of tasks goes out, played through the rollout engine and recorded.

This is where `synthesis`, which knows protocols alone, meets the run's own world, its held-out tasks and its server.

Source: arXiv 2604.15840.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.core.journal import read_json, write_json_atomic
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.records import journaled, trajectory_to_json
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import synthesis_of
from sparring.policies.base import AnyPolicy, Policy
from sparring.policies.factory import Prompt, Sampling, loaded_policy, local_completions, server_policy
from sparring.rollouts.loop import count_lanes
from sparring.rollouts.stage import num_broken
from sparring.synthesis.arena import Arena, Play, empty_policy
from sparring.synthesis.bootstrap import Bootstrap, Wanderer, merge
from sparring.synthesis.curriculum import CoEvolveConfig, Curriculum, SynthesisResult, synthesise
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.programmatic import Programmatic
from sparring.synthesis.proposals import Synthesiser
from sparring.synthesis.signals import Pattern
from sparring.synthesis.validation import Ground

if TYPE_CHECKING:
    from sparring.models.loading import ModelConfig
    from sparring.policies.completions import ChatServer, OpenAIConfig
    from sparring.runs.config import Config
    from sparring.synthesis.checks import ValidationConfig
    from sparring.synthesis.language_model import LanguageModelSynthesiser

FILE = "synthesis.json"
"""What a synthesis brought, in its phase's folder."""
WAVES = "state/waves.jsonl"
"""What the finished waves of an unfinished bootstrap brought, in its phase's folder."""
BOOTSTRAP = "round-0/synthesis"
"""The phase that makes D_0: a synthesis before the first round."""
EVALUATION_SPLITS = ("dev", "test", "test_challenge")
"""Splits that no synthetic task may overlap, besides the run's own held-out tasks."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Makes tasks in a run's world."""

    config: Config
    benchmark: Benchmark
    held_out: Sequence[Task]
    """The run's evaluation tasks."""
    play: Play
    """Plays episodes and writes them down; in the order of the attempts."""
    make_agent: Callable[[], AnyPolicy]
    """Returns the agent as it is now: it probes what is proposed."""
    find_server: Callable[[], ChatServer | None]
    """Returns the run's own server, which is asked where no language model is named; none: the run's base is asked, in
    this process."""
    examples: Sequence[Trajectory] = ()
    """Worked examples, which a served model that plays is shown as any agent is."""

    def run(self, curriculum: Curriculum, phase: Phase, *, starts: Mapping[str, str], seed: int) -> SynthesisResult:
        """Make tasks where the agent is weak, write down what came of it, and finish the phase.

        Args:
            curriculum: where the run stands.
            phase: gets the result.
            starts: the first observations of evaluation tasks, by id, as far as they are known.
            seed: of all choices.

        Raises:
            ConfigError: the world offers no synthesis, or no server is named for a language model.
        """
        config = self.config
        arena = Arena(
            self.play, prefix=f"round-{curriculum.step}/synthesis", seed=seed, budget=config.synthesis.max_episodes
        )
        ground = self._ground(config.validation, starts, self.make_agent())
        result = synthesise(curriculum, self._maker(), ground, arena, CoEvolveConfig.of(config), seed=seed)
        _finish(phase, result)
        return result

    def bootstrap(self, places: Sequence[Task], phase: Phase, *, seed: int) -> SynthesisResult:
        """Make D_0 by exploring without a goal, write down what came of it, and finish the phase.

        Each wave is written down when it is over; one that was cut short is played anew.

        Args:
            places: where to explore.
            phase: gets the result; what it has already is gone on with.
            seed: of all choices.

        Raises:
            ConfigError: as for `run`.
        """
        config = self.config.bootstrap
        validation = config.validation(self.config.validation)
        agent = self.make_agent() if config.asks_agent else empty_policy()
        work = Bootstrap(
            places=places,
            explorer=Wanderer(self.benchmark) if config.explorer == "programmatic" else self._language_model(),
            ground=self._ground(validation, {}, agent),
            config=config,
            validation=validation,
            seed=seed,
        )
        waves = phase.journal(WAVES)
        done = [SynthesisResult.from_json(record) for record in waves.read()]
        journal = phase.journal(TRAJECTORIES)
        num = sum(sum(one.episodes.values()) for one in done)
        journal.replace(map(trajectory_to_json, journaled(journal)[:num]))
        for wave in work.waves(lambda number: Arena(self.play, prefix=BOOTSTRAP, seed=seed, wave=number), list(done)):
            waves.append([wave.to_json()])
            done.append(wave)
        result = merge(done)
        _finish(phase, result)
        return result

    def _ground(self, validation: ValidationConfig, starts: Mapping[str, str], agent: AnyPolicy) -> Ground:
        offered = synthesis_of(self.benchmark)
        return Ground(
            world=offered,
            gate=EvaluationGate(offered, self._evaluation_tasks(), starts=starts),
            turn_limit=self.benchmark.turn_limit,
            agent=agent,
            explorer=self._explorer() if validation.asks_explorer else None,
        )

    def _maker(self) -> Synthesiser:
        own = self.config.synthesis
        if own.kind == "programmatic":
            return Programmatic(self.benchmark, own.strategies)
        return Wanderer(self.benchmark) if own.kind == "exploration" else self._language_model()

    def _language_model(self) -> LanguageModelSynthesiser:
        from sparring.policies.completions import CompletionClient
        from sparring.synthesis.language_model import LanguageModelSynthesiser

        own, served = self.config.explorer, self._server()
        if served is None:
            sampling = self._sampling(own.temperature, own.max_tokens)
            client = local_completions(self._local_model(), self.config.chat, sampling)
        else:
            client = CompletionClient(served[0], own_key=served[1])
        return LanguageModelSynthesiser(
            self.benchmark,
            client,
            own,
            player=self._explorer() if own.answers == "plain" else None,
            is_code=self.config.chat.format == "code",
        )

    def _explorer(self) -> Policy:
        """Return the language model as an agent that plays."""
        prompt = Prompt(config=self.config.chat, instruction=self.benchmark.instruction, examples=self.examples)
        play, served = self.config.rollout, self._server()
        sampling = self._sampling(play.temperature, play.max_new_tokens)
        if served is None:
            return loaded_policy(self._local_model(), prompt, sampling)
        return server_policy(served[0], prompt, sampling, served[1])

    def _server(self) -> tuple[OpenAIConfig, str] | None:
        """Return the language model's server, and a key of our own making where it has one; None: it is no server's."""
        config = self.config.openai
        if config.model:
            return config, ""
        server = None if self.config.explorer.model else self.find_server()
        return None if server is None else (server.config(config), server.key)

    def _local_model(self) -> ModelConfig:
        """Return the language model in this process: the run's base where no other is named."""
        model, named = self.config.model, self.config.explorer.model
        return replace(model, path=named, trust_remote_code=False) if named else model

    def _sampling(self, temperature: float, max_new_tokens: int) -> Sampling:
        num_envs = self.config.env.num_envs
        lanes = count_lanes(self.benchmark, num_envs)
        return Sampling(temperature=temperature, max_new_tokens=max_new_tokens, num_envs=num_envs, num_lanes=lanes)

    def _evaluation_tasks(self) -> list[Task]:
        tasks = {task.id: task for task in self.held_out}
        for split in EVALUATION_SPLITS:
            try:
                tasks |= {task.id: task for task in self.benchmark.tasks(split)}
            except ConfigError:  # a world without that split
                continue
        return list(tasks.values())


def _finish(phase: Phase, result: SynthesisResult) -> None:
    write_json_atomic(phase.path / FILE, result.to_json())
    lost = num_broken(journaled(phase.journal(TRAJECTORIES)))
    num = sum(result.episodes.values())
    phase.finish({"num": num, "broken": lost, "episodes": dict(result.episodes), "refusals": result.refusals()})


def read_synthesis(phase: Phase) -> SynthesisResult:
    """Read what a finished synthesis brought.

    Raises:
        DataError: its file is damaged.
    """
    phase.check(FILE)
    record: dict[str, Any] = read_json(phase.path / FILE)
    return SynthesisResult.from_json(record)


def action_pattern(benchmark: Benchmark) -> Pattern:
    """Return what kind of action a text is: the world's own answer, or its first word where the world has none."""
    offered = getattr(benchmark, "synthesis", None)
    return offered.pattern if offered is not None else lambda action: action.strip().partition(" ")[0]
