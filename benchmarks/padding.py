"""A small model goes in, a large one that computes the same goes out: real episodes at the cost of a larger model.

Every dimension is filled up with zeros: further hidden channels stay zero, further heads and layers add nothing. Each
matrix product still runs at its full size. The logits are the small model's up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch

WIDTH, HEADS, KV_HEADS, MLP, LAYERS = 768, 16, 8, 3072, 12
"""The padded Qwen3 model has 108 million parameters, 1.6 of them in the bundled vocabulary's embedding."""


def padded(model: Any) -> Any:
    """Return a padded copy of a small Qwen3 model."""
    from transformers import Qwen3ForCausalLM

    small = model.config
    assert small.num_attention_heads // small.num_key_value_heads == HEADS // KV_HEADS, "heads would share other keys"
    shrink = small.hidden_size / WIDTH  # the mean of squares runs over more channels than carry anything
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    sizes |= {"intermediate_size": MLP, "num_hidden_layers": LAYERS, "max_window_layers": LAYERS}
    config = type(small).from_dict({**small.to_dict(), **sizes, "layer_types": None})
    config.rms_norm_eps = small.rms_norm_eps * shrink
    large = Qwen3ForCausalLM(config).to(model.dtype).eval()
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.zero_()
        values = dict(model.named_parameters())
        for name, parameter in large.named_parameters():
            if name not in values:
                continue
            corner = tuple(slice(size) for size in values[name].shape)
            is_hidden_norm = parameter.dim() == 1 and parameter.shape[0] == WIDTH
            parameter[corner] = values[name] * (shrink**0.5 if is_hidden_norm else 1.0)
    large.tie_weights()
    return large
