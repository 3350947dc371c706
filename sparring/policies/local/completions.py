"""Chat messages go in, what a model in this process wrote comes out: a `CompletionClient` without a server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparring.core.types import StopReason, Task, Turn
from sparring.policies.base import Episode
from sparring.policies.completions import Completion, Outcome, Request
from sparring.policies.transport import ContextFull

if TYPE_CHECKING:
    from sparring.policies.base import Reply
    from sparring.policies.local.policy import LocalPolicy

NO_TASK = Task(id="completion", kind="completion")
"""What a dialogue has in the place of a task."""


class LocalCompletions:
    """Asks one model, as many dialogues at a time as its policy has rows for."""

    def __init__(self, policy: LocalPolicy, *, num_rows: int) -> None:
        """Args:
        policy: draws at the requests' temperature and length; its chat has neither instruction nor examples.
        num_rows: most dialogues at once.
        """
        self._policy, self._num_rows = policy, num_rows

    def complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answer the requests, and return what came of each, in order. What does not fit the context has no answer."""
        outcomes: list[Outcome] = []
        for first in range(0, len(requests), self._num_rows):
            outcomes += self._answer(requests[first : first + self._num_rows])
        return outcomes

    def _answer(self, requests: Sequence[Request]) -> Iterator[Outcome]:
        asked = [_episode(request) for request in requests]
        waiting = {one.id: one for one in asked}  # what is asked twice alike is answered once
        replies: dict[str, Reply] = {}
        while open_ := [one for one in waiting.values() if one.id not in replies]:
            found = self._policy.act(open_)
            replies |= {one.id: reply for one, reply in zip(open_, found, strict=True) if reply is not None}
        for one in waiting.values():
            self._policy.close(one.id)
        return (self._outcome(one, replies[one.id]) for one in asked)

    def _outcome(self, asked: Episode, reply: Reply) -> Outcome:
        if reply.stop is StopReason.CONTEXT_LIMIT:
            return ContextFull("the dialogue and its answer do not fit chat.max_context")
        return Completion(text=reply.text, num_read=self._policy.num_tokens(asked), num_written=len(reply.token_ids))


def _episode(request: Request) -> Episode:
    """Lay a dialogue out as an episode: a user's message is an observation, and the answer to it a turn.

    All draws are keyed by the episode's id, and that by the dialogue and its seed alone.
    """
    *past, last = request.messages
    turns = [
        Turn(observation=asked["content"], text=said["content"], action=said["content"], reward=0.0)
        for asked, said in zip(past[::2], past[1::2], strict=True)
    ]
    words = json.dumps([dict(message) for message in request.messages])
    name = hashlib.blake2b(words.encode(), digest_size=12).hexdigest()
    return Episode(
        id=f"{name}/{request.seed}", task=NO_TASK, seed=request.seed, observation=last["content"], turns=turns
    )
