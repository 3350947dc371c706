"""The estimate of memory against what models really hold, what is said of it, and what is refused."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.core.errors import ConfigError
from sparring.engines.scoring import CPU_PASS_TOKENS, Forward
from sparring.models import lora, memory
from sparring.models.linear_layers import linear_layers
from sparring.models.loading import BUNDLED, save_model
from sparring.models.lora import LoraConfig
from sparring.models.memory import Demand, check_fits, estimate, memory_of, out_of_memory
from sparring.policies.vllm.config import VllmConfig
from sparring.runs.memory_check import check_share
from tests.policies.architectures import tiny
from tests.tiny_models import tiny_tokenizer
from tests.training_toys import node

NUM_TOKENS = 400
BUNDLED_DEMAND = Demand(folder=BUNDLED["sparring-worlds"])
CPU = torch.device("cpu")


def saved(kind: str, folder: Path, **changes: Any) -> tuple[Any, Demand]:
    model = tiny(kind, NUM_TOKENS, **changes)
    save_model(model, tiny_tokenizer(), folder)
    return model, Demand(folder=folder, num_agents=1)


def held(model: Any, nodes: list[Any]) -> int:
    """Sum what the backward pass of scoring holds on to, weights left out."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (key := tensor.untyped_storage()._cdata) not in own:
            seen[key] = tensor
        return tensor

    forward = Forward(model, max_tokens=5000)
    forward.threads = None  # hooks are a thread's own
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(nodes)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma", "phi", "olmo2", "gpt_neox"])
def test_activations_are_what_the_backward_pass_holds(kind, rank, tmp_path):
    changes: dict[str, Any] = {"use_sliding_window": False, "max_window_layers": 2} if kind == "qwen3" else {}
    if kind in ("llama", "qwen3"):  # wide enough for what depends on lengths alone not to matter
        changes |= {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 4}
    model, demand = saved(kind, tmp_path / "model", **changes)
    if rank:
        lora.attach(model, "target", LoraConfig(rank=rank), 0)
    nodes = [node(seed, 20) for seed in range(6)]
    nodes = [replace(one, ids=one.ids[:150], spans=((100, 150),)) for one in nodes]
    found = estimate(replace(demand, lora=LoraConfig(rank=rank), max_tokens_per_batch=sum(len(n.ids) for n in nodes)))
    assert found.activations == pytest.approx(held(model, nodes), rel=0.1)


def test_weights_and_adapters_are_counted_by_dtype(tmp_path):
    model, demand = saved("llama", tmp_path / "model")
    num = sum(parameter.numel() for parameter in model.parameters())
    full = estimate(replace(demand, num_agents=2))
    assert (full.weights, full.adapters, full.gradients, full.moments) == (8 * num, 0, 12 * num, 8 * num)
    lora.attach(model, "target", LoraConfig(rank=3), 0)
    size = sum(tensor.numel() for tensor in lora.state(model, "target").values())
    twins = estimate(replace(demand, num_agents=2, dtype="bfloat16", lora=LoraConfig(rank=3)))
    assert (twins.weights, twins.adapters, twins.gradients, twins.moments) == (2 * num, 8 * size, 12 * size, 8 * size)
    on_gpu = estimate(replace(demand, device="cuda"))
    assert on_gpu.gradients == 4 * num, "one pass at a time"
    packed = estimate(replace(demand, dtype="bfloat16", lora=LoraConfig(rank=3, quantize="4bit")))
    num_linear = sum(layer.weight.numel() for _, layer in linear_layers(model))
    assert packed.weights == pytest.approx(2 * (num - num_linear) + 0.5625 * num_linear, abs=1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "qwen3"])
def test_the_cache_is_what_full_episodes_hold(kind, tmp_path):
    model, demand = saved(kind, tmp_path / "model")
    found = estimate(replace(demand, num_envs=3, max_context=10))
    with torch.no_grad():
        cache = model(input_ids=torch.zeros(3, 10, dtype=torch.long), use_cache=True).past_key_values
    assert found.cache == sum(t.numel() * 4 for layer in cache.layers for t in (layer.keys, layer.values))


def test_full_weights_play_as_a_copy_in_half_precision_where_products_are(tmp_path):
    model, demand = saved("llama", tmp_path / "model")
    single, half = (estimate(replace(demand, device="cuda", is_autocast=on)).cache for on in (False, True))
    assert half == single // 2 + 2 * sum(parameter.numel() for parameter in model.parameters())


def test_ranks_share_weights_gradients_and_moments_and_gather_layers(tmp_path):
    model, demand = saved("llama", tmp_path / "model", num_hidden_layers=8)
    alone, spread = estimate(demand), estimate(replace(demand, num_ranks=4))
    for name in ("weights", "gradients", "moments"):
        assert getattr(spread, name) == pytest.approx(getattr(alone, name) / 4, rel=1e-3)
    outside = model.get_input_embeddings().weight.numel() + model.get_output_embeddings().weight.numel()
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    assert spread.gathered == pytest.approx(4 * (outside + 2 * layer) + 4 * (outside + layer), rel=0.01)
    assert alone.gathered == 0 and "on each of 4 devices" in spread.describe()
    lora = replace(demand, lora=LoraConfig(rank=4))
    adapted, shared = estimate(lora), estimate(replace(lora, num_ranks=4))
    assert (shared.adapters, shared.moments) == (adapted.adapters, adapted.moments)
    assert shared.weights == pytest.approx(adapted.weights / 4, rel=1e-3)


def test_recomputation_keeps_inputs_and_one_layer(tmp_path):
    _, demand = saved("llama", tmp_path / "model", num_hidden_layers=8)
    demand = replace(demand, lora=LoraConfig(rank=4), max_tokens_per_batch=4 * CPU_PASS_TOKENS)
    kept, again = (estimate(replace(demand, recompute=on)).activations for on in (False, True))
    inputs, layer = 4 * CPU_PASS_TOKENS * 4 * 32 * 8, kept / 8 / 4
    assert again == pytest.approx(inputs + layer, rel=0.3) and again < kept / 5


def test_numbers_of_the_engine_are_those_that_are_counted_with():
    assert (CPU_PASS_TOKENS, inspect.signature(Forward).parameters["head_chunk"].default) == (
        memory.CPU_PASS_TOKENS,
        memory.HEAD_CHUNK,
    )


def test_it_is_told_in_a_line():
    lines = estimate(BUNDLED_DEMAND).describe(24 * 10**9)
    assert lines.startswith("weights 0.020 GB float32, gradients and moments 0.050 GB, activations about 0.")
    assert " at 8,192 tokens, or, while playing, 0." in lines and lines.endswith(" in all; the device has 24")
    adapters = replace(BUNDLED_DEMAND, lora=LoraConfig(rank=16), dtype="bfloat16", recompute=True)
    told = estimate(adapters).describe()
    assert told.startswith("weights 0.005 GB bfloat16, adapters, gradients and moments 0.00")
    assert "8,192 tokens, recomputed" in told and "\n" not in told


def refusal(demand: Demand, available: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(memory, "memory_of", lambda _: available)
    with pytest.raises(ConfigError) as caught:
        check_fits(estimate(demand), torch.device(demand.device))
    message = str(caught.value)
    assert message.startswith("memory: weights ") and "\n" not in message
    return message


def test_what_can_not_fit_is_refused_with_what_would(monkeypatch):
    demand = replace(BUNDLED_DEMAND, num_envs=1)
    full = estimate(demand)
    monkeypatch.setattr(memory, "memory_of", lambda _: full.total)
    check_fits(full, CPU)
    message = refusal(demand, full.total * 2 // 3, monkeypatch)
    assert "It would fit with max_tokens_per_batch = 4096 (0." in message and "; or with recompute = true (" in message
    assert "4bit" not in message
    assert "Or take a smaller model" in refusal(demand, 10**6, monkeypatch)


def test_fewer_envs_are_proposed_where_it_is_playing_that_takes_too_much(monkeypatch):
    demand = replace(BUNDLED_DEMAND, num_envs=64, max_tokens_per_batch=512)
    found = estimate(demand)
    message = refusal(demand, found.weights + found.cache // 2, monkeypatch)
    assert "It would fit with env.num_envs = 32 (" in message


def test_what_is_proposed_fits(monkeypatch):
    demand = replace(BUNDLED_DEMAND, num_envs=16)
    available = estimate(demand).total // 4
    for what, found in memory._fitting(demand, available):
        assert found.total <= available and estimate(found.demand) == found and what


def test_on_a_gpu_four_bits_are_proposed(monkeypatch):
    demand = replace(BUNDLED_DEMAND, device="cuda", num_envs=1, max_context=64, max_tokens_per_batch=512)
    packed = replace(demand, lora=LoraConfig(rank=16, quantize="4bit"), recompute=True)
    message = refusal(demand, estimate(packed).total, monkeypatch)
    assert 'It would fit with lora.rank = 16 and lora.quantize = "4bit" and recompute = true (' in message


def test_this_machine_has_memory():
    left = memory_of(CPU)
    assert left is not None and 10**7 < left < 10**14


def test_memory_that_ran_out_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    advice = out_of_memory(caught.value)
    assert advice is not None and "lora.rank" in advice and "recompute" in advice and "max_tokens_per_batch" in advice
    with pytest.raises(MemoryError) as python:
        bytearray(10**15)
    assert out_of_memory(python.value) == advice
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) == advice
    try:
        raise ValueError("wrapped") from caught.value
    except ValueError as error:
        assert out_of_memory(error) == advice
    assert out_of_memory(RuntimeError("shape mismatch")) is None and out_of_memory(None) is None


@pytest.mark.parametrize(
    ("sleep", "share", "said"),
    [
        (True, 0.5, "a vLLM server takes 12.0 GB of its 24 besides, while agents play"),
        (False, 0.5, "a vLLM server takes 12.0 GB of its 24 besides, all the time"),
        (True, 0.9, "Set vllm.gpu_memory_utilization to 0.66 or less; or take servers on other GPUs"),
        (False, 0.6, "Set vllm.gpu_memory_utilization to 0.54 or less, or set vllm.sleep = true; or take"),
    ],
)
def test_a_server_on_the_same_gpu_is_added_up(sleep, share, said):
    demand = replace(BUNDLED_DEMAND, lora=LoraConfig(rank=16), device="cuda")
    found = replace(estimate(demand), weights=8 * 10**9, adapters=0, activations=3 * 10**9, logits=0, cache=0)
    found = replace(found, gradients=0, moments=0)
    config = VllmConfig(launch=True, gpu_memory_utilization=share, sleep=sleep)
    try:
        line = check_share(found, config, 24 * 10**9)
    except ConfigError as error:
        line = str(error)
    assert said in line
