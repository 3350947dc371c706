"""One-token forwards, recorded once a shape and replayed: new tokens and their positions in, logits out.

On a GPU a small model's decoding step is launches rather than arithmetic. A CUDA graph launches a whole step at once,
but always the same kernels on the same memory. So batch and window are rounded up to a few shapes, each with a recorded
step that reads and writes tensors that never move. What a step computes depends on the batch alone: not on what was
recorded, nor on what was allocated before.

Shapes: B rows, R rows with those that fill a batch up, W positions seen (the window), V vocabulary.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparring.policies.local.cache import GRAIN, SlotCache
from sparring.policies.local.lean import CHECK_TOLERANCE

FINE_ROWS = 8
"""Batches are rounded up to powers of two up to here, then to multiples of it."""
MAX_STEPS = 64
"""Most recorded steps; the one that was not used for longest makes room."""
NUM_WARM_UPS = 2
"""Calls before a capture: libraries set themselves up in their first, and a graph can't hold that."""
CHECK_ROUNDINGS = 4
"""A replayed logit may differ by so many of its roundings, besides `CHECK_TOLERANCE`: bfloat16 has few digits."""

Step = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""Feeds a token to each of the cache's first B rows: token_B, position_B and how many positions each row sees at most;
returns logits_BV."""


def round_rows(num: int) -> int:
    """Return the batch size that `num` rows are filled up to."""
    return 1 << (num - 1).bit_length() if num <= FINE_ROWS else -(-num // FINE_ROWS) * FINE_ROWS


def round_window(length: int) -> int:
    """Return the least 2ⁿ or 3 · 2ⁿ times `GRAIN` that is at least `length`: few windows, none a third too wide."""
    grains = max(1, -(-length // GRAIN))
    power = 1 << (grains - 1).bit_length()
    return GRAIN * (power // 4 * 3 if grains <= power // 4 * 3 else power)


class Recorder(Protocol):
    """Turns a step into something that does the same again, faster."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return what does to the same tensors what `step` does.

        Raises:
            RuntimeError: it can't be recorded.
        """
        ...

    def forget(self) -> None:
        """Take note that nothing recorded so far will be used again."""
        ...


class PlainRecorder:
    """Calls the step itself again: for tests, and to see what the recording brings."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        return step

    def forget(self) -> None:
        pass


class CudaRecorder:
    """Captures steps as CUDA graphs that share their intermediate memory, as they are replayed one after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.forget()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        graph, stream = torch.cuda.CUDAGraph(), self._stream
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        try:
            # The outer context gives the stream back even when a capture fails, which `torch.cuda.graph` then doesn't.
            with torch.cuda.device(self._device), torch.cuda.stream(stream):
                for _ in range(NUM_WARM_UPS):
                    step()
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    step()
        finally:
            current.wait_stream(stream)
        return graph.replay

    def forget(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # one whose graphs are all gone can't be used again


class _Memory:
    """The tensors that recorded steps read and write: all shapes use the first rows of the same ones.

    Rows behind the batch write to the cache's scratch row and see one position.
    """

    def __init__(self, cache: SlotCache, num_tokens: int, device: torch.device) -> None:
        num = cache.num_rows
        self.token_R1 = torch.zeros(num, 1, dtype=torch.long, device=device)
        self.position_R1 = torch.zeros(num, 1, dtype=torch.long, device=device)
        self.base_R1 = torch.zeros(num, 1, dtype=torch.long, device=device)
        self.logits_RV = torch.zeros(num, num_tokens, device=device)
        self._row_base_R1 = torch.arange(num, device=device)[:, None] * cache.length
        self._scratch_base = cache.scratch * cache.length
        self._num = 0
        self._clear(0)

    def fill(self, token_B: Tensor, position_B: Tensor) -> None:
        """Put a batch into the first rows."""
        num = len(token_B)
        if num != self._num:
            self.base_R1[:num] = self._row_base_R1[:num]
            self._clear(num)
        self.token_R1[:num, 0] = token_B
        self.position_R1[:num, 0] = position_B

    def _clear(self, num: int) -> None:
        self.token_R1[num:] = 0
        self.position_R1[num:] = 0
        self.base_R1[num:] = self._scratch_base
        self._num = num


class StepGraphs:
    """Decoding steps of a model over a `SlotCache`, replayed.

    The first replay of a shape is compared with the ordinary forward. If it differs, or can't be had, a warning says so
    and all steps are ordinary from then on.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        cache: SlotCache,
        recorder: Recorder,
        *,
        num_tokens: int,
        dtype: torch.dtype,
    ) -> None:
        """Args:
        forward: from token_B1 and position_B1 to logits_BV, over the cache, which is aimed beforehand.
        num_tokens: the vocabulary V of these logits.
        dtype: what the model computes in.
        """
        self._forward = forward
        self._cache = cache
        self._recorder = recorder
        self._num_tokens = num_tokens
        self._dtype = dtype
        self._memory: _Memory | None = None
        self._num_moves = -1
        self._recorded: OrderedDict[tuple[int, int], Callable[[], None]] = OrderedDict()
        self._is_broken = False

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The rows and the window of what is recorded, the least recently used first."""
        return list(self._recorded)

    def reserve(self, num: int, length: int) -> None:
        """Make room in the cache for batches of `num` rows that see up to `length` positions, filled up."""
        if self._is_broken:
            self._cache.reserve(num, length)
        else:
            self._cache.reserve(round_rows(num), round_window(length))

    def __call__(self, token_B: Tensor, position_B: Tensor, ends: Sequence[int]) -> Tensor:
        """Feed a token to each of the first B rows, for which there is room, and return logits_BV, which are new."""
        if self._is_broken:
            return self._ordinary(token_B, position_B, ends)
        shape = round_rows(len(ends)), round_window(max(ends))
        assert shape[0] <= self._cache.num_rows and shape[1] <= self._cache.length, "no room was made for this batch"
        memory = self._settle(token_B.device)
        memory.fill(token_B, position_B)
        if (replay := self._recorded.get(shape)) is not None:
            self._recorded.move_to_end(shape)
            replay()
        elif problem := self._record(shape, memory, self._ordinary(token_B, position_B, ends)):
            warnings.warn(f"Decoding goes on without CUDA graphs, more slowly: {problem}.", stacklevel=3)
            self._is_broken = True
            self._drop()
            return self._ordinary(token_B, position_B, ends)
        return memory.logits_RV[: len(ends)].clone()

    def _ordinary(self, token_B: Tensor, position_B: Tensor, ends: Sequence[int]) -> Tensor:
        rows_B = torch.arange(len(ends), device=token_B.device)
        self._cache.aim((rows_B * self._cache.length + position_B)[:, None], range(len(ends)), ends)
        return self._forward(token_B[:, None], position_B[:, None])

    def _record(self, shape: tuple[int, int], memory: _Memory, expected_BV: Tensor) -> str | None:
        """Record and replay a step; return what is wrong with it, if anything is."""
        num, window = shape
        token_R1, position_R1, base_R1 = (t[:num] for t in (memory.token_R1, memory.position_R1, memory.base_R1))
        logits_RV = memory.logits_RV[:num]

        def step() -> None:
            self._cache.aim(base_R1 + position_R1, range(num), [window] * num)
            logits_RV.copy_(self._forward(token_R1, position_R1))

        try:
            replay = self._recorder.record(step)
            logits_RV.zero_()  # what a warm-up left is no replay
            replay()
        except RuntimeError as error:
            return f"a step can't be recorded ({str(error).strip().partition(chr(10))[0]})"
        if not _agree(logits_RV[: len(expected_BV)], expected_BV, self._dtype):
            return f"a recorded step of {num} rows and {window} positions gave other logits than the model"
        self._recorded[shape] = replay
        if len(self._recorded) > MAX_STEPS:
            self._recorded.popitem(last=False)
        return None

    def _settle(self, device: torch.device) -> _Memory:
        """Return the steps' memory; where the cache has moved, a new one, and what was recorded is dropped."""
        if self._memory is None or self._num_moves != self._cache.num_moves:
            self._drop()
            self._memory, self._num_moves = _Memory(self._cache, self._num_tokens, device), self._cache.num_moves
        return self._memory

    def _drop(self) -> None:
        self._recorded.clear()
        self._recorder.forget()
        self._memory = None


def _agree(logits_BV: Tensor, expected_BV: Tensor, dtype: torch.dtype) -> bool:
    """Compare logits; those of broken weights are no numbers on either side."""
    roundings = CHECK_ROUNDINGS * torch.finfo(dtype).eps
    return torch.allclose(logits_BV, expected_BV, rtol=roundings, atol=CHECK_TOLERANCE.get(dtype, 0.0), equal_nan=True)
