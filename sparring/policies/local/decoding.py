"""New tokens per row in, sampled tokens per row out: what decoders share, and the one over a `SlotCache`.

Prefill pads on the left, so that every row's last token stands in the last column and the language-model head runs
there alone; what padding writes goes to the cache's scratch row. Rows are grouped by the number of their new tokens, so
that a long first prompt does not pad the short answers beside it. All of it is a function of lengths, never of time.

Shapes: B rows, T new tokens, W positions seen (the window), V vocabulary, N = B·T.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparring.core.errors import ModelError
from sparring.models.threads import is_small, one_thread
from sparring.policies.local.cache import SlotCache, round_up
from sparring.policies.local.graphs import CudaRecorder, Recorder, Step, StepGraphs
from sparring.policies.local.lean import LeanModel
from sparring.policies.local.masks import Masks

CPU_FORWARD_COST = 32
"""What one more prefill forward costs, in tokens: rows are split into groups where that saves more padding."""
GPU_FORWARD_COST = 256
"""The same on a GPU, where a forward of a few tokens takes as long as one of many."""
MAX_FORWARD_TOKENS = 4096
"""Most tokens in one prefill forward, padding included; more are fed in chunks."""

NOT_FINITE = "The model's logits are not finite: its weights are broken (a training that diverged?)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What one decoding brought, row by row."""

    tokens: list[list[int]]
    """New tokens; with the one that ended the action, which alone is not in the cache."""
    logprobs: list[list[float]]
    """Their log-probabilities at the temperature; of greedy tokens there are none, and the lists are empty."""
    is_over: list[bool]
    """Is the action whole?"""
    logits_BV: Tensor
    """The logits before the next token of what is not."""


class Rows(Protocol):
    """What a decoder holds of each episode, row by row."""

    def reserve(self, num_rows: int, length: int) -> None:
        """Make room for `num_rows` rows of `length` positions, keeping what is there."""
        ...

    def move(self, source: int, target: int, length: int) -> None:
        """Put what a row's first positions hold into another; the row itself is free afterwards."""
        ...

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first positions of two rows."""
        ...


class Possible:
    """Leaves of logits what may be sampled: no ids beyond the tokenizer, and none below that spell nothing."""

    def __init__(self, num_tokens: int, unused_ids: Iterable[int], device: torch.device) -> None:
        self._num_tokens = num_tokens
        unused = sorted(unused_ids)
        self._unused_U = torch.tensor(unused, device=device) if unused else None

    def __call__(self, logits_BV: Tensor) -> Tensor:
        logits_BV = logits_BV[:, : self._num_tokens].float()
        return logits_BV if self._unused_U is None else logits_BV.index_fill(1, self._unused_U, -math.inf)


class Decoder(ABC):
    """Decodes the actions of many open episodes, each of which keeps a row of what is known of its past."""

    def __init__(
        self, model: PreTrainedModel, *, num_tokens: int, end_ids: Iterable[int], unused_ids: Iterable[int] = ()
    ) -> None:
        self.dtype = model.dtype
        self._model = model
        self._device = model.device
        self._possible = Possible(num_tokens, unused_ids, model.device)
        self._is_small = is_small(model)
        self._end_ids = frozenset(end_ids)
        self._is_end_V = torch.zeros(num_tokens, dtype=torch.bool, device=self._device)
        self._is_end_V[sorted(self._end_ids)] = True

    @property
    @abstractmethod
    def cache(self) -> Rows:
        """What is known of the episodes' past."""

    @abstractmethod
    def prefill(self, rows: Sequence[int], starts: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
        """Feed new tokens to rows and return the logits after each row's last one.

        Args:
            rows: cache rows, B of them.
            starts: how many positions each row already holds.
            pieces: each row's new tokens, at least one.

        Returns:
            logits_BV, in the order of `rows`.
        """

    @abstractmethod
    def remember(self, ids: Sequence[int]) -> None:
        """Keep what episodes begin with: always computed by itself, so that it is the same whoever plays beside it.

        To be called while no row is in use.
        """

    @abstractmethod
    def recall(self, row: int, num: int) -> None:
        """Put the first `num` tokens of what was remembered into a row."""

    @abstractmethod
    def steps(self, lengths: Sequence[int], window: int) -> Step:
        """Make room for the first B rows to grow up to a window, and return what feeds each of them one more token."""

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Set model and torch up for what follows: eval mode, no autograd, one thread for a small model on a CPU."""
        self._model.eval()
        with one_thread() if self._is_small else nullcontext(), torch.inference_mode():
            yield

    def decode(
        self,
        logits_BV: Tensor,
        lengths: Sequence[int],
        num_drawn: Sequence[int],
        max_new_tokens: int,
        temperature: float,
        uniform_BT: Tensor | None,
        *,
        enough: int,
    ) -> Drawn:
        """Sample the actions of the first B rows on, until some of them are whole.

        Args:
            logits_BV: the logits before each row's next token.
            lengths: how many positions each row holds.
            num_drawn: how many tokens of its action each row has already.
            max_new_tokens: where an action without an end of turn is cut.
            temperature: 0 is greedy.
            uniform_BT: numbers in [0, 1) to sample an action's tokens from by inverse CDF; None if greedy.
            enough: once this many actions are whole, the others are left to be decoded on later.

        Raises:
            ModelError: the model's outputs are not finite.
        """
        num, device, left = len(lengths), self._device, [max_new_tokens - drawn for drawn in num_drawn]
        window = round_up(max(length + more for length, more in zip(lengths, left, strict=True)))
        feed = self.steps(lengths, window)
        position_B, drawn_B = torch.tensor(lengths, device=device), torch.tensor(num_drawn, device=device)
        is_live_B, is_finite = (torch.ones(shape, dtype=torch.bool, device=device) for shape in ((num,), ()))
        token_BT = torch.zeros(num, max(left), dtype=torch.long, device=device)
        probability_BT = torch.ones(num, max(left), device=device)
        num_over = step = 0
        while num_over < enough:
            uniform_B = None if uniform_BT is None else uniform_BT.gather(1, drawn_B[:, None])[:, 0]
            token_BT[:, step], probability_BT[:, step] = token_B, value_B = pick(logits_BV, temperature, uniform_B)
            is_finite &= value_B.isfinite().all()
            step += 1
            is_live_B &= ~self._is_end_V[token_B] & (drawn_B + 1 < max_new_tokens)
            num_over = num - int(is_live_B.sum())
            if num_over == num:
                break
            logits_BV = feed(token_B, position_B, [min(window, length + step) for length in lengths])
            position_B = position_B + is_live_B  # a row that is over writes behind what it holds, and nobody sees that
            drawn_B = drawn_B + is_live_B
        if not is_finite:
            raise ModelError(NOT_FINITE)
        tokens = [self._until_end(row[:more]) for row, more in zip(token_BT[:, :step].tolist(), left, strict=True)]
        logprobs = _logprobs(None if uniform_BT is None else probability_BT[:, :step], tokens)
        return Drawn(tokens=tokens, logprobs=logprobs, is_over=(~is_live_B).tolist(), logits_BV=logits_BV)

    def _until_end(self, tokens: list[int]) -> list[int]:
        for i, token in enumerate(tokens):
            if token in self._end_ids:
                return tokens[: i + 1]
        return tokens


class _Forward:
    """The model over the slot cache, which is aimed beforehand."""

    def __init__(
        self, model: PreTrainedModel, lean: LeanModel | None, cache: SlotCache, possible: Possible, masks: Masks
    ) -> None:
        self._model = model
        self._lean = lean
        self._cache = cache
        self._possible = possible
        self.masks = masks
        accepts_slice = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if accepts_slice else {}

    def __call__(self, ids_BT: Tensor, position_BT: Tensor, mask_B1TW: Tensor | None = None) -> Tensor:
        """Feed new tokens and return the logits after each row's last one, logits_BV."""
        if mask_B1TW is None:
            mask_B1TW = self.masks.causal(position_BT, self._cache.window)
        if self._lean is not None:
            return self._possible(self._lean(ids_BT, position_BT, mask_B1TW, self._cache))
        out = self._model(
            input_ids=ids_BT,
            position_ids=position_BT,
            attention_mask=self.masks.as_taken(position_BT, mask_B1TW),
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        return self._possible(out.logits[:, -1])


class SlotDecoder(Decoder):
    """A causal language model with a persistent cache, one row per episode."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_tokens: int,
        end_ids: Iterable[int],
        max_positions: int,
        unused_ids: Iterable[int] = (),
        recorder: Recorder | Literal["auto"] | None = "auto",
        may_be_lean: bool = True,
    ) -> None:
        """Args:
        model: a transformers causal language model whose layers are attention, to the whole past or in windows.
        num_tokens: the tokenizer's largest id + 1; ids beyond it (padding of the embedding) are never sampled.
        max_positions: most tokens in an episode.
        end_ids: the tokens that end an action.
        unused_ids: ids below `num_tokens` that the tokenizer does not have; they are never sampled either.
        recorder: what records decoding steps to replay them; none: each is launched anew; `auto`: CUDA graphs where
            the model is on such a GPU.
        may_be_lean: use the lean forward where it can be had.
        """
        super().__init__(model, num_tokens=num_tokens, end_ids=end_ids, unused_ids=unused_ids)
        self._cache = SlotCache()
        self._lean = LeanModel.of(model, max_positions) if self._is_small and may_be_lean else None
        self._forward = _Forward(model, self._lean, self.cache, self._possible, Masks(model, max_positions))
        if recorder == "auto":
            recorder = CudaRecorder(self._device) if self._device.type == "cuda" else None
        self._graphs = None
        if recorder is not None:
            self._graphs = StepGraphs(self._forward, self.cache, recorder, num_tokens=num_tokens, dtype=model.dtype)

    @property
    def cache(self) -> SlotCache:
        return self._cache

    @property
    def is_lean(self) -> bool:
        """Whether the lean forward serves."""
        return self._lean is not None

    def prefill(self, rows: Sequence[int], starts: Sequence[int], pieces: Sequence[Sequence[int]]) -> Tensor:
        ends = [start + len(piece) for start, piece in zip(starts, pieces, strict=True)]
        self.cache.reserve(max(rows) + 1, max(ends))
        logits: list[Tensor | None] = [None] * len(rows)
        forward_cost = CPU_FORWARD_COST if self._device.type == "cpu" else GPU_FORWARD_COST
        for group in group_by_length([len(piece) for piece in pieces], forward_cost):
            group_logits_BV = self._prefill_group(
                [rows[i] for i in group], [ends[i] for i in group], [pieces[i] for i in group]
            )
            for i, logits_V in zip(group, group_logits_BV, strict=True):
                logits[i] = logits_V
        return torch.stack([row for row in logits if row is not None])

    def _prefill_group(self, rows: list[int], ends: list[int], pieces: list[Sequence[int]]) -> Tensor:
        width = max(map(len, pieces))
        step = max(1, MAX_FORWARD_TOKENS // len(rows))
        padded_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for i, piece in enumerate(pieces):
            padded_BT[i, width - len(piece) :] = torch.tensor(piece)
        padded_BT = padded_BT.to(self._device)
        lengths_B1 = torch.tensor([[len(piece)] for piece in pieces], device=self._device)
        rows_B1 = torch.tensor(rows, device=self._device)[:, None]
        column_T = torch.arange(width, device=self._device)
        position_BT = column_T - width + torch.tensor(ends, device=self._device)[:, None]
        is_real_BT = column_T >= width - lengths_B1
        index_BT = torch.where(
            is_real_BT,
            rows_B1 * self.cache.length + position_BT,
            self.cache.scratch * self.cache.length + column_T % self.cache.length,
        )
        position_BT = torch.where(is_real_BT, position_BT, 0)
        logits_BV = None
        first = width % step or step
        for start, end in [(0, first), *((at, at + step) for at in range(first, width, step))]:
            self.cache.aim(index_BT[:, start:end], rows, [max(1, stop - width + end) for stop in ends])
            logits_BV = self._forward(padded_BT[:, start:end], position_BT[:, start:end])
        assert logits_BV is not None
        return logits_BV

    def remember(self, ids: Sequence[int]) -> None:
        self.prefill([0], [0], [ids])
        self.cache.keep(0, len(ids))

    def recall(self, row: int, num: int) -> None:
        self.cache.reserve(row + 1, num)
        self.cache.put(row, num)

    def steps(self, lengths: Sequence[int], window: int) -> Step:
        num = len(lengths)
        if self._graphs is not None:
            self._graphs.reserve(num, window)
            return self._graphs
        self.cache.reserve(num, window)
        base_B = torch.arange(num, device=self._device) * self.cache.length
        mask_B1TW = self._forward.masks.causal(torch.tensor(lengths, device=self._device)[:, None] - 1, window)

        def feed(token_B: Tensor, position_B: Tensor, ends: Sequence[int]) -> Tensor:
            mask_B1TW.view(num, window).scatter_(1, position_B[:, None], 0.0)
            self.cache.aim((base_B + position_B)[:, None], range(num), ends)
            return self._forward(token_B[:, None], position_B[:, None], mask_B1TW[..., : self.cache.window])

        return feed


def _logprobs(probability_BT: Tensor | None, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    if probability_BT is None:
        return [[] for _ in tokens]
    logprobs_BT = probability_BT.clamp_min(torch.finfo(torch.float32).tiny).log()
    return [row[: len(drawn)] for row, drawn in zip(logprobs_BT.tolist(), tokens, strict=True)]


def pick(logits_BV: Tensor, temperature: float, uniform_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """Choose a token per row: the likeliest at temperature 0, else by inverse CDF from a number in [0, 1).

    Returns:
        The ids, and each one's probability at the temperature (if greedy, its logit): finite if all of the row's
        logits are numbers.
    """
    if temperature == 0 or uniform_B is None:
        value_B, token_B = logits_BV.max(-1)
        return token_B, value_B
    probability_BV = torch.softmax(logits_BV / temperature, -1)
    cdf_BV = probability_BV.cumsum(-1)
    threshold_B1 = uniform_B[:, None] * cdf_BV[:, -1:]
    token_B1 = torch.searchsorted(cdf_BV, threshold_B1, right=True).clamp_max_(logits_BV.shape[1] - 1)
    return token_B1[:, 0], probability_BV.gather(1, token_B1)[:, 0]


def group_by_length(lengths: Sequence[int], forward_cost: int) -> list[list[int]]:
    """Split rows into groups that are padded to their longest, for the least tokens in all.

    Args:
        lengths: new tokens per row.
        forward_cost: what each group costs besides its tokens.

    Returns:
        Indices into `lengths`: groups from the shortest rows to the longest, ascending inside a group.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    best: list[tuple[int, int]] = [(0, 0)]  # per prefix of `order`: its cost, and where its last group starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + forward_cost, start) for start in range(end)))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(sorted(order[start:end]))
        end = start
    return groups[::-1]
