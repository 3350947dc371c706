"""Turns in, token ids and action spans out, or messages; the only owner of chat templates and action formats.

An episode is one token sequence that only ever grows:

    first(observation) · action · next(action, observation) · action · …

Rollout feeds these pieces to the policy as the episode unfolds, and `encode` joins the same pieces for training, so
what was sampled is what is trained, token by token. The pieces between actions ("glue") come from rendering the
tokenizer's template around a sentinel in the assistant's place and keeping what follows it. History is therefore never
rewritten, even by templates that would (Qwen3's drops the `<think>` blocks of earlier turns: here they stay).

A world's text is data: control tokens that are spelled out in it are broken up (`control_tokens`). What a
template shows before every answer is context, and no agent writes it (`template`).

Source: arXiv 2511.22254, Eq. 2 (only action tokens carry probability).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, cast

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError, DataError, ModelError
from sparring.core.ranges import Name, Range
from sparring.core.text import encodable
from sparring.core.types import Trajectory, Turn
from sparring.data.action_formats import TOOL, ActionFormat, FormatName, call_message, result_message
from sparring.data.control_tokens import ControlTokens, break_known_controls
from sparring.data.template import OWN_KWARGS, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEW_TASK = "A new task begins.\n\n"
"""Stands before each first observation that follows a worked example."""
INSTRUCTION = "{instruction}"
"""What stands for the instruction in `chat.system`."""


class ContextOverflow(DataError):
    """A trajectory has more tokens than `chat.max_context`; nothing was cut."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How episodes become text."""

    format: FormatName = "react"
    """`react`: the agent writes `Thought: …` and `Action: …`; `action`: the action alone, on one line; `code`: all that
    it writes is the action, or the first fenced block in it (AppWorld); `tools`: a call of the function `act` as the
    model's own chat template spells calls, with observations as their results."""
    instruction: str | None = None
    """What stands before the first observation. None: the benchmark's words and the format's rule; empty: nothing."""
    system: str | None = None
    """A system message before everything else; none: none. `{instruction}` in it stands for the instruction, which then
    does not stand before the first observation."""
    num_examples: Annotated[int, Range(at_least=0, at_most=10_000)] = 0
    """Worked examples (expert trajectories) shown before the task, the same at rollout and in training; masked."""
    max_context: Annotated[int, Range(at_least=1, at_most=100_000_000)] = 4096
    """Most tokens in an episode. One that would need more ends with `context_limit`; nothing is ever cut."""
    template: Name | None = None
    """Which of the tokenizer's chat templates, where it has several; none: the one called `default`."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template, for instance `{enable_thinking = false}`."""

    def __post_init__(self) -> None:
        """Refuse template variables that would change how a template is rendered."""
        check_values(self)
        if taken := OWN_KWARGS & set(self.template_kwargs):
            raise ValueError(f"template_kwargs: {min(taken)!r} can't be set; give variables of the chat template")


class Dialogue:
    """An episode as chat messages, for any model: instruction, worked examples and turns. Needs no tokenizer."""

    def __init__(
        self,
        config: ChatConfig,
        *,
        instruction: str,
        examples: Sequence[Trajectory] = (),
        clean_world: Callable[[str], str] | None = None,
        clean_agent: Callable[[str], str] | None = None,
    ) -> None:
        """Lay out what stands before the task.

        Args:
            config: the format and what stands before the task.
            instruction: the benchmark's; `config.instruction` overrules it.
            examples: expert trajectories; the first `config.num_examples` of them are shown.
            clean_world: breaks up control tokens in the world's text; none: those that well-known models have.
            clean_agent: the same for an agent's text.

        Raises:
            ConfigError: fewer examples than asked for.
        """
        self.config = config
        self.format = ActionFormat(name=config.format)
        self._clean_world = clean_world or break_known_controls
        self._clean_agent = clean_agent or break_known_controls
        own = config.instruction
        self.instruction = encodable(f"{instruction}\n\n{self.format.rule}" if own is None else own)
        """What stands before the first observation, or in the system message."""
        words = encodable(config.system or "")
        self.system = words.replace(INSTRUCTION, self.instruction)
        """The system message; empty: none."""
        self._is_in_system = INSTRUCTION in words
        if len(examples) < config.num_examples:
            raise ConfigError(
                f"chat.num_examples is {config.num_examples}, but there are {len(examples)} expert trajectories."
            )
        self._examples: list[dict[str, Any]] = []
        for example in examples[: config.num_examples]:
            shown = [(turn.observation, self.format.agent_text(turn), turn.action) for turn in example.turns]
            self._examples += self._task(shown, is_first=not self._examples)

    def messages(self, turns: Sequence[Turn], observation: str) -> list[dict[str, Any]]:
        """Return all messages before the action that answers `observation`; what the agent wrote stands as it is."""
        played = [(turn.observation, turn.text, turn.action) for turn in turns]
        *rest, _ = self._task([*played, (observation, "", "")], is_first=not self._examples)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *map(dict, self._examples), *rest]

    def _task(self, turns: Sequence[tuple[str, str, str]], *, is_first: bool) -> list[dict[str, Any]]:
        has_calls = self.format.name == "tools"
        messages: list[dict[str, Any]] = []
        for i, (observation, text, action) in enumerate(turns):
            content = self._clean_world(observation)
            if i == 0:
                content = self._with_instruction(content) if is_first else f"{NEW_TASK}{content}"
            asked = result_message(content) if has_calls and i else {"role": "user", "content": content}
            answer = {"role": "assistant", "content": self._clean_agent(text)}
            messages += [asked, call_message("", self._clean_agent(action)) if has_calls else answer]
        return messages

    def _with_instruction(self, content: str) -> str:
        return f"{self.instruction}\n\n{content}" if self.instruction and not self._is_in_system else content


@dataclass(frozen=True, slots=True)
class Encoded:
    """A trajectory as tokens."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Per turn, [start, end) of its action tokens, empty where the turn was given; all other tokens are masked."""


class Chat:
    """Turns ↔ token ids under one tokenizer's template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: ChatConfig,
        *,
        instruction: str,
        examples: Sequence[Trajectory] = (),
        end_ids: Iterable[int] = (),
    ) -> None:
        """Study the template once.

        Args:
            tokenizer: any Hugging Face tokenizer that has a chat template.
            config: the format and what stands before the task.
            instruction: the benchmark's; `config.instruction` overrules it.
            examples: expert trajectories; the first `config.num_examples` of them are shown.
            end_ids: tokens that end a turn besides the template's and the tokenizer's, as the model's generation config
                lists them. The same at rollout and in training, or the episodes differ.

        Raises:
            ModelError: no chat template, one that refuses user/assistant turns, or no end-of-turn token.
            ConfigError: fewer examples than asked for, no template of the configured name, or a template that shows no
                system message where there is one.
        """
        self.config = config
        self._tokenizer = tokenizer
        known = known_ids(tokenizer)
        self.known_ids = tuple(sorted(known))
        self.num_tokens = max(known) + 1
        """All ids are below it; those of `unused_ids` spell nothing."""
        self.unused_ids = tuple(sorted(set(range(self.num_tokens)) - known))
        tools = (TOOL,) if config.format == "tools" else ()
        self._template = Template(tokenizer, name=config.template, kwargs=config.template_kwargs, tools=tools)
        self._controls = ControlTokens(tokenizer, self._template.spelled)
        self._dialogue = Dialogue(
            config,
            instruction=instruction,
            examples=examples,
            clean_world=self._controls.break_in_world,
            clean_agent=self._controls.break_in_agent,
        )
        self._check_system()
        own = [] if tokenizer.eos_token_id is None else [cast(int, tokenizer.eos_token_id)]
        self._study_ending([*own, *(id for id in sorted(end_ids) if id in known)])
        self.format = self._dialogue.format
        if tools:
            self.format = replace(self.format, call=self._template.tool_call(self._ending))
        self._first = lru_cache(maxsize=256)(self._encode_first)
        self._tail = lru_cache(maxsize=4096)(self._encode_tail)

    # ------------------------------------------------------------------------------------------------ pieces

    def first(self, observation: str) -> list[int]:
        """Return all tokens before the first action: instruction, worked examples, observation, generation prompt."""
        return list(self._first(observation))

    def prefix(self) -> list[int]:
        """Return the tokens that all episodes begin with, whatever they observe: instruction and worked examples."""
        one, other = self.first("0"), self.first("Z")
        return one[: next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))]

    def next(self, last_action_ids: Sequence[int], observation: str) -> list[int]:
        """Return the glue between an action and the next, with the end of turn first where the action was cut."""
        closing, rest = self._tail(observation)
        return list(rest) if last_action_ids and last_action_ids[-1] in self._closed_by else [*closing, *rest]

    def action_ids(self, turn: Turn) -> list[int]:
        """Return a turn's action tokens: as sampled, or its text (action-only: its action) and the end of turn."""
        if turn.token_ids:
            return list(turn.token_ids)
        text = self._template.answer(self.format.agent_text(turn, self._controls.break_in_agent))
        return self._encode_after(self._prompt, self._prompt_ids, text + self._ending.text) + self._unspelled_end

    def history(self, turns: Sequence[Turn], observation: str) -> list[int]:
        """Return all tokens before the action that answers `observation`, after the given turns."""
        if not turns:
            return self.first(observation)
        ids, _ = self._join(turns)
        return ids + self.next(self.action_ids(turns[-1]), observation)

    def encode(self, trajectory: Trajectory, num_turns: int | None = None) -> Encoded:
        """Encode a trajectory's first `num_turns` turns (all if None), without what the world answered to the last.

        Raises:
            ContextOverflow: it has more tokens than `max_context`.
        """
        ids, spans = self._join(trajectory.turns[:num_turns])
        spans[: trajectory.num_given] = [(start, start) for start, _ in spans[: trajectory.num_given]]
        if len(ids) > self.config.max_context:
            raise ContextOverflow(
                f"Trajectory {trajectory.id!r} has {len(ids)} tokens; chat.max_context is {self.config.max_context}. "
                "Raise it, or leave the trajectory out."
            )
        return Encoded(tuple(ids), tuple(spans))

    def parse(self, token_ids: Sequence[int]) -> tuple[str, str]:
        """Return the text that an action's tokens spell, and the action in it."""
        ids = token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids
        said = [id for id in ids if id not in self._controls.hidden_ids]  # marks of reasoning may be special, and stay
        text = str(self._tokenizer.decode(said, clean_up_tokenization_spaces=False)).strip()
        return text, self.format.parse(text, is_reasoning=self._template.opens_reasoning)

    def spell(self, ids: Sequence[int]) -> str:
        """Return the text of any ids, special ones included."""
        return str(self._tokenizer.decode(list(ids)))

    def tokenize(self, text: str) -> list[int]:
        """Return a text's ids, without any that a template would put around them."""
        return self._tokenize(text)

    def _join(self, turns: Sequence[Turn]) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        action: list[int] = []
        for i, turn in enumerate(turns):
            ids += self.next(action, turn.observation) if i else self.first(turn.observation)
            action = self.action_ids(turn)
            spans.append((len(ids), len(ids) + len(action)))
            ids += action
        return ids, spans

    # ------------------------------------------------------------------------------------------------ template

    def _check_system(self) -> None:
        """Refuse a system message that the template leaves out, as some do without a word."""
        if not self._dialogue.system:
            return
        try:
            shown = self._template.render(self._dialogue.messages((), "x"))
        except ModelError as error:
            shown, why = "", str(error)
        else:
            why = "the model's chat template does not show it"
        if self._dialogue.system.strip() not in shown:
            raise ConfigError(f"chat.system: {why.rstrip('.')}. Say it in chat.instruction instead.")

    def _study_ending(self, eos_ids: Sequence[int]) -> None:
        """Find the tokens that end a turn, and what they leave to be put after them."""
        self._prompt = self._template.render([{"role": "user", "content": "x"}])
        self._prompt_ids = self._tokenize(self._prompt)
        ending = self._ending = self._template.ending(self._controls.ids, eos_ids)
        self._unspelled_end = [] if ending.text else [ending.token_id]
        self._num_closing = len(self._encode_after("x", self._tokenize("x"), ending.text))
        self.end_ids = frozenset({ending.token_id, *eos_ids})
        # Where the user's turn opens with the token that ends the agent's, any other end leaves that opener to be put.
        self._closed_by = frozenset({ending.token_id}) if ending.is_next_opener else self.end_ids

    def _encode_first(self, observation: str) -> tuple[int, ...]:
        return tuple(self._tokenize(self._template.render(self._dialogue.messages((), observation))))

    def _encode_tail(self, observation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens that close an action, and those from there to the next action."""
        tail = self._template.render_after_answer(self._controls.break_in_world(observation))
        ids = self._encode_after("x", self._tokenize("x"), tail)
        return (*ids[: self._num_closing], *self._unspelled_end), tuple(ids[self._num_closing :])

    # ------------------------------------------------------------------------------------------------ tokens

    def _tokenize(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # the tokenizers library's own, and no `Exception`
                raise
            raise ModelError(f"The tokenizer can't split a text of {len(text)} characters: {error}") from None

    def _encode_after(self, prefix: str, prefix_ids: list[int], text: str) -> list[int]:
        """Tokenize `text` as it would be after `prefix`, or by itself where tokens would straddle the border."""
        ids = self._tokenize(prefix + text)
        return ids[len(prefix_ids) :] if ids[: len(prefix_ids)] == prefix_ids else self._tokenize(text)


def known_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that a tokenizer has. There may be gaps between them."""
    return {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder}
