"""Pairs or trajectories come in, batches go out: task groups of encoded trajectories, cut to a token budget.

A group is a small graph: its nodes are the distinct trajectories of a task, its edges the preference pairs between
them. A node is forwarded once however many edges it belongs to, and only up to the last turn that any of them counts;
an edge's cut side is a prefix of its node's log-probabilities.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING

from sparring.core.types import PairKind, PreferencePair, Trajectory

if TYPE_CHECKING:
    from sparring.data.chat import Encoded

MAX_PADDING = 0.1
"""Sequences share a forward pass while padding stays under this share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A preference between two nodes of a group."""

    chosen: int
    """Index of the preferred node."""
    rejected: int
    """Index of the other."""
    chosen_turns: int
    """How many of its turns count."""
    rejected_turns: int
    """How many of the rejected side's count."""
    kind: PairKind
    """Which two parties are compared; it selects the weights of Eq. 9."""
    shared_turns: int = 0
    """Leading turns in which both sides have the same tokens: they cancel in every difference of summed log-probs."""
    weight: float = 1.0
    """What the pair's loss is multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What policy gradient knows of a node besides its tokens: a number per action token, in the order of the spans.

    All of it was fixed before training began, so it lies beside the node and is not computed again.
    """

    advantages: tuple[float, ...]
    """How much better than expected the action was."""
    logprobs: tuple[float, ...]
    """log π_old: under the policy that the importance ratio compares with."""
    sampled: tuple[float, ...] = ()
    """log-probabilities that a server drew at, where `logprobs` are the learner's own; else empty."""
    reference: tuple[float, ...] = ()
    """log π_ref; empty where the objective has no KL term."""
    values: tuple[float, ...] = ()
    """What the value head expected; empty where there is none."""
    returns: tuple[float, ...] = ()
    """What it should have expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The trajectories of one task that are trained on together, each once."""

    task_id: str
    """For messages."""
    nodes: tuple[Encoded, ...]
    """Distinct trajectories."""
    edges: tuple[Edge, ...] = ()
    """Preferences between them; none for cloning and policy gradient."""
    samples: tuple[Sample, ...] = ()
    """One per node for policy gradient, else none."""

    @property
    def num_tokens(self) -> int:
        """Tokens to forward."""
        return sum(len(node.ids) for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimizer step sees."""

    epoch: int
    """From 1."""
    groups: tuple[int, ...]
    """Indices of its groups."""


def turn_offsets(node: Encoded) -> list[int]:
    """Count the action tokens before each turn, and in all: spans (3,5) and (9,12) give 0, 2, 5."""
    return [0, *accumulate(end - start for start, end in node.spans)]


def num_action_tokens(node: Encoded) -> int:
    """Count the tokens that carry probability."""
    return sum(end - start for start, end in node.spans)


def shared_turns(a: Encoded, b: Encoded) -> int:
    """Count the leading turns whose tokens, observations included, are the same in both."""
    num = 0
    for span_a, span_b in zip(a.spans, b.spans, strict=False):
        if span_a != span_b or a.ids[: span_a[1]] != b.ids[: span_b[1]]:
            break
        num += 1
    return num


def groups_from_trajectories(
    trajectories: Iterable[Trajectory], encode: Callable[[Trajectory], Encoded | None]
) -> list[Group]:
    """Make one group per trajectory, for cloning.

    Args:
        trajectories: what to clone.
        encode: answers none for a trajectory that exceeds the model's context; it is left out.
    """
    encoded = ((trajectory, encode(trajectory)) for trajectory in trajectories)
    return [Group(task_id=t.task.id, nodes=(node,)) for t, node in encoded if node is not None and node.spans]


def groups_from_samples(samples: Iterable[tuple[str, Encoded, Sample]]) -> list[Group]:
    """Make one group per trajectory, for policy gradient: its task's id, its tokens and what is known of them.

    Advantages are known already, so the trajectories of a task need not share a batch.
    """
    groups = []
    for task_id, node, sample in samples:
        num = num_action_tokens(node)
        assert len(sample.advantages) == len(sample.logprobs) == num, "one number per action token"
        groups.append(Group(task_id=task_id, nodes=(node,), samples=(sample,)))
    return groups


def groups_from_pairs(pairs: Sequence[PreferencePair], encode: Callable[[Trajectory], Encoded | None]) -> list[Group]:
    """Make one group per task, every distinct trajectory in it once, cut after the last turn that a pair counts.

    Args:
        pairs: their trajectories' ids tell which of them are the same.
        encode: answers none for a trajectory that exceeds the model's context; its pairs are left out.
    """
    needed: dict[str, tuple[Trajectory, int]] = {}
    for pair in pairs:
        for trajectory, turns in ((pair.chosen, pair.chosen_turns), (pair.rejected, pair.rejected_turns)):
            needed[trajectory.id] = (trajectory, max(turns, needed.get(trajectory.id, (None, 0))[1]))
    encoded = {trajectory_id: (encode(trajectory), turns) for trajectory_id, (trajectory, turns) in needed.items()}
    nodes = {trajectory_id: cut(node, turns) for trajectory_id, (node, turns) in encoded.items() if node is not None}
    tasks: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        if pair.chosen.id in nodes and pair.rejected.id in nodes:
            tasks.setdefault(pair.chosen.task.id, []).append(pair)
    return [_group(task_id, task_pairs, nodes) for task_id, task_pairs in tasks.items()]


def cut(node: Encoded, num_turns: int) -> Encoded:
    """Keep the tokens up to the end of a turn: under causal attention their log-probabilities stay the same."""
    assert 0 < num_turns <= len(node.spans), "a side counts turns that its trajectory has"
    return replace(node, ids=node.ids[: node.spans[num_turns - 1][1]], spans=node.spans[:num_turns])


def _group(task_id: str, pairs: Sequence[PreferencePair], nodes: dict[str, Encoded]) -> Group:
    ids = list(dict.fromkeys(t.id for pair in pairs for t in (pair.chosen, pair.rejected)))
    edges = tuple(
        Edge(
            chosen=ids.index(pair.chosen.id),
            rejected=ids.index(pair.rejected.id),
            chosen_turns=pair.chosen_turns,
            rejected_turns=pair.rejected_turns,
            kind=pair.kind,
            shared_turns=shared_turns(nodes[pair.chosen.id], nodes[pair.rejected.id]),
            weight=pair.weight,
        )
        for pair in pairs
    )
    return Group(task_id=task_id, nodes=tuple(nodes[i] for i in ids), edges=edges)


def plan_steps(sizes: Sequence[int], *, batch_size: int, epochs: int, seed: int, shuffle: bool = True) -> list[Step]:
    """Deal groups out to optimizer steps.

    An epoch has ⌈total size / batch_size⌉ steps of nearly equal size (no small last batch), and every group once. Sizes
    3, 3, 3, 3 with batch size 6 make two steps of two groups. A group is never split, so a step may exceed the batch
    size by part of a group.

    Args:
        sizes: per group, the number of pairs or sequences.
        seed: with the epoch's number it determines the order.
    """
    steps: list[Step] = []
    total = sum(sizes)
    steps_per_epoch = ceil(total / batch_size)
    for epoch in range(1, epochs + 1):
        order = list(range(len(sizes)))
        if shuffle:
            random.Random(f"{seed}/{epoch}").shuffle(order)
        batches: list[list[int]] = [[] for _ in range(steps_per_epoch)]
        before = 0
        for index in order:
            batches[(2 * before + sizes[index]) * steps_per_epoch // (2 * total)].append(index)
            before += sizes[index]
        steps += [Step(epoch=epoch, groups=tuple(batch)) for batch in batches if batch]
    return steps


def cut_to_budget(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut a step's groups into micro-batches of at most `max_tokens`, longest groups first.

    Lengths 50, 400, 300 with 600 make [400], [300, 50]. A group over the budget is a micro-batch of its own: its pairs
    need all its nodes at once.
    """
    batches: list[list[int]] = []
    room = -1
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > room or not batches:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def pad_together(lengths: Sequence[int], max_tokens: int, max_padding: float = MAX_PADDING) -> list[list[int]]:
    """Cut sequences into padded forward passes of similar length, longest first.

    Lengths 100, 98, 50 with room for all and 10 % padding make [100, 98], [50].

    Args:
        max_tokens: padded tokens per pass; a longer sequence is a pass of its own.
        max_padding: share of a pass that may be padding.
    """
    batches: list[list[int]] = []
    longest = used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        padded = longest * (len(batches[-1]) + 1) if batches else 0
        if not batches or padded > max_tokens or padded - used - length > max_padding * padded:
            batches.append([])
            longest, used = length, 0
        batches[-1].append(index)
        used += length
    return batches


def pack_together(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut sequences into passes without padding, filled to `max_tokens`: longest first, each where it first fits.

    Lengths 50, 400, 300 with 600 make [400, 50], [300]. A longer sequence is a pass of its own.
    """
    batches: list[list[int]] = []
    rooms: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        number = next((n for n, room in enumerate(rooms) if lengths[index] <= room), len(batches))
        if number == len(batches):
            batches.append([])
            rooms.append(max_tokens)
        batches[number].append(index)
        rooms[number] -= lengths[index]
    return batches
