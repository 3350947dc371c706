"""Prefill and decoding over the slot cache equal re-encoding the whole history; sampling follows the distribution."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sparring.core.errors import ModelError
from sparring.models import threads
from sparring.policies.local import decoding
from sparring.policies.local.cache import Block, cut_blocks, round_up
from sparring.policies.local.decoding import SlotDecoder, group_by_length, pick
from sparring.policies.local.lean import LeanModel
from tests.tiny_models import tiny_model

NUM_TOKENS = 50
SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def plain_logits(model, ids: list[int]) -> torch.Tensor:
    """The logits after the last of `ids`, by a plain forward of them all."""
    return model(torch.tensor([ids])).logits[0, -1, :NUM_TOKENS]


def decode_in_parts(
    decoder: SlotDecoder, logits_BV: torch.Tensor, held: list[list[int]], uniform_BT: torch.Tensor
) -> tuple[list[list[int]], list[int], int]:
    """Decode an action of at most 12 tokens for each row, at least one more of them whole at every call.

    Returns:
        The actions, which of them each row of the cache then holds, and the number of calls.
    """
    actions: list[list[int]] = [[] for _ in held]
    order, num, num_calls, most = list(range(len(held))), len(held), 0, max(map(len, held)) + 12
    while num:
        num_calls += 1
        live = order[:num]
        num_drawn = [len(actions[one]) for one in live]
        lengths = [len(held[one]) + len(actions[one]) for one in live]
        drawn = decoder.decode(logits_BV, lengths, num_drawn, 12, 2.0, uniform_BT[live], enough=1)
        assert any(drawn.is_over)
        for one, tokens, logprobs in zip(live, drawn.tokens, drawn.logprobs, strict=True):
            assert len(tokens) == len(logprobs) > 0
            actions[one] += tokens
        rows = [row for row, is_over in enumerate(drawn.is_over) if not is_over]
        for place, row in enumerate(rows):
            decoder.cache.swap(place, row, most)
            order[place], order[row] = order[row], order[place]
        num, logits_BV = len(rows), drawn.logits_BV[rows]
    return actions, order, num_calls


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("max_forward_tokens", [4096, 24])
@pytest.mark.parametrize("is_lean", [True, False], ids=["lean", "transformers"])
def test_cached_logits_are_those_of_the_whole_history(kind, max_forward_tokens, is_lean, monkeypatch):
    """Ragged turns of changing batches, rows that move and are used again, growth, several groups and chunks."""
    monkeypatch.setattr(decoding, "MAX_FORWARD_TOKENS", max_forward_tokens)
    monkeypatch.setattr(decoding, "CPU_FORWARD_COST", 4)
    model, draw = tiny_model(kind, num_tokens=NUM_TOKENS, scale=1.5), random.Random(0)
    if not is_lean:
        monkeypatch.setattr(threads, "SMALL_MODEL", 0)
    ends = set(range(3, NUM_TOKENS, 7))
    decoder = SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=ends, max_positions=2048)
    assert (decoder._lean is not None) == is_lean
    held: list[list[int]] = [[] for _ in range(5)]
    num_calls, generator = 0, torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for turn in range(5):
            rows = draw.sample(range(5), draw.randint(1, 5)) if turn % 2 else range(5)
            pieces = [[draw.randrange(NUM_TOKENS) for _ in range(draw.choice([1, 3, 9, 70]))] for _ in rows]
            logits_BV = decoder.prefill(rows, [len(held[row]) for row in rows], pieces)
            for row, piece, logits_V in zip(rows, pieces, logits_BV, strict=True):
                held[row] += piece
                torch.testing.assert_close(logits_V, plain_logits(model, held[row]), atol=1e-4, rtol=1e-4)
            if len(rows) == 5:
                order = [list(rows).index(row) for row in range(5)]
                uniform_BT = torch.rand(5, 12, generator=generator)
                actions, now, num = decode_in_parts(decoder, logits_BV[order], held, uniform_BT)
                num_calls += num
                for row, action in enumerate(actions):
                    ids = held[row]
                    for i, token in enumerate(action):
                        logits_1V = plain_logits(model, ids + action[:i])[None]
                        assert pick(logits_1V, 2.0, uniform_BT[row, i : i + 1])[0] == token
                    assert ends.isdisjoint(action[:-1]) and (len(action) == 12 or action[-1] in ends)
                    held[row] = ids + action[:-1]
                held = [held[one] for one in now]
            decoder.cache.swap(0, 3, max(len(held[0]), len(held[3])))
            held[0], held[3] = held[3], held[0]
            decoder.cache.move(1, 4, len(held[1]))
            held[4] = list(held[1])
    assert decoder.cache.length > 64
    assert num_calls > 6  # some of the three decodings were left and taken up again


def test_the_lean_forward_is_used_for_what_it_can_do_alone():
    """A model that does anything else is left to transformers: by its config, or because its logits differ."""
    assert LeanModel.of(tiny_model("qwen3"), 64) is not None
    biased = LlamaForCausalLM(LlamaConfig(attention_bias=True, **SHAPE)).eval()
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    windowed = Qwen3ForCausalLM(Qwen3Config(**sliding, **SHAPE)).eval()
    assert LeanModel.of(biased, 64) is None
    assert LeanModel.of(windowed, 64) is None
    otherwise = tiny_model("qwen3")
    otherwise.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    assert LeanModel.of(otherwise, 64) is None


def test_memory_grows_with_what_is_open():
    decoder = SlotDecoder(tiny_model(num_tokens=NUM_TOKENS), num_tokens=NUM_TOKENS, end_ids=[3], max_positions=2048)
    with torch.inference_mode():
        decoder.prefill([0], [0], [[1, 2]])
        assert (decoder.cache.num_rows, decoder.cache.length) == (1, 64)
        decoder.prefill([2], [0], [[1] * 65])
        assert (decoder.cache.num_rows, decoder.cache.length) == (3, 128)


def test_samples_follow_the_softmax():
    """Inverse CDF over an even grid of numbers gives each token its probability to within one grid step."""
    logits_V, num = torch.tensor([2.0, -torch.inf, 0.0, 1.0, -3.0, -torch.inf]), 10_000
    uniform_B = torch.arange(num) / num
    token_B, check_B = pick(logits_V.expand(num, -1), 0.7, uniform_B)
    counts_V = torch.bincount(token_B, minlength=6)
    expected_V = torch.softmax(logits_V / 0.7, -1) * num
    assert (counts_V - expected_V).abs().max() <= 1.5
    assert counts_V[1] == counts_V[5] == 0
    assert check_B.isfinite().all()


def test_the_smallest_number_never_gives_an_impossible_token():
    token_B, _ = pick(torch.tensor([[-torch.inf, -torch.inf, 1.0, 1.0]]), 1.0, torch.zeros(1))
    assert token_B.tolist() == [2]


def test_the_largest_number_never_falls_off_the_end():
    logits_BV = torch.randn(1000, 2048, generator=torch.Generator().manual_seed(0))
    logits_BV[:, -1] = -torch.inf
    token_B, _ = pick(logits_BV, 1.0, torch.full((1000,), 1 - 2**-24))
    assert token_B.max() < 2047


def test_tokens_beyond_the_tokenizer_are_never_sampled():
    model = tiny_model(num_tokens=NUM_TOKENS)
    decoder = SlotDecoder(model, num_tokens=10, end_ids=[3], max_positions=2048)
    with torch.inference_mode():
        logits_BV = decoder.prefill(range(4), [0] * 4, [[1], [2], [4], [5]])
        drawn = decoder.decode(logits_BV, [1] * 4, [0] * 4, 8, 5.0, torch.rand(4, 8), enough=4)
    assert max(itertools.chain(*drawn.tokens)) < 10


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_ids_that_spell_nothing_are_never_sampled(temperature):
    unused = set(range(NUM_TOKENS)) - {3, 9, NUM_TOKENS - 1}
    model = tiny_model(num_tokens=NUM_TOKENS)
    decoder = SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=[3], max_positions=2048, unused_ids=unused)
    with torch.inference_mode():
        logits_BV = decoder.prefill(range(4), [0] * 4, [[9]] * 4)
        uniform_BT = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) if temperature else None
        drawn = decoder.decode(logits_BV, [1] * 4, [0] * 4, 8, temperature, uniform_BT, enough=4)
    assert unused.isdisjoint(itertools.chain(*drawn.tokens))


def test_a_long_row_that_is_cut_leaves_the_others_their_turn():
    """Its length and their tokens to come add up to more than any row will hold."""
    model = tiny_model(num_tokens=NUM_TOKENS)
    decoder = SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=(), max_positions=2048)
    held = [[i % NUM_TOKENS for i in range(63)], [1, 2, 3]]
    with torch.inference_mode():
        decoder.cache.reserve(2, 256)
        logits_BV = decoder.prefill(range(2), [0, 0], held)
        drawn = decoder.decode(logits_BV, [63, 3], [11, 0], 12, 0.0, None, enough=2)
        assert [len(tokens) for tokens in drawn.tokens] == [1, 12]
        for i, token in enumerate(drawn.tokens[1]):
            assert plain_logits(model, held[1] + drawn.tokens[1][:i]).argmax() == token


def test_broken_weights_are_an_error():
    model = tiny_model(num_tokens=NUM_TOKENS)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    decoder = SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=[3], max_positions=2048)
    with torch.inference_mode(), pytest.raises(ModelError, match="not finite"):
        decoder.decode(decoder.prefill([0], [0], [[1]]), [1], [0], 4, 0.7, torch.rand(1, 4), enough=1)


def test_groups_are_the_cheapest_split():
    """Against all ways to cut the sorted lengths."""
    draw = random.Random(1)
    for _ in range(20):
        lengths = [draw.choice([1, 5, 20, 21, 300]) for _ in range(draw.randint(1, 7))]
        groups = group_by_length(lengths, 32)
        assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))

        def cost(parts, lengths=lengths):
            return sum(32 + len(part) * max(part) for part in parts)

        ordered = sorted(lengths)
        cuts = itertools.chain.from_iterable(
            itertools.combinations(range(1, len(ordered)), num) for num in range(len(ordered))
        )
        splits = [[ordered[a:b] for a, b in itertools.pairwise([0, *cut, len(ordered)])] for cut in cuts]
        assert cost([[lengths[i] for i in group] for group in groups]) == min(map(cost, splits))


def test_a_small_model_samples_on_one_thread_and_gives_the_others_back(monkeypatch):
    model = tiny_model(num_tokens=NUM_TOKENS).train()
    decoder = SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=[3], max_positions=2048)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with decoder.sampling():
            assert torch.get_num_threads() == 1
            assert not model.training and torch.is_inference_mode_enabled()
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "SMALL_MODEL", 10)
        with SlotDecoder(model, num_tokens=NUM_TOKENS, end_ids=[3], max_positions=2048).sampling():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_rows_attend_in_blocks_of_neighbours_that_see_alike():
    ends = [60, 60, 200, 10, 64, 3, 1, 9]
    assert cut_blocks([0, 1, 2, 3, 4, 6, 7, 8], ends, 2) == [
        Block(slice(0, 2), slice(0, 2), 64),
        Block(slice(2, 4), slice(2, 4), 256),
        Block(slice(4, 5), slice(4, 5), 64),  # row 5 is another batch's
        Block(slice(5, 8), slice(6, 9), 64),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_blocks_hold_every_row_once_and_see_all_that_it_holds(seed):
    rng = random.Random(seed)
    rows = sorted(rng.sample(range(40), rng.randrange(1, 30)))
    ends = [rng.randrange(1, 900) for _ in rows]
    blocks = cut_blocks(rows, ends, rng.randrange(1, 6))
    assert [i for block in blocks for i in range(len(rows))[block.batch]] == list(range(len(rows)))
    for block in blocks:
        assert rows[block.batch] == list(range(block.rows.start, block.rows.stop))
        assert block.window >= round_up(max(ends[block.batch]))
