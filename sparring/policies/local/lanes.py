"""Which open episode has which row of a key-value cache, and what of it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sparring.policies.local.decoding import Decoder


@dataclass(slots=True)
class Slot:
    """What a row of the cache holds."""

    episode_id: str
    held: list[int] = field(default_factory=list)
    """The tokens whose keys and values are in the row."""
    num_turns: int = 0
    """Turns the episode will have once the world has answered our last action."""
    last_action: tuple[int, ...] = ()
    draft: Draft | None = None
    """The action that is being decoded."""


@dataclass(slots=True)
class Draft:
    """The first tokens of an action, all of them held."""

    logits_V: torch.Tensor
    """Before the next one."""
    uniform_T: torch.Tensor | None
    """What its tokens are sampled from; none if greedy."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_whole: bool = False


class Lane:
    """Which episode has which row. The first rows are always those of the current batch."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: list[Slot | None] = []

    def find(self, episode_id: str) -> Slot | None:
        return next((slot for slot in self.rows if slot and slot.episode_id == episode_id), None)

    def drafting(self) -> set[str]:
        """Return the episodes whose action is being decoded."""
        return {slot.episode_id for slot in self.rows if slot and slot.draft}

    def close(self, episode_id: str) -> None:
        for row, slot in enumerate(self.rows):
            if slot and slot.episode_id == episode_id:
                self.rows[row] = None

    def arrange(self, episode_ids: Sequence[str]) -> list[Slot]:
        """Bring the batch into rows 0…n−1, in whatever order moves least, and return their slots."""
        num, wanted = len(episode_ids), set(episode_ids)
        present = {slot.episode_id for slot in self.rows if slot}
        fresh = [episode_id for episode_id in episode_ids if episode_id not in present]
        self.rows += [None] * (num - len(self.rows))
        strays = [row for row in range(num, len(self.rows)) if (slot := self.rows[row]) and slot.episode_id in wanted]
        for row in range(num):
            slot = self.rows[row]
            if slot and slot.episode_id in wanted:
                continue
            if strays:
                self._exchange(row, strays.pop())
                continue
            if slot:
                if None not in self.rows[num:]:
                    self.rows.append(None)
                self._exchange(row, self.rows.index(None, num))
            self.rows[row] = Slot(fresh.pop(0))
        while self.rows and self.rows[-1] is None:
            self.rows.pop()
        return [slot for slot in self.rows[:num] if slot]

    def _exchange(self, row: int, other: int) -> None:
        cache, one, two = self.decoder.cache, self.rows[row], self.rows[other]
        cache.reserve(other + 1, 1)
        if one and two:
            cache.swap(row, other, max(len(one.held), len(two.held)))
        elif one:
            cache.move(row, other, len(one.held))
        elif two:
            cache.move(other, row, len(two.held))
        self.rows[row], self.rows[other] = two, one
