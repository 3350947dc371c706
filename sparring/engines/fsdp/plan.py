"""Who computes what: a step's groups and passes are dealt out to ranks, so that all of them run equally many passes.

The collectives of sharded layers need every rank in each pass. A plan is a function of lengths alone: each rank makes
the same one. Where a rank has less to do it runs passes that count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparring.data.batches import cut_to_budget

Cut = Callable[[Sequence[int]], list[list[int]]]
"""From the lengths of sequences to those of each pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a rank computes up to one backward pass."""

    items: tuple[int, ...]
    """Indices; none where a rank has less to do than others."""
    num_passes: int
    """Forward passes that every rank runs."""


def deal(lengths: Sequence[int], world: int) -> list[list[int]]:
    """Deal items out to ranks, longest first, each to the rank that has the fewest tokens.

    Lengths 5, 4, 3, 2 and two ranks make [0, 3] and [1, 2].
    """
    shares: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    return [sorted(share) for share in shares]


def plan_batches(groups: Sequence[Sequence[int]], world: int, budget: int, cut: Cut) -> list[list[Batch]]:
    """Plan a step: per rank its batches, as many for each.

    Args:
        groups: per group the lengths of its nodes.
        world: the number of ranks.
        budget: tokens of a batch.
        cut: cuts a batch's nodes into passes.
    """
    totals = [sum(group) for group in groups]
    cuts: list[list[tuple[int, ...]]] = []
    for share in deal(totals, world):
        cuts.append([tuple(share[i] for i in batch) for batch in cut_to_budget([totals[i] for i in share], budget)])
    num = max(map(len, cuts))
    padded = [[*batches, *[()] * (num - len(batches))] for batches in cuts]
    passes = [max(_num_passes(groups, batches[slot], cut) for batches in padded) for slot in range(num)]
    return [
        [Batch(items=items, num_passes=most) for items, most in zip(batches, passes, strict=True)] for batches in padded
    ]


def plan_passes(lengths: Sequence[int], world: int, cut: Cut) -> list[Batch]:
    """Plan a scoring: per rank its nodes, and the passes that every rank runs."""
    shares = deal(lengths, world)
    most = max(len(cut([lengths[i] for i in share])) if share else 0 for share in shares)
    return [Batch(items=tuple(share), num_passes=most) for share in shares]


def _num_passes(groups: Sequence[Sequence[int]], items: Sequence[int], cut: Cut) -> int:
    lengths = [length for index in items for length in groups[index]]
    return len(cut(lengths)) if lengths else 0
