"""The lean training forward: log-probabilities and gradients are transformers' own, and it keeps to what it can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sparring.data.batches import pad_together
from sparring.engines.head import token_logprobs
from sparring.engines.lean import LeanForward, _Gate, _RMSNorm, _Turn
from sparring.engines.scoring import Forward
from sparring.models.plain_layers import has_plain_layers
from tests.training_toys import VOCABULARY, node, plain_logprobs, qwen

NODES = [node(seed, turns) for seed, turns in enumerate((6, 1, 3, 5, 2))]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


def make(family: str, **changes: Any) -> Any:
    """Make a tiny random model, whose norms, unlike those of a fresh one, weigh each entry differently."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
    }
    config = getattr(transformers, f"{family}Config")(**(shape | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return model


def lean_logprobs(model: Any) -> Tensor:
    """Score all nodes in one pass, however different their lengths."""
    lean = LeanForward.of(model)
    assert lean is not None
    width = max(len(n.ids) for n in NODES)
    ids_BT = torch.tensor([[*n.ids, *[0] * (width - len(n.ids))] for n in NODES])
    positions_N = torch.tensor(
        [row * width + i for row, n in enumerate(NODES) for start, end in n.spans for i in range(start, end)]
    )
    targets_N = ids_BT.view(-1)[positions_N]
    return token_logprobs(lean(ids_BT, positions_N - 1), model.get_output_embeddings().weight, targets_N)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {"pad_token_id": 7}),
        ("Llama", {"num_key_value_heads": 4, "rope_parameters": LLAMA3}),
        ("Qwen3", {}),
        ("Qwen3", {"num_key_value_heads": 1, "rope_parameters": YARN}),
        ("Qwen3", {"num_key_value_heads": 4, "num_hidden_layers": 1, "rms_norm_eps": 0.1}),
    ],
)
def test_log_probabilities_and_every_gradient_are_the_models_own(family, changes, tied):
    model = make(family, tie_word_embeddings=tied, **changes)
    parameters = dict(model.named_parameters())
    ours, own = lean_logprobs(model), torch.cat([plain_logprobs(model, n) for n in NODES])
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)
    weight_N = torch.randn(len(own))
    ours_grads = torch.autograd.grad(ours @ weight_N, list(parameters.values()))
    own_grads = torch.autograd.grad(own @ weight_N, list(parameters.values()))
    for name, a, b in zip(parameters, ours_grads, own_grads, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm(), name
        assert b.norm() > 0, name


def test_rows_and_passes_without_a_wanted_position():
    model = make("Llama")
    lean = LeanForward.of(model)
    assert lean is not None
    ids_BT = torch.randint(VOCABULARY, (3, 9))
    own_RD = model.base_model(input_ids=ids_BT).last_hidden_state.flatten(0, 1)
    for wanted in ([10, 12], [0, 26], list(range(27)), []):
        torch.testing.assert_close(lean(ids_BT, torch.tensor(wanted, dtype=torch.long)), own_RD[wanted])


@pytest.mark.parametrize("shape", [(5, 6), (3, 2, 6)])
def test_hand_written_backward_passes_against_finite_differences(shape):
    torch.manual_seed(0)
    x, y = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: _RMSNorm.apply(x, weight, 0.1), (x, weight))
    assert torch.autograd.gradcheck(_Gate.apply, (x, y))
    angle = torch.randn(shape[0], *[1] * (len(shape) - 2), shape[-1] // 2, dtype=torch.float64)
    angle = torch.cat([angle, angle], -1)
    assert torch.autograd.gradcheck(lambda x: _Turn.apply(x, angle.cos(), angle.sin()), (x,))


def test_small_models_train_without_calling_their_own_layers():
    model = make("Qwen3")
    forward = Forward(model, max_tokens=500)
    calls: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    torch.cat(forward(NODES)).sum().backward()
    assert not calls
    with torch.no_grad():
        forward(NODES)
    assert not calls
    model.train()  # dropout and recomputed activations are the model's own affair
    forward(NODES)
    assert len(calls) == len(pad_together([len(n.ids) for n in NODES], 500))


class _Shifted(transformers.models.llama.modeling_llama.LlamaRMSNorm):
    """Looks like the family's norm, and computes something else."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) + 1


def shifted() -> Any:
    model = make("Llama")
    norm = _Shifted(24)
    norm.load_state_dict(model.model.layers[1].input_layernorm.state_dict())
    model.model.layers[1].input_layernorm = norm
    return model


class _Adapted(torch.nn.Linear):
    """Adds a product of low rank which, as adapters are, is zero to begin with."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.load_state_dict(plain.state_dict())
        self.down, self.up = (torch.nn.Parameter(torch.zeros(size, 2)) for size in (24, 32))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input @ self.down @ self.up.T


def adapted() -> Any:
    model = make("Qwen3")
    attention = model.model.layers[1].self_attn
    attention.q_proj = _Adapted(attention.q_proj)
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: make("Llama", attention_bias=True),
        lambda: make("Llama", mlp_bias=True),
        lambda: make("Llama", hidden_act="gelu"),
        lambda: make("Qwen3", use_sliding_window=True, sliding_window=7, max_window_layers=1),
        lambda: make("Qwen2"),
        lambda: make("Llama").bfloat16(),
        lambda: make("Llama").double(),
        shifted,
        adapted,
    ],
    ids=[
        "attention-bias",
        "mlp-bias",
        "gelu",
        "window",
        "another-family",
        "bfloat16",
        "float64",
        "another-norm",
        "lora",
    ],
)
def test_what_it_can_not_do_goes_the_ordinary_way(build):
    model = build()
    forward = Forward(model, max_tokens=500)
    assert forward.lean is None
    assert all(logprobs.isfinite().all() for logprobs in forward(NODES))


def test_under_autocast_and_for_large_models_it_is_not_used(monkeypatch):
    model = qwen()
    assert has_plain_layers(model) and Forward(model, max_tokens=500).lean is not None
    assert Forward(model, max_tokens=500, autocast=torch.bfloat16).lean is None
    monkeypatch.setattr("sparring.models.threads.SMALL_MODEL", 10)
    assert Forward(model, max_tokens=500).lean is None
