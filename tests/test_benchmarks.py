"""What the benchmarks count and compare is what they say."""

from __future__ import annotations

import pytest
import torch

from benchmarks import decoding
from benchmarks.padding import padded
from benchmarks.prefixes import forward_once, shared_length, tree_size
from benchmarks.rollouts import _covered
from sparring.chat import Encoded
from sparring.forward import Forward
from sparring.policies.decoding import SlotDecoder
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
    from sparring.policies.local import load_model

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
