"""Flags come in, proposals go out, with a language model behind a server: reflect, explore, abstract.

    reflect    on a flagged trajectory: what went wrong, and from which turn and how to explore
    explore    the world from that turn on, several episodes, the model choosing every action
    abstract   what was found into tasks: intent, query, solution

For D_0 it explores places without a goal in the same way, and reflects on nothing.

The model's word is never the grader: a solution is played, and the world makes the goal out of what it brought about
(`Synthesis.relabel`); the query only words it. What is malformed, late or ungrounded is dropped and counted. Control
tokens of chat templates that stand in a world's text are broken up before a model reads it.

Source: arXiv 2604.15840 (the three stages). Deviates: the goal is the world's; the prompts are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sparring.core.filters import is_broken, usable
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import synthesis_of
from sparring.policies.base import Policy
from sparring.synthesis.answers import (
    Idea,
    Reflection,
    parse_ideas,
    parse_reflection,
    parse_sentence,
)
from sparring.synthesis.arena import Arena, Purpose, reference_policy
from sparring.synthesis.asking import Asker, Asking, Bounded, Explorer, LanguageModelConfig
from sparring.synthesis.prompts import (
    ABSTRACT,
    ABSTRACT_PLAINLY,
    NO_GUIDANCE,
    NO_WEAKNESS,
    REFLECT,
    REFLECT_PLAINLY,
    WEAKNESS,
    show,
)
from sparring.synthesis.proposals import Findings, Origin, Proposal, Proposed, origin_of, unguided_origin
from sparring.synthesis.signals import Flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Expedition:
    """A flag, or a place without a goal, on its way through the stages."""

    origin: Origin
    """Of the tasks that come of it."""
    guidance: str
    """Where and how to explore."""
    why: str
    """What the episodes are for."""
    start: Task
    """The task that exploration and solutions begin with."""
    episodes: tuple[Trajectory, ...] = ()
    ideas: tuple[Idea, ...] = ()


class LanguageModelSynthesiser:
    """Reflects, explores and abstracts with a language model."""

    name = "language-model"

    def __init__(
        self,
        benchmark: Benchmark,
        client: Asking,
        config: LanguageModelConfig | None = None,
        *,
        player: Policy | None = None,
        is_code: bool = False,
    ) -> None:
        """Args:
        benchmark: offers its part.
        client: asks the model.
        config: how it is asked.
        player: the model as an agent that plays, for plain answers.
        is_code: actions are code, and may have several lines.

        Raises:
            ConfigError: the benchmark offers no part.
        """
        self._benchmark = benchmark
        self._world = synthesis_of(benchmark)
        self._client = client
        self._config = config or LanguageModelConfig()
        assert self._is_plain is (player is not None), "plain answers take a player"
        self._player, self._is_code = player, is_code

    @property
    def _is_plain(self) -> bool:
        return self._config.answers == "plain"

    def propose(self, findings: Findings, arena: Arena, *, num: int, seed: int) -> Proposed:
        """Return at most `num` proposals, those of the most pressing flags first.

        Raises:
            ConfigError: the server refuses what every request asks for (model, key, address).
        """
        asker = Asker(self._client, self._config, seed)
        proposals = self._pursue(self._reflect(findings.flags[: self._config.num_flags], asker), arena, asker)
        fresh = {one.task.id: one for one in proposals if one.task.id not in findings.known_ids}
        asker.counts["repeated"] += len(proposals) - len(fresh)
        return Proposed(proposals=tuple(fresh.values())[:num], counts=dict(asker.counts))

    def explore(self, places: Sequence[Task], arena: Arena, *, seed: int) -> Proposed:
        """Explore places without a goal, and abstract tasks from what happened.

        Raises:
            ConfigError: as for `propose`.
        """
        asker = Asker(self._client, self._config, seed)
        expeditions = [
            Expedition(
                origin=unguided_origin(place, self.name, "explore-abstract"),
                guidance=NO_GUIDANCE,
                why=NO_WEAKNESS,
                start=place,
            )
            for place in places
        ]
        return Proposed(proposals=tuple(self._pursue(expeditions, arena, asker)), counts=dict(asker.counts))

    def _pursue(self, expeditions: Sequence[Expedition], arena: Arena, asker: Asker) -> list[Proposal]:
        expeditions = self._explore(expeditions, arena, asker)
        expeditions = self._abstract(expeditions, asker)
        return self._ground(expeditions, arena, asker.counts)

    def _reflect(self, flags: Sequence[Flag], asker: Asker) -> list[Expedition]:
        template = REFLECT_PLAINLY if self._is_plain else REFLECT
        prompts = [
            template.format(
                instruction=self._benchmark.instruction,
                why=f"{flag.signal.value}, {flag.detail}",
                episode=show(flag.trajectory),
                num_turns=len(flag.trajectory.turns),
            )
            for flag in flags
        ]
        answers = asker.ask("reflect", prompts)
        expeditions: dict[str, Expedition] = {}
        for flag, answer in zip(flags, answers, strict=True):
            found = asker.read("reflect", answer, lambda text, f=flag: self._reflection(text, f))
            if found is not None:
                start = self._start(flag.trajectory, found.from_turn)
                expedition = Expedition(
                    origin=origin_of(flag, self.name, "reflect-explore-abstract", found.diagnosis),
                    guidance=found.guidance,
                    why=WEAKNESS.format(diagnosis=found.diagnosis),
                    start=start,
                )
                expeditions.setdefault(start.id, expedition)
        return list(expeditions.values())

    def _reflection(self, text: str, flag: Flag) -> Reflection:
        if not self._is_plain:
            return parse_reflection(text, len(flag.trajectory.turns))
        sentence = parse_sentence(text)
        return Reflection(diagnosis=sentence, from_turn=flag.turn, guidance=sentence)

    def _start(self, trajectory: Trajectory, from_turn: int) -> Task:
        prefix = [turn.action for turn in trajectory.turns[:from_turn]]
        restarted = self._world.restart(trajectory.task, prefix) if prefix else None
        return restarted or trajectory.task  # a world that can't restart is explored from the beginning

    def _explore(self, expeditions: Sequence[Expedition], arena: Arena, asker: Asker) -> list[Expedition]:
        num = self._config.num_explorations
        affordable = [one for place, one in enumerate(expeditions, start=1) if arena.affords(place * num)]
        asker.counts["dropped: budget"] += len(expeditions) - len(affordable)
        played = arena.play(
            Purpose.EXPLORE, self._explorer(affordable, asker), [one.start for one in affordable], num=num
        )
        if self._is_plain:
            asker.counts["explore: requests"] += sum(len(one.turns) for group in played for one in group)
            asker.note("explore", 0, sum(len(t.token_ids) for group in played for one in group for t in one.turns))
        explored = []
        for one, episodes in zip(affordable, played, strict=True):
            if broken := sum(map(is_broken, episodes)):
                asker.counts["explore: the world broke"] += broken
            kept = tuple(usable(episodes))
            if kept:
                origin = replace(one.origin, trajectory_id=one.origin.trajectory_id or kept[0].id)
                explored.append(replace(one, origin=origin, episodes=kept))
            else:
                asker.counts["dropped: nothing explored"] += 1
        return explored

    def _explorer(self, expeditions: Sequence[Expedition], asker: Asker) -> Policy:
        if self._player is not None:
            return Bounded(self._player, self._config.explore_turns)
        guidance = {one.start.id: one.guidance for one in expeditions}
        return Explorer(asker, guidance, self._benchmark.instruction, self._config.explore_turns, is_code=self._is_code)

    def _abstract(self, expeditions: Sequence[Expedition], asker: Asker) -> list[Expedition]:
        config = self._config
        if self._is_plain:
            return self._abstract_plainly(expeditions, asker)
        prompts = [
            ABSTRACT.format(
                instruction=self._benchmark.instruction,
                why=one.why,
                episodes="\n\n".join(show(episode) for episode in one.episodes),
                most=config.tasks_per_flag,
            )
            for one in expeditions
        ]
        abstracted = []
        for one, answer in zip(expeditions, asker.ask("abstract", prompts), strict=True):
            limit = min(config.explore_turns, self._benchmark.turn_limit(one.start))
            ideas = asker.read(
                "abstract",
                answer,
                lambda text, most=limit: parse_ideas(text, config.tasks_per_flag, most, is_code=self._is_code),
            )
            if ideas:
                abstracted.append(replace(one, ideas=tuple(ideas)))
        return abstracted

    def _abstract_plainly(self, expeditions: Sequence[Expedition], asker: Asker) -> list[Expedition]:
        """Let each episode that did something be a solution, and a sentence about it the query."""
        most = self._config.tasks_per_flag
        told = [(one, episode) for one in expeditions for episode in one.episodes[:most] if episode.turns]
        answers = asker.ask("abstract", [ABSTRACT_PLAINLY.format(episode=show(episode)) for _, episode in told])
        ideas: dict[str, list[Idea]] = {one.start.id: [] for one in expeditions}
        for (one, episode), answer in zip(told, answers, strict=True):
            query = asker.read("abstract", answer, parse_sentence)
            if query is not None:
                solution = tuple(turn.action for turn in episode.turns)
                ideas[one.start.id].append(Idea(intent=one.why, query=query, actions=solution))
        return [replace(one, ideas=tuple(found)) for one in expeditions if (found := ideas[one.start.id])]

    def _ground(self, expeditions: Sequence[Expedition], arena: Arena, counts: Counter[str]) -> list[Proposal]:
        """Play every solution, and let the world make the goal out of what it brought about."""
        proposals = []
        for place in range(self._config.tasks_per_flag):
            wanting = [one for one in expeditions if place < len(one.ideas)]
            affordable = [one for number, one in enumerate(wanting, start=1) if arena.affords(number)]
            counts["dropped: budget"] += len(wanting) - len(affordable)
            policy = reference_policy({one.start.id: one.ideas[place].actions for one in affordable})
            played = arena.play(Purpose.EXPLORE, policy, [one.start for one in affordable])
            for one, (episode,) in zip(affordable, played, strict=True):
                task = _relabelled(self._world.relabel, episode, one.ideas[place].query)
                if task is None:
                    counts["dropped: ungrounded"] += 1
                    continue
                actions = tuple(turn.action for turn in episode.turns)
                proposals.append(Proposal(task=task, references=(actions,), origin=one.origin))
        return proposals


def _relabelled(relabel: Callable[[Trajectory, str], Task | None], episode: Trajectory, query: str) -> Task | None:
    return relabel(episode, query) if usable([episode]) else None
