"""Trajectories and pairs as chat messages, in the columns that other libraries take, and back.

A row of a conversation has `messages`, or `prompt` and `completion`; a row of a preference has `prompt`, `chosen` and
`rejected` (TRL's names). Messages are `{"role": …, "content": …}`, as the agent saw and wrote them. The further columns
(docs/data.md) hold what messages can't say: which of them are trained on, rewards, pair kinds, where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparring.core.errors import DataError, quote
from sparring.core.text import encodable
from sparring.core.types import PreferencePair, Trajectory
from sparring.data.action_formats import ActionFormat
from sparring.data.chat import NEW_TASK, Dialogue

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
_THOUGHT = re.compile(r"\A\s*(?:Thought:)?(.*?)^[ \t]*Action:", re.DOTALL | re.MULTILINE)


# ── Out ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def messages_of(dialogue: Dialogue, trajectory: Trajectory, num_turns: int | None = None) -> list[dict[str, Any]]:
    """Return a trajectory's first turns (all if None) as messages, what stands before the task included."""
    turns = [
        turn if turn.token_ids else replace(turn, text=dialogue.format.agent_text(turn))
        for turn in trajectory.turns[:num_turns]
    ]
    return dialogue.messages(turns, "")[:-1]


def num_context(dialogue: Dialogue) -> int:
    """Count the messages that stand before every task: a system message, and those of worked examples."""
    return len(dialogue.messages((), "")) - 1


def mask_of(dialogue: Dialogue, trajectory: Trajectory, num_messages: int) -> list[int]:
    """Say of each message whether it is trained on: the agent's own answers are, given turns and the rest are not."""
    first = num_context(dialogue) + 2 * trajectory.num_given + 1
    return [int(i >= first and (i - first) % 2 == 0) for i in range(num_messages)]


def conversation_row(dialogue: Dialogue, trajectory: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a row with `messages`."""
    messages = messages_of(dialogue, trajectory)
    return {
        "messages": messages,
        "message_mask": mask_of(dialogue, trajectory, len(messages)),
        "reward": float(trajectory.reward),
        "turn_rewards": [float(turn.reward) for turn in trajectory.turns],
        "task_id": trajectory.task.id,
        "task_kind": trajectory.task.kind,
        "agent": trajectory.agent,
        "stop": trajectory.stop.value,
        "id": trajectory.id,
        "final_observation": trajectory.final_observation,
        **_frame(dialogue),
    }


def completion_row(dialogue: Dialogue, trajectory: Trajectory) -> dict[str, Any]:
    """Return a trajectory as a row with `prompt` and `completion`; the completion begins with the first own answer."""
    row = conversation_row(dialogue, trajectory)
    messages, mask = row.pop("messages"), row.pop("message_mask")
    start = num_context(dialogue) + 2 * trajectory.num_given + 1
    return {"prompt": messages[:start], "completion": messages[start:], "completion_message_mask": mask[start:], **row}


def preference_row(dialogue: Dialogue, pair: PreferencePair, weights: tuple[float, float]) -> dict[str, Any]:
    """Return a pair as a row with `prompt`, `chosen` and `rejected`; of each side the turns that count.

    The prompt is what stands before the first answer, with the turns that both sides were given.

    Args:
        dialogue: lays out what the agents saw.
        pair: two trajectories of one task that were shown the same at first.
        weights: of the preference term and the likelihood term in the run's loss.
    """
    given = min(pair.chosen.num_given, pair.rejected.num_given)
    start = num_context(dialogue) + 2 * given + 1
    sides: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for name, side, num_turns in (
        ("chosen", pair.chosen, pair.chosen_turns),
        ("rejected", pair.rejected, pair.rejected_turns),
    ):
        messages = messages_of(dialogue, side, num_turns)
        sides.setdefault("prompt", messages[:start])
        sides[name] = messages[start:]
        masks[f"{name}_message_mask"] = mask_of(dialogue, side, len(messages))[start:]
    return {
        **sides,
        **masks,
        "kind": pair.kind.value,
        "weight": float(pair.weight),
        "dpo_weight": float(weights[0]),
        "sft_weight": float(weights[1]),
        "task_id": pair.chosen.task.id,
        "task_kind": pair.chosen.task.kind,
        "chosen_reward": float(pair.chosen.reward),
        "rejected_reward": float(pair.rejected.reward),
        "chosen_agent": pair.chosen.agent,
        "rejected_agent": pair.rejected.agent,
        "chosen_id": pair.chosen.id,
        "rejected_id": pair.rejected.id,
        **_frame(dialogue),
    }


def _frame(dialogue: Dialogue) -> dict[str, Any]:
    """Return what reading needs to tell the world's words from what stood around them."""
    kwargs = dialogue.config.template_kwargs
    return {
        "instruction": dialogue.instruction,
        "num_context": num_context(dialogue),
        "format": dialogue.config.format,
        **({"chat_template_kwargs": kwargs} if kwargs else {}),
    }


# ── In ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_messages(value: Any, where: str, *, first: str | None = "user") -> list[dict[str, str]]:
    """Return messages whose roles take turns, a system message put before the first user's words.

    Args:
        value: what a file holds.
        where: file, line and field.
        first: whose message the first is, `user` or `assistant`; none: either.

    Raises:
        DataError: it is no list of messages with a role and text, or roles do not take turns.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected a list of at least one message, found {quote(value)}.")
    found = [_message(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if found[0]["role"] == "system" and len(found) > 1 and found[1]["role"] == "user":
        found[1] = {"role": "user", "content": f"{found[0]['content']}\n\n{found[1]['content']}"}
        found = found[1:]
    expected = first or found[0]["role"]
    for i, one in enumerate(found):
        if one["role"] != expected:
            shown = i + len(value) - len(found)
            raise DataError(
                f"{where}[{shown}].role: expected {expected!r}, found {one['role']!r}. User and assistant take turns; "
                "a system message may stand first."
            )
        expected = "assistant" if expected == "user" else "user"
    return found


def _message(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected a message like {{role, content}}, found {quote(value)}.")
    for field in ("role", "content"):
        if not isinstance(value.get(field), str):
            raise DataError(f"{where}.{field}: expected text, found {quote(value.get(field))}.")
    if value["role"] not in ROLES:
        raise DataError(f"{where}.role: {quote(value['role'])} is not among {', '.join(ROLES)}.")
    if value.get("tool_calls"):
        raise DataError(f"{where}.tool_calls: calls that stand beside the text are not read. Write them into content.")
    return {"role": value["role"], "content": encodable(value["content"])}


def exchanges(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return messages as observations with their answers; what follows the last answer is left out.

    user a, assistant b, user c, assistant d, user e: (a, b), (c, d).
    """
    texts = [one["content"] for one in messages]
    return list(zip(texts[0::2], texts[1::2], strict=False))


def without_context(row: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a row without the messages that Sparring put before the task, and what it put before the world's words."""
    num, instruction = row.get("num_context"), row.get("instruction")
    field = "messages" if "messages" in row else "prompt"
    messages = row.get(field)
    if not isinstance(num, int) or not isinstance(messages, list):
        num, messages = 0, []
    examples = [one for one in messages[:num] if isinstance(one, Mapping) and one.get("role") == "assistant"]
    before = NEW_TASK if examples else f"{instruction}\n\n" if isinstance(instruction, str) and instruction else ""
    return {**row, field: messages[num:]} if num else dict(row), before


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Say whether a row holds chat messages: `messages`, `prompt` and `completion`, or a preference's chosen side."""
    return "messages" in row or "completion" in row or "chosen" in row


def whole_conversation(row: Mapping[str, Any], where: str) -> tuple[list[dict[str, str]], int]:
    """Return all messages of a row, and how many answers its prompt holds.

    These are its `messages`, its `prompt` with its `completion`, or its `prompt` with its `chosen` side.

    Raises:
        DataError: as for `check_messages`.
    """
    if "messages" in row:
        return check_messages(row["messages"], f"{where}: messages"), 0
    field = "completion" if "completion" in row else "chosen"
    prompt, answer = row.get("prompt") or [], row[field]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    for name, value in (("prompt", prompt), (field, answer)):
        if not isinstance(value, list):
            raise DataError(f"{where}: {name}: expected text or a list of messages, found {quote(value)}.")
    if answer and isinstance(answer[0], Mapping) and answer[0].get("role") != "assistant":
        prompt = []  # it holds the prompt, too
    found = check_messages([*prompt, *answer], f"{where}: prompt and {field}" if prompt else f"{where}: {field}")
    return found, sum(one["role"] == "assistant" for one in prompt)


def reward_of(row: Mapping[str, Any]) -> float:
    """Return a conversation's reward; 1 where the row has none, or none that is a number from 0 to 1."""
    value = row.get("reward", row.get("chosen_reward"))
    is_reward = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_reward and value is not None else 1.0


def demonstration_record(row: Mapping[str, Any], format: ActionFormat, where: str) -> dict[str, Any]:
    """Return a conversation as a line of a file of demonstrations (docs/your-environment.md).

    Args:
        row: with `task_id`, and messages in one of the three shapes; `reward` is 1 where it is not given.
        format: how actions are written, where the row does not say it.
        where: file and line.

    Raises:
        DataError: a message is malformed, or there is none of the agent's.
    """
    written = row.get("format")
    format = ActionFormat(name=written) if written in ("react", "action", "code") else format
    own, before = without_context(row)
    found = exchanges(whole_conversation(own, where)[0])
    if not found:
        raise DataError(f"{where}: no answer of the assistant's in it.")
    found[0] = (found[0][0].removeprefix(before), found[0][1])
    rewards = row.get("turn_rewards")
    turns = []
    for i, (observation, text) in enumerate(found):
        thought = _THOUGHT.match(text) if format.name == "react" else None
        turn: dict[str, Any] = {"observation": observation, "action": format.parse(text)}
        if thought and thought[1].strip():
            turn["thought"] = thought[1].strip()
        if isinstance(rewards, list) and len(rewards) == len(found):
            turn["reward"] = rewards[i]
        turns.append(turn)
    given = row.get("reward", row.get("chosen_reward", 1.0))
    record = {"reward": given, "turns": turns, "final_observation": row.get("final_observation", "")}
    return record | ({"task_id": row["task_id"]} if "task_id" in row else {})
