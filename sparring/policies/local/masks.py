"""Attention masks of rows that are filled at positions of their own: which positions a token sees, as models take it.

Conventions are those of transformers: a mask is added to attention scores, and a model whose configuration has types of
layers takes one mask a type. Whether a model keeps to them shows in its trial.

Shapes: B rows, T new tokens, W positions seen (the row's, from 0 on).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


class Masks:
    """Makes a model's masks."""

    def __init__(self, model: PreTrainedModel, max_positions: int) -> None:
        config = model.config.get_text_config()
        layer_types = getattr(config, "layer_types", None) or ()
        window = getattr(config, "sliding_window", None)
        slides = window and window < max_positions and (not layer_types or "sliding_attention" in layer_types)
        self._window: int | None = window if slides else None
        self._takes_one_a_type = bool(layer_types)
        self._dtype = model.dtype
        self._floor = torch.finfo(model.dtype).min

    def causal(self, position_BT: Tensor, num_seen: int) -> Tensor:
        """Return the mask under which each token sees its row up to its own position, mask_B1TW."""
        seen_BTW = torch.arange(num_seen, device=position_BT.device) <= position_BT[:, :, None]
        mask_BTW = torch.full(seen_BTW.shape, self._floor, dtype=self._dtype, device=position_BT.device)
        return mask_BTW.masked_fill_(seen_BTW, 0.0)[:, None]

    def as_taken(self, position_BT: Tensor, mask_B1TW: Tensor) -> Any:
        """Return a causal mask as the model takes it, with the window of layers that have one."""
        if self._window is None:
            return mask_B1TW
        far_BTW = torch.arange(mask_B1TW.shape[-1], device=position_BT.device) <= position_BT[..., None] - self._window
        near_B1TW = mask_B1TW.masked_fill(far_BTW[:, None], self._floor)
        return {"full_attention": mask_B1TW, "sliding_attention": near_B1TW} if self._takes_one_a_type else near_B1TW
