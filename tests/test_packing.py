"""Sequences that share a row know nothing of each other: log-probabilities and gradients are the model's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.data.batches import pack_together
from sparring.data.chat import Encoded
from sparring.engines import packing
from sparring.engines.learner import prepare
from sparring.engines.packing import NAME, Packing, trusted_kernel
from sparring.engines.scoring import Forward
from sparring.engines.value_head import ValueHead
from sparring.models import threads
from sparring.models.threads import SideBySide
from tests.test_forward import make
from tests.training_toys import VOCABULARY, node, plain_logprobs, qwen

NODES = [node(seed, turns) for seed, turns in enumerate((3, 1, 6, 3, 2))]
NUM_TOKENS = sum(len(n.ids) for n in NODES)
FAMILIES = [
    ("Llama", {}),
    ("Llama", {"num_key_value_heads": 2, "attention_bias": True}),
    ("Qwen3", {"tie_word_embeddings": True}),
    ("Qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    ("Phi", {"num_key_value_heads": 2}),
    ("Gemma", {}),
]


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every model count as large, so that no other forward serves it."""
    monkeypatch.setattr(threads, "SMALL_MODEL", 0)


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def checked(model: Any, *, max_tokens: int = 5000, **more: Any) -> Forward:
    forward = Forward(model, max_tokens=max_tokens, **more)
    forward.check(NODES[0])
    return forward


def rows(model: Any) -> list[tuple[int, ...]]:
    """Return the list that the shapes of what the model reads will be put into."""
    shapes: list[tuple[int, ...]] = []

    def read(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape))

    model.base_model.register_forward_pre_hook(read, with_kwargs=True)
    return shapes


def gradients(model: Any, logprobs: Sequence[Tensor]) -> list[Tensor]:
    """Weigh each log-probability differently, so that one in another's place would show."""
    flat_N = torch.cat(list(logprobs))
    return list(torch.autograd.grad(flat_N @ torch.linspace(-1, 2, len(flat_N)).to(flat_N), list(model.parameters())))


def others(logprobs: Sequence[Tensor], changed: int) -> Tensor:
    return torch.cat([own for i, own in enumerate(logprobs) if i != changed]).detach()


@pytest.mark.parametrize(("name", "changes"), FAMILIES)
@pytest.mark.parametrize("max_tokens", [1, 60, 5000])
def test_log_probabilities_and_gradients_are_the_models_own(name, changes, max_tokens):
    model = make(name, **changes)
    forward = checked(model, max_tokens=max_tokens)
    shapes = rows(model)
    ours = forward(NODES)
    assert forward.packing is not None and len(shapes) == len(pack_together([len(n.ids) for n in NODES], max_tokens))
    assert all(len(shape) == 2 and shape[0] == 1 for shape in shapes) and sum(s[1] for s in shapes) == NUM_TOKENS
    own = [plain_logprobs(model, n) for n in NODES]
    for a, b in zip(ours, own, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for a, b in zip(gradients(model, ours), gradients(model, own), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", range(len(NODES)))
def test_a_sequence_knows_nothing_of_its_neighbours(changed):
    model = make("Qwen3")
    forward = checked(model)
    other = replace(NODES[changed], ids=tuple((i + 1) % VOCABULARY for i in NODES[changed].ids))
    before, after = forward(NODES), forward([*NODES[:changed], other, *NODES[changed + 1 :]])
    assert (before[changed] - after[changed]).abs().max() > 0.1
    assert (others(before, changed) - others(after, changed)).abs().max() <= 1e-6
    (reach,) = torch.autograd.grad(before[changed].sum(), model.get_input_embeddings().weight)
    unread = sorted(set(range(VOCABULARY)) - set(NODES[changed].ids) - {0})
    assert unread and not reach[unread].any(), "no gradient reaches tokens that only others have"


def test_positions_begin_anew_in_every_sequence():
    """OPT learns a vector for each position, and has no more of them than the longest sequence wants."""
    longest = max(len(n.ids) for n in NODES) + 8  # what the check adds
    config = {"ffn_dim": 24, "word_embed_proj_dim": 16, "num_key_value_heads": None}
    model = make("OPT", **config, max_position_embeddings=longest)
    forward = checked(model)
    assert forward.packing is not None
    for ours, one in zip(forward(NODES), NODES, strict=True):
        torch.testing.assert_close(ours, plain_logprobs(model, one), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Bloom", {"n_head": 2, "n_layer": 2}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
        ("Mistral", {"sliding_window": 7}),
        ("Qwen3", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}),
    ],
)
def test_what_attends_otherwise_is_padded(name, changes):
    model = make(name, **changes)
    forward = checked(model)
    shapes = rows(model)
    ours = forward(NODES)
    assert forward.packing is None and forward.is_fast and sum(b * t for b, t in shapes) >= NUM_TOKENS
    for a, one in zip(ours, NODES, strict=True):
        torch.testing.assert_close(a, plain_logprobs(model, one), rtol=0, atol=1e-5)


class _Neighbourly(torch.nn.Module):
    """A layer's gate that also looks at the token before, in whatever sequence it is."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.inner(hidden_BTD + torch.nn.functional.pad(hidden_BTD, (0, 0, 1, -1)))


def leaky() -> Any:
    model = make("Llama")
    model.model.layers[1].mlp = _Neighbourly(model.model.layers[1].mlp)
    return model


class _Stubborn(torch.nn.Module):
    """A layer's attention that always is transformers' own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        inner.config = type(inner.config).from_dict(inner.config.to_dict())
        inner.config._attn_implementation = "sdpa"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def stubborn() -> Any:
    model = make("Llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.mul_(1e-4)  # too little for the eye
    model.model.layers[1].self_attn = _Stubborn(model.model.layers[1].self_attn)
    return model


def test_a_leak_shows_in_half_precision_too():
    model = leaky().bfloat16()
    forward = Forward(model, max_tokens=5000)
    with pytest.warns(UserWarning, match=r"LlamaForCausalLM does not keep.*differ by.*padded"):
        forward.check(NODES[0])
    assert forward.packing is None and forward.is_fast


@pytest.mark.parametrize(("build", "reason"), [(leaky, "differ by"), (stubborn, "1 of 2 layers")])
def test_what_the_configuration_does_not_tell_shows_in_the_check(build, reason):
    model = build()
    forward = Forward(model, max_tokens=5000)
    assert forward.packing is not None
    with pytest.warns(UserWarning, match=f"LlamaForCausalLM does not keep.*{reason}.*padded") as told:
        forward.check(NODES[0])
    assert len(told) == 1 and forward.packing is None and forward.is_fast
    for ours, one in zip(forward(NODES), NODES, strict=True):
        torch.testing.assert_close(ours, plain_logprobs(model, one), rtol=0, atol=1e-5)


def test_full_logits_are_padded_and_told_of_once():
    model = make("Granite", logits_scaling=4.0)
    forward = Forward(model, max_tokens=5000)
    with pytest.warns(UserWarning, match="full logits") as told:
        forward.check(NODES[0])
    assert len(told) == 1 and forward.packing is None and not forward.is_fast
    for ours, one in zip(forward(NODES), NODES, strict=True):
        torch.testing.assert_close(ours, plain_logprobs(model, one), rtol=0, atol=1e-5)


def test_values_are_those_of_each_sequence_alone():
    model = make("Qwen3")
    head = ValueHead(model.config.hidden_size, lr=0.1)
    torch.nn.init.normal_(head.weight)
    model.add_module("value_head", head)
    forward = checked(model)
    shapes = rows(model)
    _, values = forward.with_values(NODES)
    assert values is not None and shapes == [(1, NUM_TOKENS)]
    for ours, one in zip(values, NODES, strict=True):
        hidden_TD = model.model(input_ids=torch.tensor([one.ids])).last_hidden_state[0]
        positions = [i - 1 for start, end in one.spans for i in range(start, end)]
        torch.testing.assert_close(ours, head(hidden_TD[positions]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [60, 5000])
def test_recomputed_activations_give_the_same_gradients(max_tokens):
    model = make("Qwen3", attention_dropout=0.5)
    expected = gradients(model, [plain_logprobs(model, n) for n in NODES])
    prepare(model, recompute=True)
    forward, implementation = checked(model, max_tokens=max_tokens), model.config._attn_implementation
    shapes, calls = rows(model), []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for a, b in zip(gradients(model, forward(NODES)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert len(shapes) == len(pack_together([len(n.ids) for n in NODES], max_tokens))
    assert len(calls) == 2 * len(shapes), "once forward, and once more on the way back"
    assert model.config._attn_implementation == implementation


def test_a_checkpoint_that_would_forget_the_packing_is_padded():
    model = make("Qwen3")
    expected = gradients(model, [plain_logprobs(model, n) for n in NODES])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers has renamed it
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    forward = checked(model)
    shapes = rows(model)
    for a, b in zip(gradients(model, forward(NODES)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert len(shapes) > 1
    model.eval()
    forward(NODES)
    assert shapes[-1] == (1, NUM_TOKENS)


def test_the_models_own_attention_is_back_after_a_pass():
    model = make("Llama", attn_implementation="eager")
    forward = checked(model)
    inside: list[str] = []
    hook = model.model.layers[0].register_forward_hook(lambda *_: inside.append(model.config._attn_implementation))
    forward(NODES)
    assert inside == [NAME] and model.config._attn_implementation == "eager"
    hook.remove()

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        forward(NODES)
    assert model.config._attn_implementation == "eager"


def test_passes_side_by_side_change_no_bit():
    nodes = [node(seed, 2 + seed % 5) for seed in range(24)]
    model = qwen()
    alone, beside = Forward(model, max_tokens=60), Forward(model, max_tokens=60)
    beside.threads = SideBySide(4)
    expected = gradients(model, alone(nodes))
    assert alone.packing is not None and beside.packing is not None
    for _ in range(3):
        for a, b in zip(gradients(model, beside(nodes)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert model.config._attn_implementation == "sdpa"


def test_the_last_pass_to_leave_takes_packed_attention_out():
    model = make("Llama")
    pack = Packing.of(model)
    assert pack is not None
    found = []
    for step in (pack.enter, pack.enter, pack.leave, pack.leave):
        step()
        found.append(model.config._attn_implementation)
    assert found == [NAME, NAME, NAME, "sdpa"]


def test_packed_attention_outside_a_pass_is_refused():
    model = make("Llama")
    pack = Packing.of(model)
    assert pack is not None
    pack.enter()
    with pytest.raises(RuntimeError, match="outside a packed pass"):
        model(input_ids=torch.tensor([NODES[0].ids]))
    pack.leave()
    model(input_ids=torch.tensor([NODES[0].ids]))


@pytest.mark.parametrize("wish", packing.NOT_PACKED)
def test_what_packed_attention_does_not_do_is_refused(wish):
    model = make("Llama")
    attention = model.model.layers[0].self_attn
    forward = Forward(model, max_tokens=5000)
    attention.register_forward_pre_hook(lambda _, a, kwargs: (a, {**kwargs, wish: 1.0}), with_kwargs=True)
    with pytest.raises(NotImplementedError, match=wish):
        forward(NODES)


def test_autocast_rounds_and_does_no_more():
    model = make("Qwen3")
    exact, rounded = checked(model)(NODES), checked(model, autocast=torch.bfloat16)(NODES)
    gap = max((a - b).abs().max().item() for a, b in zip(exact, rounded, strict=True))
    assert 0 < gap < 0.3
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in gradients(model, rounded))
    alone = [Forward(model, max_tokens=1, autocast=torch.bfloat16)([n])[0] for n in NODES]
    for a, b in zip(rounded, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.1)


# ── Torch's kernel, which needs a GPU, with stand-ins that don't ──────────────────────────────────────────────────────


def attend(
    query_THE: Tensor,
    key_TKE: Tensor,
    value_TKE: Tensor,
    *,
    bounds: Tensor,
    longest: int,
    scale: float | None,
    is_causal: bool = True,
    factor: float = 1.0,
) -> Tensor:
    """Attend by a dense mask made of the bounds."""
    times = query_THE.shape[1] // key_TKE.shape[1]
    key_THE, value_THE = (part.repeat_interleave(times, 1) for part in (key_TKE, value_TKE))
    place_T = torch.arange(len(query_THE))
    which_T = torch.bucketize(place_T, bounds[1:], right=True)
    assert longest == bounds.diff().max()
    mask_TT = which_T[:, None] == which_T
    if is_causal:
        mask_TT &= place_T[:, None] >= place_T
    scores_HTT = torch.einsum("ihe,jhe->hij", query_THE, key_THE) * (scale or query_THE.shape[-1] ** -0.5) * factor
    weights_HTT = scores_HTT.float().masked_fill(~mask_TT, float("-inf")).softmax(-1).to(value_THE.dtype)
    return torch.einsum("hij,jhe->ihe", weights_HTT, value_THE)


def across(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, *, bounds: Tensor, **more: Any) -> Tensor:
    """Attend over the last border as if it weren't there."""
    open_bounds = torch.cat([bounds[:-2], bounds[-1:]])
    return attend(query_THE, key_TKE, value_TKE, **{**more, "bounds": open_bounds, "longest": open_bounds.diff().max()})


def without_gradient(query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, **more: Any) -> Tensor:
    """Attend with the right output and no gradient for the keys."""
    return attend(query_THE, key_TKE.detach() + 0 * key_TKE, value_TKE, **more)


def unsupported(*_: Tensor, **__: Any) -> Tensor:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize(
    ("kernel", "is_trusted"),
    [
        (attend, True),
        (partial(attend, is_causal=False), False),
        (partial(attend, factor=1.5), False),
        (across, False),
        (without_gradient, False),
        (unsupported, False),
        (None, False),
    ],
    ids=["right", "not-causal", "scaled", "across", "without-gradient", "unsupported", "absent"],
)
def test_a_kernel_is_trusted_after_a_trial(monkeypatch, kernel, is_trusted, num_key_heads):
    monkeypatch.setattr(packing, "_variable_length_attention", lambda: kernel)
    trial: Callable[..., Any] = trusted_kernel.__wrapped__
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = trial(torch.device("cpu"), torch.bfloat16, 4, num_key_heads, 16)
    assert found is (kernel if is_trusted else None)


@pytest.mark.parametrize("recompute", [False, True])
def test_with_a_kernel_for_all_sequences_at_once_nothing_changes(monkeypatch, recompute):
    calls: list[int] = []

    def counted(*parts: Tensor, **more: Any) -> Tensor:
        calls.append(more["longest"])
        return attend(*parts, **more)

    def at_once(self: Packing, device: torch.device, lengths: Sequence[int]) -> Any:
        return partial(counted, bounds=packing._bounds(lengths, device), longest=max(lengths))

    model = make("Qwen3", num_attention_heads=4, num_key_value_heads=2)
    expected = gradients(model, [plain_logprobs(model, n) for n in NODES])
    monkeypatch.setattr(Packing, "_at_once", at_once)
    prepare(model, recompute=recompute)
    forward = checked(model)
    calls.clear()
    for a, b in zip(gradients(model, forward(NODES)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert calls == [max(len(n.ids) for n in NODES)] * (4 if recompute else 2)


def test_torch_is_asked_for_causal_attention_within_the_bounds():
    """Torch's kernel on tensors without content: it takes these arguments, and has gradients for all three parts."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernel = packing._variable_length_attention()
    if kernel is None:
        pytest.skip("this torch has no variable-length attention with windows, scale and grouped queries")
    with FakeTensorMode():
        shapes = ((30, 4, 16), (30, 2, 16), (30, 2, 16))
        parts = [torch.empty(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
        bounds = torch.empty(3, dtype=torch.int32)
        out_THE = kernel(*parts, bounds=bounds, longest=20, scale=0.5)
        grads = torch.autograd.grad(out_THE.sum(), parts)
    assert out_THE.shape == shapes[0] and [grad.shape for grad in grads] == list(shapes)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2)])
def test_on_a_gpu_torchs_kernel_is_trusted_and_used(monkeypatch, heads, key_heads):
    device = torch.device("cuda")
    assert trusted_kernel(device, torch.bfloat16, heads, key_heads, 64) is not None
    nodes = [Encoded(n.ids * 20, n.spans) for n in NODES]
    model = make("Qwen3", hidden_size=256, num_attention_heads=heads, num_key_value_heads=key_heads, head_dim=64)
    model = model.to(device)
    forward = checked(model, autocast=torch.bfloat16)
    ours = gradients(model, forward(nodes))
    monkeypatch.setattr(Packing, "_at_once", lambda *_: None)
    for a, b in zip(ours, gradients(model, forward(nodes)), strict=True):
        assert (a - b).abs().max() <= 0.05 * b.abs().max()
