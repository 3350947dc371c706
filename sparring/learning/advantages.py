"""Trajectories and rewards come in, groups with their samples go out: what policy gradient learns from.

GRPO compares each trajectory with the others of its task, and all of its tokens get the same advantage. PPO asks a
value head before every token, and takes the distance from the reference off the reward on the way.

Trajectories stay as they are. What is computed with a model (the reference's log-probabilities, values) is written to
the phase's folder first, so that a resumed training goes on with the same numbers on any hardware.

Source: arXiv 2402.03300, section 4.1 (GRPO); 2203.02155, Eq. 2 (the KL in the reward); 1506.02438 (advantages).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.core.errors import DataError
from sparring.core.filters import by_task, usable
from sparring.core.types import Trajectory
from sparring.data.batches import Group, Sample, groups_from_samples, num_action_tokens
from sparring.data.chat import Encoded
from sparring.engines.checkpoint import keep_tensors, kept_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from sparring.engines.base import Compute, Learner

Encode = Callable[[Trajectory], Encoded | None]
"""Answers none for a trajectory that exceeds the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """How an episode's reward becomes its tokens' advantages, with a critic."""

    kl_weight: float = 0.1
    """What a nat of log π / π_ref costs, token by token."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """Share of what comes later that is taken as it came, not as the value head sees it."""
    value_lr: float = 0.01
    """The value head's own learning rate: about how far a value moves in an optimizer step."""
    is_sampled: bool = True
    """π_old is what the tokens were sampled from; else the agent as training begins, however old the trajectories."""
    is_corrected: bool = False
    """π_old is the agent as training begins, and what a server sampled from is told from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model says of trajectories' action tokens; by trajectory id, shape N each, on the CPU."""

    logprobs: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    """Empty for a model without a value head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """In how many groups of a round rewards differ: the others teach nothing by comparison."""

    num_groups: int
    num_flat: int
    """Groups whose rewards are all alike; one episode alone is such a group."""
    num_failed: int
    """Flat groups whose rewards are all 0."""

    @staticmethod
    def of(trajectories: Sequence[Trajectory]) -> Spread:
        """Count the groups of what is usable."""
        rewards = [{one.reward for one in group} for group in by_task(usable(trajectories)).values()]
        flat = [found for found in rewards if len(found) == 1]
        return Spread(num_groups=len(rewards), num_flat=len(flat), num_failed=flat.count({0.0}))

    def __str__(self) -> str:
        """Say what is missing; meant for a spread with flat groups."""
        others = self.num_flat - self.num_failed
        kinds = [f"all rewards 0 in {self.num_failed}" if others else "all rewards 0"] if self.num_failed else []
        kinds += [f"all rewards alike in {others}" if self.num_failed else "all rewards alike"] if others else []
        return f"nothing to learn from in {self.num_flat} of {self.num_groups} groups ({', '.join(kinds)})"

    def record(self) -> dict[str, int]:
        """Return the counts as a log has them."""
        return {"groups": self.num_groups, "groups_flat": self.num_flat, "groups_failed": self.num_failed}


def mean_reward(trajectories: Sequence[Trajectory]) -> float:
    """Average the rewards of what is usable; 0 if nothing is."""
    rewards = [trajectory.reward for trajectory in usable(trajectories)]
    return sum(rewards) / len(rewards) if rewards else 0.0


def advantages_by_task(trajectories: Sequence[Trajectory], *, is_scaled: bool = True) -> dict[str, float]:
    """Grade each trajectory against the others of its task: trajectory id → advantage.

    Rewards 0 and 1 on one task, .5 and .5 on another: −.71, .71, 0, 0.

    Args:
        trajectories: broken ones are left out, of their task's mean too.
        is_scaled: as in `losses.group_advantages`.
    """
    import torch

    from sparring.learning.losses import group_advantages

    advantages: dict[str, float] = {}
    for group in by_task(usable(trajectories)).values():
        rewards_K = torch.tensor([trajectory.reward for trajectory in group], dtype=torch.float64)
        own_K = group_advantages(rewards_K, is_scaled=is_scaled).tolist()
        advantages.update(zip((trajectory.id for trajectory in group), own_K, strict=True))
    return advantages


def groups_with_advantages(
    trajectories: Sequence[Trajectory],
    advantages: Mapping[str, float],
    encode: Encode,
    reference: Scores | None,
    own: Scores | None = None,
) -> list[Group]:
    """Give every token of a trajectory the trajectory's advantage.

    Args:
        trajectories: those without an advantage are left out.
        advantages: trajectory id → advantage.
        encode: makes the nodes.
        reference: the reference's scores, where there is a KL term.
        own: the learner's scores as training begins, where they are told from those that the tokens were sampled at.
    """
    samples = []
    for trajectory, node in encoded(trajectories, encode):
        if trajectory.id not in advantages:
            continue
        sampled = sampled_logprobs(trajectory, node)
        sample = Sample(
            advantages=(advantages[trajectory.id],) * num_action_tokens(node),
            logprobs=tuple(own.logprobs[trajectory.id].tolist()) if own else sampled,
            sampled=sampled if own else (),
            reference=tuple(reference.logprobs[trajectory.id].tolist()) if reference else (),
        )
        samples.append((trajectory.task.id, node, sample))
    return groups_from_samples(samples)


def groups_with_critic(
    trajectories: Sequence[Trajectory],
    encode: Encode,
    scores: Scores,
    reference: Scores | None,
    credit: Credit,
) -> list[Group]:
    """Give every token the advantage that the value head and what came after it say, and the return to learn.

    A token's reward is −kl_weight · log(π_old / π_ref), and the episode's reward on top at its last action token.
    Advantages are brought to mean 0 and standard deviation 1 over all tokens.

    Args:
        trajectories: what was played.
        encode: makes the nodes.
        scores: those of the agent as training begins, with its value head.
        reference: those of the reference; none where the KL costs nothing.
        credit: how rewards become advantages.
    """
    import torch

    from sparring.learning.losses import discounted_advantages

    rows: list[tuple[str, Encoded, dict[str, Tensor]]] = []
    for trajectory, node in encoded(trajectories, encode):
        values_N = scores.values[trajectory.id].double()
        columns = {"values": values_N, **_old_logprobs(trajectory, node, scores, credit)}
        rewards_N = torch.zeros_like(values_N)
        if reference:
            columns["reference"] = reference.logprobs[trajectory.id].double()
            rewards_N = -credit.kl_weight * (columns["logprobs"] - columns["reference"])
        rewards_N[-1] += trajectory.reward
        columns["advantages"] = discounted_advantages(rewards_N, values_N, gamma=credit.gamma, lam=credit.lam)
        columns["returns"] = columns["advantages"] + values_N
        rows.append((trajectory.task.id, node, columns))
    if not rows:
        return []
    advantages_N = torch.cat([columns["advantages"] for _, _, columns in rows])
    mean, deviation = advantages_N.mean(), advantages_N.std(correction=0) + 1e-8
    for _, _, columns in rows:
        columns["advantages"] = (columns["advantages"] - mean) / deviation
    return groups_from_samples(
        (task_id, node, Sample(**{name: tuple(column.tolist()) for name, column in columns.items()}))
        for task_id, node, columns in rows
    )


def _old_logprobs(trajectory: Trajectory, node: Encoded, scores: Scores, credit: Credit) -> dict[str, Tensor]:
    """Return log π_old as `logprobs`, and what a server sampled at as `sampled` where the two are told apart."""
    import torch

    own_N = scores.logprobs[trajectory.id].double()
    if not credit.is_sampled:
        return {"logprobs": own_N}
    sampled_N = torch.tensor(sampled_logprobs(trajectory, node), dtype=torch.float64)
    return {"logprobs": own_N, "sampled": sampled_N} if credit.is_corrected else {"logprobs": sampled_N}


def score(learner: Learner, trajectories: Sequence[Trajectory], encode: Encode, path: Path, compute: Compute) -> Scores:
    """Compute log π of each trajectory's action tokens, and values where the learner has a value head.

    Args:
        learner: is asked, with its weights as they are.
        trajectories: what to score; those that `encode` refuses are left out.
        encode: makes the nodes.
        path: a safetensors file that keeps the result; if it is there, it is read and the learner is not asked.
        compute: memory, precision, and the temperature of the log-probabilities.
    """
    if (known := read_scores(path)) is not None:
        return known
    found = encoded(trajectories, encode)
    logprobs, values = learner.score([node for _, node in found], compute)
    columns = {"logprobs": logprobs, "values": values or []}
    rows = {
        f"{name}/{trajectory.id}": row.cpu().clone()
        for name, column in columns.items()
        for (trajectory, _), row in zip(found, column, strict=False)
    }
    keep_tensors(path, rows)
    return _scores(rows)


def read_scores(path: Path) -> Scores | None:
    """Read what `score` wrote; none where it is not there or not whole."""
    rows = kept_tensors(path)
    return None if rows is None else _scores(rows)


def _scores(rows: Mapping[str, Tensor]) -> Scores:
    columns: dict[str, dict[str, Tensor]] = {"logprobs": {}, "values": {}}
    for key, row in rows.items():
        name, _, trajectory_id = key.partition("/")
        columns[name][trajectory_id] = row
    return Scores(**columns)


def encoded(trajectories: Sequence[Trajectory], encode: Encode) -> list[tuple[Trajectory, Encoded]]:
    """Encode what is usable and fits the context."""
    nodes = ((trajectory, encode(trajectory)) for trajectory in usable(trajectories))
    return [(trajectory, node) for trajectory, node in nodes if node is not None]


def sampled_logprobs(trajectory: Trajectory, node: Encoded) -> tuple[float, ...]:
    """Return log π of the action tokens as they were sampled.

    Raises:
        DataError: the trajectory was played by someone who kept none.
    """
    logprobs = tuple(value for turn in trajectory.turns for value in turn.logprobs)
    if len(logprobs) != num_action_tokens(node):
        raise DataError(
            f"Trajectory {trajectory.id!r} has {len(logprobs)} sampled log-probabilities for {num_action_tokens(node)} "
            "action tokens: policy gradient needs episodes that a local policy sampled with `keep_logprobs`."
        )
    return logprobs
