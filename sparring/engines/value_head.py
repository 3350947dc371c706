"""A value head for PPO: a linear layer on the policy's last hidden states, kept beside the policy's checkpoint.

While an agent learns, the head hangs on its model as the submodule `value_head`: optimizer, saved states and the
gradient's norm then see one set of parameters, and `Forward` finds it there. It is taken off before the model is saved
or plays, so a checkpoint is an ordinary folder with one more file in it, which playing does not read.

Source: arXiv 1707.06347, section 3 (a network that shares its body between policy and value).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.core.errors import DataError
from sparring.engines.checkpoint import read_tensors, write_tensors

FILE = "value_head.safetensors"
"""The head's file in a checkpoint's folder."""


class ValueHead(torch.nn.Module):
    """v = w·h / D + b, the same everywhere to begin with.

    Divided by the width D, since an optimizer like Adam moves every weight by about its rate: a value then moves by
    about `lr` times the hidden state's mean size, whatever the width.
    """

    def __init__(self, width: int, *, lr: float) -> None:
        """Args:
        width: D, the model's.
        lr: learning rate of the head alone.
        """
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.lr = lr
        self.is_new = True
        """Whether it has never learnt, nor been told what to expect."""

    def expect(self, value: float) -> None:
        """Begin with this value everywhere.

        The mean reward is the place to begin. From 0 every episode would look like luck, the more so towards its end,
        and the first round would teach whatever stands at the end of episodes, mistakes included.
        """
        torch.nn.init.constant_(self.bias, value)
        self.is_new = False

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return values, shape N, in the precision of the weights."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return hidden_ND.to(self.weight.dtype) @ self.weight / len(self.weight) + self.bias


def load(model: Any, checkpoint: Path, *, lr: float) -> ValueHead:
    """Return the value head in a checkpoint's folder, or a new one, beside the model's weights.

    Raises:
        DataError: the file is unreadable or belongs to a model of another width.
    """
    # The last hidden states may be narrower than `hidden_size` (OPT-350m): as wide as what the language head takes.
    weight = model.get_output_embeddings().weight
    head = ValueHead(weight.shape[-1], lr=lr)
    path = checkpoint / FILE
    if path.is_file():
        saved = read_tensors(path)
        if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in head.state_dict().items()}:
            raise DataError(f"{path}: a value head of another model. Delete it to start with a new one.")
        head.load_state_dict(saved)
        head.is_new = False
    return head.to(weight.device)


def save(head: ValueHead, checkpoint: Path) -> None:
    """Write the head into a checkpoint's folder."""
    write_tensors(checkpoint / FILE, dict(head.state_dict()))
