"""Decoding for models that the slot cache doesn't serve: by the cache that a model makes itself, or without any.

Recurrent layers, and windows and position biases that a model applies in its own way, know nothing of rows that are
filled at positions of their own. Here every episode is fed by itself, as the model's own `generate` would feed it. That
is right for any causal model, and slower than a batch.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparring.policies.local.decoding import Decoder
from sparring.policies.local.graphs import Step

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""What models call their cache, as an output and as an input."""


class Feeding(Enum):
    """How a model is fed what comes after the tokens that it knows."""

    PIECES = "with its own cache, one episode at a time"
    TOKENS = "with its own cache, one episode and one token at a time"
    ANEW = "without a cache, every episode from its first token on for each new one"


@dataclass(slots=True)
class _Row:
    """What is known of an episode."""

    ids: list[int] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)
    """Of all these tokens, by its name in the model's forward; or empty."""
    logits_V: Tensor | None = None
    """After the last of them; none where they are still to be fed."""


class RowStates:
    """A row for each episode, which can only be extended, or begun again."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for `num_rows` rows; positions need none."""
        self.rows += [_Row() for _ in range(num_rows - len(self.rows))]

    def move(self, source: int, target: int, length: int) -> None:
        """Put what a row holds into another; it is empty afterwards."""
        self.rows[target], self.rows[source] = self.rows[source], _Row()

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two rows."""
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]


class OwnDecoder(Decoder):
    """A causal language model that is fed one episode at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_tokens: int,
        end_ids: Iterable[int],
        unused_ids: Iterable[int] = (),
        feeding: Feeding = Feeding.PIECES,
    ) -> None:
        super().__init__(model, num_tokens=num_tokens, end_ids=end_ids, unused_ids=unused_ids)
        self._cache = RowStates()
        self._feeding = feeding
        self._remembered: list[int] = []
        accepts_slice = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if accepts_slice else {}

    @property
    def cache(self) -> RowStates:
        return self._cache

    def prefill(self, rows: Sequence[int], starts: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
        self.cache.reserve(max(rows) + 1, 0)
        return torch.stack(
            [
                self._extend(row, [*self.cache.rows[row].ids[:start], *piece])
                for row, start, piece in zip(rows, starts, pieces, strict=True)
            ]
        )

    def remember(self, ids: Sequence[int]) -> None:
        self._remembered = list(ids)

    def recall(self, row: int, num: int) -> None:
        self.cache.reserve(row + 1, 0)
        self.cache.rows[row] = _Row(self._remembered[:num])

    def steps(self, lengths: Sequence[int], window: int) -> Step:
        self.cache.reserve(len(lengths), 0)

        def feed(token_B: Tensor, position_B: Tensor, ends: Sequence[int]) -> Tensor:
            logits = []
            for index, (token, position) in enumerate(zip(token_B.tolist(), position_B.tolist(), strict=True)):
                row = self.cache.rows[index]
                if position == len(row.ids):  # else the row is over, and fed no more
                    self._extend(index, [*row.ids, token])
                assert row.logits_V is not None
                logits.append(self.cache.rows[index].logits_V)
            return torch.stack(logits)

        return feed

    def _extend(self, index: int, ids: list[int]) -> Tensor:
        """Let a row hold `ids`, of which it may hold the first already, and return the logits after the last."""
        row = self.cache.rows[index]
        if row.logits_V is None or ids[: len(row.ids)] != row.ids:
            row = self.cache.rows[index] = _Row()
        if row.logits_V is not None and len(ids) == len(row.ids):
            return row.logits_V
        known = len(row.ids) if row.cache else 0
        size = 1 if known and self._feeding is Feeding.TOKENS else len(ids) - known
        logits_V = None
        for start in range(known, len(ids), size):
            logits_V = self._feed(row, ids[start : start + size])
        assert logits_V is not None
        row.ids, row.logits_V = ids, logits_V
        return logits_V

    def _feed(self, row: _Row, ids: Sequence[int]) -> Tensor:
        """Feed tokens to the model after what the row's cache knows, and return the logits after the last."""
        uses_cache = self._feeding is not Feeding.ANEW
        ids_1T = torch.tensor([ids], device=self._device)
        out = self._model(input_ids=ids_1T, use_cache=uses_cache, **row.cache, **self._last_only)
        if uses_cache:
            found = {name: getattr(out, name, None) for name in CACHE_NAMES}
            row.cache = {name: cache for name, cache in found.items() if cache is not None}
        return self._possible(out.logits[:, -1])[0]
