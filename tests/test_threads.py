"""Passes side by side: the gradients of one after the other; and the bits do not depend on threads or memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparring.engines.scoring import Forward
from sparring.models import threads
from sparring.models.threads import SideBySide, is_small, one_thread
from tests.training_toys import node, qwen

NODES = [node(seed, turns) for seed, turns in enumerate((3, 1, 6, 3, 2, 5, 4))]


def learn(
    num_threads: int, *, frozen: bool = False, model: torch.nn.Module | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss of many small passes, and the gradients."""
    model = model or qwen()
    model.get_parameter("model.embed_tokens.weight").requires_grad_(not frozen)
    forward = Forward(model, max_tokens=60)
    forward.threads = SideBySide(num_threads)
    loss = sum(((i + 1) * logprobs_N.exp().sum() for i, logprobs_N in enumerate(forward(NODES))), torch.zeros(()))
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.fixture(scope="module")
def one_after_the_other() -> Iterator[tuple[Tensor, list[Tensor | None]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "SMALL_MODEL", 0)
        model = qwen()
        forward = Forward(model, max_tokens=60)
    assert forward.threads is None
    loss = sum(((i + 1) * logprobs_N.exp().sum() for i, logprobs_N in enumerate(forward(NODES))), torch.zeros(()))
    loss.backward()
    yield loss.detach(), [parameter.grad for parameter in model.parameters()]


def test_gradients_are_those_of_passes_one_after_the_other(one_after_the_other: tuple[Tensor, list[Tensor | None]]):
    expected_loss, expected = one_after_the_other
    loss, found = learn(3)
    # Another order of the same sums: a few hundred float32 roundings of 6e-8 each.
    torch.testing.assert_close(loss, expected_loss, rtol=2e-5, atol=0)
    for a, b in zip(found, expected, strict=True):
        assert a is not None and b is not None and b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_changes_no_bit():
    (loss, once), (other_loss, again) = learn(1), learn(4)
    assert torch.equal(loss, other_loss)
    for a, b in zip(once, again, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def lying_at(num_floats: int) -> torch.nn.Module:
    """Return a model whose parameters begin so many floats behind a multiple of 64 bytes."""
    model = qwen()
    for parameter in model.parameters():
        memory = torch.empty(parameter.numel() + 32)
        start = -(memory.data_ptr() // 4) % 16 + num_floats
        parameter.data = memory[start : start + parameter.numel()].view_as(parameter).copy_(parameter.data)
    assert {parameter.data_ptr() % 64 for parameter in model.parameters()} == {4 * num_floats}
    return model


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only MKL is asked for this, with MKL_CBWR")
@pytest.mark.parametrize("num_floats", [2, 10], ids=["8 bytes", "40 bytes"])
def test_where_weights_lie_in_memory_changes_no_bit(num_floats: int):
    """Mapped from a file they lie wherever its header ends: the bundled model's 8 bytes behind a multiple of 64."""
    (loss, once), (other_loss, again) = (learn(1, model=lying_at(floats)) for floats in (0, num_floats))
    assert torch.equal(loss, other_loss)
    for a, b in zip(once, again, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def test_what_is_frozen_gets_no_gradient():
    assert [grad is None for grad in learn(2, frozen=True)[1]] == [True] + [False] * (len(learn(2)[1]) - 1)


def test_without_gradients_nothing_is_kept():
    forward = Forward(qwen(), max_tokens=60)
    assert forward.threads is not None
    with torch.no_grad():
        found = forward(NODES)
    assert not any(logprobs_N.requires_grad for logprobs_N in found)
    assert all(map(torch.equal, found, forward(NODES)))


def test_functions_run_at_the_same_time_and_each_on_one_thread():
    meet = threading.Barrier(3, timeout=60)

    def together(item: int) -> tuple[int, int]:
        meet.wait()  # none passes unless three run at once
        return item, torch.get_num_threads()

    assert list(SideBySide(3).map(together, range(6))) == [(item, 1) for item in range(6)]


def test_few_results_wait_to_be_taken():
    started: list[int] = []
    results = SideBySide(2).map(started.append, range(10))
    next(results)
    time.sleep(0.2)
    assert len(started) <= 3
    assert len(list(results)) == 9


def test_an_error_in_a_pass_is_the_callers():
    def fail(item: int) -> int:
        raise ValueError(f"pass {item}")

    with pytest.raises(ValueError, match="pass 0"):
        list(SideBySide(2).map(fail, range(4)))


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_small_is_what_has_few_parameters_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    model = qwen()
    assert is_small(model)
    assert not is_small(torch.nn.Linear(2, 2, device="meta"))
    monkeypatch.setattr(threads, "SMALL_MODEL", model.num_parameters() - 1)
    assert not is_small(model)
