"""Where a CoEvolve run stands comes in, a synthesis of tasks goes out, played through the rollout engine and recorded.

This is where `synthesis`, which knows protocols alone, meets the run's own world, its held-out tasks and its server.

Source: arXiv 2604.15840.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.core.journal import read_json, write_json_atomic
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.records import journaled
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import synthesis_of
from sparring.policies.base import AnyPolicy
from sparring.policies.factory import Prompt, Sampling, server_policy
from sparring.rollouts.stage import num_broken
from sparring.synthesis.arena import Arena, Play
from sparring.synthesis.curriculum import CoEvolveConfig, Curriculum, SynthesisResult, synthesise
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.programmatic import Programmatic
from sparring.synthesis.proposals import Synthesiser
from sparring.synthesis.signals import Pattern
from sparring.synthesis.validation import Ground

if TYPE_CHECKING:
    from sparring.policies.completions import ChatServer, OpenAIConfig
    from sparring.runs.config import Config

FILE = "synthesis.json"
"""What a synthesis brought, in its phase's folder."""
EVALUATION_SPLITS = ("dev", "test", "test_challenge")
"""Splits that no synthetic task may overlap, besides the run's own held-out tasks."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Makes tasks in a run's world."""

    config: Config
    benchmark: Benchmark
    held_out: Sequence[Task]
    """The run's evaluation tasks."""
    starts: Mapping[str, str]
    """Their first observations, by id, as far as they are known."""
    play: Play
    """Plays episodes and writes them down; in the order of the attempts."""
    agent: AnyPolicy
    """The agent as it is now: it probes what is proposed."""
    examples: Sequence[Trajectory] = ()
    """Worked examples, which a served model that plays is shown as any agent is."""
    server: ChatServer | None = None
    """The run's own, which a language model that is not named is asked on."""

    def run(self, curriculum: Curriculum, phase: Phase, *, seed: int) -> SynthesisResult:
        """Make tasks where the agent is weak, write down what came of it, and finish the phase.

        Raises:
            ConfigError: the world offers no synthesis, or no server is named for a language model.
        """
        arena = Arena(
            self.play, prefix=f"round-{curriculum.step}/synthesis", seed=seed, budget=self.config.synthesis.max_episodes
        )
        offered = synthesis_of(self.benchmark)
        gate = EvaluationGate(offered, self._evaluation_tasks(), starts=self.starts)
        ground = Ground(
            world=offered,
            gate=gate,
            turn_limit=self.benchmark.turn_limit,
            agent=self.agent,
            explorer=self._explorer() if self.config.validation.asks_explorer else None,
        )
        result = synthesise(curriculum, self._synthesiser(), ground, arena, CoEvolveConfig.of(self.config), seed=seed)
        write_json_atomic(phase.path / FILE, result.to_json())
        lost = num_broken(journaled(phase.journal(TRAJECTORIES)))
        num = sum(result.episodes.values())
        phase.finish({"num": num, "broken": lost, "episodes": dict(result.episodes), "refusals": result.refusals()})
        return result

    def _synthesiser(self) -> Synthesiser:
        if self.config.synthesis.kind == "programmatic":
            return Programmatic(self.benchmark)
        from sparring.policies.completions import CompletionClient
        from sparring.synthesis.language_model import LanguageModelSynthesiser

        config, key = self._model()
        client = CompletionClient(config, own_key=key)
        return LanguageModelSynthesiser(self.benchmark, client, self.config.explorer)

    def _explorer(self) -> AnyPolicy:
        """Return the language model as an agent that plays."""
        prompt = Prompt(config=self.config.chat, instruction=self.benchmark.instruction, examples=self.examples)
        play = self.config.rollout
        config, key = self._model()
        return server_policy(
            config, prompt, Sampling(temperature=play.temperature, max_new_tokens=play.max_new_tokens), key
        )

    def _model(self) -> tuple[OpenAIConfig, str]:
        """Return the language model's server, and a key of our own making where it has one."""
        config = self.config.openai
        if config.model or self.server is None:
            return config, ""
        return self.server.config(config), self.server.key

    def _evaluation_tasks(self) -> list[Task]:
        tasks = {task.id: task for task in self.held_out}
        for split in EVALUATION_SPLITS:
            try:
                tasks |= {task.id: task for task in self.benchmark.tasks(split)}
            except ConfigError:  # a world without that split
                continue
        return list(tasks.values())


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
