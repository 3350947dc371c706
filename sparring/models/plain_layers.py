"""Which models have the plain layers of the Llama and Qwen3 families, for which there is a lean forward of our own."""

from __future__ import annotations

from typing import Any

from sparring.models.rope import has_static_rope

FAMILIES = ("llama", "qwen3")


def has_plain_layers(model: Any) -> bool:
    """Say whether a model's layers are those of the families: causal, gated by SiLU, without biases or windows."""
    config = model.config
    return (
        config.model_type in FAMILIES
        and config.hidden_act == "silu"
        and has_static_rope(model)
        and not getattr(config, "attention_bias", False)
        and not getattr(config, "mlp_bias", False)
        and getattr(model.get_output_embeddings(), "bias", None) is None
        and not any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    )
