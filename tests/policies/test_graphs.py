"""Recorded decoding steps. What must hold:

- what a replay gives depends on the recorded step's own tensors: on no Python state and no other memory;
- tokens, log-probabilities and the cache are those of ordinary decoding, whatever fills a batch up;
- nothing recorded is replayed after the cache has moved, and only so many steps are kept;
- a recording that fails or gives other logits costs a warning, and no token.
"""

from __future__ import annotations

import gc
import itertools
import random
import warnings
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparring.core.errors import ModelError
from sparring.models import threads
from sparring.policies.local import graphs
from sparring.policies.local.decoding import SlotDecoder
from sparring.policies.local.graphs import PlainRecorder, round_rows, round_window
from tests.tiny_models import tiny_model

NUM_TOKENS = 50
ENDS = range(3, NUM_TOKENS, 7)


class TapeRecorder(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations on the tensors that they had, whatever Python holds by now."""

    def __init__(self):
        super().__init__()
        self.num_recorded = self.num_replayed = self.num_forgotten = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.tape.append((func, args, kwargs or {}, out))
        return out

    def record(self, step):
        self.tape = tape = []
        with self:
            step()
        self.num_recorded += 1

        def replay():
            self.num_replayed += 1
            for func, args, kwargs, out in tape:
                for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                        old.copy_(new)

        return replay

    def forget(self):
        self.num_forgotten += 1


class IdleRecorder(PlainRecorder):
    """Its steps do nothing when they are replayed."""

    def record(self, step):
        step()
        return lambda: None


class LateRecorder(PlainRecorder):
    """It refuses a step after having run it."""

    def record(self, step):
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def decoder_for(model, recorder, *, ends=ENDS):
    return SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=ends, max_positions=2048, recorder=recorder)


def episodes(decoder, *, batches, temperature=0.0, lengths=(1, 9, 40), max_new_tokens=12, device="cpu"):
    """Play turns in the cache's first rows, in batches of these sizes; rows are closed and opened in between.

    An action is taken up again until it is whole, each time with fewer rows.

    Returns:
        Everything drawn, as one list of (actions, log-probabilities), and the last logits of all decodings.
    """
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    held: list[list[int]] = [[] for _ in range(max(batches))]
    found, last = [], []
    with decoder.sampling():
        for size in batches:
            num = size
            pieces = [[draw.randrange(NUM_TOKENS) for _ in range(draw.choice(lengths))] for _ in range(num)]
            logits_BV = decoder.prefill(range(num), [len(held[row]) for row in range(num)], pieces)
            for row, piece in enumerate(pieces):
                held[row] += piece
            uniform_BT = torch.rand(num, max_new_tokens, generator=generator).to(device) if temperature else None
            drafts = [0] * num
            while num:
                drawn = decoder.decode(
                    logits_BV,
                    [len(ids) for ids in held[:num]],
                    drafts,
                    max_new_tokens,
                    temperature,
                    uniform_BT,
                    enough=1,
                )
                found.append((drawn.tokens, drawn.logprobs))
                last.append(drawn.logits_BV)
                for row, tokens in enumerate(drawn.tokens):
                    held[row] += tokens[:-1] if drawn.is_over[row] else tokens
                rows = [row for row in range(num) if not drawn.is_over[row]]
                for place, row in enumerate(rows):
                    decoder.cache.swap(place, row, max(len(held[place]), len(held[row])))
                    held[place], held[row] = held[row], held[place]
                drafts = [drafts[row] + len(drawn.tokens[row]) for row in rows]
                logits_BV, num = drawn.logits_BV[rows], len(rows)
                uniform_BT = None if uniform_BT is None else uniform_BT[rows]
    return found, last


def assert_same(ours, theirs):
    """The same tokens; log-probabilities and logits up to rounding."""
    for (tokens, logprobs), (other_tokens, other_logprobs) in zip(ours[0], theirs[0], strict=True):
        assert tokens == other_tokens
        for row, other_row in zip(logprobs, other_logprobs, strict=True):
            assert row == pytest.approx(other_row, abs=1e-4)
    for one, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_batches_are_filled_up_to_few_sizes():
    sizes = [1, 2, 4, *range(8, 1025, 8)]
    assert [round_rows(num) for num in range(1, 1025)] == [
        min(size for size in sizes if size >= num) for num in range(1, 1025)
    ]


def test_windows_are_filled_up_to_few_lengths():
    lengths = sorted(64 * factor * 2**power for factor in (1, 3) for power in range(8))
    for length in range(1, 8192, 7):
        assert round_window(length) == min(window for window in lengths if window >= length)
    assert [round_window(length) for length in (1, 64, 65, 128, 129, 192, 193)] == [64, 64, 128, 128, 192, 192, 256]


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("is_lean", [True, False], ids=["lean", "transformers"])
@pytest.mark.parametrize("temperature", [0.0, 2.0], ids=["greedy", "sampled"])
def test_replayed_steps_draw_the_same(kind, is_lean, temperature, monkeypatch):
    """Batches that no size fits, beside rows that stay open, ending one by one, while the cache grows."""
    if not is_lean:
        monkeypatch.setattr(threads, "SMALL_MODEL", 0)
    model, recorder = tiny_model(kind, num_tokens=NUM_TOKENS, scale=1.5 if temperature else 4.0), TapeRecorder()
    decoders = [decoder_for(model, None), decoder_for(model, recorder)]
    batches = [3, 5, 1, 9, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, ours = (episodes(decoder, batches=batches, temperature=temperature) for decoder in decoders)
    assert_same(ours, theirs)
    assert len({len(tokens) for tokens, _ in theirs[0]}) > 3
    assert recorder.num_replayed > 2 * recorder.num_recorded > 0
    assert recorder.num_forgotten > 2


def test_plain_steps_draw_the_same():
    model = tiny_model(num_tokens=NUM_TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, ours = (episodes(decoder_for(model, one), batches=[3, 9, 2]) for one in (None, PlainRecorder()))
    assert_same(ours, theirs)


def test_what_fills_a_batch_up_leaves_other_rows_alone():
    """Three rows of five are decoded, as four; then all five go on from what the cache holds."""
    model = tiny_model(num_tokens=NUM_TOKENS)
    found = []
    for recorder in (None, TapeRecorder()):
        decoder = decoder_for(model, recorder, ends=())
        with decoder.sampling():
            logits_BV = decoder.prefill(range(5), [0] * 5, [[1 + row, 2] for row in range(5)])
            first = decoder.decode(logits_BV[:3], [2] * 3, [0] * 3, 4, 0.0, None, enough=3)
            after_BV = decoder.prefill(range(5), [5] * 3 + [2] * 2, [[7]] * 5)
        found.append(([(first.tokens, first.logprobs)], [after_BV]))
    assert_same(found[1], found[0])


def test_logits_that_are_kept_are_not_overwritten():
    """Those of an action that is left unfinished outlive the decoding of other rows."""
    decoder = decoder_for(tiny_model(num_tokens=NUM_TOKENS), TapeRecorder(), ends=())
    with decoder.sampling():
        logits_BV = decoder.prefill(range(2), [0] * 2, [[1], [2]])
        drawn = decoder.decode(logits_BV, [1, 1], [0, 3], 8, 0.0, None, enough=1)
        assert drawn.is_over == [False, True]
        before_BV = drawn.logits_BV.clone()
        decoder.decode(logits_BV, [1, 1], [0, 0], 8, 0.0, None, enough=2)
    assert torch.equal(drawn.logits_BV, before_BV)


def test_what_is_drawn_does_not_depend_on_what_was_allocated():
    """Bit for bit: a cache with room for more, and steps recorded before, change nothing."""
    model, found, shapes = tiny_model(num_tokens=NUM_TOKENS), [], []
    for num_rows, length in ((8, 128), (40, 700)):
        decoder = decoder_for(model, TapeRecorder())
        decoder.cache.reserve(num_rows, length)
        runs = [episodes(decoder, batches=[5, 3]) for _ in range(1 + (num_rows > 8))]
        found.append(runs[-1][1])
        shapes.append(set(decoder._graphs.shapes))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert shapes[0] == shapes[1] >= {(8, 64), (4, 64)}


def test_memory_goes_with_its_decoder():
    """At once: what waits for the garbage collector would lie beside the next policy's cache."""
    gc.disable()
    try:
        decoder = decoder_for(tiny_model(num_tokens=NUM_TOKENS), TapeRecorder())
        episodes(decoder, batches=[3])
        assert decoder._graphs.shapes
        left = weakref.ref(decoder.cache)
        del decoder
        assert left() is None
    finally:
        gc.enable()


def test_recorded_steps_are_dropped_when_the_cache_moves():
    recorder = TapeRecorder()
    decoder = decoder_for(tiny_model(num_tokens=NUM_TOKENS), recorder, ends=())

    def decode(num, length):
        with decoder.sampling():
            logits_BV = decoder.prefill(range(num), [0] * num, [[1] * length] * num)
            decoder.decode(logits_BV, [length] * num, [0] * num, 4, 0.0, None, enough=num)
        return recorder.num_recorded, len(decoder._graphs.shapes)

    assert decode(4, 10) == (1, 1)
    assert decode(2, 10) == (2, 2)
    assert decode(3, 20) == (2, 2)  # four rows and 64 positions again
    assert decode(4, 80) == (3, 1)  # longer rows
    assert decode(9, 10) == (4, 1)  # more rows
    assert decode(4, 10) == (5, 2)


def test_the_least_recently_used_step_makes_room(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_STEPS", 2)
    recorder = TapeRecorder()
    decoder = decoder_for(tiny_model(num_tokens=NUM_TOKENS), recorder, ends=())
    decoder.cache.reserve(8, 64)
    recorded = []
    with decoder.sampling():
        for num in (1, 2, 1, 4, 1, 2):
            logits_BV = decoder.prefill(range(num), [0] * num, [[1]] * num)
            decoder.decode(logits_BV, [1] * num, [0] * num, 4, 0.0, None, enough=num)
            recorded.append(recorder.num_recorded)
            assert len(decoder._graphs.shapes) <= 2
    assert recorded == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("recorder", "problem"),
    [
        (IdleRecorder(), r"a recorded step of 4 rows and 64 positions gave other logits than the model\.$"),
        (LateRecorder(), r"can't be recorded \(operation not permitted when stream is capturing\)\.$"),
    ],
    ids=["wrong", "raises"],
)
def test_a_bad_recorder_is_found_out_once_and_costs_no_token(recorder, problem):
    model = tiny_model(num_tokens=NUM_TOKENS)
    theirs = episodes(decoder_for(model, None), batches=[3, 9, 2])
    decoder = decoder_for(model, recorder)
    with pytest.warns(UserWarning, match=f"Decoding goes on without CUDA graphs, more slowly: .*{problem}") as caught:
        ours = episodes(decoder, batches=[3, 9, 2])
    assert len(caught) == 1
    assert len(decoder._graphs.shapes) == 0
    assert_same(ours, theirs)


def test_a_step_that_forgets_one_row_is_found_out():
    """Only the last of the batch's rows is wrong."""

    class Forgetful(TapeRecorder):
        def record(self, step):
            replay = super().record(step)
            logits_RV = self.tape[-1][1][0]

            def spoilt():
                replay()
                logits_RV[2] += 0.01

            return spoilt

    decoder = decoder_for(tiny_model(num_tokens=NUM_TOKENS), Forgetful(), ends=())
    with decoder.sampling(), pytest.warns(UserWarning, match="other logits than the model"):
        decoder.decode(decoder.prefill(range(3), [0] * 3, [[1]] * 3), [1] * 3, [0] * 3, 4, 0.0, None, enough=3)


def test_broken_weights_are_no_fault_of_the_recording():
    model = tiny_model(num_tokens=NUM_TOKENS)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    decoder = decoder_for(model, TapeRecorder(), ends=())
    with warnings.catch_warnings(), decoder.sampling():
        warnings.simplefilter("error")
        with pytest.raises(ModelError, match="not finite"):
            decoder.decode(decoder.prefill([0], [0], [[1]]), [1], [0], 4, 0.7, torch.rand(1, 4), enough=1)


def test_on_a_cpu_nothing_is_recorded_unless_asked_for():
    model = tiny_model(num_tokens=NUM_TOKENS)
    assert SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=(), max_positions=64)._graphs is None


# -------------------------------------------------------------------------------------------------------- on a real GPU


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("temperature", [0.0, 2.0], ids=["greedy", "sampled"])
def test_cuda_graphs_draw_the_same(kind, temperature):
    model = tiny_model(kind, num_tokens=NUM_TOKENS, scale=1.5 if temperature else 4.0).cuda()
    decoders = [decoder_for(model, None), decoder_for(model, "auto")]
    options = {"batches": [3, 5, 2, 5, 1, 9, 3, 9], "temperature": temperature, "device": "cuda"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, ours = (episodes(decoder, **options) for decoder in decoders)
    assert_same(ours, theirs)
    assert len(decoders[1]._graphs.shapes) > 0


@pytest.mark.gpu
def test_cuda_graphs_of_many_shapes_share_memory_and_keep_apart(monkeypatch):
    """Shapes in every order, some recorded again: no replay spoils what another reads."""
    monkeypatch.setattr(graphs, "MAX_STEPS", 3)
    model = tiny_model(num_tokens=NUM_TOKENS).cuda()
    batches = [num for pair in itertools.permutations((1, 3, 7, 16), 2) for num in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, ours = (
            episodes(decoder_for(model, one), batches=batches, lengths=(1, 5, 30), device="cuda")
            for one in (None, "auto")
        )
    assert_same(ours, theirs)


@pytest.mark.gpu
def test_a_model_that_can_not_be_captured_is_decoded_without_graphs():
    """It asks the GPU for a number in the middle of its forward; the stream and the memory are as before."""
    model = tiny_model(num_tokens=NUM_TOKENS).cuda()
    theirs = episodes(decoder_for(model, None), batches=[3, 9], device="cuda")
    model.model.norm.register_forward_hook(lambda module, args, out: out * float(out.isfinite().all()))
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="Decoding goes on without CUDA graphs"):
        ours = episodes(decoder_for(model, "auto"), batches=[3, 9], device="cuda")
    assert torch.cuda.current_stream() == stream
    assert_same(ours, theirs)
