"""How an agent writes an action, and how it is read: on a line, after a thought, as code, or as a native tool call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparring.core.types import Turn
from sparring.data.reasoning import answer_in

FormatName = Literal["react", "action", "code", "tools"]
TOOL_NAME, TOOL_ARGUMENT = "act", "action"
TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Act in the world: play one action, and see what comes of it.",
        "parameters": {
            "type": "object",
            "properties": {TOOL_ARGUMENT: {"type": "string", "description": "The action, as the instruction has it."}},
            "required": [TOOL_ARGUMENT],
        },
    },
}
"""The one function that every world has, as chat templates and servers take it."""


def call_message(thought: str, action: str) -> dict[str, Any]:
    """Return an answer that calls the function, as a message for chat templates."""
    call = {
        "type": "function",
        "id": "call00000",
        "function": {"name": TOOL_NAME, "arguments": {TOOL_ARGUMENT: action}},
    }
    return {"role": "assistant", "content": thought, "tool_calls": [call]}


def result_message(observation: str) -> dict[str, Any]:
    """Return what the world answered to a call, as a message for chat templates."""
    return {"role": "tool", "name": TOOL_NAME, "tool_call_id": "call00000", "content": observation}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """How a model's chat template spells a call of the function."""

    before: str = f'<tool_call>\n{{"name": "{TOOL_NAME}", "arguments": {{"{TOOL_ARGUMENT}": "'
    """What stands before the action."""
    after: str = '"}}\n</tool_call>'
    """What stands after it."""
    is_json: bool = True
    """The action is a JSON string's content; else it stands as it is."""

    def spell(self, action: str) -> str:
        """Write a call."""
        return self.before + (json.dumps(action, ensure_ascii=False)[1:-1] if self.is_json else action) + self.after

    def read(self, text: str) -> str:
        """Return the action of the first call in a text; empty where there is none.

        Markers around a call may be special tokens that are no part of the text, so the argument alone is looked for.
        """
        if self.is_json:
            for found in re.finditer(rf'"{TOOL_ARGUMENT}"\s*:\s*(?=")', text):
                try:
                    action, _ = json.JSONDecoder(strict=False).raw_decode(text, found.end())
                except ValueError:  # cut, or not JSON
                    continue
                return action.strip()
            return ""
        opener, closer = self.before.strip().rpartition("\n")[2].strip(), self.after.split(maxsplit=1)[0]
        _, has_opener, rest = text.partition(opener)
        action, has_closer, _ = rest.partition(closer)
        return action.strip() if has_opener and has_closer else ""


@dataclass(frozen=True, kw_only=True)
class ActionFormat:
    """How an agent writes an action, and how it is read."""

    name: FormatName
    call: ToolCall = field(default_factory=ToolCall)
    """How a tool call is spelled, where the name is `tools`."""

    @property
    def rule(self) -> str:
        """The sentence that tells a model the format."""
        if self.name == "react":
            return "Answer with one thought and one action, in this form:\nThought: why you act so\nAction: the action"
        if self.name == "code":
            return "Answer with the next code alone: it is run as you write it."
        if self.name == "tools":
            return f"Answer with one call of the function `{TOOL_NAME}`, which plays the next action."
        return "Answer with the next action alone, on one line."

    def parse(self, text: str, *, is_reasoning: bool = False) -> str:
        """Return the action in `text`, without a model's reasoning before it: one line, unless code or a call.

        ReAct: what follows the first `Action:` that begins a line (else the first anywhere), up to the end of that
        line. Text without `Action:`, and action-only text: its first line. Code: a first fenced block's content, which
        may lack its end, else everything. Tools: the argument of the first call; a text without one acts nothing. An
        answer that was cut inside its reasoning has no action: empty text.

        Args:
            text: all that the agent wrote.
            is_reasoning: the prompt has opened reasoning, so the text begins inside it.
        """
        text = answer_in(text, is_open=is_reasoning)
        if self.name == "tools":
            return self.call.read(text)
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
        if self.name == "tools":
            return self.call.spell(action)
        return f"Thought: {thought}\nAction: {action}" if self.name == "react" else action

    @property
    def stop(self) -> tuple[str, ...]:
        """Text at which an answer is over, for models that would go on and play the world's part, too."""
        return ("\nObservation:",) if self.name == "react" else ()

    def agent_text(self, turn: Turn, clean: Callable[[str], str] = str) -> str:
        """Return what an agent of this format writes in a turn of someone else, for instance an expert's.

        `clean` breaks up special tokens in what an agent says. The marks of a call may be such tokens, and stay.
        """
        if self.name == "tools":
            return self.call.spell(clean(turn.action))
        return clean(turn.text if self.name == "react" else turn.action)
