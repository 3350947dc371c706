"""How evenly a mixture of experts uses its experts: the auxiliary loss of its training, for any transformers model.

Routers are found by what the model's class says it can record (`router_logits`). Padding is left out.

Source: arXiv 2101.03961, Eq. 4 (for more than one expert a token as transformers has it: all layers' tokens together).
Shapes: N tokens of all layers, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.core.errors import ConfigError


class Balance:
    """Gathers router logits while it is open."""

    def __init__(self, model: Any) -> None:
        """Hang on to a model's routers.

        Raises:
            ConfigError: it has none.
        """
        recorder = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
        kind = getattr(recorder, "target_class", None)
        routers = [part for part in model.modules() if kind is not None and isinstance(part, kind)]
        if not routers:
            raise ConfigError(f"router_balance: {type(model).__name__} has no routers. Set it to 0.")
        self._index = getattr(recorder, "index", 0)
        self._num_chosen: int = model.config.get_text_config().num_experts_per_tok
        self._gathered: list[tuple[Tensor, Tensor | None]] = []
        self._real_N: Tensor | None = None
        self.is_open = False
        self._hooks = [router.register_forward_hook(self._gather) for router in routers]

    def close(self) -> None:
        """Let go of the routers."""
        for hook in self._hooks:
            hook.remove()

    def begin_pass(self, real_N: Tensor | None) -> None:
        """Take the next pass's tokens where `real_N` is true; all of them if it is none."""
        self._real_N = real_N

    def take(self) -> Tensor:
        """Return the loss over all that was gathered, and forget it."""
        # Cut here and not in the layer, whose recomputation would have to do the same.
        logits_NE = torch.cat([one if real_N is None else one[real_N] for one, real_N in self._gathered]).float()
        self._gathered = []
        probability_NE = logits_NE.softmax(-1)
        chosen_NE = torch.zeros_like(logits_NE).scatter_(1, probability_NE.topk(self._num_chosen).indices, 1.0)
        return logits_NE.shape[1] * (chosen_NE.mean(0) * probability_NE.mean(0)).sum()

    def _gather(self, _: Any, __: Any, out: Any) -> None:
        if self.is_open and torch.is_grad_enabled():
            logits = out[self._index] if isinstance(out, tuple) else out
            self._gathered.append((logits.flatten(0, -2), self._real_N))
