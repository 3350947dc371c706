"""Asks a language model for what the stages of synthesis need, and counts requests, answers and tokens.

Control tokens of chat templates that stand in a world's text are broken up before a model reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, Protocol, TypeVar

from sparring.core.convert import check_values
from sparring.core.errors import EnvFault
from sparring.core.ranges import Name, Range, Repeats, Temperature
from sparring.core.types import StopReason
from sparring.data.control_tokens import break_known_controls
from sparring.policies.base import Episode, Policy, Reply
from sparring.policies.completions import Completion, Outcome, Request
from sparring.synthesis.answers import Malformed, parse_action
from sparring.synthesis.prompts import EXPLORE, shorten
from sparring.synthesis.signals import draw

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """How a language model makes tasks. It is that of `[openai]`, or one in this process."""

    model: Name = ""
    """A model in this process: a bundled one's name, a folder or a Hub id. None: the server that `openai.model` names,
    the run's own server, or the run's base model in this process."""
    answers: Literal["json", "plain"] = "json"
    """`json`: each answer is one JSON object, or is dropped (the paper's stages). `plain`, for models that write no
    JSON: a sentence reflects, the model explores as any agent plays, what an episode did is the solution, and a
    sentence is its query."""
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


class Explorer:
    """The policy of exploration: the model says every action. An answer that is malformed ends the episode."""

    def __init__(
        self, asker: Asker, guidance: dict[str, str], instruction: str, max_turns: int, *, is_code: bool = False
    ) -> None:
        """`guidance`: task id → what to try."""
        self._asker = asker
        self._parse = partial(parse_action, is_code=is_code)
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
        action = self._asker.read("explore", outcome, self._parse)
        if action is None:
            return Reply(text="", action="", stop=StopReason.TURN_LIMIT)
        assert isinstance(outcome, Completion)
        return Reply(text=outcome.text, action=action)


class Bounded:
    """A policy whose episodes end after so many turns."""

    def __init__(self, policy: Policy, max_turns: int) -> None:
        self._policy, self._max_turns = policy, max_turns

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply | None]:
        """Let the policy answer the episodes that have turns left."""
        asked = [episode for episode in episodes if len(episode.turns) < self._max_turns]
        answered = self._policy.act(asked, lane=lane) if asked else []
        replies = {episode.id: reply for episode, reply in zip(asked, answered, strict=True)}
        over = Reply(text="", action="", stop=StopReason.TURN_LIMIT)
        return [replies.get(episode.id, over) for episode in episodes]

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        self._policy.close(episode_id)


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
        outcomes = self._client.complete(requests) if requests else []
        for outcome in outcomes:
            if isinstance(outcome, Completion):
                self.note(stage, outcome.num_read, outcome.num_written)
        return outcomes

    def note(self, stage: str, num_read: int, num_written: int) -> None:
        """Count tokens, where they are known."""
        self.counts.update(
            {f"{stage}: tokens {what}": n for what, n in (("read", num_read), ("written", num_written)) if n}
        )

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


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
