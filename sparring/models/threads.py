"""Threads on a CPU: small models compute on one each, and forward passes of one step run side by side.

Threads that share every matrix product of a few million parameters wait for each other longer than they compute, above
all beside busy envs. So a small model samples on one thread; and in training each padded pass has a thread of its own,
forward and backward. Gradients are summed in the order of the passes, so that no result depends on the number of
threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL_MODEL = 30_000_000
"""Parameters up to which a model on a CPU computes with one thread."""


def is_small(model: torch.nn.Module) -> bool:
    """Say whether threads would cost a model more than they bring: it lies on a CPU and is small."""
    parameters = list(model.parameters())
    return parameters[0].device.type == "cpu" and sum(p.numel() for p in parameters) <= SMALL_MODEL


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


class SideBySide:
    """Runs functions side by side, each on one thread."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the items' order; no more than one a thread waits to be taken."""
        running: deque[Future[Result]] = deque()
        for item in items:
            running.append(self._pool.submit(function, item))
            if len(running) > self._num_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def passes(
        self, functions: Sequence[Callable[[], Sequence[Tensor]]], parameters: Sequence[Tensor]
    ) -> list[list[Tensor]]:
        """Call functions of `parameters`, each of which returns as many tensors; gradients flow through, once."""
        if not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)):
            return list(self.map(lambda function: list(_without_grad(function)), functions))
        outputs = _Passes.apply(self, functions, *parameters)
        width = len(outputs) // len(functions)
        return [list(outputs[i : i + width]) for i in range(0, len(outputs), width)]


def _without_grad(function: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    with torch.no_grad():  # the mode is each thread's own
        return function()


class _Passes(torch.autograd.Function):
    """Graphs of their own, one a pass: built side by side in forward, walked side by side in backward."""

    @staticmethod
    def forward(
        ctx: Any, threads: SideBySide, functions: Sequence[Callable[[], Sequence[Tensor]]], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.threads, ctx.parameters = threads, parameters
        ctx.outputs = list(threads.map(lambda function: function(), functions))
        return tuple(tensor.detach() for output in ctx.outputs for tensor in output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        outputs, ctx.outputs = ctx.outputs, ()
        learnt = [parameter for parameter in ctx.parameters if parameter.requires_grad]
        grads = iter(grad_outputs)
        pieces = [(output, [next(grads) for _ in output]) for output in outputs]

        def walk(piece: tuple[Sequence[Tensor], list[Tensor]]) -> tuple[Tensor | None, ...]:
            output, grads_of_output = piece
            return torch.autograd.grad(list(output), learnt, grads_of_output, allow_unused=True)

        sums: list[Tensor | None] = [None] * len(learnt)
        for found in ctx.threads.map(walk, pieces):
            sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, found, strict=True)]
        total = dict(zip(map(id, learnt), sums, strict=True))
        return (None, None, *(total.get(id(parameter)) for parameter in ctx.parameters))
