"""What the benchmarks count and compare is what they say."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Model

from benchmarks import decoding, gpu_decoding, packing
from benchmarks.padding import padded
from benchmarks.prefixes import forward_once, shared_length, tree_size
from benchmarks.rollouts import _covered
from sparring.data.batches import num_action_tokens
from sparring.data.chat import Encoded
from sparring.engines.scoring import Forward
from sparring.policies.local.decoding import SlotDecoder
from tests.training_toys import node, qwen


def test_a_prefix_tree_counts_shared_tokens_once():
    assert tree_size([(1, 2, 3), (1, 2, 4), (5,)]) == 5
    assert tree_size([(1, 2), (1, 2, 3), (1, 2)]) == 3


def test_what_sequences_share_leaves_each_a_token():
    assert shared_length([(1, 2, 3), (1, 2, 4)]) == 2
    assert shared_length([(1, 2), (1, 2, 3)]) == 1
    assert shared_length([(1,), (2,)]) == 0


def test_time_covered_by_overlapping_spans():
    assert _covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.2, 5.4)]) == pytest.approx(4.0)


@pytest.mark.parametrize("num_shared", [3, 20])
def test_forwarding_a_prefix_once_gives_the_same_log_probabilities(num_shared):
    prefix = list(range(1, num_shared + 1))
    groups = [[node(seed, 4, prefix=prefix) for seed in (3 * i, 3 * i + 1, 3 * i + 2)] for i in range(3)]
    longest = groups[0][0]
    groups.append([longest, Encoded(longest.ids[: longest.spans[1][1]], longest.spans[:2])])  # one begins the other
    model = qwen()
    with torch.no_grad():
        once = forward_once(model, groups)
        each = Forward(model, max_tokens=2048)([one for group in groups for one in group])
    for ours, theirs in zip(once, each, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_padded_model_computes_the_same():
    from sparring.models.loading import load_model

    small, _ = load_model("sparring-worlds")
    large = padded(small)
    assert sum(parameter.numel() for parameter in large.parameters()) > 1e8
    ids_BT = torch.arange(60).view(2, 30) * 31 % 2048
    with torch.inference_mode():
        torch.testing.assert_close(large(ids_BT).logits, small(ids_BT).logits, atol=1e-4, rtol=1e-4)


def test_decoding_is_timed_with_the_lean_forward_and_without(monkeypatch):
    made: list[bool] = []
    for name, value in {"HISTORY": 8, "STEPS": 2, "REPEATS": 1}.items():
        monkeypatch.setattr(decoding, name, value)
    decode = SlotDecoder.decode
    monkeypatch.setattr(
        SlotDecoder, "decode", lambda self, *a, **k: made.append(self._lean is not None) or decode(self, *a, **k)
    )
    times = decoding.child({"model": "sparring-worlds", "batch": 2})
    assert times.keys() == {"bare", "transformers", "lean"} and min(times.values()) > 0
    assert made == [False, True]


def test_recorded_decoding_is_timed_against_the_memory_bound(monkeypatch):
    made: list[bool] = []
    small = {"HISTORY": 8, "STEPS": 3, "REPEATS": 1, "COPY_BYTES": {"cpu": 1 << 20}}
    for name, value in small.items():
        monkeypatch.setattr(gpu_decoding, name, value)
    decode = SlotDecoder.decode
    monkeypatch.setattr(
        SlotDecoder, "decode", lambda self, *a, **k: made.append(self._graphs is not None) or decode(self, *a, **k)
    )
    request = {"model": "sparring-worlds", "device": "cpu", "batch": 3, "is_padded": False}
    found = gpu_decoding.child(request)
    assert made == [False, True] * 2
    assert min(found["tokens_per_s"].values()) > 0
    assert found["same_tokens"] == 1
    assert found["bound_tokens_per_s"] == pytest.approx(3 * found["copy_bytes_per_s"] / found["bytes_per_step"])


def test_a_step_reads_the_weights_once_and_every_rows_past():
    """Two layers of two heads of 8 numbers, keys and values, 4 bytes each: 256 a position; three rows of ten."""
    weights = 4 * sum(parameter.numel() for parameter in qwen().parameters())
    assert gpu_decoding.step_bytes(qwen(), 3, 10) == weights + 3 * 10 * 256
    untied = qwen(tie_word_embeddings=False)
    assert gpu_decoding.step_bytes(untied, 3, 10) == gpu_decoding.step_bytes(qwen(), 3, 10)


def test_drawn_sequences_are_as_long_and_act_as_often_as_they_should():
    nodes = packing.draw(200, 50)
    lengths = [len(n.ids) for n in nodes]
    assert 150 <= min(lengths) < 200 and 850 < max(lengths) <= 900
    assert sum(map(num_action_tokens, nodes)) / sum(lengths) == pytest.approx(0.14, abs=0.01)
    assert all(n.spans[0][0] > 0 and n.spans[-1][1] == len(n.ids) for n in nodes)


def test_packed_and_padded_passes_are_timed_on_the_same_sequences(monkeypatch):
    rows: list[tuple[int, ...]] = []
    for name, value in {"LENGTHS": (40, 90), "REPEATS": 2, "MATRIX": {"cpu": 64}}.items():
        monkeypatch.setattr(packing, name, value)
    monkeypatch.setattr("sparring.models.threads.SMALL_MODEL", 0)
    inner = Qwen3Model.forward
    monkeypatch.setattr(
        Qwen3Model,
        "forward",
        lambda self, **inputs: rows.append(tuple(inputs["input_ids"].shape)) or inner(self, **inputs),
    )
    request = {"model": "sparring-worlds", "is_padded": False, "device": "cpu", "num": 4, "num_warm_up": 1}
    found = packing.child(request)
    padded_side, packed_side = found["sides"]["padded"], found["sides"]["packed"]
    timed = rows[-2 * (padded_side["passes"] + packed_side["passes"]) :]
    assert packed_side["passes"] == 1 and timed.count((1, found["tokens"])) == 2
    assert sum(b * t for b, t in timed) == 2 * (found["tokens"] + padded_side["tokens_with_padding"])
    assert padded_side["passes"] > 1 and found["logprob_gap"] < 1e-3
    assert all(len(side["seconds"]) == 2 and min(side["seconds"]) > 0 for side in (padded_side, packed_side))
    speed = found["tokens"] / sorted(packed_side["seconds"])[1]
    assert packed_side["utilisation"] == pytest.approx(6 * found["parameters"] * speed / found["matrix_flops"])
