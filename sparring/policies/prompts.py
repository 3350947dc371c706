"""Open episodes come in, the token ids before their next actions go out; those of earlier turns are kept."""

from __future__ import annotations

from sparring.data.chat import Chat
from sparring.policies.base import Episode


class Prompts:
    """Lays out episodes for servers that take token ids."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._held: dict[str, tuple[int, list[int]]] = {}

    def of(self, episode: Episode) -> list[int]:
        """Return all tokens before the next action."""
        turns = episode.turns
        num_turns, ids = self._held.get(episode.id, (-1, []))
        if turns and num_turns == len(turns) - 1 and turns[-1].token_ids:
            action = turns[-1].token_ids
            ids = [*ids, *action, *self._chat.next(action, episode.observation)]
        else:
            ids = self._chat.history(turns, episode.observation)
        self._held[episode.id] = (len(turns), ids)
        return ids

    def forget(self, episode_id: str) -> None:
        """Forget an episode that ended."""
        self._held.pop(episode_id, None)
