"""Keys and values of many open episodes, each in a row of its own that is filled at its own position.

A transformers `Cache`: the model calls `update` once per layer, and what it writes and what it sees is set beforehand
by `aim`. The lean forward calls `write` and attends block by block, so that one long episode does not widen what all
others read. Memory grows by doubling, with the longest episode and with the number of rows, and is never given back.

Shapes: B rows in this forward, T new tokens, R rows, L positions, H key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

GRAIN = 64
"""Positions are handed to attention in multiples of this, so that its work is the same whatever was allocated."""
BLOCK_ROWS = 4
"""Most rows that decode as one block: with two a call for each costs more than it saves, with eight it saves less."""


def round_up(length: int) -> int:
    """Return the least multiple of `GRAIN` that is at least `length`."""
    return -(-length // GRAIN) * GRAIN


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of a batch that attend together, to no more positions than the longest of them has."""

    batch: slice
    """Where they stand in the batch."""
    rows: slice
    """And in the cache."""
    window: int
    """Positions that they see, counted from 0."""


def cut_blocks(rows: Sequence[int], ends: Sequence[int], most_rows: int) -> list[Block]:
    """Cut a batch into blocks of rows that lie beside each other in the cache, so that none of them is copied.

    Blocks of at most `most_rows` that see the same window become one.
    """
    blocks: list[Block] = []
    start = 0
    for stop in range(1, len(rows) + 1):
        is_cut = stop == len(rows) or rows[stop] != rows[stop - 1] + 1
        if not is_cut and stop - start < most_rows:
            continue
        block = Block(slice(start, stop), slice(rows[start], rows[stop - 1] + 1), round_up(max(ends[start:stop])))
        if blocks and blocks[-1].window == block.window and blocks[-1].rows.stop == block.rows.start:
            before = blocks.pop()
            block = replace(
                block, batch=slice(before.batch.start, stop), rows=slice(before.rows.start, block.rows.stop)
            )
        blocks.append(block)
        start = stop
    return blocks


class SlotCache(Cache):
    """Rows of keys and values; one more row than asked for takes what padding writes."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.num_rows = 0
        self.length = 0
        self.num_moves = 0  # how often the rows went to other memory, which what was recorded over them can't follow
        self._stores: list[list[Tensor]] = []  # per layer: keys_RHLD, values_RHLD
        self._kept: list[list[Tensor]] = []  # per layer: a row's first keys and values, both HLD
        self._index_N: Tensor | None = None
        self._head_index_M: Tensor | None = None  # the same for every head: M = N · H places in a flattened store
        self._rows: slice | Tensor = slice(0, 0)
        self.window = 0
        self._aimed: tuple[Sequence[int], Sequence[int], int] = ((), (), 1)
        self._blocks: list[Block] | None = None

    @property
    def blocks(self) -> list[Block]:
        """The attending rows, cut where a layer first asks: only the lean forward does."""
        if self._blocks is None:
            self._blocks = cut_blocks(*self._aimed)
        return self._blocks

    @property
    def scratch(self) -> int:
        """The row that padding writes to."""
        return self.num_rows

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for `num_rows` rows of `length` positions, keeping what is there."""
        if num_rows <= self.num_rows and length <= self.length:
            return
        rows = self.num_rows if num_rows <= self.num_rows else max(num_rows, 2 * self.num_rows)
        positions = self.length if length <= self.length else round_up(max(length, 2 * self.length))
        for store in self._stores:
            for i, old in enumerate(store):
                new = old.new_zeros(rows + 1, old.shape[1], positions, old.shape[3])
                new[: self.num_rows, :, : self.length] = old[: self.num_rows]
                store[i] = new
        self.num_rows, self.length, self.num_moves = rows, positions, self.num_moves + 1

    def aim(self, index_BT: Tensor, rows: Sequence[int], ends: Sequence[int]) -> None:
        """Set what the next forward writes and sees.

        Args:
            index_BT: for each new token, `row * length + position`.
            rows: the rows that attend, ascending.
            ends: how many positions each of them sees at most, counted from 0.
        """
        self._index_N, self._head_index_M = index_BT.flatten(), None
        self.window = round_up(max(ends))
        first, end = rows[0], rows[0] + len(rows)
        is_together = rows[-1] + 1 == end
        self._rows = slice(first, end) if is_together else torch.tensor(rows, device=index_BT.device)
        self._aimed, self._blocks = (rows, ends, BLOCK_ROWS if index_BT.shape[1] == 1 else 1), None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values, each at its row and position, and return the attending rows up to the window."""
        new = (states_BHTD.transpose(1, 2).flatten(0, 1) for states_BHTD in (key_states, value_states))
        keys_RHLD, values_RHLD = self.write(layer_idx, *new)
        return self._seen(keys_RHLD), self._seen(values_RHLD)

    def write(self, layer: int, keys_NHD: Tensor, values_NHD: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values, row by row, and return the whole store, (R, H, L, D)."""
        if layer == len(self._stores):
            shapes = [(self.num_rows + 1, new.shape[1], self.length, new.shape[2]) for new in (keys_NHD, values_NHD)]
            self._stores.append([keys_NHD.new_zeros(shape) for shape in shapes])
        keys_RHLD, values_RHLD = self._stores[layer]
        for store_RHLD, new_NHD in ((keys_RHLD, keys_NHD), (values_RHLD, values_NHD)):
            places_M = self._places(store_RHLD.shape[1])
            store_RHLD.view(-1, store_RHLD.shape[3]).index_copy_(0, places_M, new_NHD.flatten(0, 1))
        return keys_RHLD, values_RHLD

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a row to another."""
        for store in self._stores:
            for tensor in store:
                tensor[target, :, :length] = tensor[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first positions of two rows."""
        self.move(one, self.scratch, length)
        self.move(other, one, length)
        self.move(self.scratch, other, length)

    def keep(self, row: int, length: int) -> None:
        """Set a row's first positions aside, for other rows to begin with."""
        self._kept = [[tensor[row, :, :length].clone() for tensor in store] for store in self._stores]

    def put(self, row: int, length: int) -> None:
        """Begin a row with the first `length` of the positions that were set aside."""
        for store, kept in zip(self._stores, self._kept, strict=True):
            for tensor, begun in zip(store, kept, strict=True):
                tensor[row, :, :length] = begun[:, :length]

    def _seen(self, store_RHLD: Tensor) -> Tensor:
        rows, seen = self._rows, store_RHLD[:, :, : self.window]
        return seen[rows] if isinstance(rows, slice) else seen.index_select(0, rows)

    def _places(self, num_heads: int) -> Tensor:
        """Return where the new tokens' heads go, token by token; all layers have as many heads."""
        if self._head_index_M is None:
            assert self._index_N is not None
            heads_H = torch.arange(num_heads, device=self._index_N.device) * self.length
            before_N = (self._index_N // self.length) * ((num_heads - 1) * self.length)
            self._head_index_M = ((self._index_N + before_N)[:, None] + heads_H).flatten()
        return self._head_index_M
