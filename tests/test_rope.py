"""Rotary embeddings that look at the longest row: a row's log-probabilities are its own, in training and in play."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparring.core.errors import ConfigError
from sparring.data.chat import Encoded
from sparring.engines.scoring import Forward
from sparring.models import threads
from sparring.models.loading import check_context
from sparring.models.rope import fix_rope, has_static_rope
from sparring.policies.local.trial import verdict_on
from tests.policies.architectures import tiny
from tests.training_toys import VOCABULARY, plain_logprobs

ORIGINAL = 128
MAX_CONTEXT = 320
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 3.0, 9.0, 27.0],
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": (
        "phi3",
        {"sliding_window": None, "original_max_position_embeddings": ORIGINAL, "rope_parameters": LONGROPE},
    ),
    "dynamic": ("llama", {"max_position_embeddings": ORIGINAL, "rope_parameters": DYNAMIC}),
    "scaled": (
        "phimoe",
        {"sliding_window": None, "rope_parameters": {**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.5}},
    ),
    "of one type of layer": (
        "gemma3_text",
        {
            "max_position_embeddings": ORIGINAL,
            "sliding_window": MAX_CONTEXT,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": DYNAMIC,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}


def make(kind: str) -> Any:
    name, changes = KINDS[kind]
    return tiny(name, VOCABULARY, initializer_range=0.15, **changes)


def ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def node(length: int, seed: int) -> Encoded:
    return Encoded(ids=tuple(ids(length, seed)), spans=((1, 20), (length - 30, length)))


NODES = [node(124, 1), node(132, 2), node(60, 3), node(200, 4)]


def logits(model: Any, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), use_cache=False).logits[0]


def check(model: Any, forward: Forward) -> None:
    forward.check(NODES[0])
    with torch.no_grad():
        for ours, one in zip(forward(NODES), NODES, strict=True):
            torch.testing.assert_close(ours, plain_logprobs(model, one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("small", [0, threads.SMALL_MODEL], ids=["large", "small"])
def test_training_sees_each_sequence_alone(kind, small, monkeypatch):
    monkeypatch.setattr(threads, "SMALL_MODEL", small)
    model = make(kind)
    before = logits(model, list(NODES[0].ids))
    assert not has_static_rope(model)
    fix_rope(model, MAX_CONTEXT)
    assert has_static_rope(model)
    assert (logits(model, list(NODES[0].ids)) - before).abs().max() > 0.1, "or there would be nothing to fix"
    forward = Forward(model, max_tokens=5000)
    assert forward.shares_passes
    check(model, forward)


@pytest.mark.parametrize("kind", ["longrope", "scaled"])
def test_a_model_that_was_not_fixed_reads_one_sequence_a_pass(kind):
    model = make(kind)
    forward = Forward(model, max_tokens=5000)
    assert not forward.shares_passes and forward.threads is None and forward.lean is None and forward.packing is None
    check(model, forward)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*is decoded")
def test_an_episode_plays_the_same_beside_a_long_one_and_while_it_grows(kind):
    """One row passes the length at which angles would change; what is in its cache was computed before."""
    model = make(kind)
    fix_rope(model, MAX_CONTEXT)
    verdict = verdict_on(model, num_tokens=VOCABULARY, max_positions=MAX_CONTEXT)
    rows = [ids(124, 1), ids(200, 2), ids(20, 3)]
    decoder = verdict.decoder(model, num_tokens=VOCABULARY, end_ids=(), max_positions=MAX_CONTEXT)
    with decoder.sampling():
        decoder.prefill([0, 2], [0, 0], [rows[0], rows[2]])
        rows = [row + ids(2, 5) for row in rows]
        logits_BV = decoder.prefill(range(3), [124, 0, 20], [rows[0][124:], rows[1], rows[2][20:]])
        drawn = decoder.decode(logits_BV, [126, 202, 22], [0] * 3, 6, 1.0, torch.rand(3, 6), enough=3)
    for row, tokens, logprobs, first_V in zip(rows, drawn.tokens, drawn.logprobs, logits_BV, strict=True):
        own_TV = logits(model, row + tokens).log_softmax(-1)[len(row) - 1 : -1]
        own = own_TV.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), own, rtol=0, atol=1e-5)
        torch.testing.assert_close(first_V.log_softmax(-1), own_TV[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_row_decides(kind):
    """Angles are those of an unchanged model that reads a row as long as the context; up to its original length,
    those of any row."""
    row = ids(MAX_CONTEXT)
    expected, short = logits(make(kind), row), logits(make(kind), row[:50])
    model = make(kind)
    for max_context in (MAX_CONTEXT, 200, MAX_CONTEXT):
        fix_rope(model, max_context)
    torch.testing.assert_close(logits(model, row), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(model, row[:50]), expected[:50], rtol=0, atol=1e-4)
    fix_rope(model, ORIGINAL)
    assert torch.equal(logits(model, row[:50]), short)


def test_an_ordinary_model_is_left_as_it_is():
    model = tiny("llama", VOCABULARY)
    fix_rope(model, MAX_CONTEXT)
    assert not model.model.rotary_emb._forward_pre_hooks


def test_dynamic_ntk_stretches_what_a_model_was_made_for():
    model = make("dynamic")
    check_context(model.config, 4 * ORIGINAL)
    with pytest.raises(ConfigError, match="but the model has 512 positions"):
        check_context(model.config, 4 * ORIGINAL + 1)
