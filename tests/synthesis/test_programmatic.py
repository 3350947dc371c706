"""The synthesiser without a language model, on the toy world: what each strategy makes, and that the world agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import StopReason, Trajectory
from sparring.envs.synthesis import Synthesis, synthesis_of
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.programmatic import (
    PREFERENCES,
    STRATEGIES,
    Programmatic,
    ReplayOnly,
    continuations,
    left_the_way,
)
from sparring.synthesis.proposals import STRATEGY_NAMES, Findings, Proposal, Proposed, StrategyName
from sparring.synthesis.signals import Flag, Signal, Visit
from sparring.synthesis.validation import Ground, ValidationConfig, validate
from tests.synthesis.growing_world import GrowingSynthesis, GrowingWorld
from tests.synthesis.scenes import live_arena, played, skilled, task
from tests.toy_world import ToyWorld

LONG = task("long/a", "red green blue white", kind="long")
MISS = played("press red, press green, look, press red", [0.25, 0.5, 0.5, 0.5], of=LONG, id="s1/miss")
EXPERT = played("press red, press green, press blue, press white", [0.25, 0.5, 0.75, 1.0], of=LONG, id="expert/long/a")


def flag(signal: Signal = Signal.BOUNDARY, trajectory: Trajectory = MISS, turn: int = 3, priority: float = 1.0) -> Flag:
    return Flag(signal=signal, step=1, trajectory=trajectory, turn=turn, priority=priority, detail="seen")


def findings(
    *flags: Flag, experts: tuple[Trajectory, ...] = (EXPERT,), known: tuple[str, ...] = ("long/a",)
) -> Findings:
    return Findings(flags=flags, experts=experts, known_ids=frozenset(known))


def propose(
    found: Findings, num: int = 8, seed: int = 0, strategies: Sequence[StrategyName] = STRATEGY_NAMES
) -> Proposed:
    with live_arena(budget=0) as arena:  # it plays nothing
        return Programmatic(GrowingWorld(), strategies).propose(found, arena, num=num, seed=seed)


def by_strategy(proposals: tuple[Proposal, ...]) -> dict[str, Proposal]:
    found: dict[str, Proposal] = {}
    for proposal in proposals:
        found.setdefault(proposal.origin.strategy, proposal)
    return found


def test_a_restart_begins_where_the_way_was_left_and_where_it_was_last_right():
    restarts = [one for one in propose(findings(flag()), num=20).proposals if one.origin.strategy == "restart"]
    assert [one.task.data for one in restarts] == [
        {"goal": LONG.data["goal"], "prefix": ["press red", "press green"]},
        {"goal": LONG.data["goal"], "prefix": ["press red", "press green", "look"]},
    ]
    assert restarts[0].references == (("press blue", "press white"),)  # sure: the rest of the way
    # The other start is no prefix of the expert's: from where the expert had earned as much, then all of it.
    assert restarts[1].references == (
        ("press blue", "press white"),
        ("press red", "press green", "press blue", "press white"),
    )
    made = restarts[0]
    assert made.origin.trajectory_id == "s1/miss"
    assert (made.origin.task_id, made.origin.signal, made.origin.note) == ("long/a", Signal.BOUNDARY, "seen")


def test_only_the_named_strategies_are_followed_in_the_order_that_a_signal_has_for_them():
    names = [one.origin.strategy for one in propose(findings(flag(Signal.RARE)), 20).proposals]
    assert list(dict.fromkeys(names)) == list(PREFERENCES[Signal.RARE])
    some = propose(findings(flag(Signal.RARE)), 20, strategies=("variation", "restart", "relabel")).proposals
    assert list(dict.fromkeys(one.origin.strategy for one in some)) == ["relabel", "variation"]
    assert by_strategy(propose(findings(flag()), 20, strategies=("relabel",)).proposals).keys() == {"relabel"}


def test_a_success_is_restarted_from_within_and_never_from_its_end():
    hit = replace(EXPERT, id="s1/hit")
    made = propose(findings(flag(Signal.BOUNDARY, hit, turn=2), experts=(hit,)), num=20).proposals
    assert [one.task.data["prefix"] for one in made if one.origin.strategy == "restart"] == [
        ["press red", "press green"]
    ]


def test_the_way_is_that_of_the_solution_that_is_followed_longest():
    solutions = [played("a, c", [0, 1.0]), played("a, b, c", [0, 0, 1.0])]
    assert left_the_way(["a", "b", "x"], solutions) == 2
    assert left_the_way(["x", "b", "c"], solutions) == 0
    assert left_the_way(["a", "b"], solutions) == 2
    assert left_the_way(["a"], []) == 0


def test_a_restart_needs_a_solution_and_a_prefix():
    assert "restart" not in by_strategy(propose(findings(flag(), experts=())).proposals)
    elsewhere = flag(trajectory=played("look, look", [0, 0], of=LONG), turn=0)
    assert "restart" not in by_strategy(propose(findings(elsewhere)).proposals)


def test_a_success_of_the_agents_own_is_a_solution():
    visit = Visit(step=1, task=LONG, rollouts=(MISS, replace(EXPERT, id="s1/hit", agent="target")))
    found = replace(findings(flag(), experts=()), visits=(visit,))
    assert by_strategy(propose(found).proposals)["restart"].references[0] == ("press blue", "press white")


@pytest.mark.parametrize(
    ("prefix", "earned", "expected"),
    [
        ("a", 0.25, ["bcd"]),
        ("ab", 0.5, ["cd"]),
        ("ab", 0.25, ["cd"]),  # it begins alike: what was earned does not matter
        ("axb", 0.5, ["cd", "abcd"]),
        ("x", 0.0, ["abcd"]),  # nothing was earned: all of it, once
        ("axbxcx", 0.6, ["d", "abcd"]),  # more than .5, so after .75
    ],
)
def test_continuations(prefix: str, earned: float, expected: list[str]):
    solution = played("a, b, c, d", [0.25, 0.5, 0.75, 1.0])
    assert ["".join(rest) for rest in continuations([solution], list(prefix), earned)] == expected


def test_variations_are_of_the_same_kind_and_not_in_use():
    world = GrowingWorld()
    known = [one.id for one in world.synthesis.variations(LONG)][:22]  # of 24
    made = propose(replace(findings(flag(Signal.FORGETTING)), known_ids=frozenset(known)), num=20).proposals
    made = [one for one in made if one.origin.strategy == "variation"]
    assert len(made) == 2
    assert not {one.task.id for one in made} & set(known)
    for one in made:
        assert one.task.kind == "long"
        assert one.references == (tuple(f"press {colour}" for colour in one.task.data["goal"]),)


def test_a_rare_action_becomes_the_goal():
    rare = flag(Signal.RARE, played("look, press white, press blue", [0, 0, 0], of=LONG), turn=2)
    made = by_strategy(propose(findings(rare)).proposals)["relabel"]
    assert made.task.data == {"goal": ["white"]}
    assert made.references == (("look", "press white"),)


def test_what_only_the_last_turn_brought_about_becomes_the_goal_too():
    ended = flag(Signal.RARE, played("look, press white", [0, 0], of=LONG), turn=1)  # as a purchase ends a visit
    made = by_strategy(propose(findings(ended)).proposals)["relabel"]
    assert made.task.data == {"goal": ["white"]}
    assert made.references == (("look", "press white"),)


def test_a_chain_asks_for_one_after_the_other():
    other = task("long/b", "blue blue", kind="long")
    solved = played("press blue, press blue", [0.5, 1.0], of=other, id="s1/other")
    chains = [
        one
        for one in propose(findings(flag(Signal.RARE, turn=2), experts=(EXPERT, solved)), num=50).proposals
        if one.origin.strategy == "chain"
    ]
    assert {tuple(one.task.data["goal"]) for one in chains} == {
        ("red", "green", "blue", "blue"),  # what the flagged trajectory brought about, then the other's
        ("red", "green", "red", "green", "blue", "white"),
        ("red", "green", "blue", "white", "blue", "blue"),
    }
    for one in chains:
        assert one.references[0] == tuple(f"press {colour}" for colour in one.task.data["goal"])


def test_flags_take_turns_and_the_most_pressing_comes_first():
    other = task("long/b", "blue white red green", kind="long")
    missed = played("press blue, press red", [0.25, 0.25], of=other, id="s1/other")
    solved = played("press blue, press white, press red, press green", [0.25, 0.5, 0.75, 1.0], of=other)
    found = findings(flag(), flag(trajectory=missed, turn=1, priority=0.5), experts=(EXPERT, solved))
    assert [one.origin.task_id for one in propose(found, num=4).proposals] == ["long/a", "long/b"] * 2
    assert len(propose(found, num=1).proposals) == 1
    assert not propose(findings()).proposals


def test_proposals_depend_on_the_seed_alone():
    first = propose(findings(flag()), seed=1)
    assert propose(findings(flag()), seed=1) == first
    assert propose(findings(flag()), seed=2) != first


def test_neighbouring_flags_begin_with_different_strategies():
    """Else those that come last in every flag's order are never reached before the budget is spent."""
    flags = [flag(Signal.BOUNDARY, replace(MISS, id=f"s1/{k}"), turn=2) for k in range(3)]
    made = propose(replace(findings(flags[0]), flags=flags), num=3).proposals
    assert [one.origin.strategy for one in made] == ["restart", "variation", "chain"]


def test_every_signal_calls_for_known_strategies_and_unguided_flags_take_any():
    assert set(PREFERENCES) == set(Signal) - {Signal.UNGUIDED}
    assert {name for order in PREFERENCES.values() for name in order} == set(STRATEGIES)
    first = Counter(
        propose(findings(flag(Signal.UNGUIDED, replace(MISS, id=f"s1/{k}"), turn=2)), num=1)
        .proposals[0]
        .origin.strategy
        for k in range(60)
    )
    assert set(first) == {"restart", "variation", "relabel"}
    assert min(first.values()) > 8


def test_what_is_made_passes_validation_on_live_worlds():
    """Every strategy's tasks replay to their goal, twice; a policy that does nothing, and chance, fail."""
    world = GrowingWorld()
    flags = [flag(), flag(Signal.FORGETTING), flag(Signal.RARE, turn=2)]
    proposals = propose(findings(*flags), num=12).proposals
    ground = Ground(
        world=world.synthesis,
        gate=EvaluationGate(world.synthesis, []),
        known_tasks=[LONG],
        known_sketches=[],
        turn_limit=world.turn_limit,
        agent=skilled(0.7),
        vocabulary=["look", *(f"press {colour}" for colour in ("red", "green", "blue", "white"))],
    )
    config = ValidationConfig(checks=("replay", "change", "empty"))
    with live_arena() as arena:
        verdicts = validate(proposals, ground, arena, config)
    assert {one.proposal.origin.strategy for one in verdicts} == set(STRATEGIES)
    assert all(one.is_accepted for one in verdicts)


def test_the_control_arm_makes_nothing():
    with live_arena() as arena:
        assert ReplayOnly().propose(findings(flag()), arena, num=8, seed=0) == Proposed()


def test_a_world_without_synthesis_is_refused_with_a_remedy():
    assert isinstance(GrowingSynthesis(), Synthesis)
    assert synthesis_of(GrowingWorld()) is GrowingWorld.synthesis
    with pytest.raises(ConfigError, match="ToyWorld offers no synthesis"):
        Programmatic(ToyWorld())


def test_a_proposal_survives_json():
    (made,) = propose(findings(flag()), num=1).proposals
    assert Proposal.from_json(made.to_json()) == made


def test_a_flag_of_an_episode_out_of_turns_keeps_its_last_gain():
    stuck = replace(MISS, stop=StopReason.TURN_LIMIT)
    made = by_strategy(propose(findings(flag(trajectory=stuck, turn=2))).proposals)["restart"]
    assert made.task.data["prefix"] == ["press red", "press green"]
    assert made.references == (("press blue", "press white"),)
