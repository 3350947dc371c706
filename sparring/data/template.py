"""A tokenizer's chat template: messages in, text out; and what it puts around an answer, found by laying out samples.

What stands between the generation prompt and an answer's content is of two kinds. A header (`<|im_start|>assistant` of
a template without a generation prompt, a channel's name) is context: it is shown before every answer, and no agent
writes it. Reasoning (`<think></think>`, or the end of reasoning that the prompt has opened) is the agent's own text:
an answer without reasoning begins with it where the template or the prompt asks for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError, ModelError
from sparring.data.action_formats import TOOL_ARGUMENT, ToolCall, call_message, result_message
from sparring.data.reasoning import MARKERS, first_marker, has_reasoning, left_open
from sparring.data.rendering import Rendering

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT_SENTINEL = "Xq7AssistantXq7"
QUESTION_SENTINEL = "Xq7QuestionXq7"
USER_SENTINEL = "Xq7UserXq7"
NO_TOOLS = (
    "chat.format: 'tools' needs a chat template that shows tools, calls and results, and this model's does not. Set "
    'chat.format = "action" or "react".'
)
FIXED_DATE = "01 January 2025"
"""What a template that asks for today's date is told: a prompt may not depend on the day."""
OWN_KWARGS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Arguments of a template's rendering that are not the user's to set: they say how it is rendered, not what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn of the agent ends."""

    text: str
    """What the template puts after an answer, up to the token that ends it; empty: the token is not the template's."""
    token_id: int
    is_next_opener: bool = False
    """The token is the one that opens the user's next turn, too."""


class Template:
    """One chat template of a tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None,
        kwargs: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Study the template once.

        Args:
            tokenizer: any Hugging Face tokenizer that has a chat template.
            name: which of its templates, where it has several; none: the one called `default`.
            kwargs: variables for the template.
            tools: functions that answers call; none: answers are text.

        Raises:
            ModelError: no chat template, one that refuses user/assistant turns, that does not show where an answer
                begins, or that does not tell of tools where there are some.
            ConfigError: there is no template of that name, or several and no name.
        """
        self._text = _dateless(_template_of(tokenizer, name))
        variables = {**tokenizer.special_tokens_map, "date_string": FIXED_DATE, **kwargs}
        self._has_tools = bool(tools)
        self._rendering = Rendering(self._text, variables | ({"tools": list(tools)} if tools else {}))
        self._header = self._after_action = ""
        self._study()
        if tools and TOOL_ARGUMENT not in self._head:
            raise ModelError(NO_TOOLS)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of messages, up to where the next answer begins."""
        return self._laid_out(messages) + self._header

    def render_after_answer(self, observation: str) -> str:
        """Return the text between an answer and the next: the end of its turn, the user's, and the next one's start."""
        text = self.render(self._exchange(observation)).partition(ASSISTANT_SENTINEL)[2]
        return text.removeprefix(self._after_action)

    def tool_call(self, ending: Ending) -> ToolCall:
        """Find how answers call a tool; from then on observations are laid out as results of calls.

        Raises:
            ModelError: the template does not show calls, or in no way that can be read.
        """
        try:
            text = self._laid_out(self._exchange(USER_SENTINEL))
            cut = text.partition(ASSISTANT_SENTINEL)
            quoted = self._laid_out(
                [{"role": "user", "content": QUESTION_SENTINEL}, call_message("", '"')], is_asked=False
            )
        except ModelError as error:
            raise ModelError(f"{NO_TOOLS} ({error})") from None
        prompt = self.render([{"role": "user", "content": QUESTION_SENTINEL}])
        if not (
            ending.text and text.startswith(prompt) and text.count(ASSISTANT_SENTINEL) == 1 == text.count(USER_SENTINEL)
        ):
            raise ModelError(NO_TOOLS)
        before = cut[0].removeprefix(prompt).removeprefix(self._reasoning or self._space)
        self._after_action, has_end, _ = cut[2].partition(ending.text.lstrip())
        call = ToolCall(before=before, after=self._after_action, is_json='\\"' in quoted)
        if not has_end or not before.strip() or call.read(call.spell("go")) != "go":
            raise ModelError(NO_TOOLS)
        return call

    def _exchange(self, observation: str) -> list[dict[str, Any]]:
        """Return a question, an answer in which a sentinel stands, and what is said to it."""
        question = {"role": "user", "content": QUESTION_SENTINEL}
        if self._has_tools:
            return [question, call_message("", ASSISTANT_SENTINEL), result_message(observation)]
        return [
            question,
            {"role": "assistant", "content": ASSISTANT_SENTINEL},
            {"role": "user", "content": observation},
        ]

    def answer(self, text: str) -> str:
        """Return what an agent writes whose answer is `text`, up to the end of the turn."""
        if not self._reasoning:
            return self._space + text
        if not has_reasoning(text):
            return self._reasoning + text
        # The text brings its own reasoning, whose opener may be in the prompt.
        return text.lstrip().removeprefix(self._opener or "")

    @property
    def opens_reasoning(self) -> bool:
        """Does every answer begin inside reasoning that the prompt has opened?"""
        return self._opener is not None

    @property
    def spelled(self) -> str:
        """All the text that the template is known to write: in it, tokens that it puts together from pieces."""
        return self._text + self._sample

    def ending(self, controls: Mapping[str, int], eos_ids: Sequence[int]) -> Ending:
        """Find the token that ends the agent's turn.

        Args:
            controls: control tokens, text → id.
            eos_ids: the tokens at which the model's own generation stops, the tokenizer's first.

        Raises:
            ModelError: there is none.
        """
        found = sorted((self._after.find(token), -len(token), token) for token in controls if token in self._after)
        tokens = [token for *_, token in found]
        token = next((one for one in tokens if controls[one] in eos_ids), tokens[0] if tokens else None)
        if token is not None:
            # A token that only ends turns ends the user's, too, or stands after an answer with which the messages end.
            is_next_opener = token in self._head and token not in self._before and token not in self._after_last
            if not is_next_opener or controls[token] in eos_ids or not eos_ids:
                text = self._after[: self._after.index(token) + len(token)]
                return Ending(text=text, token_id=controls[token], is_next_opener=is_next_opener)
        if not eos_ids:
            raise ModelError("Neither the chat template nor the tokenizer (eos_token) has a token that ends a turn.")
        return Ending(text="", token_id=eos_ids[0])

    def _study(self) -> None:
        """Find what the template puts before and after an answer's content."""
        question = {"role": "user", "content": QUESTION_SENTINEL}
        answer = {"role": "assistant", "content": ASSISTANT_SENTINEL}
        prompt = self._laid_out([question])
        self._sample = self._laid_out([question, answer, {"role": "user", "content": USER_SENTINEL}])
        shown = [self._sample.count(one) for one in (QUESTION_SENTINEL, ASSISTANT_SENTINEL, USER_SENTINEL)]
        if shown != [1, 1, 1] or prompt.count(QUESTION_SENTINEL) != 1:
            raise ModelError("The chat template does not show each message once, so turns can't be told apart in it.")
        self._head, _, rest = self._sample.partition(QUESTION_SENTINEL)
        self._before, _, rest = rest.partition(ASSISTANT_SENTINEL)
        self._after = rest.partition(USER_SENTINEL)[0]
        self._after_last = self._shown_after_last([question, answer])
        self._study_start(prompt, self._before)

    def _study_start(self, prompt: str, before: str) -> None:
        """Tell apart what stands between a question and an answer: generation prompt, header, reasoning and space."""
        asked = prompt.partition(QUESTION_SENTINEL)[2]
        self._opener = left_open(asked)
        lead = before.removeprefix(asked) if before.startswith(asked) else ""
        is_foreign = not before.startswith(asked) and not asked.startswith(before)
        if is_foreign and prompt == self._laid_out([{"role": "user", "content": QUESTION_SENTINEL}], is_asked=False):
            raise ModelError(
                "The chat template has no generation prompt, and does not show in another way how an answer begins. "
                "Add `{% if add_generation_prompt %}…{% endif %}` at its end."
            )
        start = 0 if self._opener else first_marker(lead)
        self._header = lead[:start].rstrip(" ")
        own = lead[len(self._header) :]
        has_marks = self._opener is not None or first_marker(own) < len(own)
        self._space, self._reasoning = ("", own) if has_marks else (own, "")
        if opener := left_open(asked + lead):
            self._reasoning += _closing(asked + lead, opener)

    def _shown_after_last(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return what follows an answer with which the messages end; what follows any, where they may not end so."""
        try:
            text = self._laid_out(messages, is_asked=False)
        except ModelError:
            return self._after
        return text.partition(ASSISTANT_SENTINEL)[2] if ASSISTANT_SENTINEL in text else self._after

    def _laid_out(self, messages: Sequence[Mapping[str, Any]], *, is_asked: bool = True) -> str:
        """Render messages, and the generation prompt where an answer is asked for."""
        return self._rendering(messages, is_asked=is_asked)


def _closing(text: str, opener: str) -> str:
    """Return what closes the reasoning that a text ends in, in lines of its own where the opener has one."""
    line = "\n" if text.endswith("\n") else ""
    return f"{line}{MARKERS[opener]}\n\n"


def _template_of(tokenizer: PreTrainedTokenizerBase, name: str | None) -> str:
    """Return the tokenizer's template of that name.

    Raises:
        ModelError: it has none at all.
        ConfigError: none of that name, or several and no name.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template. Use a chat model, or put a "
            "chat_template.jinja beside its tokenizer.json."
        )
    if isinstance(template, Mapping):
        chosen = name or "default"
        if chosen not in template:
            names = ", ".join(sorted(template))
            raise ConfigError(f"chat.template: the tokenizer has no template {chosen!r}. It has: {names}. Choose one.")
        return str(template[chosen])
    if name is not None:
        raise ConfigError(f"chat.template: the tokenizer has one template without a name; {name!r} can't be chosen.")
    return str(template)


def _dateless(template: str) -> str:
    """Shadow the function with which templates ask for today's date."""
    if "strftime_now" not in template:
        return template
    return "{%- macro strftime_now(format) -%}" + FIXED_DATE + "{%- endmacro %}" + template
