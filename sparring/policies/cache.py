"""Keys and values of many open episodes, each in a row of its own that is filled at its own position.

A transformers `Cache`: the model calls `update` once per layer, and what it writes and what it sees is set beforehand
by `aim`. Memory grows by doubling, with the longest episode and with the number of rows, and is never given back.

Shapes: B rows in this forward, T new tokens, R rows, L positions, H key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

GRAIN = 64
"""Positions are handed to attention in multiples of this, so that its work is the same whatever was allocated."""


def round_up(length: int) -> int:
    """Return the least multiple of `GRAIN` that is at least `length`."""
    return -(-length // GRAIN) * GRAIN


class SlotCache(Cache):
    """Rows of keys and values; one more row than asked for takes what padding writes."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.num_rows = 0
        self.length = 0
        self._stores: list[list[Tensor]] = []  # per layer: keys_RHLD, values_RHLD
        self._kept: list[list[Tensor]] = []  # per layer: a row's first keys and values, both HLD
        self._index_N: Tensor | None = None
        self._head_index_M: Tensor | None = None  # the same for every head: M = N · H places in a flattened store
        self._rows: slice | Tensor = slice(0, 0)
        self._window = 0

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
        self.num_rows, self.length = rows, positions

    def aim(self, index_N: Tensor, rows: Sequence[int] | None, num: int, window: int, device: torch.device) -> None:
        """Set what the next forward writes and sees.

        Args:
            index_N: for each new token, row by row, `row * length + position`.
            rows: the rows that attend; None: the first `num`, without a copy.
            num: how many rows.
            window: positions they see, counted from 0.
            device: where the tensors live.
        """
        self._index_N, self._head_index_M = index_N, None
        self._window = window
        if rows is None:
            self._rows = slice(0, num)
        elif list(rows) == list(range(rows[0], rows[0] + num)):
            self._rows = slice(rows[0], rows[0] + num)
        else:
            self._rows = torch.tensor(rows, device=device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values, each at its row and position, and return the attending rows up to the window."""
        new = (states_BHTD.transpose(1, 2).flatten(0, 1) for states_BHTD in (key_states, value_states))
        return self.write(layer_idx, *new)

    def write(self, layer: int, keys_NHD: Tensor, values_NHD: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values, row by row; return those of the attending rows up to the window, (B, H, W, D)."""
        if layer == len(self._stores):
            shapes = [(self.num_rows + 1, new.shape[1], self.length, new.shape[2]) for new in (keys_NHD, values_NHD)]
            self._stores.append([keys_NHD.new_zeros(shape) for shape in shapes])
        keys_RHLD, values_RHLD = self._stores[layer]
        return self._write(keys_RHLD, keys_NHD), self._write(values_RHLD, values_NHD)

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

    def _write(self, store_RHLD: Tensor, new_NHD: Tensor) -> Tensor:
        store_RHLD.view(-1, store_RHLD.shape[3]).index_copy_(
            0, self._places(store_RHLD.shape[1]), new_NHD.flatten(0, 1)
        )
        rows, seen = self._rows, store_RHLD[:, :, : self._window]
        return seen[rows] if isinstance(rows, slice) else seen.index_select(0, rows)

    def _places(self, num_heads: int) -> Tensor:
        """Return where the new tokens' heads go, token by token; all layers have as many heads."""
        if self._head_index_M is None:
            assert self._index_N is not None
            heads_H = torch.arange(num_heads, device=self._index_N.device) * self.length
            before_N = (self._index_N // self.length) * ((num_heads - 1) * self.length)
            self._head_index_M = ((self._index_N + before_N)[:, None] + heads_H).flatten()
        return self._head_index_M
