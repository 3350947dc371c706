"""Whatever the architecture, an agent plays what the model's own forward says, or is refused by name.

Each model decodes the actions of ragged rows over several turns: rows move, one is used again, and one is begun again
with another past. Greedy tokens must be the argmax, and logits those, of a plain forward of the whole history.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM

from sparring.core.errors import ModelError
from sparring.policies.local import trial
from sparring.policies.local.decoding import Decoder, SlotDecoder
from sparring.policies.local.graphs import PlainRecorder
from sparring.policies.local.own_cache import Feeding, OwnDecoder
from sparring.policies.local.trial import Verdict, verdict_on
from tests.policies.architectures import WINDOW, tiny
from tests.tiny_models import tiny_model

NUM_TOKENS = 61
MAX_POSITIONS = 320
SHAPE = {
    "vocab_size": NUM_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
SLOTS = Verdict()
ARCHITECTURES = """
    apertus arcee bamba biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v2 diffllama doge ernie4_5
    ernie4_5_moe exaone4 falcon falcon_h1 falcon_mamba flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2
    gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe granitemoehybrid helium hunyuan_v1_dense jais2
    jamba jetmoe lfm2 llama llama4_text mamba mamba2 minimax minimax_m2 ministral ministral3 mistral mixtral
    modernbert-decoder mpt nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt
    persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma rwkv seed_oss smollm3
    stablelm starcoder2 vaultgemma xglm xlstm
"""


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_VERDICTS", {})


def found(model: Any) -> Verdict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verdict_on(model, num_tokens=NUM_TOKENS, max_positions=MAX_POSITIONS)


def play(decoder: Decoder, model: Any, *, num_new: int = 4) -> None:
    """Play turns of three rows, and compare whatever comes out."""
    draw = random.Random(3)
    held: list[list[int]] = [[], [], []]

    def text(num: int) -> list[int]:
        return [draw.randrange(3, NUM_TOKENS) for _ in range(num)]

    with decoder.sampling():
        start = text(9)
        decoder.remember(start)
        decoder.cache.reserve(1, 9)
        decoder.recall(0, 9)
        held[0] = start
        for turn, sizes in enumerate([(70, 5, 21), (1, 12, 3)]):
            pieces = [text(num) for num in sizes]
            starts = [len(ids) for ids in held]
            if turn == 1:  # an episode whose past has changed from its fourth token on
                starts[0], held[0] = 3, held[0][:3]
            logits_BV = decoder.prefill(range(3), starts, pieces)
            held = [ids + piece for ids, piece in zip(held, pieces, strict=True)]
            drawn = decoder.decode(logits_BV, [len(ids) for ids in held], [0] * 3, num_new, 0.0, None, enough=3)
            for row, tokens in enumerate(drawn.tokens):
                ids = torch.tensor([held[row] + tokens])
                own_NV = model(input_ids=ids, use_cache=False).logits[0, len(held[row]) - 1 : -1].float()
                gap = (logits_BV[row] - own_NV[0]).abs().max() / (own_NV[0] - own_NV[0].mean()).abs().max()
                assert gap <= 1e-3 and own_NV.argmax(-1).tolist() == tokens, f"row {row} of turn {turn}"
                held[row] = held[row] + tokens[:-1]
            decoder.cache.swap(0, 1, max(map(len, held)))
            held[0], held[1] = held[1], held[0]
            decoder.cache.reserve(4, 1)
            decoder.cache.move(2, 3, len(held[2]))
            decoder.cache.swap(2, 3, len(held[2]))


def decoder_of(model: Any, verdict: Verdict) -> Decoder:
    return verdict.decoder(model, num_tokens=NUM_TOKENS, end_ids=range(3, NUM_TOKENS, 9), max_positions=MAX_POSITIONS)


@pytest.mark.parametrize(
    ("kind", "changes", "verdict"),
    [
        ("gpt2", {}, SLOTS),
        ("mistral", {}, SLOTS),
        ("gemma2", {}, SLOTS),
        ("bloom", {}, Verdict(feeding=Feeding.PIECES)),
        ("falcon", {"alibi": True}, Verdict(feeding=Feeding.PIECES)),
        ("rwkv", {}, Verdict(feeding=Feeding.PIECES)),
        ("mamba", {}, Verdict(feeding=Feeding.TOKENS)),
    ],
)
def test_an_agent_plays_the_models_own_forward(kind, changes, verdict):
    model = tiny(kind, NUM_TOKENS, **changes)
    assert found(model) == verdict
    play(decoder_of(model, verdict), model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES.split())
def test_so_it_does_with_every_architecture(kind):
    model = tiny(kind, NUM_TOKENS)
    play(decoder_of(model, found(model)), model)


class Heads(LlamaForCausalLM):
    """Its second layer has fewer key-value heads, as layers of pruned models have."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        attention: Any = self.model.layers[1].self_attn
        for name in ("k_proj", "v_proj"):
            setattr(attention, name, torch.nn.Linear(32, 8, bias=False))
            torch.nn.init.normal_(getattr(attention, name).weight, std=0.3)
        attention.num_key_value_groups = 4


class Deaf(LlamaForCausalLM):
    """Takes positions from the cache's length, whatever it is told."""

    def forward(self, *args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Blind(LlamaForCausalLM):
    """Makes its own mask, whatever it is given."""

    def forward(self, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Forgetful(LlamaForCausalLM):
    """Has no cache."""

    def forward(self, input_ids: Any = None, use_cache: Any = None, **_: Any) -> Any:
        return super().forward(input_ids, use_cache=False)


class Careless(LlamaForCausalLM):
    """Returns a cache of the last call's tokens alone."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids, use_cache=kwargs.get("use_cache"))


@pytest.mark.parametrize(
    ("make", "feeding"),
    [
        (Heads, Feeding.PIECES),
        (Deaf, Feeding.PIECES),
        (Blind, Feeding.PIECES),
        (Forgetful, Feeding.PIECES),
        (Careless, Feeding.ANEW),
    ],
)
def test_code_that_does_otherwise_shows_in_the_trial(make, feeding):
    torch.manual_seed(0)
    model = make(LlamaConfig(**SHAPE, attention_bias=True)).eval()
    verdict = found(model)
    play(decoder_of(model, verdict), model)
    assert verdict == Verdict(feeding=feeding)


def test_windows_hold_in_recorded_steps_too():
    model = tiny("gemma2", NUM_TOKENS)
    decoder = SlotDecoder(
        model, num_tokens=NUM_TOKENS, end_ids=(), max_positions=MAX_POSITIONS, recorder=PlainRecorder()
    )
    play(decoder, model)


def test_one_notice_says_how_and_why():
    model = tiny("rwkv", NUM_TOKENS)
    with pytest.warns(
        UserWarning, match="RwkvForCausalLM is decoded with its own cache.*slower.*of their spread"
    ) as told:
        for _ in range(2):
            verdict_on(model, num_tokens=NUM_TOKENS, max_positions=MAX_POSITIONS)
    assert len(told) == 1


def test_a_model_that_sees_what_follows_is_refused_by_name():
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(**SHAPE, is_decoder=False)).eval()
    with pytest.raises(ModelError, match=r"BertLMHeadModel can't play.*when more tokens follow"):
        found(model)


def test_a_forward_that_fails_is_told_in_a_line():
    model = tiny("llama", NUM_TOKENS)
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(7, 32)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM fails on 80 tokens: RuntimeError: .*shapes"):
        found(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "is_right"), [("llama", True), ("gpt_neo", False)])
def test_a_fault_shows_in_every_precision_while_weights_are_still_small(kind, is_right, dtype):
    model = tiny(kind, NUM_TOKENS, initializer_range=0.02).to(dtype)
    assert (found(model) == SLOTS) == is_right


def test_a_window_is_passed_however_it_is_called_and_wherever_it_is_kept():
    """The row reaches beyond it: of a module alone, 100, and of a configuration, 200; not those that no episode has."""
    model = tiny_model("llama")
    assert trial._reach(model, 1024) == 64 + trial.TRIAL_MARGIN
    model.model.layers[0].self_attn.local_span = 100
    assert trial._reach(model, 1024) == 100 + trial.TRIAL_MARGIN
    model.config.some_window_size = 200
    model.config.other_window_size = 2000
    assert trial._reach(model, 1024) == 200 + trial.TRIAL_MARGIN
    assert trial._reach(model, 64) == 64
    assert WINDOW < 64


def test_the_lean_forward_is_given_up_alone(monkeypatch):
    """A fault of it that its own check, on fewer tokens, doesn't see."""
    model = tiny_model("llama", num_tokens=NUM_TOKENS)
    assert isinstance(decoder_of(model, found(model)), SlotDecoder)
    monkeypatch.setattr("sparring.policies.local.lean.LeanModel.agrees_with", lambda *_: True)
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()
    monkeypatch.setattr(trial, "_VERDICTS", {})
    verdict = found(model)
    assert verdict == Verdict(may_be_lean=False)
    play(decoder_of(model, verdict), model)


def test_rows_of_an_own_cache_are_fed_only_what_is_new():
    model, fed = tiny("bloom", NUM_TOKENS), []
    decoder = OwnDecoder(model, num_tokens=NUM_TOKENS, end_ids=())
    model.register_forward_pre_hook(lambda _, __, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    with decoder.sampling():
        logits_BV = decoder.prefill(range(2), [0, 0], [[5, 6, 7], [8]])
        drawn = decoder.decode(logits_BV, [3, 1], [0, 0], 3, 0.0, None, enough=2)
        decoder.prefill(range(2), [5, 3], [[drawn.tokens[0][-1], 9, 9], [drawn.tokens[1][-1], 4]])
    assert fed == [3, 1, 1, 1, 1, 1, 3, 2]
