"""An active adapter counts wherever a model is used: in scoring and its gradients, in what plays, in every fast path.

The log-probabilities in training are those of the model's own forward and those that actions were sampled at.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sparring.core.types import Task, Turn
from sparring.data.chat import Chat, ChatConfig, Encoded
from sparring.engines import checkpoint, value_head
from sparring.engines.lean import LeanForward
from sparring.engines.recomputation import recompute_layers
from sparring.engines.scoring import Forward
from sparring.models import lora
from sparring.models.lora import LoraConfig
from sparring.policies.base import Episode
from sparring.policies.local import trial
from sparring.policies.local.lean import LeanModel
from sparring.policies.local.policy import LocalPolicy
from tests.models.test_lora import KINDS, stir
from tests.policies.architectures import tiny
from tests.tiny_models import tiny_tokenizer
from tests.training_toys import VOCABULARY, action_mask, node, qwen

NODES = [node(seed, turns) for seed, turns in enumerate((6, 1, 3))]
CONFIG = LoraConfig(rank=4)
OBSERVATIONS = ("Press in this order: red green.", "The red button clicks.", "1 of 2 done.")


def adapted(kind: str, num_tokens: int = VOCABULARY) -> Any:
    """Make a model with a stirred adapter, and beside it another, stirred otherwise, that must not count."""
    model = qwen(1) if kind == "packed" else tiny(kind, num_tokens)
    for name, seed in (("other", 7), ("target", 5)):
        lora.attach(model, name, CONFIG, seed)
        stir(model, name, seed)
    return model


def own_logprobs(model: Any, encoded: Encoded) -> Tensor:
    """Compute log π of the action tokens by the model's own forward over one sequence."""
    ids = torch.tensor([encoded.ids])
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    mask = torch.tensor(action_mask(encoded)[1:], dtype=torch.bool)
    return logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1)[mask]


def scored(model: Any, max_tokens: int) -> tuple[list[Tensor], Forward]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward = Forward(model, max_tokens=max_tokens)
        forward.check(NODES[0])
        return forward(NODES), forward


def gradients(model: Any, logprobs: list[Tensor]) -> dict[str, Tensor]:
    for parameter in model.parameters():
        parameter.grad = None
    sum(one.sum() * (place + 1) for place, one in enumerate(logprobs)).backward()  # pyright: ignore
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_scoring(model: Any, max_tokens: int, *, recompute: bool = False) -> Forward:
    own = [own_logprobs(model, one) for one in NODES]
    wanted = gradients(model, own)
    if recompute:
        recompute_layers(model)
    found, forward = scored(model, max_tokens)
    for one, other in zip(found, own, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    got = gradients(model, found)
    assert set(got) == set(wanted) and all(".target." in name for name in got)
    largest = max(tensor.abs().max() for tensor in wanted.values())
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name] / largest, tensor / largest, rtol=1e-3, atol=1e-4, msg=name)
    return forward


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_training_scores_with_the_active_adapter(kind, recompute):
    check_scoring(adapted(kind), 5000, recompute=recompute)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_however_the_passes_are_cut(kind):
    for max_tokens in (1, 60):
        check_scoring(adapted(kind), max_tokens)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_sequences_stand_in_one_row_with_adapters_too(recompute):
    assert check_scoring(adapted("packed"), 5000, recompute=recompute)._packing() is not None


def test_the_lean_training_forward_leaves_adapters_to_the_model():
    model = tiny("llama", VOCABULARY)
    assert LeanForward.of(model) is not None
    lora.attach(model, "target", CONFIG, 0)  # B is zero, so nothing differs yet
    assert LeanForward.of(model) is None and Forward(model, max_tokens=99).lean is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sampled_is_what_training_recomputes(kind, monkeypatch):
    monkeypatch.setattr(trial, "_VERDICTS", {})
    tokenizer = tiny_tokenizer()
    model = adapted(kind, len(tokenizer))
    chat = Chat(tokenizer, ChatConfig(format="action", max_context=320), instruction="Press the colours.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = LocalPolicy(model, chat, temperature=1.0, max_new_tokens=6, num_slots_per_lane=2, keep_logprobs=True)
    episodes = [Episode(id=id, task=Task(id="t", kind="k", data={}), seed=0, observation="", turns=[]) for id in "ab"]
    for observation in OBSERVATIONS:
        for one in episodes:
            one.observation = observation
        for one, reply in zip(episodes, policy.act(episodes), strict=True):
            assert reply is not None
            given = {"text": reply.text, "action": reply.action, "token_ids": reply.token_ids}
            one.turns.append(Turn(observation=observation, reward=0.0, logprobs=reply.logprobs, **given))
    for one in episodes:
        encoded = encode(chat, one)
        sampled_N = torch.tensor([value for turn in one.turns for value in turn.logprobs])
        with torch.no_grad():
            torch.testing.assert_close(own_logprobs(model, encoded), sampled_N, rtol=0, atol=1e-4)
            lora.use(model, "other")
            assert (own_logprobs(model, encoded) - sampled_N).abs().max() > 0.01, "the adapter makes no difference"
            lora.use(model, "target")


def encode(chat: Chat, episode: Episode) -> Encoded:
    ids: list[int] = []
    spans = []
    for number, turn in enumerate(episode.turns):
        ids = chat.history(episode.turns[:number], turn.observation)
        spans.append((len(ids), len(ids) + len(turn.token_ids)))
        ids = [*ids, *turn.token_ids]
    return Encoded(ids=tuple(ids), spans=tuple(spans))


def test_what_plays_leanly_has_the_adapter_merged():
    model = adapted("llama")
    lean = LeanModel.of(model, 64)
    assert lean is not None
    lora.use(model, "other")
    assert not lean.agrees_with(model), "the lean forward has not the active adapter's weights"
    lora.use(model, "target")
    assert lean.agrees_with(model)
    assert LeanModel.of(model.to(torch.bfloat16), 64) is None, "merging rounds"


def test_a_value_head_learns_beside_an_adapter(tmp_path):
    model = adapted("qwen3")
    model.add_module("value_head", value_head.load(model, tmp_path, lr=1e-3))
    lora.use(model, "target")
    with torch.no_grad():
        model.value_head.weight.normal_()
    (logprobs, values), wanted = Forward(model, max_tokens=5000).with_values(NODES), own_logprobs(model, NODES[0])
    assert values is not None
    torch.testing.assert_close(logprobs[0], wanted, rtol=0, atol=1e-4)
    got = gradients(model, [*logprobs, *values])
    assert {"value_head.weight", "value_head.bias"} < set(got)
    assert all(name.startswith("value_head.") or ".target." in name for name in got)
    lora.copy(model, "target", "copied")
    assert model.value_head.weight.requires_grad


def two_agents() -> Any:
    model = adapted("qwen3")
    lora.use(model, "target")
    return model


def steps(model: Any, optimizer: torch.optim.Optimizer, num: int) -> None:
    for _ in range(num):
        (-sum(one.mean() for one in Forward(model, max_tokens=5000)(NODES))).backward()  # pyright: ignore
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("has_head", [False, True], ids=["adapter alone", "with a value head"])
def test_a_training_that_was_stopped_ends_bit_for_bit_where_one_in_one_piece_does(tmp_path, has_head):
    def begin() -> tuple[Any, torch.optim.Optimizer]:
        model = two_agents()
        if has_head:
            model.add_module("value_head", value_head.load(model, tmp_path, lr=1e-3))
        return model, torch.optim.AdamW(checkpoint.trainable(model).values(), lr=1e-2)

    whole, optimizer = begin()
    steps(whole, optimizer, 4)
    stopped, optimizer = begin()
    steps(stopped, optimizer, 2)
    checkpoint.save_state(tmp_path / "state", 2, checkpoint.trainable(stopped), optimizer, {})
    again, optimizer = begin()
    stir(again, "target", 99)
    saved = checkpoint.newest_state(tmp_path / "state")
    assert saved is not None
    checkpoint.load_state(saved, checkpoint.trainable(again), optimizer)
    steps(again, optimizer, 2)
    for name in ("target", "other"):
        for key, tensor in lora.state(whole, name).items():
            assert torch.equal(lora.state(again, name)[key], tensor), key
    with safe_open(saved.path / "weights.safetensors", framework="numpy") as file:
        kept = set(file.keys())
    assert kept == set(checkpoint.trainable(whole)) and all("value_head" in k or ".target." in k for k in kept)
