"""Log-softmax of a language model's head at given targets, without all logits in memory at once.

Shapes: N action tokens, D width of the model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class _TokenLogprobs(torch.autograd.Function):
    """Log-softmax of a linear head at given targets, in chunks whose logits are made again for backward.

    With p = softmax(W h + b) and target t: d log p_t / d logits = onehot(t) - p, so backward needs p alone, and p needs
    only the saved log-normaliser.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        chunk: int,
    ) -> Tensor:
        logprobs, normalisers = [], []
        for h, t in zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True):
            logits = functional.linear(h, weight_VD, bias_V)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            normaliser = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, t.unsqueeze(-1)).squeeze(-1) - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, torch.cat(normalisers))
        ctx.chunk = chunk
        return torch.cat(logprobs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_ND, weight_VD, bias_V, targets_N, normalisers_N = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grads_hidden = []
        grad_weight = torch.zeros_like(weight_VD, dtype=normalisers_N.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=normalisers_N.dtype) if needs_bias else None
        parts = (x.split(ctx.chunk) for x in (hidden_ND, targets_N, normalisers_N, grad_outputs[0]))
        for h, t, normaliser, grad_logprobs in zip(*parts, strict=True):
            logits = functional.linear(h, weight_VD, bias_V).to(normaliser.dtype)
            grad = grad_logprobs.unsqueeze(-1).to(normaliser.dtype)
            grad_logits = logits.sub_(normaliser.unsqueeze(-1)).exp_().mul_(-grad)
            grad_logits.scatter_add_(-1, t.unsqueeze(-1), grad)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            grad_logits = grad_logits.to(h.dtype)
            if needs_hidden:
                grads_hidden.append(grad_logits @ weight_VD)
            if grad_weight is not None:
                grad_weight += grad_logits.T @ h
        return (
            torch.cat(grads_hidden) if needs_hidden else None,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
            None,
        )


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    chunk: int = 1024,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute log π(target) of a linear head without ever holding the logits of more than `chunk` tokens.

    With hidden (1, 0), head rows (log 3, 0) and (0, 0), target 0: log(3 / (3 + 1)) = -0.2877.

    Args:
        hidden_ND: last hidden states at the positions that predict the action tokens.
        weight_VD: the head's weight, tied or not. Multiplied in the dtype of autocast where that is on.
        targets_N: the action tokens' ids.
        chunk: action tokens per piece; bounds memory at chunk · V floats, forward and backward.
        bias: the head's bias, shape V.

    Returns:
        Log-probabilities in nats, shape N, float32 (float64 for float64 input).
    """
    if targets_N.numel() == 0:
        return hidden_ND.sum(-1)
    device_type = hidden_ND.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(device_type, enabled=False):
        return _TokenLogprobs.apply(hidden_ND, weight_VD, bias, targets_N, chunk)  # type: ignore[no-any-return]
