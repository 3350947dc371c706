"""Files of preferences and conversations come in; pairs and trajectories go out, a share of the prompts held out.

A preference is a row with `chosen` and `rejected`: text beside a `prompt`, or messages that follow it, or two whole
conversations that begin alike. A conversation is a row with `messages`, or `prompt` and `completion`. Nobody played
these: a reward is what the file says, and nothing depends on it. docs/preferences.md has the columns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import DataError, quote
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn
from sparring.data.conversations import check_messages, exchanges, whole_conversation
from sparring.data.tables import read_rows

Exchanges = list[tuple[str, str]]
PLACE = "preferences"
"""The phase in which a run keeps them, and where their ids begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What files hold, parted by prompts."""

    pairs: Sequence[PreferencePair] = ()
    """Those that are trained on."""
    held_out: Sequence[PreferencePair] = ()
    conversations: Sequence[Trajectory] = ()
    """Those that are cloned."""
    held_out_conversations: Sequence[Trajectory] = ()

    @property
    def trajectories(self) -> list[Trajectory]:
        """All sides and conversations, each once."""
        sides = [side for pair in (*self.pairs, *self.held_out) for side in (pair.chosen, pair.rejected)]
        found = [*sides, *self.conversations, *self.held_out_conversations]
        return list({one.id: one for one in found}.values())


def read_preferences(
    path: Path | None, messages: Path | None, *, held_out: float, held_out_path: Path | None = None
) -> Preferences:
    """Read files, and hold a share of the prompts of each out; errors as for `read_pairs`.

    A prompt that `held_out_path` judges is not trained on.

    Args:
        path: of preferences.
        messages: of conversations.
        held_out: share of the prompts.
        held_out_path: of preferences, all of which are held out in the place of a share.
    """
    pairs = read_pairs(path) if path else []
    conversations = read_conversations(messages) if messages else []
    judged = read_pairs(held_out_path) if held_out_path else []
    if judged:
        kept_back = {pair.chosen.task.id for pair in judged}
    else:
        kept_back = held_out_tasks((pair.chosen.task.id for pair in pairs), held_out)
        judged = [pair for pair in pairs if pair.chosen.task.id in kept_back]
    silent = kept_back | held_out_tasks(
        (one.task.id for one in conversations if one.task.id not in kept_back), held_out
    )
    found = Preferences(
        pairs=[pair for pair in pairs if pair.chosen.task.id not in kept_back],
        held_out=judged,
        conversations=[one for one in conversations if one.task.id not in silent],
        held_out_conversations=[one for one in conversations if one.task.id in silent],
    )
    if (pairs and not found.pairs) or (conversations and not found.conversations):
        raise DataError(f"{path if pairs and not found.pairs else messages}: all of its prompts are held out.")
    return found


def read_pairs(path: Path) -> list[PreferencePair]:
    """Read the preferences of a file, in its order.

    Raises:
        DataError: the file is missing, malformed or empty; the message names path, line and field.
        ConfigError: the file is Parquet, and pyarrow is missing.
    """
    pairs = [_pair(row, f"{path}:{number}") for number, row in enumerate(read_rows(path), start=1)]
    if not pairs:
        raise DataError(f"{path}: holds no preference.")
    return pairs


def read_conversations(path: Path) -> list[Trajectory]:
    """Read the conversations of a file, in its order; errors as for `read_pairs`."""
    found = [_conversation(row, f"{path}:{number}") for number, row in enumerate(read_rows(path), start=1)]
    if not found:
        raise DataError(f"{path}: holds no conversation.")
    return list({one.id: one for one in found}.values())


def held_out_tasks(task_ids: Iterable[str], share: float) -> set[str]:
    """Choose a share of the prompts, the same for every order of the file: those with the smallest hashes.

    10 prompts and 0.25 make 2; of two or more prompts at least one is chosen and one left, with a share above 0.
    """
    distinct = sorted(set(task_ids), key=lambda one: hashlib.sha256(one.encode()).digest())
    num = round(share * len(distinct))
    if share > 0 and len(distinct) > 1:
        num = min(max(num, 1), len(distinct) - 1)
    return set(distinct[:num])


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pair(row: Mapping[str, Any], where: str) -> PreferencePair:
    for field in ("chosen", "rejected"):
        if field not in row:
            raise DataError(f"{where}: {field}: missing. A preference has chosen and rejected (docs/preferences.md).")
    chosen, given = _side(row, "chosen", where)
    rejected, _ = _side(row, "rejected", where)
    if given is None:
        given = _num_alike(chosen, rejected)
    if chosen[:given] != rejected[:given] or chosen[given : given + 1] == [] or rejected[given : given + 1] == []:
        raise DataError(f"{where}: rejected: must answer what chosen answers, after the same messages.")
    if chosen[given][0] != rejected[given][0]:
        raise DataError(f"{where}: rejected: begins with another prompt than chosen.")
    if chosen == rejected:
        raise DataError(f"{where}: rejected: is the same as chosen.")
    task = _task(row, [*chosen[:given], (chosen[given][0], "")])
    sides = [
        _trajectory(task, side, _given(row, f"{name}_message_mask", given, len(side), where), _reward(row, name))
        for name, side in (("chosen", chosen), ("rejected", rejected))
    ]
    return PreferencePair(
        kind=_kind(row.get("kind")),
        chosen=sides[0],
        rejected=sides[1],
        chosen_turns=len(chosen),
        rejected_turns=len(rejected),
        weight=_weight(row.get("weight", 1.0), f"{where}: weight"),
    )


def _side(row: Mapping[str, Any], field: str, where: str) -> tuple[Exchanges, int | None]:
    """Return a side's exchanges, and how many of them stand in the prompt; none: the file does not say."""
    prompt, answer = row.get("prompt"), row[field]
    if prompt is None and isinstance(answer, str):
        raise DataError(f"{where}: prompt: missing, and {field} is text. Give the prompt, or lists of messages.")
    before = _prompt(prompt, where)
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    is_answer = isinstance(answer, list) and bool(answer) and isinstance(answer[0], Mapping)
    if before and is_answer and answer[0].get("role") == "assistant":
        whole, given = [*before, *check_messages(answer, f"{where}: {field}", first="assistant")], len(before) // 2
    else:  # a whole conversation, as many files have it, with the prompt in it once more
        whole, given = check_messages(answer, f"{where}: {field}"), None
    found = exchanges(whole)
    if not found:
        raise DataError(f"{where}: {field}: no answer of the assistant's in it.")
    return found, given


def _prompt(prompt: Any, where: str) -> list[dict[str, str]]:
    if prompt is None:
        return []
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    found = check_messages(prompt, f"{where}: prompt")
    if found[-1]["role"] != "user":
        raise DataError(f"{where}: prompt: must end with a user's message, which chosen and rejected answer.")
    return found


def _num_alike(chosen: Exchanges, rejected: Exchanges) -> int:
    """Count the exchanges that two conversations begin with alike, the last of the shorter left out."""
    num = 0
    while num < min(len(chosen), len(rejected)) - 1 and chosen[num] == rejected[num]:
        num += 1
    return num


def _conversation(row: Mapping[str, Any], where: str) -> Trajectory:
    if not {"messages", "completion", "chosen"} & row.keys():
        raise DataError(f"{where}: messages: missing. A conversation has messages, or prompt and completion.")
    messages, given = whole_conversation(row, where)
    found = exchanges(messages)
    if not found:
        raise DataError(f"{where}: no answer of the assistant's in it.")
    shape = next(one for one in ("messages", "completion", "chosen") if one in row)
    field = "message_mask" if shape == "messages" else f"{shape}_message_mask"
    if isinstance(row.get(field), list) and shape == "messages":
        row = {**row, field: row[field][1 - 2 * len(found) :]}
    given = _given(row, field, given, len(found), where)
    task = _task(row, [*found[:given], (found[given][0], "")])
    return _trajectory(task, found, given, _reward(row, ""))


def _given(row: Mapping[str, Any], field: str, given: int, num: int, where: str) -> int:
    """Return how many answers are context: those in the prompt, and those that a mask leaves out next."""
    mask = row.get(field)
    if mask is None:
        return given
    own = mask[0::2] if isinstance(mask, list) else None
    if own is None or not all(one in (0, 1) for one in own) or len(own) != num - given:
        raise DataError(f"{where}: {field}: expected a 0 or 1 for each message, found {quote(mask)}.")
    more = own.index(1) if 1 in own else len(own)
    if more == len(own) or 0 in own[more:]:
        raise DataError(f"{where}: {field}: answers may be left out at the beginning alone, and not all of them.")
    return given + more


def _trajectory(task: Task, found: Exchanges, given: int, reward: float) -> Trajectory:
    turns = tuple(Turn(observation=seen, text=text, action=text, reward=reward) for seen, text in found)
    return Trajectory(
        id=f"{PLACE}/{task.id}/{_digest([found, given])}",
        task=task,
        agent="given",
        turns=turns,
        final_observation="",
        reward=reward,
        stop=StopReason.DONE,
        num_given=given,
    )


def _task(row: Mapping[str, Any], before: Exchanges) -> Task:
    name, kind = row.get("task_id"), row.get("task_kind")
    return Task(
        id=name if isinstance(name, str) and name else _digest(before),
        kind=kind if isinstance(kind, str) and kind else "preference",
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _kind(name: Any) -> PairKind:
    """Return the kind of a pair that Sparring exported; every other is of the user's own."""
    return PairKind(name) if name in set(PairKind) else PairKind.GIVEN


def _reward(row: Mapping[str, Any], side: str) -> float:
    value = row.get(f"{side}_reward" if side else "reward")
    is_reward = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_reward and value is not None else float(side != "rejected")


def _weight(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0:
        raise DataError(f"{where}: expected a number from 0 on, found {quote(value)}.")
    return float(value)
