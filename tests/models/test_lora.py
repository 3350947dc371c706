"""Adapters on one base: each learns by itself, nothing else moves, and what was saved comes back."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparring.core.errors import ConfigError, ModelError
from sparring.models import lora
from sparring.models.adapter_folders import CONFIG as ADAPTER_CONFIG
from sparring.models.adapter_folders import WEIGHTS, read_adapter
from sparring.models.linear_layers import find_targets
from sparring.models.lora import LoraConfig
from tests.policies.architectures import tiny
from tests.policies.test_trial import ARCHITECTURES
from tests.tiny_models import tiny_tokenizer

NUM_TOKENS = 61
IDS = torch.tensor([[7 * place % NUM_TOKENS for place in range(1, 20)]])
CONFIG = LoraConfig(rank=4)
MAIN = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "phi", "phi3", "gpt2", "opt", "falcon", "mixtral", "qwen3_moe"]
MAIN += ["mamba", "jamba"]
REST = sorted(set(ARCHITECTURES.split()) - set(MAIN))
KINDS = [*MAIN, *(pytest.param(kind, marks=pytest.mark.slow) for kind in REST)]
DEAD = {"doge": "dt_proj"}
"""Layers through which no gradient flows in the first place: here what only ranks keys."""


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits[0]


def digest(model: Any) -> str:
    """Digest the bytes of all weights and buffers that are no adapter's."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            found.update(name.replace(".base_layer", "").encode())
            found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def bytes_of(model: Any, name: str) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in lora.state(model, name).items()}


def stir(model: Any, name: str, seed: int) -> None:
    """Give an adapter weights that matter."""
    draw = torch.Generator().manual_seed(seed)
    tensors = lora.state(model, name)
    lora.load_state(model, name, {key: 0.3 * torch.randn(t.shape, generator=draw) for key, t in tensors.items()})


def train(model: Any, steps: int = 2) -> float:
    """Take steps of AdamW on whatever requires gradients."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-2)
    loss = torch.zeros(())
    for _ in range(steps):
        out = model(input_ids=IDS, use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(out, IDS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("kind", KINDS)
def test_each_adapter_learns_by_itself(kind):
    model = tiny(kind, NUM_TOKENS)
    before, own = digest(model), logits(model)
    lora.attach(model, "target", CONFIG, 1)
    lora.attach(model, "failure", CONFIG, 2)
    assert digest(model) == before and torch.equal(logits(model), own), "a new adapter changes something"
    failure = bytes_of(model, "failure")
    lora.use(model, "target")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".target." in name
    }
    train(model)
    moved = lora.state(model, "target")
    still = [key for key, tensor in moved.items() if ".lora_B." in key and not tensor.any()]
    assert all(DEAD.get(kind, "none") in key for key in still), f"no gradient reaches {still}"
    learnt, target = logits(model), bytes_of(model, "target")
    assert not torch.allclose(learnt, own, atol=1e-4)
    lora.use(model, "failure")
    assert torch.equal(logits(model), own), "an adapter reaches into another"
    train(model)
    assert bytes_of(model, "target") == target and bytes_of(model, "failure") != failure
    lora.use(model, "target")
    assert torch.equal(logits(model), learnt) and digest(model) == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_comes_back(kind, tmp_path):
    model, tokenizer = tiny(kind, NUM_TOKENS), tiny_tokenizer()
    lora.attach(model, "target", LoraConfig(rank=3, alpha=7.5, dropout=0.1), 1)
    stir(model, "target", 5)
    lora.save(model, "target", tmp_path / "adapter", "some/base", tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    again = tiny(kind, NUM_TOKENS)
    lora.load(again, "other", tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model)) and bytes_of(again, "other") == bytes_of(model, "target")
    adapter = read_adapter(tmp_path / "adapter")
    assert (adapter.base, adapter.rank, adapter.alpha, adapter.dropout) == ("some/base", 3, 7.5, 0.1)
    assert adapter.num_parameters == sum(tensor.numel() for tensor in lora.state(model, "target").values())
    assert (tmp_path / "adapter" / "tokenizer.json").is_file()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_peft_and_transformers_read_what_was_saved(kind, tmp_path):
    model = tiny(kind, NUM_TOKENS)
    lora.attach(model, "target", CONFIG, 1)
    stir(model, "target", 5)
    tiny(kind, NUM_TOKENS).save_pretrained(tmp_path / "base")
    lora.save(model, "target", tmp_path / "adapter", str(tmp_path / "base"))
    theirs = PeftModel.from_pretrained(tiny(kind, NUM_TOKENS), tmp_path / "adapter")
    assert torch.allclose(logits(theirs), logits(model), atol=1e-6)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_an_adapter_of_pefts_own_is_read(tmp_path, is_rank_stabilised):
    import peft

    made = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        use_rslora=is_rank_stabilised,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        layers_to_transform=[1],
        layers_pattern="layers",
    )
    theirs = peft.get_peft_model(tiny("llama", NUM_TOKENS), made).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    model = tiny("llama", NUM_TOKENS)
    lora.load(model, "target", tmp_path / "adapter")
    assert torch.allclose(logits(model), logits(theirs), atol=1e-6)
    assert not torch.allclose(logits(model), logits(tiny("llama", NUM_TOKENS)), atol=1e-2)


def test_a_copy_begins_where_the_other_is_and_goes_its_own_way():
    model = tiny("qwen3", NUM_TOKENS)
    lora.attach(model, "target", CONFIG, 1)
    train(model)
    learnt, source = logits(model), bytes_of(model, "target")
    lora.copy(model, "target", "reference")
    assert lora.active(model) == "reference" and lora.names(model) == ("target", "reference")
    assert torch.equal(logits(model), learnt) and bytes_of(model, "reference") == source
    train(model)
    assert bytes_of(model, "target") == source != bytes_of(model, "reference")


def test_an_adapter_in_use_counts_even_if_adapters_were_switched_off():
    model = tiny("qwen3", NUM_TOKENS)
    lora.attach(model, "target", CONFIG, 1)
    stir(model, "target", 1)
    learnt = logits(model)
    model.disable_adapters()
    assert not torch.allclose(logits(model), learnt, atol=1e-2)
    lora.use(model, "target")
    assert torch.equal(logits(model), learnt)


def test_what_is_dropped_is_gone_and_the_others_stay():
    model = tiny("qwen3", NUM_TOKENS)
    own = logits(model)
    lora.attach(model, "target", CONFIG, 1)
    stir(model, "target", 1)
    lora.copy(model, "target", "old")
    lora.use(model, "target")
    learnt = logits(model)
    lora.drop(model, "old")
    assert lora.names(model) == ("target",) and torch.equal(logits(model), learnt)
    assert not any(".old." in name for name, _ in model.named_parameters())
    lora.drop(model, "target")
    assert lora.names(model) == () and lora.active(model) is None and torch.equal(logits(model), own)
    lora.attach(model, "target", CONFIG, 1)
    assert torch.equal(logits(model), own)


def test_the_active_adapter_is_not_dropped_beside_others():
    model = tiny("qwen3", NUM_TOKENS)
    lora.attach(model, "one", CONFIG, 1)
    lora.attach(model, "two", CONFIG, 2)
    with pytest.raises(AssertionError, match="use another one first"):
        lora.drop(model, "two")


def test_a_new_adapter_is_drawn_from_the_seed_alone():
    states = []
    for before, seed in ((0, 3), (1, 3), (1, 4)):
        model = tiny("llama", NUM_TOKENS)
        torch.manual_seed(before)
        torch.rand(before)
        generator = torch.get_rng_state()
        lora.attach(model, "target", CONFIG, seed)
        assert torch.equal(torch.get_rng_state(), generator)
        states.append(lora.state(model, "target"))
    one, same, other = states
    assert all(torch.equal(one[key], same[key]) for key in one)
    a = [key for key in one if ".lora_A." in key]
    assert not any(torch.equal(one[key], other[key]) for key in a)
    for key in a:  # uniform in ± 1 / √width
        scaled = one[key] * one[key].shape[1] ** 0.5
        assert 0.9 < scaled.abs().max() <= 1 and abs(scaled.square().mean().item() - 1 / 3) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_are_in_single_precision_whatever_the_base_is(dtype, tmp_path):
    model = tiny("llama", NUM_TOKENS).to(dtype)
    lora.attach(model, "target", CONFIG, 1)
    lora.copy(model, "target", "failure")
    train(model)
    lora.save(model, "failure", tmp_path / "a", "base")
    lora.load(model, "again", tmp_path / "a")
    kinds = {name.rpartition(".lora_")[1]: set() for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        kinds[name.rpartition(".lora_")[1]].add(parameter.dtype)
    assert kinds == {"": {dtype}, ".lora_": {torch.float32}}
    assert bytes_of(model, "again") == bytes_of(model, "failure")


def test_dropout_drops_where_it_is_asked_for_alone():
    model = tiny("llama", NUM_TOKENS)
    lora.attach(model, "target", LoraConfig(rank=4, dropout=0.5), 1)
    stir(model, "target", 5)
    still, generator = logits(model), torch.get_rng_state()
    with lora.dropping(model, "target", 1):
        dropped = logits(model)
    with lora.dropping(model, "target", 1):
        again = logits(model)
    with lora.dropping(model, "target", 2):
        other = logits(model)
    assert torch.equal(logits(model), still) and torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(dropped, again) and not torch.allclose(dropped, still) and not torch.allclose(dropped, other)
    assert not model.training


def test_layers_that_kernels_read_past_their_forward_are_refused():
    with pytest.raises(ConfigError, match=r"lora\.targets: .*out_proj"):
        lora.attach(tiny("mamba", NUM_TOKENS), "target", LoraConfig(rank=2, targets=("out_proj",)), 0)


def test_a_mixture_of_experts_gets_adapters_in_its_attention_alone():
    assert find_targets(tiny("mixtral", NUM_TOKENS), ()).short == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert find_targets(tiny("qwen3_moe", NUM_TOKENS), ()).short == ("k_proj", "o_proj", "q_proj", "v_proj")
    shared = find_targets(tiny("qwen2_moe", NUM_TOKENS), ("q_proj", "shared_expert.down_proj")).full
    assert {layer.partition("layers.0.")[2] for layer in shared} - {""} == {
        "self_attn.q_proj",
        "mlp.shared_expert.down_proj",
    }


def test_layers_are_chosen_by_the_ends_of_their_names():
    model = tiny("llama", NUM_TOKENS)
    assert find_targets(model, ("layers.1.self_attn.q_proj",)).full == ("model.layers.1.self_attn.q_proj",)
    found = find_targets(model, ("q_proj", "up_proj"))
    assert found.short == ("q_proj", "up_proj") and len(found.full) == 4
    assert "lm_head" not in find_targets(model, ()).short
    assert find_targets(tiny("gpt2", NUM_TOKENS), ("attn.c_proj",)).are_transposed


@pytest.mark.parametrize("name", ["qproj", "proj", "lm_head", "embed_tokens", "norm", "self_attn"])
def test_targets_that_the_model_lacks_are_named(name):
    with pytest.raises(ConfigError) as caught:
        lora.attach(tiny("llama", NUM_TOKENS), "target", LoraConfig(rank=2, targets=("q_proj", name)), 0)
    assert f"lora.targets: the decoder of LlamaForCausalLM has no linear layer {name!r}" in str(caught.value)
    assert "k_proj, o_proj, q_proj" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 4, "alpha": 0.0}, "alpha"),
        ({"rank": 4, "dropout": 1.0}, "dropout"),
        ({"quantize": "4bit"}, "no other key of lora applies"),
        ({"alpha": 8.0}, "no other key of lora applies"),
        ({"rank": 4, "quantize": "8bit"}, "quantize"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        LoraConfig(**values)


def test_four_bits_need_a_gpu_and_bitsandbytes(monkeypatch):
    config = LoraConfig(rank=4, quantize="4bit")
    with pytest.raises(ConfigError, match="needs a GPU; this is a cpu"):
        lora.quantization(config, torch.device("cpu"))
    monkeypatch.setattr(lora, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        lora.quantization(config, torch.device("cuda"))
    assert lora.quantization(LoraConfig(rank=4), torch.device("cpu")) == {}


def test_where_peft_is_missing_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'sparring\[lora\]'"):
        lora.attach(tiny("llama", NUM_TOKENS), "target", CONFIG, 0)


def test_tensors_of_another_adapter_are_refused():
    model = tiny("llama", NUM_TOKENS)
    lora.attach(model, "target", CONFIG, 1)
    lora.attach(model, "larger", LoraConfig(rank=8), 1)
    with pytest.raises(ModelError, match="another rank"):
        lora.load_state(model, "target", lora.state(model, "larger"))


def test_the_folder_is_the_same_to_the_byte_whoever_writes_it(tmp_path):
    for place in ("a", "b"):
        model = tiny("llama", NUM_TOKENS)
        lora.attach(model, place, CONFIG, 1)
        lora.save(model, place, tmp_path / place, "base")
    for name in (ADAPTER_CONFIG, WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    entries = json.loads(Path(tmp_path / "a" / ADAPTER_CONFIG).read_text())
    assert entries["base_model_name_or_path"] == "base" and entries["target_modules"] == sorted(
        entries["target_modules"]
    )
