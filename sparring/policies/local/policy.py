"""A transformers model in this process: open episodes in, sampled actions out.

Every open episode keeps its row of a key-value cache across turns, so a turn costs its new tokens only. What is in the
cache is always a prefix of what `Chat.encode` gives for the finished trajectory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparring.core.errors import ConfigError
from sparring.core.types import StopReason
from sparring.data.chat import Chat
from sparring.models.loading import check_context
from sparring.policies.base import LOGPROB_DIGITS, Episode, Reply
from sparring.policies.local.lanes import Draft, Lane, Slot

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from sparring.policies.local.decoding import Decoder

ENOUGH = 1 / 8
"""The share of a batch's actions that has to be whole before `act` returns early."""
MIN_PREFIX = 64
"""From this many tokens on, what all episodes begin with (instruction, worked examples) is computed once a lane."""


class LocalPolicy:
    """Samples actions from a model in this process."""

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        *,
        temperature: float,
        max_new_tokens: int,
        num_slots_per_lane: int,
        keep_logprobs: bool = False,
        returns_early: bool = False,
    ) -> None:
        """Args:
        model: what decodes it is compared with its own forward at once.
        chat: how episodes become tokens.
        temperature: 0 is greedy.
        max_new_tokens: where an action without an end of turn is cut.
        num_slots_per_lane: most episodes open at once in a lane (memory is taken as it is needed).
        keep_logprobs: replies carry each sampled token's log-probability at the temperature; greedy ones have none.
        returns_early: `act` answers as soon as some actions are whole, and decodes the others on when it is called
            again: no row waits for the longest action of its batch. For worlds whose envs answer at once.

        Raises:
            ConfigError: `chat.max_context` exceeds what the model was made for.
            ModelError: the model isn't causal, or its logits are not finite.
        """
        from sparring.models.rope import fix_rope
        from sparring.policies.local.trial import verdict_on

        check_context(model.config, chat.config.max_context)
        if temperature < 0 or max_new_tokens < 1:
            raise ConfigError("rollout: temperature must be at least 0, and max_new_tokens at least 1.")
        fix_rope(model, chat.config.max_context)
        self._verdict = verdict_on(model, num_tokens=chat.num_tokens, max_positions=chat.config.max_context)
        self._model = model
        self._chat = chat
        self._temperature = temperature
        self._max_new_tokens = max_new_tokens
        self._num_slots = num_slots_per_lane
        self._keep_logprobs = keep_logprobs
        self._returns_early = returns_early
        prefix = chat.prefix()
        self._prefix = prefix if MIN_PREFIX <= len(prefix) <= chat.config.max_context - max_new_tokens else []
        self._lanes: dict[int, Lane] = {}

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply | None]:
        """Answer the current observation of each episode, in order; None where the action is not whole yet.

        An episode whose next action might not fit `chat.max_context` gets `CONTEXT_LIMIT`.

        Raises:
            ModelError: the model's outputs are not finite.
        """
        here = self._lane(lane)
        begun = here.drafting()
        fresh = {one.id: self._pending(here.find(one.id), one) for one in episodes if one.id not in begun}
        room = self._chat.config.max_context - self._max_new_tokens
        cut = {id for id, (start, pending) in fresh.items() if start + len(pending) > room}
        for id in cut:
            here.close(id)
        batch = {one.id: one for one in episodes if one.id not in cut}
        replies: dict[str, Reply | None] = dict.fromkeys(cut, Reply(text="", action="", stop=StopReason.CONTEXT_LIMIT))
        if batch:
            with here.decoder.sampling():
                slots = here.arrange(list(batch))
                assert len(here.rows) <= self._num_slots, "more episodes are open in a lane than it has slots"
                self._begin(here.decoder, slots, fresh, batch)
                self._decode(here.decoder, slots)
            replies |= {slot.episode_id: self._reply(slot, batch[slot.episode_id]) for slot in slots}
        return [replies[one.id] for one in episodes]

    def close(self, episode_id: str) -> None:
        """Forget an episode that ended; its row is free for another. Unknown ids are ignored."""
        for lane in self._lanes.values():
            lane.close(episode_id)

    def held_ids(self, episode_id: str) -> list[int]:
        """Return the tokens whose keys and values the cache holds for an open episode (none for an unknown one)."""
        slots = (lane.find(episode_id) for lane in self._lanes.values())
        return next((list(slot.held) for slot in slots if slot), [])

    def num_tokens(self, episode: Episode) -> int:
        """Count what is before an episode's next action."""
        return len(self._chat.history(episode.turns, episode.observation))

    def _lane(self, lane: int) -> Lane:
        if lane not in self._lanes:
            decoder = self._verdict.decoder(
                self._model,
                num_tokens=self._chat.num_tokens,
                end_ids=self._chat.end_ids,
                max_positions=self._chat.config.max_context,
                unused_ids=self._chat.unused_ids,
            )
            if self._prefix:
                with decoder.sampling():
                    decoder.remember(self._prefix)
            self._lanes[lane] = Lane(decoder)
        return self._lanes[lane]

    def _pending(self, slot: Slot | None, episode: Episode) -> tuple[int, list[int]]:
        """Return how many of the held tokens stay, and the tokens to feed after them."""
        turns = episode.turns
        if slot and turns and slot.num_turns == len(turns) and slot.last_action == turns[-1].token_ids:
            return len(slot.held), [slot.last_action[-1], *self._chat.next(slot.last_action, episode.observation)]
        ids = self._chat.history(turns, episode.observation)
        held = slot.held if slot else self._prefix
        same = next((i for i, (a, b) in enumerate(zip(held, ids, strict=False)) if a != b), min(len(held), len(ids)))
        same = min(same, len(ids) - 1)
        return same, ids[same:]

    def _begin(
        self,
        decoder: Decoder,
        slots: Sequence[Slot],
        fresh: Mapping[str, tuple[int, list[int]]],
        episodes: Mapping[str, Episode],
    ) -> None:
        """Feed what is new to the rows whose next action begins."""
        import torch

        rows = [row for row, slot in enumerate(slots) if slot.draft is None]
        if not rows:
            return
        starts, pieces = zip(*(fresh[slots[row].episode_id] for row in rows), strict=True)
        for row, start in zip(rows, starts, strict=True):
            if not slots[row].held and start:
                decoder.recall(row, start)
                slots[row].held = self._prefix[:start]
        logits_BV = decoder.prefill(rows, starts, pieces)
        for row, start, piece, logits_V in zip(rows, starts, pieces, logits_BV, strict=True):
            slot, uniform_T = slots[row], None
            slot.held[start:] = piece
            if self._temperature:
                drawn_T = uniforms(episodes[slot.episode_id], self._max_new_tokens)
                uniform_T = torch.from_numpy(drawn_T).to(logits_V.device)
            slot.draft = Draft(logits_V, uniform_T)

    def _decode(self, decoder: Decoder, slots: Sequence[Slot]) -> None:
        """Decode on until all actions are whole, or enough of them."""
        import torch

        drafts = [slot.draft for slot in slots if slot.draft]
        drawn = decoder.decode(
            torch.stack([draft.logits_V for draft in drafts]),
            [len(slot.held) for slot in slots],
            [len(draft.ids) for draft in drafts],
            self._max_new_tokens,
            self._temperature,
            torch.stack([u for draft in drafts if (u := draft.uniform_T) is not None]) if self._temperature else None,
            enough=math.ceil(len(slots) * ENOUGH) if self._returns_early else len(slots),
        )
        for row, (slot, draft) in enumerate(zip(slots, drafts, strict=True)):
            draft.ids += drawn.tokens[row]
            draft.logprobs += drawn.logprobs[row]
            draft.logits_V = drawn.logits_BV[row]
            slot.held += drawn.tokens[row][:-1] if drawn.is_over[row] else drawn.tokens[row]
            draft.is_whole = drawn.is_over[row]

    def _reply(self, slot: Slot, episode: Episode) -> Reply | None:
        """Return a slot's action if it is whole."""
        draft = slot.draft
        if draft is None or not draft.is_whole:
            return None
        slot.draft, slot.last_action = None, tuple(draft.ids)
        slot.num_turns = len(episode.turns) + 1
        text, action = self._chat.parse(draft.ids)
        kept = tuple(round(value, LOGPROB_DIGITS) for value in draft.logprobs) if self._keep_logprobs else ()
        return Reply(text=text, action=action, token_ids=slot.last_action, logprobs=kept)


def uniforms(episode: Episode, num: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the numbers in [0, 1) that the next action is sampled from.

    They depend on the episode's id and seed, the number of turns played and the token's place: on nothing else.
    """
    import numpy as np

    digest = hashlib.blake2b(f"{episode.id}\0{episode.seed}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(digest, "little"), counter=len(episode.turns) << 128)
    # 24 bits each: exact in float32, and never rounded up to 1.
    return ((generator.random_raw(num) >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)
