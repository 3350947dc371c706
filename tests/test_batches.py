"""From pairs to batches: groups share trajectories, steps are even and cover everything, passes hold little padding."""

from __future__ import annotations

import random
from math import ceil

import pytest

from sparring.core.types import Trajectory
from sparring.data.batches import (
    cut,
    cut_to_budget,
    groups_from_pairs,
    groups_from_trajectories,
    num_action_tokens,
    pack_together,
    pad_together,
    plan_steps,
    shared_turns,
    turn_offsets,
)
from sparring.data.chat import Encoded
from sparring.data.pairs import PairConfig, target_pairs
from tests.test_pairs import played
from tests.training_toys import node


def encode(trajectory: Trajectory) -> Encoded:
    """Encode observations as 0 0 and an action as its letter's number, 7."""
    ids, spans = [1], []
    for turn in trajectory.turns:
        ids += [0, 0, ord(turn.action), 7]
        spans.append((len(ids) - 2, len(ids)))
    return Encoded(ids=tuple(ids), spans=tuple(spans))


EXPERT = played("expert", "t", 1.0, "go")
TARGET = played("target", "t", 0.6, "gxyz" * 3)
PARTNER = played("partner", "t", 0.4, "ab")
OTHER = (played("expert", "u", 1.0, "b"), played("target", "u", 0.2, "c"))
CONFIG = PairConfig()


class TestGroups:
    def test_each_trajectory_is_one_node_and_each_pair_an_edge(self):
        pairs = target_pairs([EXPERT, OTHER[0]], [TARGET, OTHER[1]], [PARTNER], CONFIG)
        first, second = groups_from_pairs(pairs, encode)
        assert (first.task_id, len(first.nodes), len(first.edges)) == ("t", 3, 3)
        assert (second.task_id, len(second.nodes), len(second.edges)) == ("u", 2, 1)
        assert [(e.chosen, e.rejected, str(e.kind)) for e in first.edges] == [
            (0, 1, "expert>target"),
            (0, 2, "expert>partner"),
            (1, 2, "failure>failure"),
        ]

    def test_nodes_end_with_the_last_turn_that_counts(self):
        (group,) = groups_from_pairs(target_pairs([EXPERT], [TARGET], [], CONFIG), encode)
        assert [len(n.spans) for n in group.nodes] == [2, 7]
        assert len(group.nodes[1].ids) == group.nodes[1].spans[-1][1]
        assert group.edges[0].rejected_turns == 7
        # As chosen side of another pair the target's trajectory counts in full.
        (group,) = groups_from_pairs(target_pairs([EXPERT], [TARGET], [PARTNER], CONFIG), encode)
        assert [len(n.spans) for n in group.nodes] == [2, 12, 2]

    def test_shared_turns_are_found_by_tokens(self):
        (group,) = groups_from_pairs(target_pairs([EXPERT], [TARGET], [PARTNER], CONFIG), encode)
        assert [e.shared_turns for e in group.edges] == [1, 0, 0]
        a = Encoded(ids=(1, 2, 3, 4, 5), spans=((1, 2), (4, 5)))
        assert shared_turns(a, a) == 2
        assert shared_turns(a, Encoded(ids=(1, 2, 9, 4, 5), spans=((1, 2), (4, 5)))) == 1
        assert shared_turns(a, Encoded(ids=(9, 2, 3, 4, 5), spans=((1, 2), (4, 5)))) == 0

    def test_what_exceeds_the_context_is_left_out_with_its_pairs(self):
        pairs = target_pairs([EXPERT, OTHER[0]], [TARGET, OTHER[1]], [PARTNER], CONFIG)
        (first, second) = groups_from_pairs(pairs, lambda t: None if t.agent == "partner" else encode(t))
        assert (len(first.nodes), len(first.edges), second.task_id) == (2, 1, "u")
        assert groups_from_pairs(pairs, lambda t: None) == groups_from_pairs([], encode) == []
        assert (
            groups_from_trajectories([EXPERT, OTHER[0]], lambda t: None if t == EXPERT else encode(t))[0].task_id == "u"
        )

    def test_cloning_takes_every_trajectory_alone(self):
        groups = groups_from_trajectories([EXPERT, TARGET], encode)
        assert [(len(g.nodes), g.edges, g.num_tokens) for g in groups] == [(1, (), 9), (1, (), 49)]

    def test_offsets_and_cut(self):
        encoded = Encoded(ids=tuple(range(14)), spans=((3, 5), (9, 12)))
        assert turn_offsets(encoded) == [0, 2, 5]
        assert num_action_tokens(encoded) == 5
        assert cut(encoded, 1) == Encoded(ids=(0, 1, 2, 3, 4), spans=((3, 5),))
        with pytest.raises(AssertionError):
            cut(encoded, 3)


class TestSteps:
    def test_docstring(self):
        steps = plan_steps([3, 3, 3, 3], batch_size=6, epochs=1, seed=0)
        assert [len(step.groups) for step in steps] == [2, 2]

    @pytest.mark.parametrize("seed", range(10))
    def test_every_epoch_has_each_group_once_in_even_steps(self, seed):
        rng = random.Random(seed)
        sizes = [rng.randrange(1, 6) for _ in range(rng.randrange(1, 60))]
        batch_size = rng.choice([1, 8, 32])
        steps = plan_steps(sizes, batch_size=batch_size, epochs=3, seed=seed)
        for epoch in (1, 2, 3):
            batches = [step.groups for step in steps if step.epoch == epoch]
            assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
            assert len(batches) <= ceil(sum(sizes) / batch_size)
            assert max(sum(sizes[i] for i in batch) for batch in batches) < batch_size + max(sizes)
            if batch_size >= 8:
                assert len(batches) == ceil(sum(sizes) / batch_size)

    def test_order_depends_on_seed_and_epoch_alone(self):
        def orders(**kw):
            return [s.groups for s in plan_steps([1] * 20, batch_size=20, epochs=2, **kw)]

        assert orders(seed=0) == orders(seed=0)
        assert orders(seed=0) != orders(seed=1)
        assert orders(seed=0)[0] != orders(seed=0)[1]
        assert orders(seed=0, shuffle=False) == [tuple(range(20))] * 2


class TestPasses:
    def test_docstrings(self):
        assert cut_to_budget([50, 400, 300], 600) == [[1], [2, 0]]
        assert pad_together([100, 98, 50], 1000) == [[0, 1], [2]]
        assert pack_together([50, 400, 300], 600) == [[1, 0], [2]]

    def test_what_exceeds_the_budget_goes_alone(self):
        assert cut_to_budget([700, 100, 900], 600) == [[2], [0], [1]]
        assert pad_together([700, 650, 10], 600) == [[0], [1], [2]]
        assert pack_together([700, 650, 10], 600) == [[0], [1], [2]]

    @pytest.mark.parametrize("seed", range(10))
    def test_each_once_within_budget_and_padding(self, seed):
        rng = random.Random(seed)
        lengths = [rng.randrange(1, 500) for _ in range(40)]
        for batches in (cut_to_budget(lengths, 800), pad_together(lengths, 800), pack_together(lengths, 800)):
            assert sorted(index for batch in batches for index in batch) == list(range(40))
        for batch in pad_together(lengths, 800):
            padded = max(lengths[i] for i in batch) * len(batch)
            assert padded <= 800
            assert padded - sum(lengths[i] for i in batch) <= 0.1 * padded
        assert all(sum(lengths[i] for i in batch) <= 800 for batch in cut_to_budget(lengths, 800))
        packed = pack_together(lengths, 800)
        sums = [sum(lengths[i] for i in batch) for batch in packed]
        assert max(sums) <= 800
        for number, batch in enumerate(packed):  # nothing stands where an earlier pass had room for it
            assert all(lengths[i] + total > 800 for i in batch for total in sums[:number])
        assert len(packed) <= 1.1 * sum(lengths) / 800 + 1

    def test_nothing(self):
        assert cut_to_budget([], 10) == pad_together([], 10) == pack_together([], 10) == []


def test_toy_nodes_have_actions():
    assert all(num_action_tokens(node(seed, 3)) >= 6 for seed in range(5))
