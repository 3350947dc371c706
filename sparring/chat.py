"""Turns in, token ids and action spans out, or messages; the only owner of chat templates and action formats.

An episode is one token sequence that only ever grows:

    first(observation) · action · next(action, observation) · action · …

Rollout feeds these pieces to the policy as the episode unfolds, and `encode` joins the same pieces for training, so
what was sampled is what is trained, token by token. The pieces between actions ("glue") come from rendering the
tokenizer's template around a sentinel in the assistant's place and keeping what follows it. History is therefore never
rewritten, even by templates that would (Qwen3's drops the `<think>` blocks of earlier turns: here they stay).

A world's text is data. Control tokens spelled out in an observation or an action (`<|im_end|>`) are broken up with a
word joiner (U+2060): they read the same, and stay text. Markers that are no tokens (Llama-2's `[INST]`) are left alone.

Source: arXiv 2511.22254, Eq. 2 (only action tokens carry probability).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from sparring.errors import ConfigError, DataError, ModelError
from sparring.types import Trajectory, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT_SENTINEL = "Xq7AssistantXq7"
USER_SENTINEL = "Xq7UserXq7"
BREAKERS = ("\u2060", " ")
"""What breaks up a control token, in order of preference: invisible first, a space where a normaliser drops that."""
KNOWN_CONTROLS = re.compile(r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
"""What control tokens look like in ChatML, Llama, DeepSeek, Mistral and Gemma."""
FIXED_DATE = "01 January 2025"
"""What a template that asks for today's date is told: a prompt may not depend on the day."""
NEW_TASK = "A new task begins.\n\n"
"""Stands before each first observation that follows a worked example."""


FormatName = Literal["react", "action", "code"]


class ContextOverflow(DataError):
    """A trajectory has more tokens than `chat.max_context`; nothing was cut."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How episodes become text."""

    format: FormatName = "react"
    """`react`: the agent writes `Thought: …` and `Action: …`; `action`: the action alone, on one line; `code`: all that
    it writes is the action, or the first fenced block in it (AppWorld)."""
    instruction: str | None = None
    """What stands before the first observation. None: the benchmark's words and the format's rule; empty: nothing."""
    num_examples: int = 0
    """Worked examples (expert trajectories) shown before the task, the same at rollout and in training; masked."""
    max_context: int = 4096
    """Most tokens in an episode. One that would need more ends with `context_limit`; nothing is ever cut."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template, for instance `{enable_thinking = false}`."""


@dataclass(frozen=True, kw_only=True)
class ActionFormat:
    """How an agent writes an action, and how it is read."""

    name: FormatName

    @property
    def rule(self) -> str:
        """The sentence that tells a model the format."""
        if self.name == "react":
            return "Answer with one thought and one action, in this form:\nThought: why you act so\nAction: the action"
        if self.name == "code":
            return "Answer with the next code alone: it is run as you write it."
        return "Answer with the next action alone, on one line."

    def parse(self, text: str) -> str:
        """Return the action in `text`, without what a reasoning model wrote before `</think>`: one line, unless code.

        ReAct: what follows the first `Action:` that begins a line (else the first anywhere), up to the end of that
        line. Text without `Action:`, and action-only text: its first line. Code: a first fenced block's content, which
        may lack its end, else everything.
        """
        text = text.rpartition("</think>")[2].strip()
        if self.name == "code":
            fenced = re.search(r"^```[^\n]*\n(.*?)(?:^```|\Z)", text, re.MULTILINE | re.DOTALL)
            return (fenced[1] if fenced else text).strip()
        if self.name == "react":
            line = r"Action:\s*([^\n]*)"
            if found := re.search(rf"^[ \t]*{line}", text, re.MULTILINE) or re.search(line, text):
                return found[1].strip()
        return text.partition("\n")[0].strip()

    def render(self, thought: str, action: str) -> str:
        """Write an action, with its thought where the format has one."""
        return f"Thought: {thought}\nAction: {action}" if self.name == "react" else action

    @property
    def stop(self) -> tuple[str, ...]:
        """Text at which an answer is over, for models that would go on and play the world's part, too."""
        return ("\nObservation:",) if self.name == "react" else ()

    def agent_text(self, turn: Turn) -> str:
        """Return what an agent of this format writes in a turn of someone else, for instance an expert's."""
        return turn.text if self.name == "react" else turn.action


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
        self._clean_world = clean_world or _break_known_controls
        self._clean_agent = clean_agent or _break_known_controls
        self._instruction = f"{instruction}\n\n{self.format.rule}" if config.instruction is None else config.instruction
        if len(examples) < config.num_examples:
            raise ConfigError(
                f"chat.num_examples is {config.num_examples}, but there are {len(examples)} expert trajectories."
            )
        self._examples: list[dict[str, str]] = []
        for example in examples[: config.num_examples]:
            shown = [(turn.observation, self.format.agent_text(turn)) for turn in example.turns]
            self._examples += self._task(shown, is_first=not self._examples)

    def messages(self, turns: Sequence[Turn], observation: str) -> list[dict[str, str]]:
        """Return all messages before the action that answers `observation`; what the agent wrote stands as it is."""
        played = [(turn.observation, turn.text) for turn in turns]
        *rest, _ = self._task([*played, (observation, "")], is_first=not self._examples)
        return [*map(dict, self._examples), *rest]

    def _task(self, turns: Sequence[tuple[str, str]], *, is_first: bool) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = []
        for i, (observation, text) in enumerate(turns):
            content = self._clean_world(observation)
            if i == 0:
                content = self._with_instruction(content) if is_first else f"{NEW_TASK}{content}"
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": self._clean_agent(text)})
        return messages

    def _with_instruction(self, content: str) -> str:
        return f"{self._instruction}\n\n{content}" if self._instruction else content


@dataclass(frozen=True, slots=True)
class Encoded:
    """A trajectory as tokens."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Per turn, [start, end) of its action tokens; all other tokens are masked."""


class Chat:
    """Turns ↔ token ids under one tokenizer's template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: ChatConfig,
        *,
        instruction: str,
        examples: Sequence[Trajectory] = (),
    ) -> None:
        """Study the template once.

        Args:
            tokenizer: any Hugging Face tokenizer that has a chat template.
            config: the format and what stands before the task.
            instruction: the benchmark's; `config.instruction` overrules it.
            examples: expert trajectories; the first `config.num_examples` of them are shown.

        Raises:
            ModelError: no chat template, one that refuses user/assistant turns, or no end-of-turn token.
            ConfigError: fewer examples than asked for.
        """
        self.config = config
        self.num_tokens = len(tokenizer)
        self._tokenizer = tokenizer
        self._template = _dateless(_template_of(tokenizer))
        controls = _control_tokens(tokenizer, self._template)
        self._user_controls = _pattern(controls)
        self._agent_controls = _pattern({text: id for text, id in controls.items() if _is_special(tokenizer, id)})
        self._control_ids = frozenset(controls.values())
        self._dialogue = Dialogue(
            config,
            instruction=instruction,
            examples=examples,
            clean_world=lambda text: self._neutral(text, self._user_controls),
            clean_agent=lambda text: self._neutral(text, self._agent_controls),
        )
        self.format = self._dialogue.format
        self._study_template(controls)
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
        is_closed = bool(last_action_ids) and last_action_ids[-1] in self.end_ids
        return list(rest) if is_closed else [*closing, *rest]

    def action_ids(self, turn: Turn) -> list[int]:
        """Return a turn's action tokens: as sampled, or its text (action-only: its action) and the end of turn."""
        if turn.token_ids:
            return list(turn.token_ids)
        text = self._neutral(self.format.agent_text(turn), self._agent_controls)
        return self._encode_after(self._prompt, self._prompt_ids, self._lead + text + self._closing_text) + self._eos

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
        if len(ids) > self.config.max_context:
            raise ContextOverflow(
                f"Trajectory {trajectory.id!r} has {len(ids)} tokens; chat.max_context is {self.config.max_context}. "
                "Raise it, or leave the trajectory out."
            )
        return Encoded(tuple(ids), tuple(spans))

    def parse(self, token_ids: Sequence[int]) -> tuple[str, str]:
        """Return the text that an action's tokens spell, and the action in it."""
        ids = list(token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids)
        decoded = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = str(decoded).strip()
        return text, self.format.parse(text)

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

    def _study_template(self, controls: Mapping[str, int]) -> None:
        """Find what the template puts before and after an assistant's content, and the token that ends a turn."""
        question = {"role": "user", "content": "x"}
        answer = {"role": "assistant", "content": ASSISTANT_SENTINEL}
        self._prompt = self._render([question])
        self._prompt_ids = self._tokenize(self._prompt)
        text = self._render([question, answer, {"role": "user", "content": USER_SENTINEL}])
        if text.count(ASSISTANT_SENTINEL) != 1 or text.count(USER_SENTINEL) != 1:
            raise ModelError("The chat template does not show each message once, so turns can't be told apart in it.")
        before, tail = text.split(ASSISTANT_SENTINEL)
        self._lead = before.removeprefix(self._prompt) if before.startswith(self._prompt) else ""
        between = tail.partition(USER_SENTINEL)[0]
        eos_id = cast(int | None, self._tokenizer.eos_token_id)
        found = [(between.find(token), -len(token), token) for token in controls if token in between]
        if found:
            position, _, token = min(found)
            self._closing_text = between[: position + len(token)]
            self._num_closing = len(self._encode_after("x", self._tokenize("x"), self._closing_text))
            self._eos: list[int] = []
            end_id = controls[token]
        elif eos_id is not None:
            self._closing_text, self._num_closing, self._eos, end_id = "", 0, [eos_id], eos_id
        else:
            raise ModelError("Neither the chat template nor the tokenizer (eos_token) has a token that ends a turn.")
        self.end_ids = frozenset({end_id} if eos_id is None else {end_id, eos_id})

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Render messages and the generation prompt as text."""
        from jinja2 import TemplateError

        kwargs = {"date_string": FIXED_DATE, **self.config.template_kwargs}
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                **kwargs,
            )
        except TemplateError as error:
            raise ModelError(f"The chat template refuses user and assistant turns: {error}") from None
        return str(text)

    def _encode_first(self, observation: str) -> tuple[int, ...]:
        return tuple(self._tokenize(self._render(self._dialogue.messages((), observation))))

    def _encode_tail(self, observation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens that close an action, and those from there to the next action."""
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": ASSISTANT_SENTINEL},
            {"role": "user", "content": self._neutral(observation, self._user_controls)},
        ]
        tail = self._render(messages).partition(ASSISTANT_SENTINEL)[2]
        ids = self._encode_after("x", self._tokenize("x"), tail)
        return tuple(ids[: self._num_closing] + self._eos), tuple(ids[self._num_closing :])

    # ------------------------------------------------------------------------------------------------ tokens

    def _tokenize(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _encode_after(self, prefix: str, prefix_ids: list[int], text: str) -> list[int]:
        """Tokenize `text` as it would be after `prefix`, or by itself where tokens would straddle the border."""
        ids = self._tokenize(prefix + text)
        return ids[len(prefix_ids) :] if ids[: len(prefix_ids)] == prefix_ids else self._tokenize(text)

    def _neutral(self, text: str, controls: re.Pattern[str] | None) -> str:
        """Break up the control tokens spelled out in `text`."""
        if controls is None or not controls.search(text):
            return text
        broken = text
        for breaker in BREAKERS:
            broken = text
            while controls.search(broken):
                broken = controls.sub(lambda found: f"{found[0][0]}{breaker}{found[0][1:]}", broken)  # noqa: B023
            if self._control_ids.isdisjoint(self._tokenize(broken)):
                break
        return broken


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template. Use a chat model, or put a "
            "chat_template.jinja beside its tokenizer.json."
        )
    return str(tokenizer.get_chat_template())


def _dateless(template: str) -> str:
    """Shadow the function with which templates ask for today's date."""
    if "strftime_now" not in template:
        return template
    return "{%- macro strftime_now(format) -%}" + FIXED_DATE + "{%- endmacro %}" + template


def _is_special(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bool:
    return token_id in tokenizer.all_special_ids or tokenizer.added_tokens_decoder[token_id].special


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, int]:
    """Text → id of the added tokens that steer a chat: the special ones, and those that the template spells out."""
    added = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    added |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {
        text: token_id
        for text, token_id in added.items()
        if len(text) > 1 and not text.isspace() and (_is_special(tokenizer, token_id) or text in template)
    }


def _break_known_controls(text: str) -> str:
    """Break up what looks like a control token of a well-known model, where its tokenizer is not at hand."""
    return KNOWN_CONTROLS.sub(lambda found: f"{found[0][0]}{BREAKERS[0]}{found[0][1:]}", text)


def _pattern(tokens: Mapping[str, int]) -> re.Pattern[str] | None:
    alternatives = sorted(tokens, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, alternatives))) if alternatives else None
