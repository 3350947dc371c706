"""Which requests belong to one conversation, and the file that gets each conversation as turns.

A client sends the whole conversation each time. Where its messages begin with one that was answered here, word by word,
the answer's own tokens are known and go on to be the context; and the conversation is recorded as one. Whatever else
comes begins a new one. Two requests that go on from the same point make two conversations.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.core.journal import Journal
from sparring.core.types import Task, Turn
from sparring.policies.base import Episode

Messages = tuple[tuple[str, str], ...]
ANSWER_ID = "chatcmpl-{}-{}"
"""An answer's id: its conversation's, and its number there."""
MAX_CONVERSATIONS = 4096
"""Most conversations that are remembered; beyond, the one that was used longest ago is forgotten."""
TASK = Task(id="served", kind="served")


@dataclass(slots=True)
class Conversation:
    """Messages that began it, and the turns since."""

    id: str
    opening: Messages
    draws: str
    """Keys its draws: of a conversation that began with a seed, what it began with, so that it can be had again."""
    turns: list[Turn] = field(default_factory=list)
    """Of the first, the observation is the opening, as JSON."""
    details: list[dict[str, Any]] = field(default_factory=list)
    """Of each turn: temperature, seed, why it ended."""
    reward: float | None = None
    """What the client says that it earned."""
    is_busy: bool = False
    is_written: bool = True
    used: float = 0.0

    def to_json(self, model: str) -> dict[str, Any]:
        """Return the conversation as a line of the record."""
        messages = [{"role": role, "content": content} for role, content in self.opening]
        mask = [0] * len(messages)
        for number, turn in enumerate(self.turns):
            if number:
                messages.append({"role": "user", "content": turn.observation})
                mask.append(0)
            messages.append({"role": "assistant", "content": turn.text})
            mask.append(1)
        turns = [
            {"token_ids": list(turn.token_ids), "logprobs": list(turn.logprobs), **details}
            for turn, details in zip(self.turns, self.details, strict=True)
        ]
        earned = {} if self.reward is None else {"reward": self.reward}
        return {"id": self.id, "model": model, "messages": messages, "message_mask": mask, **earned, "turns": turns}


class Conversations:
    """The conversations that are remembered. Threads may share it."""

    def __init__(self, record: Path | None, model: str, *, idle_s: float) -> None:
        """Args:
        record: JSONL file that gets the conversations; one that goes on after it was written is written again, whole.
        model: the model's name, for the record.
        idle_s: seconds without a request after which a conversation is written.
        """
        self._journal = Journal(record) if record else None
        self._model, self._idle_s = model, idle_s
        self._known: OrderedDict[str, Conversation] = OrderedDict()
        """By id, the one that was used longest ago first."""
        self._tips: dict[str, tuple[str, int]] = {}
        """An answer's id, and the fingerprint of all messages up to it → conversation, and its turns up to there."""
        self._lock = threading.Lock()
        self.num_written = 0

    def begin(self, messages: Messages, seed: int | None) -> tuple[Conversation, Episode]:
        """Find the conversation that messages go on with, or begin one; and the episode that a policy answers.

        The same messages with the same seed draw the same answer, unless both are under way at once.
        """
        with self._lock:
            conversation = self._going_on(messages)
            if conversation is None:
                draws = uuid.uuid4().hex if seed is None else _fingerprint(messages)
                conversation = Conversation(uuid.uuid4().hex, messages, draws)
            if any(one.is_busy and one.draws == conversation.draws for one in self._known.values()):
                conversation.draws = uuid.uuid4().hex
            conversation.is_busy, conversation.used = True, time.monotonic()
            self._known[conversation.id] = conversation
            self._known.move_to_end(conversation.id)
            last = messages[-1][1] if conversation.turns else json.dumps(conversation.opening)
            turns = list(conversation.turns)
            episode = Episode(id=conversation.draws, task=TASK, seed=seed or 0, observation=last, turns=turns)
            return conversation, episode

    def answered(self, conversation: Conversation, messages: Messages, turn: Turn, details: dict[str, Any]) -> None:
        """Remember an answer."""
        with self._lock:
            conversation.turns.append(turn)
            conversation.details.append(details)
            conversation.reward = None  # what was said of it was not said of this answer
            conversation.is_busy = conversation.is_written = False
            conversation.used = time.monotonic()
            place = (conversation.id, len(conversation.turns))
            self._tips[_fingerprint((*messages, ("assistant", turn.text)))] = place
            self._tips[ANSWER_ID.format(*place)] = place

    def earned(self, reward: float, *, answer: str = "", messages: Messages = ()) -> Conversation | None:
        """Note what a conversation earned, and return it; none: no conversation ends so.

        Args:
            reward: from 0 to 1.
            answer: the id of its last answer; or else
            messages: all of it, up to its last answer. Of several that said just this the last is meant.
        """
        with self._lock:
            name, num = self._tips.get(answer or _fingerprint(messages), ("", 0))
            known = self._known.get(name)
            if known is None or num != len(known.turns):
                return None
            known.reward, known.is_written, known.used = reward, False, time.monotonic()
            return known

    def failed(self, conversation: Conversation) -> None:
        """Forget that a request was under way."""
        with self._lock:
            conversation.is_busy = False

    def tidy(self) -> list[str]:
        """Write those that are idle, forget the oldest where there are too many, and return the forgotten ones' ids."""
        with self._lock:
            now = time.monotonic()
            idle = [one for one in self._known.values() if now - one.used >= self._idle_s and not one.is_busy]
            self._write([one for one in idle if not one.is_written])
            resting = [one for one in self._known.values() if not one.is_busy]
            gone = resting[: max(0, len(self._known) - MAX_CONVERSATIONS)]
            self._write([one for one in gone if not one.is_written])
            names = {one.id for one in gone}
            for name in names:
                del self._known[name]
            if names:
                self._tips = {tip: place for tip, place in self._tips.items() if place[0] not in names}
            return list(names)

    def close(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            self._write([one for one in self._known.values() if not one.is_written])

    def _going_on(self, messages: Messages) -> Conversation | None:
        if len(messages) < 2 or messages[-2][0] != "assistant" or messages[-1][0] != "user":
            return None
        place = self._tips.get(_fingerprint(messages[:-1]))
        if place is None:
            return None
        known, num = self._known[place[0]], place[1]
        if num == len(known.turns) and not known.is_busy:
            return known
        return Conversation(uuid.uuid4().hex, known.opening, known.draws, known.turns[:num], known.details[:num])

    def _write(self, conversations: Sequence[Conversation]) -> None:
        if self._journal is not None and conversations:
            self._journal.append(one.to_json(self._model) for one in conversations)
            self.num_written += len(conversations)
        for one in conversations:
            one.is_written = True


def _fingerprint(messages: Messages) -> str:
    return hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).hexdigest()
