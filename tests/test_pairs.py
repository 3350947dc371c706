"""Every rule of the papers that makes pairs, on trajectories of a few lines, and its invariants on random ones."""

from __future__ import annotations

import random
from itertools import product

import pytest

from sparring.core.filters import dedupe, failures, successes, usable
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn
from sparring.data.pairs import (
    PairConfig,
    adopt_successes,
    count_kinds,
    distinct,
    expert_pairs,
    failure_pairs,
    make_pair,
    prefers,
    rejected_turns,
    subsample,
    target_pairs,
)

CONFIG = PairConfig()


def played(
    agent: str, task: str, reward: float, actions: str, *, stop: StopReason = StopReason.DONE, attempt: int = 0
) -> Trajectory:
    """Make a trajectory whose actions are the letters of a word."""
    turns = tuple(Turn(observation="o", text=f"Action: {a}", action=a, reward=reward) for a in actions)
    return Trajectory(
        id=f"{agent}/{task}/{actions}/{attempt}",
        task=Task(id=task, kind="toy"),
        agent=agent,
        turns=turns,
        final_observation="",
        reward=reward,
        stop=stop,
    )


def brief(pairs: list[PreferencePair]) -> list[tuple[str, str, str]]:
    """Name kind, chosen and rejected of each pair."""
    words = [["".join(turn.action for turn in side.turns) for side in (p.chosen, p.rejected)] for p in pairs]
    return [(str(pair.kind), *side) for pair, side in zip(pairs, words, strict=True)]


EXPERT = played("expert", "t", 1.0, "go")


class TestTrajectories:
    def test_failures_are_below_one_and_successes_at_one(self):
        rewards = [0.0, 0.999, 1 - 1e-6, 1 - 1e-9, 1.0]
        everything = [played("target", "t", reward, "ab", attempt=i) for i, reward in enumerate(rewards)]
        assert [t.reward for t in failures(everything)] == [0.0, 0.999]
        assert [t.reward for t in successes(everything)] == [1 - 1e-6, 1 - 1e-9, 1.0]

    def test_faults_and_empty_episodes_are_not_usable(self):
        fault = played("target", "t", 0.0, "ab", stop=StopReason.ENV_FAULT)
        empty = played("target", "t", 0.0, "", stop=StopReason.CONTEXT_LIMIT)
        limits = [played("target", "t", 0.1, "ab", stop=s) for s in (StopReason.TURN_LIMIT, StopReason.CONTEXT_LIMIT)]
        assert usable([fault, *limits, empty]) == limits
        assert failures([fault, empty]) == successes([fault, empty]) == []

    def test_dedupe_keeps_the_first_per_agent_task_and_actions(self):
        first, again = played("target", "t", 0.5, "ab"), played("target", "t", 0.5, "ab", attempt=1)
        others = [played("partner", "t", 0.5, "ab"), played("target", "u", 0.5, "ab"), played("target", "t", 0.5, "ba")]
        assert dedupe([first, again, *others]) == [first, *others]

    @pytest.mark.parametrize(
        ("better", "worse", "min_gap", "expected"),
        [
            (0.29, 0.28, 0.01, True),  # the difference is 0.00999…95 in binary
            (0.285, 0.28, 0.01, False),
            (0.28, 0.29, 0.01, False),
            (0.5, 0.5, 0.0, False),
            (0.5, 0.4999, 0.0, True),
        ],
    )
    def test_a_gap_below_the_least_one_is_a_tie(self, better, worse, min_gap, expected):
        assert prefers(played("a", "t", better, "a"), played("a", "t", worse, "b"), min_gap) is expected

    @pytest.mark.parametrize(
        ("chosen", "rejected", "extra", "counted"), [(7, 30, 5, 12), (7, 9, 5, 9), (7, 30, None, 30), (7, 30, 0, 7)]
    )
    def test_rejected_side_is_cut(self, chosen, rejected, extra, counted):
        assert rejected_turns(chosen, rejected, extra) == counted

    @pytest.mark.parametrize(
        ("chosen", "rejected", "counted"),
        [
            ("axs", "bs", 1),  # s, for submit, is not held against it
            ("axs", "as", 2),  # it submits too early
            ("axs", "bxs", 1),
            ("axs", "axxs", 3),
            ("axs", "ayyyyyyyyys", 8),  # cut before its end anyway: three turns and five more
            ("axs", "byr", 3),
        ],
    )
    def test_an_ending_that_both_share_is_spared(self, chosen, rejected, counted):
        config = PairConfig(spare_endings=True)
        pair = make_pair(PairKind.EXPERT_TARGET, played("a", "t", 1.0, chosen), played("b", "t", 0.1, rejected), config)
        assert (pair.chosen_turns, pair.rejected_turns) == (3, counted)


class TestFailurePairs:
    """Eq. 6."""

    def test_pairs_run_across_agents_either_way_round(self):
        target = [played("target", "t", 0.2, "a"), played("target", "t", 0.6, "b")]
        partner = [played("partner", "t", 0.4, "c")]
        assert brief(failure_pairs(target, partner, CONFIG)) == [
            ("failure>failure", "c", "a"),
            ("failure>failure", "b", "c"),
        ]

    def test_scope_all_pairs_within_an_agent_too(self):
        target = [played("target", "t", 0.2, "a"), played("target", "t", 0.6, "b")]
        partner = [played("partner", "t", 0.4, "c")]
        pairs = failure_pairs(target, partner, CONFIG, pair_scope="all")
        assert {p[1:] for p in brief(pairs)} == {("b", "a"), ("c", "a"), ("b", "c")}

    def test_a_success_never_enters(self):
        target = [played("target", "t", 1.0, "a"), played("target", "u", 0.3, "a")]
        partner = [played("partner", "t", 0.4, "c"), played("partner", "u", 1.0, "c")]
        for scope in ("cross", "all"):
            assert failure_pairs(target, partner, CONFIG, pair_scope=scope) == []

    def test_ties_other_tasks_and_faults_make_no_pair(self):
        target = [played("target", "t", 0.4, "a"), played("target", "u", 0.9, "b")]
        partner = [played("partner", "t", 0.405, "c"), played("partner", "v", 0.1, "d")]
        broken = [played("partner", "u", 0.0, "e", stop=StopReason.ENV_FAULT)]
        assert failure_pairs(target, [*partner, *broken], CONFIG) == []

    def test_empty_sides(self):
        one = [played("target", "t", 0.4, "a")]
        assert failure_pairs([], [], CONFIG) == failure_pairs(one, [], CONFIG) == failure_pairs([], one, CONFIG) == []

    def test_the_same_two_action_sequences_make_one_pair(self):
        target = [played("target", "t", 0.2, "a"), played("target", "t", 0.6, "b")]
        partner = [played("partner", "t", 0.2, "a"), played("partner", "t", 0.6, "b")]
        assert brief(failure_pairs(target, partner, CONFIG)) == [("failure>failure", "b", "a")]
        assert len(failure_pairs(target, partner, PairConfig(dedupe=False))) == 2

    def test_rollouts_of_a_task_are_crossed(self):
        target = [played("target", "t", r, f"a{r}") for r in (0.1, 0.2, 0.3)]
        partner = [played("partner", "t", r, f"b{r}") for r in (0.15, 0.25)]
        assert len(failure_pairs(target, partner, CONFIG)) == 6

    def test_long_rejected_side_counts_fewer_turns(self):
        pair = failure_pairs([played("target", "t", 0.5, "ab")], [played("partner", "t", 0.1, "c" * 20)], CONFIG)[0]
        assert (pair.chosen_turns, pair.rejected_turns) == (2, 7)


class TestExpertPairs:
    """ETO, and the first two sets of Eq. 8."""

    def test_expert_is_preferred_and_a_success_ties_with_it(self):
        trajectories = [played("target", "t", 0.3, "a"), played("target", "t", 1.0, "b")]
        assert brief(expert_pairs([EXPERT], trajectories, PairKind.EXPERT_TARGET, CONFIG)) == [
            ("expert>target", "go", "a")
        ]

    def test_experts_reward_is_the_recorded_one(self):
        weak = played("expert", "t", 0.6, "go")
        trajectories = [played("target", "t", r, f"a{r}") for r in (0.3, 0.6, 0.605, 0.8, 1.0)]
        kinds = [str(p.kind) for p in expert_pairs([weak], trajectories, PairKind.EXPERT_TARGET, CONFIG)]
        assert kinds == ["expert>target", "target>expert", "target>expert"]

    def test_beaten_expert_is_skipped_if_asked_for(self):
        weak, strong = played("expert", "t", 0.6, "go"), [played("target", "t", 0.8, "a")]
        assert expert_pairs([weak], strong, PairKind.EXPERT_TARGET, PairConfig(expert_beaten="skip")) == []
        assert expert_pairs([weak], strong, PairKind.EXPERT_TARGET, CONFIG, expert_beaten="skip") == []

    def test_positive_partner_learns_as_a_target_does(self):
        weak, strong = played("expert", "t", 0.6, "go"), [played("partner", "t", 0.8, "a")]
        pairs = expert_pairs([weak], strong, PairKind.EXPERT_PARTNER, CONFIG)
        assert brief(pairs) == [("partner>expert", "a", "go")]

    def test_expert_of_another_task_and_broken_episodes_make_no_pair(self):
        other = [played("target", "u", 0.1, "a"), played("target", "t", 0.0, "b", stop=StopReason.ENV_FAULT)]
        assert expert_pairs([EXPERT], other, PairKind.EXPERT_TARGET, CONFIG) == []
        assert expert_pairs([], other, PairKind.EXPERT_TARGET, CONFIG) == []

    def test_repeated_rollouts_make_one_pair(self):
        twice = [played("target", "t", 0.3, "a", attempt=i) for i in range(2)]
        assert len(expert_pairs([EXPERT], twice, PairKind.EXPERT_TARGET, CONFIG)) == 1
        assert len(expert_pairs([EXPERT], twice, PairKind.EXPERT_TARGET, PairConfig(dedupe=False))) == 2

    def test_failure_kind_is_refused(self):
        with pytest.raises(AssertionError):
            expert_pairs([EXPERT], [], PairKind.FAILURE_FAILURE, CONFIG)


class TestTargetPairs:
    """Eq. 8."""

    def test_three_sets_are_united_in_order(self):
        target, partner = [played("target", "t", 0.6, "a")], [played("partner", "t", 0.4, "b")]
        assert brief(target_pairs([EXPERT], target, partner, CONFIG)) == [
            ("expert>target", "go", "a"),
            ("expert>partner", "go", "b"),
            ("failure>failure", "a", "b"),
        ]

    def test_partner_that_beats_the_expert_is_skipped_and_a_target_is_chosen(self):
        weak = played("expert", "t", 0.5, "go")
        target, partner = [played("target", "t", 0.9, "a")], [played("partner", "t", 0.8, "b")]
        assert brief(target_pairs([weak], target, partner, CONFIG)) == [
            ("target>expert", "a", "go"),
            ("failure>failure", "a", "b"),
        ]

    def test_success_of_the_target_enters_no_pair_with_the_partner(self):
        target, partner = [played("target", "t", 1.0, "a")], [played("partner", "t", 0.8, "b")]
        assert brief(target_pairs([EXPERT], target, partner, CONFIG)) == [("expert>partner", "go", "b")]

    def test_agents_that_played_the_same_are_paired_with_the_expert_once(self):
        target, partner = [played("target", "t", 0.4, "a")], [played("partner", "t", 0.4, "a")]
        assert brief(target_pairs([EXPERT], target, partner, CONFIG)) == [("expert>target", "go", "a")]

    def test_all_empty(self):
        assert target_pairs([], [], [], CONFIG) == []
        assert sum(count_kinds([]).values()) == 0


def test_a_task_without_an_expert_adopts_the_shortest_success():
    won = [played("target", "u", 1.0, "abc"), played("partner", "u", 1.0, "ab"), played("target", "u", 1.0, "ac")]
    rollouts = [*won, played("target", "t", 1.0, "x"), played("target", "v", 0.9, "y")]
    broken = played("target", "w", 1.0, "z", stop=StopReason.ENV_FAULT)
    assert adopt_successes([EXPERT], [*rollouts, broken]) == [EXPERT, won[1]]
    assert adopt_successes([EXPERT, won[1]], [played("target", "u", 1.0, "a")]) == [EXPERT, won[1]], "once for all"


def test_an_adopted_success_is_chosen_over_the_agent_s_own_failures():
    rollouts = [played("target", "u", 1.0, "abc"), played("target", "u", 0.5, "ab")]
    pairs = expert_pairs(adopt_successes([EXPERT], rollouts), rollouts, PairKind.EXPERT_TARGET, CONFIG)
    assert brief(pairs) == [("expert>target", "abc", "ab")]


def random_round(seed: int) -> tuple[list[Trajectory], list[Trajectory], list[Trajectory]]:
    """Draw experts and two agents' rollouts: some perfect, broken, empty, repeated, or in tasks of one's own."""
    rng = random.Random(seed)
    rewards = [0.0, 0.1, 0.105, 0.5, 0.99, 1.0]

    def draw(agent: str, num: int) -> list[Trajectory]:
        return [
            played(
                agent,
                f"t{rng.randrange(4)}",
                rng.choice(rewards),
                "".join(rng.choice("abc") for _ in range(rng.randrange(0, 12))),
                stop=rng.choice(list(StopReason)),
                attempt=attempt,
            )
            for attempt in range(num)
        ]

    return draw("expert", 5), draw("target", rng.randrange(12)), draw("partner", rng.randrange(12))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("should_dedupe", [True, False])
def test_invariants_of_random_rounds(seed, should_dedupe):
    experts, target, partner = random_round(seed)
    config = PairConfig(dedupe=should_dedupe, max_extra_turns=2)
    pairs = target_pairs(experts, target, partner, config)
    assert pairs == target_pairs(experts, target, partner, config)
    if should_dedupe:
        assert distinct(pairs) == pairs
    for pair in pairs:
        assert pair.chosen.task.id == pair.rejected.task.id
        assert pair.chosen.reward - pair.rejected.reward >= config.min_gap - 1e-9
        assert StopReason.ENV_FAULT not in (pair.chosen.stop, pair.rejected.stop)
        assert pair.chosen_turns == len(pair.chosen.turns) > 0
        assert 0 < pair.rejected_turns <= min(len(pair.rejected.turns), pair.chosen_turns + 2)
        better, worse = {"expert>target": ("expert", "target"), "target>expert": ("target", "expert")}.get(
            str(pair.kind), ("expert", "partner")
        )
        if pair.kind is PairKind.FAILURE_FAILURE:
            assert {pair.chosen.agent, pair.rejected.agent} == {"target", "partner"}
            assert pair.chosen.reward < 1 - config.success_eps
        else:
            assert (pair.chosen.agent, pair.rejected.agent) == (better, worse)
    assert not any(kind is PairKind.PARTNER_EXPERT and num for kind, num in count_kinds(pairs).items())


@pytest.mark.parametrize("seed", range(20))
def test_failure_pairs_are_all_that_eq_6_asks_for(seed):
    _, target, partner = random_round(seed)
    config = PairConfig(dedupe=False)
    found = {(p.chosen.id, p.rejected.id) for p in failure_pairs(target, partner, config)}
    ours, theirs = failures(target), failures(partner)
    wanted = {
        (a.id, b.id)
        for x, y in product(ours, theirs)
        for a, b in ((x, y), (y, x))
        if a.task.id == b.task.id and a.reward - b.reward >= 0.01 - 1e-9
    }
    assert found == wanted


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scope", ["cross", "all"])
def test_eq_6_is_symmetric_in_the_agents(seed, scope):
    _, target, partner = random_round(seed)
    config = PairConfig(dedupe=False)
    one_way, other_way = (failure_pairs(*s, config, pair_scope=scope) for s in ((target, partner), (partner, target)))
    assert {(p.chosen.id, p.rejected.id) for p in one_way} == {(p.chosen.id, p.rejected.id) for p in other_way}


def test_subsample_keeps_order_and_depends_on_the_seed_alone():
    target = [played("target", "t", r / 100, f"a{r}") for r in range(0, 20, 2)]
    pairs = expert_pairs([EXPERT], target, PairKind.EXPERT_TARGET, CONFIG)
    drawn = subsample(pairs, 4, seed=1)
    assert drawn == subsample(pairs, 4, seed=1) != subsample(pairs, 4, seed=2)
    assert [pairs.index(pair) for pair in drawn] == sorted(pairs.index(pair) for pair in drawn)
    assert len(drawn) == 4
    assert subsample(pairs, 99, seed=0) == pairs
