"""The phases in which one arm with one seed makes tasks: D_0 by exploration, and what it makes where it is weak."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sparring.core.errors import DataError
from sparring.core.filters import actions, successes
from sparring.core.phases import TRAJECTORIES, Phase
from sparring.core.types import Task, Trajectory
from sparring.learning.phase import drop_state
from sparring.methods.base import Agent
from sparring.runs.phase_runner import PhaseRunner
from sparring.runs.seeds import derive_seed, digest
from sparring.runs.synthesis import BOOTSTRAP, Synthesis, read_synthesis
from sparring.synthesis.bootstrap import accepted, places_of
from sparring.synthesis.curriculum import Curriculum, SynthesisResult

if TYPE_CHECKING:
    from sparring.policies.completions import ChatServer


class TaskMaking:
    """Makes an arm's tasks, each time a resumable phase."""

    def __init__(self, runner: PhaseRunner) -> None:
        self._runner, self._config, self._seed = runner, runner.config, runner.seed

    def synthesise(
        self, agent: Agent, curriculum: Curriculum, round_number: int, starts: Mapping[str, str]
    ) -> SynthesisResult:
        """Make tasks where the agent is weak; `starts` as in `Synthesis.run`."""
        name = f"round-{round_number}/synthesis"
        phase = self._runner.phase(name)
        if phase.is_done:
            return read_synthesis(phase)
        phase.journal(TRAJECTORIES).replace([])  # a synthesis that was cut short begins anew
        with self._runner.timed(name), self._runner.progress.phase(self._runner.title(name)) as bar:
            synthesis = self._synthesis(agent, phase, bar.advance)
            return synthesis.run(curriculum, phase, starts=starts, seed=derive_seed(self._seed, name))

    def bootstrap(self, agent: Agent) -> tuple[Sequence[Task], Sequence[Trajectory]]:
        """Make D_0 by exploration; return its tasks and how they were solved.

        Arms share it that explore and validate in the same way; the agent counts only where it is asked to play.

        Raises:
            DataError: no task came of it.
        """
        config = self._config.bootstrap
        phase = self._runner.phase(BOOTSTRAP, shared_key=self._key(agent))
        with self._runner.claim([phase]):
            result = read_synthesis(phase) if phase.is_done else self._explore(agent, phase)
            drop_state(phase)
        chosen = accepted([result])[: config.num]
        told = "; ".join(f"{num} {name}" for name, num in {**result.refusals(), **result.counts}.items())
        if not chosen:
            raise DataError(f"bootstrap.num: exploration made no task ({told}). Delete {phase.path} to explore anew.")
        if len(chosen) < config.num:
            self._runner.warn(f"D_0 has {len(chosen)} tasks in the place of {config.num}: no more came of it ({told}).")
        ids = {one.proposal.task.id for one in chosen}
        solved = [one for one in self.references(result) if one.task.id in ids]
        return [one.proposal.task for one in chosen], solved

    def references(self, result: SynthesisResult) -> list[Trajectory]:
        """Return how the sound tasks of a synthesis were solved when they were validated: one episode a task."""
        found = {
            one.proposal.task.id: one.reference
            for one in result.verdicts
            if one.reference and (one.is_accepted or one.is_quarantined)
        }
        phase = self._runner.phase(f"round-{result.step}/synthesis")
        solved: dict[str, Trajectory] = {}
        for one in successes(phase.trajectories(), self._config.pairs.success_eps) if found else ():
            if actions(one) == found.get(one.task.id, ())[: len(one.turns)]:
                solved.setdefault(one.task.id, one)
        return [solved[task_id] for task_id in found if task_id in solved]

    def _explore(self, agent: Agent, phase: Phase) -> SynthesisResult:
        world, runner = self._runner.world, self._runner
        places = places_of(world.train_tasks, world.benchmark, self._config.bootstrap.starts)
        if not places:
            raise DataError(
                f"bootstrap.starts: no place to explore comes of the {len(world.train_tasks)} training tasks with "
                f'"{self._config.bootstrap.starts}".'
            )
        with runner.timed(BOOTSTRAP), runner.progress.phase(runner.title(BOOTSTRAP)) as bar:
            synthesis = self._synthesis(agent, phase, bar.advance)
            return synthesis.bootstrap(places, phase, seed=derive_seed(self._seed, BOOTSTRAP))

    def _key(self, agent: Agent) -> str:
        """Hash what D_0 depends on beside the run's world and the seed."""
        config, own = self._config, self._config.bootstrap
        asked = (
            (config.explorer, config.openai, config.model, config.chat) if own.explorer == "language-model" else None
        )
        played = (agent.lineage, config.chat, config.rollout, config.sampler) if own.asks_agent else None
        return digest(own, own.validation(config.validation), asked, played)

    def _synthesis(self, agent: Agent, phase: Phase, advance: Callable[[int], None]) -> Synthesis:
        runner = self._runner
        return Synthesis(
            config=self._config,
            benchmark=runner.world.benchmark,
            held_out=runner.world.held_out,
            play=partial(runner.play_attempts, agent.name, phase.journal(TRAJECTORIES), advance),
            make_agent=lambda: runner.policy(agent, self._config.rollout.temperature),
            find_server=self._server,
            examples=runner.world.experts,
        )

    def _server(self) -> ChatServer | None:
        return self._runner.engine.chat_server()
