"""D_0 from unguided exploration: places without a goal in, validated tasks out, wave by wave.

    places      where training tasks begin, without their goals
    explore     an explorer plays there: the world's own, or a language model
    abstract    what it brought about becomes tasks (`Synthesis.relabel`)
    validate    as every synthetic task, against evaluation tasks and those that were made before

A *wave* is some places that are explored at once, and what came of them: plain data, to be recorded. The next wave
depends on the config, the seed and the waves before it alone, so that a bootstrap that is resumed after any wave ends
as one that was not.

Source: arXiv 2604.15840 (D_0 of 100 tasks from unguided exploration). Deviates: what is made is validated; how it is
explored is ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from sparring.core.convert import check_values
from sparring.core.filters import is_broken, usable
from sparring.core.ranges import CountOrZero, Repeats
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import Exploration, Synthesis, exploration_of, synthesis_of
from sparring.policies.base import Episode
from sparring.policies.scripted import ScriptedPolicy
from sparring.synthesis.arena import Arena, Purpose
from sparring.synthesis.checks import CheckName, ValidationConfig
from sparring.synthesis.curriculum import SynthesisResult
from sparring.synthesis.proposals import Findings, Proposal, Proposed, content_key, origin_of, unguided_origin
from sparring.synthesis.signals import draw
from sparring.synthesis.validation import Ground, Verdict, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """Initial tasks from exploration, in the place of the training split."""

    num: CountOrZero = 0
    """Tasks of D_0 that are made by exploring without a goal (paper: 100). 0: D_0 is the training split."""
    explorer: Literal["programmatic", "language-model"] = "programmatic"
    """Who explores. `programmatic`: the world's own explorer, by chance. `language-model`: the model of `[openai]`,
    with the settings of `[explorer]` (the paper)."""
    starts: Literal["training", "variations"] = "training"
    """Where exploration begins. `training`: where the training tasks do. `variations`: where other tasks of their kinds
    do, in a world that can draw them."""
    num_places: Repeats = 16
    """Places that are explored at once."""
    max_tries: Repeats = 8
    """Most places that are explored for each task that is wanted; then D_0 stays smaller."""
    checks: tuple[CheckName, ...] = ("duplicate", "replay", "change", "empty", "random")
    """Validation of what is made; how each check is made, `[validation]` says. Without `query` and `probe`, which ask
    an agent, D_0 is the same for all arms."""

    def __post_init__(self) -> None:
        """Refuse checks that don't go together."""
        check_values(self)
        ValidationConfig(checks=self.checks)

    def validation(self, config: ValidationConfig) -> ValidationConfig:
        """Return the run's validation with the checks of D_0."""
        return replace(config, checks=self.checks)

    @property
    def asks_agent(self) -> bool:
        """Whether an agent is to play."""
        return not {"query", "probe"}.isdisjoint(self.checks)


class Explorer(Protocol):
    """Explores places without a goal, and makes tasks of what happened."""

    def explore(self, places: Sequence[Task], arena: Arena, *, seed: int) -> Proposed:
        """Return what may become tasks."""
        ...


T = TypeVar("T")
Walk = tuple[Trajectory, Task, tuple[tuple[str, ...], ...]]
"""What an explorer played, the task that it makes, and what solves it, best first."""


class Wanderer:
    """The explorer without a language model: the world's own, which acts by chance. It is a synthesiser, too."""

    name = "programmatic"

    def __init__(self, benchmark: Benchmark) -> None:
        """Take a benchmark that can be explored.

        Raises:
            ConfigError: it can't.
        """
        self._benchmark = benchmark
        self._world: Synthesis = synthesis_of(benchmark)
        self._explorer: Exploration = exploration_of(benchmark)

    def explore(self, places: Sequence[Task], arena: Arena, *, seed: int) -> Proposed:
        """Play one episode in each place, and make a goal of what it brought about."""
        counts: Counter[str] = Counter()
        proposals = [
            Proposal(task=task, references=ways, origin=unguided_origin(place, self.name, "explore", episode.id))
            for place, (episode, task, ways) in self._walks(list(zip(places, places, strict=True)), arena, seed, counts)
        ]
        return Proposed(proposals=tuple(proposals), counts=dict(counts))

    def propose(self, findings: Findings, arena: Arena, *, num: int, seed: int) -> Proposed:
        """Explore where flagged tasks begin, the most pressing first, and again until there are `num` episodes.

        As many episodes as it plays are left for validation.
        """
        counts: Counter[str] = Counter()
        starts = [(flag, place) for flag in findings.flags if (place := self._explorer.place(flag.trajectory.task))]
        while not arena.affords(2 * num):
            num -= 1
        chosen = [starts[i % len(starts)] for i in range(num if starts else 0)]
        proposals: dict[str, Proposal] = {}
        for flag, (_, task, ways) in self._walks(chosen, arena, seed, counts):
            if task.id in findings.known_ids | proposals.keys():
                counts["repeated"] += 1
            else:
                origin = origin_of(flag, self.name, "explore")
                proposals[task.id] = Proposal(task=task, references=ways, origin=origin)
        return Proposed(proposals=tuple(proposals.values()), counts=dict(counts))

    def _walks(
        self, starts: Sequence[tuple[T, Task]], arena: Arena, seed: int, counts: Counter[str]
    ) -> Iterator[tuple[T, Walk]]:
        """Play one episode in each place; yield whose place it was and what became of it, and count what did not."""

        def choose(episode: Episode) -> str | None:
            own = int(draw(seed, "explorer", episode.id) * 2**31)
            return self._explorer.explore(episode.task, episode.turns, episode.observation, own)

        played = arena.play(Purpose.EXPLORE, ScriptedPolicy(choose), [place for _, place in starts])
        for (start, _), (episode,) in zip(starts, played, strict=True):
            if not usable([episode]):
                counts["explore: the world broke" if is_broken(episode) else "dropped: nothing explored"] += 1
                continue
            task = self._world.relabel(episode)
            if task is None:
                counts["dropped: ungrounded"] += 1
                continue
            # The world may know a shorter way than the explorer's.
            ways = [self._benchmark.expert_actions([task]).get(task.id, ()), [turn.action for turn in episode.turns]]
            yield start, (episode, task, tuple(dict.fromkeys(tuple(way) for way in ways if way)))


def places_of(tasks: Sequence[Task], benchmark: Benchmark, starts: Literal["training", "variations"]) -> list[Task]:
    """List places without a goal, each once, in the order of the training tasks.

    Raises:
        ConfigError: the world can't be explored.
    """
    world, explored = synthesis_of(benchmark), exploration_of(benchmark)
    if starts == "variations":
        tasks = [other for task in tasks for other in world.variations(task)]
    found = (place for task in tasks if (place := explored.place(task)) is not None)
    return list({content_key(place): place for place in found}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """All that D_0 depends on."""

    places: Sequence[Task]
    """Where to explore, at least one. All are gone through, in an order of chance, and then again."""
    explorer: Explorer
    ground: Ground
    """What is checked against; what earlier waves made is added here."""
    config: BootstrapConfig
    validation: ValidationConfig
    """Of what is made."""
    seed: int

    def waves(self, make_arena: Callable[[int], Arena], done: Sequence[SynthesisResult]) -> Iterator[SynthesisResult]:
        """Explore wave by wave until there are enough tasks, or enough was tried; yield each new wave. This acts.

        Args:
            make_arena: gives each wave an arena, by its number from 0 on.
            done: waves that were finished before.
        """
        waves = list(done)
        most = math.ceil(self.config.max_tries * self.config.num / self._num_places)
        while len(accepted(waves)) < self.config.num and len(waves) < most:
            waves.append(self._wave(make_arena(len(waves)), waves))
            yield waves[-1]

    @property
    def _num_places(self) -> int:
        """How many places a wave explores, none twice."""
        return min(self.config.num_places, len(self.places))

    def _wave(self, arena: Arena, before: Sequence[SynthesisResult]) -> SynthesisResult:
        seed = int(draw(self.seed, "wave", len(before)) * 2**31)
        proposed = self.explorer.explore(self._chosen(len(before)), arena, seed=seed)
        sound = [one for wave in before for one in wave.verdicts if one.is_accepted or one.is_quarantined]
        played = {action for one in proposed.proposals for way in one.references for action in way}
        known = {action for one in sound for action in one.reference}
        ground = replace(
            self.ground,
            known_tasks=[*self.ground.known_tasks, *(one.proposal.task for one in sound)],
            known_sketches=[*self.ground.known_sketches, *(one.sketch for one in sound if one.sketch is not None)],
            vocabulary=sorted(filter(self.ground.world.pattern, {*self.ground.vocabulary, *played, *known})),
        )
        verdicts = validate(proposed.proposals, ground, arena, self.validation, seed=seed)
        return SynthesisResult(step=0, verdicts=tuple(verdicts), counts=proposed.counts, episodes=arena.spent)

    def _chosen(self, wave: int) -> list[Task]:
        """Return a wave's places."""
        num = self._num_places
        turn, part = divmod(wave, math.ceil(len(self.places) / num))
        order = sorted(self.places, key=lambda place: draw(self.seed, "place", turn, place.id))
        return order[part * num : (part + 1) * num]


def accepted(waves: Sequence[SynthesisResult]) -> list[Verdict]:
    """List what passed, in the order in which it was made."""
    return [one for wave in waves for one in wave.verdicts if one.is_accepted]


def merge(waves: Sequence[SynthesisResult]) -> SynthesisResult:
    """Put waves together."""
    counts, episodes = Counter[str](), Counter[str]()
    for wave in waves:
        counts.update(wave.counts)
        episodes.update(wave.episodes)
    verdicts = tuple(one for wave in waves for one in wave.verdicts)
    return SynthesisResult(step=0, verdicts=verdicts, counts=dict(counts), episodes=dict(episodes))
