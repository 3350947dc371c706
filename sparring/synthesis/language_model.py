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
from typing import Annotated, Protocol, TypeVar

from sparring.core.convert import check_values
from sparring.core.errors import EnvFault
from sparring.core.filters import is_broken, usable
from sparring.core.ranges import Range, Repeats, Temperature
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.control_tokens import break_known_controls
from sparring.envs.base import Benchmark
from sparring.envs.synthesis import synthesis_of
from sparring.policies.base import Episode, Reply
from sparring.policies.completions import Completion, Outcome, Request
from sparring.synthesis.answers import (
    Idea,
    Malformed,
    parse_action,
    parse_ideas,
    parse_reflection,
)
from sparring.synthesis.arena import Arena, Purpose, reference_policy
from sparring.synthesis.proposals import Findings, Origin, Proposal, Proposed, origin_of, unguided_origin
from sparring.synthesis.signals import Flag, draw

SHOWN = 1500
"""Characters of an observation that the model is shown; the rest is marked as left out."""

REFLECT = """An agent acts in a text world. This is how the world works:
{instruction}

Below is an episode of the agent's that was flagged: {why}.
{episode}

Say what the agent does not master here, and where and how to explore the world in order to learn more about it. Answer
with one JSON object and nothing else:
{{"diagnosis": "what the agent does not master", "from_turn": turns to keep before exploring, 0 to {num_turns},
"guidance": "what to try from there"}}"""

EXPLORE = """You explore a text world. This is how it works:
{instruction}

Explore with this in mind: {guidance}
Answer each observation with one JSON object and nothing else: {{"action": "your next action"}}"""

ABSTRACT = """An agent acts in a text world. This is how the world works:
{instruction}

{why}
{episodes}

Make at most {most} new tasks, each with a solution: actions that start where these episodes start. Answer with one JSON
object and nothing else:
{{"tasks": [{{"intent": "what the task trains", "query": "the task in one sentence, as the agent will read it",
"actions": ["first action", "second action"]}}]}}"""

WEAKNESS = "The agent does not master this: {diagnosis}\nThe world was explored for it; train that. The episodes:"
NO_WEAKNESS = "The world was explored, and nothing was asked of the explorer. The episodes:"
"""What the abstraction is told of the episodes: after a flag, and without one."""
NO_GUIDANCE = "Nobody asks for anything. Find out what can be done here, and do something that changes the world."


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """How a language model makes tasks; its server is `[openai]`."""

    num_flags: Repeats = 8
    """Most flags it reflects on in one synthesis."""
    num_explorations: Repeats = 2
    """Episodes of exploration per flag, or per place."""
    explore_turns: Repeats = 30
    """Most turns of an exploration, and most actions of a solution (paper: 30)."""
    tasks_per_flag: Repeats = 3
    """Most tasks that are abstracted from a flag, or from a place."""
    temperature: Temperature = 0.7
    """Of all three stages."""
    max_tokens: Annotated[int, Range(at_least=1, at_most=1_000_000)] = 1024
    """Most tokens of an answer."""

    def __post_init__(self) -> None:
        check_values(self)


class Asking(Protocol):
    """What is needed of a `CompletionClient`."""

    def complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send the requests, and return what came of each, in order."""
        ...


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


T = TypeVar("T")


class LanguageModelSynthesiser:
    """Reflects, explores and abstracts with a language model."""

    name = "language-model"

    def __init__(self, benchmark: Benchmark, client: Asking, config: LanguageModelConfig | None = None) -> None:
        """Take a benchmark that offers its part, and a client.

        Raises:
            ConfigError: the benchmark does not.
        """
        self._benchmark = benchmark
        self._world = synthesis_of(benchmark)
        self._client = client
        self._config = config or LanguageModelConfig()

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
        prompts = [
            REFLECT.format(
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
            found = asker.read("reflect", answer, lambda text, f=flag: parse_reflection(text, len(f.trajectory.turns)))
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

    def _start(self, trajectory: Trajectory, from_turn: int) -> Task:
        prefix = [turn.action for turn in trajectory.turns[:from_turn]]
        restarted = self._world.restart(trajectory.task, prefix) if prefix else None
        return restarted or trajectory.task  # a world that can't restart is explored from the beginning

    def _explore(self, expeditions: Sequence[Expedition], arena: Arena, asker: Asker) -> list[Expedition]:
        num = self._config.num_explorations
        affordable = [one for place, one in enumerate(expeditions, start=1) if arena.affords(place * num)]
        asker.counts["dropped: budget"] += len(expeditions) - len(affordable)
        guidance = {one.start.id: one.guidance for one in affordable}
        explorer = Explorer(asker, guidance, self._benchmark.instruction, self._config.explore_turns)
        played = arena.play(Purpose.EXPLORE, explorer, [one.start for one in affordable], num=num)
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

    def _abstract(self, expeditions: Sequence[Expedition], asker: Asker) -> list[Expedition]:
        config = self._config
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
                "abstract", answer, lambda text, most=limit: parse_ideas(text, config.tasks_per_flag, most)
            )
            if ideas:
                abstracted.append(replace(one, ideas=tuple(ideas)))
        return abstracted

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


class Explorer:
    """The policy of exploration: the model says every action. An answer that is malformed ends the episode."""

    def __init__(self, asker: Asker, guidance: dict[str, str], instruction: str, max_turns: int) -> None:
        """`guidance`: task id → what to try."""
        self._asker = asker
        self._guidance = guidance
        self._instruction = instruction
        self._max_turns = max_turns

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply]:
        """Ask for the next action of every episode that has turns left, all at once."""
        asked = [episode for episode in episodes if len(episode.turns) < self._max_turns]
        outcomes = self._asker.complete("explore", [self._messages(one) for one in asked], [one.id for one in asked])
        replies = {episode.id: self._reply(outcome) for episode, outcome in zip(asked, outcomes, strict=True)}
        over = Reply(text="", action="", stop=StopReason.TURN_LIMIT)
        return [replies.get(episode.id, over) for episode in episodes]

    def close(self, episode_id: str) -> None:
        """Forget nothing: there is no memory."""

    def _messages(self, episode: Episode) -> list[dict[str, str]]:
        observations = [*(turn.observation for turn in episode.turns), episode.observation]
        shown = [shorten(observation) for observation in observations]
        guidance = self._guidance[episode.task.id]
        shown[0] = f"{EXPLORE.format(instruction=self._instruction, guidance=guidance)}\n\n{shown[0]}"
        messages = []
        for turn, observation in zip(episode.turns, shown, strict=False):
            messages += [_says("user", observation), _says("assistant", turn.text)]
        return [*messages, _says("user", shown[-1])]

    def _reply(self, outcome: Outcome) -> Reply:
        if isinstance(outcome, EnvFault):
            return Reply(text="", action="", stop=StopReason.ENV_FAULT, error=f"EnvFault: {outcome}")
        action = self._asker.read("explore", outcome, parse_action)
        if action is None:
            return Reply(text="", action="", stop=StopReason.TURN_LIMIT)
        assert isinstance(outcome, Completion)
        return Reply(text=outcome.text, action=action)


class Asker:
    """Asks and counts."""

    def __init__(self, client: Asking, config: LanguageModelConfig, seed: int) -> None:
        self._client = client
        self._config = config
        self._seed = seed
        self.counts: Counter[str] = Counter()

    def ask(self, stage: str, prompts: Sequence[str]) -> list[Outcome]:
        """Send one prompt each."""
        return self.complete(stage, [[_says("user", prompt)] for prompt in prompts], list(range(len(prompts))))

    def complete(
        self, stage: str, dialogues: Sequence[Sequence[dict[str, str]]], names: Sequence[object]
    ) -> list[Outcome]:
        """Send dialogues; each is sampled with a seed of its own."""
        self.counts[f"{stage}: requests"] += len(dialogues)
        requests = [
            Request(
                messages=[_says(one["role"], break_known_controls(one["content"])) for one in messages],
                temperature=self._config.temperature,
                max_tokens=self._config.max_tokens,
                seed=int(draw(self._seed, stage, name, len(messages)) * 2**31),
            )
            for messages, name in zip(dialogues, names, strict=True)
        ]
        return self._client.complete(requests) if requests else []

    def read(self, stage: str, outcome: Outcome, parse: Callable[[str], T]) -> T | None:
        """Read an answer; none where there is none, or a malformed one."""
        if not isinstance(outcome, Completion):
            self.counts[f"{stage}: no answer"] += 1
            return None
        try:
            return parse(outcome.text)
        except Malformed:
            self.counts[f"{stage}: malformed"] += 1
            return None


def show(trajectory: Trajectory) -> str:
    """Write an episode out for a model: numbered turns, the reward so far, and what came last."""
    lines = [line for number, turn in enumerate(trajectory.turns, start=1) for line in _turn_lines(number, turn)]
    end = f"Observation: {shorten(trajectory.final_observation)}\nThe end ({trajectory.stop.value}), reward "
    return "\n".join([*lines, f"{end}{trajectory.reward:.2f} of 1."])


def shorten(text: str, most: int = SHOWN) -> str:
    """Cut a text, and say so."""
    return text if len(text) <= most else f"{text[:most]} [… {len(text) - most} characters left out]"


def _turn_lines(number: int, turn: Turn) -> list[str]:
    return [
        f"Observation: {shorten(turn.observation)}",
        f"Turn {number}: {shorten(turn.action)} (reward so far {turn.reward:.2f})",
    ]


def _relabelled(relabel: Callable[[Trajectory, str], Task | None], episode: Trajectory, query: str) -> Task | None:
    return relabel(episode, query) if usable([episode]) else None


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
