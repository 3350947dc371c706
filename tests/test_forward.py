"""Log-probabilities at action tokens equal those of the model's own forward, for many kinds of model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers

from sparring.data.batches import cut
from sparring.engines.scoring import CPU_PASS_TOKENS, Forward, autocast_dtype
from sparring.models.loading import ModelConfig, is_bfloat16, load_model
from tests.training_toys import VOCABULARY, attach_value_head, lone_groups, node, plain_logprobs, qwen

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
NODES = [node(seed, turns) for seed, turns in enumerate((3, 1, 6, 3, 2))]


def make(name: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SMALL | changes))
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def gap(forward: Forward, model: torch.nn.Module) -> float:
    with torch.no_grad():
        return max(
            (ours - plain_logprobs(model, n)).abs().max().item() for ours, n in zip(forward(NODES), NODES, strict=True)
        )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Qwen3", {"tie_word_embeddings": True}),
        ("Qwen3", {"tie_word_embeddings": False}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
        ("Llama", {}),
        ("Phi", {"num_key_value_heads": 2}),
        ("GPTNeoX", {}),
    ],
)
@pytest.mark.parametrize("max_tokens", [1, 60, 5000])
def test_fast_path_equals_the_models_own_forward(name, changes, max_tokens):
    model = make(name, **changes)
    forward = Forward(model, max_tokens=max_tokens, head_chunk=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward.check(NODES[0])
    assert forward.is_fast
    assert gap(forward, model) < 1e-4


def test_bias_of_the_head_counts():
    model = make("Phi", num_key_value_heads=2)
    with torch.no_grad():
        model.lm_head.bias.normal_(std=2.0)
    forward = Forward(model, max_tokens=100)
    forward.check(NODES[0])
    assert forward.is_fast and gap(forward, model) < 1e-4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Gemma2", {"final_logit_softcapping": 2.0}),
        ("Granite", {"logits_scaling": 4.0}),
        ("Cohere", {"logit_scale": 2.0}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_do_more_than_a_linear_head_fall_back_to_full_logits(name, changes, dtype):
    model = make(name, **changes).to(dtype)
    forward = Forward(model, max_tokens=200)
    assert gap(forward, model) > 1e-3
    with pytest.warns(UserWarning, match="full logits"):
        forward.check(NODES[0])
    assert not forward.is_fast
    assert gap(forward, model) < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe", "sparring-worlds"])
def test_rounding_in_half_precision_is_no_reason_to_be_slow(name):
    """Adapters are trained on a base in bfloat16."""
    model = load_model(name)[0] if name == "sparring-worlds" else make(name)
    forward = Forward(model.bfloat16(), max_tokens=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward.check(NODES[0])
    assert forward.is_fast and (forward.packing is not None or forward.lean is not None)


def test_a_soft_cap_shows_while_logits_are_small():
    """With random weights a cap at 30 changes nothing that can be measured; training would run into it."""
    model = make("Gemma2", final_logit_softcapping=30.0, initializer_range=0.02)
    forward = Forward(model, max_tokens=200)
    assert gap(forward, model) < 1e-4
    with pytest.warns(UserWarning, match="full logits"):
        forward.check(NODES[0])
    assert not forward.is_fast
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1000)
    assert gap(forward, model) < 1e-3


@pytest.mark.parametrize("cap", [None, 30.0])
def test_values_are_those_of_what_the_head_takes(cap):
    """OPT-350m's last hidden states are narrower than its `hidden_size`; capped models take the slow path."""
    if cap is None:
        model, width = make("OPT", ffn_dim=24, word_embed_proj_dim=8, max_position_embeddings=512), 8
    else:
        model, width = make("Gemma2", final_logit_softcapping=cap), 16
    head = attach_value_head(model, lr=1.0)
    assert head.weight.shape == (width,)
    torch.nn.init.normal_(head.weight)
    forward, seen = Forward(model, max_tokens=5000), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forward.check(NODES[0])
    assert forward.is_fast is (cap is None)
    _, values = forward.with_values(NODES[:1])
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor([NODES[0].ids]))
    positions = [i - 1 for start, end in NODES[0].spans for i in range(start, end)]
    torch.testing.assert_close(values[0], head(seen[0][0, positions]), rtol=0, atol=1e-5)


def test_a_model_without_the_usual_parts_falls_back_too():
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = qwen()

        def forward(self, **inputs: Any) -> Any:
            return self.inner(**inputs)

    model = Wrapped()
    forward = Forward(model, max_tokens=200)
    with pytest.warns(UserWarning, match="AttributeError"):
        forward.check(NODES[0])
    assert gap(forward, model) < 1e-4


def test_results_keep_the_order_of_the_nodes_and_do_not_depend_on_company():
    model = qwen(dtype=torch.float64)
    together = Forward(model, max_tokens=5000)(NODES)
    alone = [Forward(model, max_tokens=5000)([n])[0] for n in NODES]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_cutting_a_node_keeps_the_log_probabilities_before_the_cut():
    model = qwen(dtype=torch.float64)
    whole, short = NODES[2], cut(NODES[2], 4)
    (a,), (b,) = Forward(model, max_tokens=500)([whole]), Forward(model, max_tokens=500)([short])
    torch.testing.assert_close(a[: len(b)], b, rtol=0, atol=1e-12)


def test_gradients_equal_those_of_the_plain_forward():
    model = qwen(dtype=torch.float64, tie_word_embeddings=False)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(torch.cat(Forward(model, max_tokens=90)(NODES)).sum(), parameters)
    plain = torch.autograd.grad(torch.cat([plain_logprobs(model, n) for n in NODES]).sum(), parameters)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_padding_to_company_leaves_no_gradient_behind():
    """The embedding of token 0, which fills up the shorter rows, gets the gradient of its real occurrences alone."""
    model = qwen(dtype=torch.float64, tie_word_embeddings=False)
    nodes = [g.nodes[0] for g in lone_groups(6)]
    embedding = model.get_input_embeddings().weight
    (ours,) = torch.autograd.grad(torch.cat(Forward(model, max_tokens=5000)(nodes)).sum(), embedding)
    (plain,) = torch.autograd.grad(torch.cat([plain_logprobs(model, n) for n in nodes]).sum(), embedding)
    torch.testing.assert_close(ours[0], plain[0], rtol=0, atol=1e-10)


def test_passes_on_a_cpu_are_small():
    assert Forward(qwen(), max_tokens=10**6).max_tokens == CPU_PASS_TOKENS


def test_autocast_is_off_when_told_and_on_every_cpu():
    cpu = torch.device("cpu")
    assert autocast_dtype(cpu, "off") is None
    assert autocast_dtype(cpu, "auto") is None, "numbers must not depend on which CPU it is"
    assert not is_bfloat16(ModelConfig(), cpu)
    assert is_bfloat16(ModelConfig(dtype="bfloat16"), cpu)
    assert autocast_dtype(torch.device("meta"), "auto") is None
    model = qwen()
    rounded = Forward(model, max_tokens=500, autocast=torch.bfloat16)(NODES)
    exact = Forward(model, max_tokens=500)(NODES)
    assert all(r.dtype == torch.float32 and not torch.equal(r, e) for r, e in zip(rounded, exact, strict=True))
    assert max((r - e).abs().max().item() for r, e in zip(rounded, exact, strict=True)) < 0.2
