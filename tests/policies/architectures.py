"""Tiny random models of many architectures, for tests of what plays them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

WINDOW = 12
"""How many tokens back a layer with a window sees."""
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 64,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "word_embed_proj_dim": 32,
    "attention_hidden_size": 32,
    "lru_width": 32,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "context_length": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "sliding_window": WINDOW,
    "window_size": WINDOW,
    "attention_window_size": WINDOW,
    "local_attention": WINDOW,
    "attention_chunk_size": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "state_size": 8,
    "mamba_d_state": 8,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "n_groups": 1,
    "mamba_n_groups": 1,
    "expand": 2,
    "mamba_expand": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "time_step_rank": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
"""Under all the names that configurations have for them; each takes those that it knows."""
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"topk_method": "greedy"},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_dt_rank": 4,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]},
}
"""What some architectures need besides."""


def tiny(kind: str, num_tokens: int, **changes: Any) -> Any:
    """Make a model by the name that its architecture has at transformers."""
    make = CONFIG_MAPPING[kind]
    renamed = getattr(make, "attribute_map", {})
    known = set(inspect.signature(make.__init__).parameters) | set(renamed) | set(make().to_dict())
    sizes = {name: size for name, size in SIZES.items() if name in known and renamed.get(name) not in SIZES}
    torch.manual_seed(0)
    config = make(**{**sizes, "vocab_size": num_tokens, **SPECIAL.get(kind, {}), **changes})
    return AutoModelForCausalLM.from_config(config).float().eval()
