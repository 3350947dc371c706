"""What a trainer asks of whoever holds live weights: the protocols of engines and learners, and what an objective is.

The verbs are those of the Tinker API, so that weights may live in this process, on many devices or behind a server. A
learner holds one agent's weights. Losses are sums divided by a denominator that is known beforehand, so that parts of a
step add up wherever they were computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sparring.core.errors import TrainingError
from sparring.data.batches import Group

if TYPE_CHECKING:
    from torch import Tensor

    from sparring.data.chat import Chat, Encoded
    from sparring.policies.base import AnyPolicy
    from sparring.policies.completions import ChatServer
    from sparring.policies.factory import Sampling

Metrics = dict[str, tuple[float, float]]
"""Per name, a sum and the count to divide it by; so metrics of parts add up. A name that ends in `_max` has a maximum
and 1."""


def add_metrics(total: Metrics, part: Metrics) -> None:
    """Add the metrics of a part to those of the whole."""
    for name, (value, count) in part.items():
        if name.endswith("_max"):
            total[name] = (max(value, total.get(name, (value, 1))[0]), 1)
        else:
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + value, before[1] + count)


class Objective(Protocol):
    """What a trainer minimises: per step, the sum of its groups' losses over the sum of their weights."""

    @property
    def needs_reference(self) -> bool:
        """Whether the log-probabilities of the policy as training begins are used."""
        ...

    @property
    def temperature(self) -> float:
        """The temperature at which log-probabilities are taken."""
        ...

    def size(self, group: Group) -> int:
        """Count what `TrainConfig.batch_size` counts."""
        ...

    def weight(self, group: Group) -> float:
        """Return the group's part of the loss's denominator."""
        ...

    def teaches(self, group: Group) -> bool:
        """Say whether the group's loss can have a gradient. One that can't counts in the denominator alone."""
        ...

    def __call__(
        self,
        groups: Sequence[Group],
        logprobs: Sequence[Tensor],
        reference: Sequence[Tensor] | None,
        values: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Sum the loss over groups.

        Args:
            groups: their nodes, one after the other, are what the next two run over.
            logprobs: per node, log π of its action tokens, shape N.
            reference: likewise of the reference, without gradient.
            values: per node, the value head's value before each action token; none for a model without one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How a learner computes: what a training's settings say of memory, precision and its optimizer."""

    max_tokens_per_batch: int = 8192
    """Tokens whose activations are kept at once."""
    autocast: Literal["auto", "off"] = "auto"
    """Multiply in bfloat16 on a GPU that does so natively."""
    recompute: bool | None = False
    """Recompute activations in the backward pass; none: if the model is large."""
    router_balance: float = 0.0
    """Weight of a mixture of experts' auxiliary loss."""
    weight_decay: float = 0.0
    """Decoupled, on matrices alone."""
    peak_lr: float = 1e-5
    """The highest learning rate of the training: a value head's own rate keeps its proportion to it."""
    temperature: float = 1.0
    """Divides the logits; log-probabilities are those of sampling at it."""


Scored = tuple[list["Tensor"], list["Tensor"] | None]
"""Per node, log π of its action tokens, shape N; likewise the value before each, none without a value head."""


class NotFiniteError(TrainingError):
    """A loss or a gradient norm is not finite. No weight was changed."""

    def __init__(self, what: str, value: float, groups: Sequence[Group]) -> None:
        super().__init__(f"{what} is {value}")
        self.groups = groups
        """Where it happened."""


class Engine(Protocol):
    """Gives out learners and policies. Where the weights of a checkpoint live already, nothing is read."""

    def learner(self, checkpoint: str, *, seed: int, moments: Path | None = None) -> tuple[Learner, Chat]:
        """Return a learner that begins at a checkpoint's weights, and the chat of its tokenizer.

        Args:
            checkpoint: a folder, a Hub id or a bundled model's name.
            seed: of what a new adapter draws, where there are adapters.
            moments: where the optimizer's state lies that a continued training goes on from, if anywhere.
        """
        ...

    def trained(self, learner: Learner, checkpoint: str) -> None:
        """Take note that a learner's weights are those of another checkpoint now."""
        ...

    def hold(self, num_agents: int) -> None:
        """Keep the weights of at most so many agents alive from now on, where each has large ones of its own."""
        ...

    def forget(self, checkpoint: str) -> None:
        """Let the weights go that were a checkpoint's, or were so until a training that failed."""
        ...

    def policy(self, checkpoint: str, sampling: Sampling, *, moments: Path | None = None) -> AnyPolicy:
        """Return a policy that plays with a checkpoint's weights, as long as no training changes them."""
        ...

    def chat_server(self) -> ChatServer | None:
        """Return a server that answers chat messages with the base model, once a policy was asked for; none: there is
        none."""
        ...

    def close(self) -> None:
        """End what the engine has started outside of this process."""
        ...


class Learner(Protocol):
    """Holds one agent's live weights."""

    def score(self, nodes: Sequence[Encoded], compute: Compute) -> Scored:
        """Compute log π of each node's action tokens, and values where there is a value head, without gradients."""
        ...

    def attach_value_head(self, *, lr: float, expected: float) -> None:
        """Go on with the value head that the weights came with, or with a new one.

        Args:
            lr: the head's own learning rate.
            expected: what a new head says everywhere.
        """
        ...

    def check_savable(self) -> None:
        """Find out before training whether the result can be saved.

        Raises:
            ModelError: it can't.
        """
        ...

    def is_rounded(self, autocast: Literal["auto", "off"]) -> bool:
        """Say whether the agent plays, trains or is saved in half precision."""
        ...

    def publish(self, folder: Path, *, moments: Path | None = None) -> None:
        """Write the weights as an ordinary checkpoint folder, whole or not at all.

        Args:
            moments: a file for the optimizer's state, for a training that goes on from it; none: it is forgotten.
        """
        ...

    def training(
        self, compute: Compute, sample: Encoded, *, is_continued: bool = False
    ) -> AbstractContextManager[None]:
        """Make ready for the calls below, with an optimizer of its own, until the context ends.

        Args:
            compute: how to compute.
            sample: a trajectory on which fast paths are compared with the model's own forward.
            is_continued: the optimizer goes on from where the last training left it.
        """
        ...

    def logprobs(self, nodes: Sequence[Encoded]) -> list[Tensor]:
        """Compute log π of each node's action tokens with the weights as they are, without gradients."""
        ...

    def forward_backward(
        self,
        groups: Sequence[Group],
        objective: Objective,
        reference: Sequence[Sequence[Tensor]] | None,
        denominator: float,
    ) -> tuple[float, Metrics]:
        """Add the gradients of the groups' loss, and return the loss and its metrics.

        Args:
            groups: of one step, or a part of it.
            objective: what to minimise.
            reference: per group and node, log π_ref; none where the objective needs none.
            denominator: what the sum of losses is divided by.

        Raises:
            NotFiniteError: a loss is not finite; gradients are cleared.
        """
        ...

    def step(self, lr: float, clip_norm: float | None) -> float:
        """Take an optimizer step, and return the norm of the gradient before clipping.

        Raises:
            NotFiniteError: the norm is not finite; weights stay, and gradients are cleared.
        """
        ...

    def save_state(self, folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
        """Write all that resuming this training needs, in the place of what was written before."""
        ...

    def load_state(self, folder: Path) -> tuple[int, dict[str, Any]] | None:
        """Go on from the newest whole state in a folder: return its step and numbers; none where there is none."""
        ...
