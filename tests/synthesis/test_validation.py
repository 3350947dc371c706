"""Validation on live worlds: each check refuses a task that every other check lets through."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from typing import get_args

import pytest

from sparring.core.errors import DataError
from sparring.core.types import StopReason, Task
from sparring.policies.scripted import ScriptedPolicy
from sparring.synthesis.checks import (
    CheckName,
    Reason,
    ValidationConfig,
    check_form,
    check_goal,
    check_probe,
    check_query,
    check_replays,
)
from sparring.synthesis.novelty import EvaluationGate, sketch
from sparring.synthesis.proposals import Origin, Proposal
from sparring.synthesis.signals import Signal, draw
from sparring.synthesis.validation import Ground, Verdict, probe_again, validate
from tests.synthesis.growing_world import GrowingSynthesis
from tests.synthesis.scenes import live_arena, played, reader, skilled, task

ORIGIN = Origin(synthesiser="programmatic", strategy="variation", signal=Signal.BOUNDARY, step=10)
GOAL = "red green blue red"
SOUND = task("long/new", GOAL)
EVALUATION = [task("long/test-0", "white white white white", machine="M7")]
VOCABULARY = ["press red", "press green", "press blue", "press white", "look", "sing", "jump", "sleep"]
ALL = ValidationConfig(checks=get_args(CheckName), probe_by="episodes")
HALF_TOLD = task("long/half-told", GOAL, told=["red", "green"])


def proposal(of: Task = SOUND, *references: str) -> Proposal:
    goal = [f"press {colour}" for colour in of.data["goal"]][len(of.data.get("prefix", ())) :]
    given = tuple(tuple(reference.split(", ")) for reference in references)
    return Proposal(task=of, references=given or (tuple(goal),), origin=ORIGIN)


def ground(**options) -> Ground:
    fields = {
        "world": GrowingSynthesis(),
        "gate": EvaluationGate(GrowingSynthesis(), EVALUATION),
        "known_tasks": (),
        "known_sketches": (),
        "turn_limit": lambda _: 8,
        "agent": skilled(0.8),
        "vocabulary": VOCABULARY,
    }
    return Ground(**(fields | options))  # pyright: ignore


def verdict(of: Proposal, config: ValidationConfig = ALL, **options) -> Verdict:
    with live_arena() as arena:
        return validate([of], ground(**options), arena, config)[0]


def test_a_sound_task_passes_all_checks():
    found = verdict(proposal())
    assert found.is_accepted
    assert found.reference == ("press red", "press green", "press blue", "press red")
    assert found.probe is not None and 0.1 <= found.probe <= 0.9
    assert found.start is not None and found.start.startswith("Press in this order: red green blue red.")


BAD = {
    # The agent always solves it; nobody else by chance.
    "probe": (proposal(), {"agent": skilled(1.0)}, Reason.TOO_EASY),
    # Three empty answers win; what is chosen by chance is never empty.
    "empty": (proposal(task("long/patient", GOAL, fault="patience")), {}, Reason.EMPTY_SOLVES),
    # One press wins, and the only action there is to choose is that press.
    "random": (
        proposal(task("short/one", "red")),
        {"vocabulary": ["press red"], "agent": skilled(0.5)},
        Reason.RANDOM_SOLVES,
    ),
    # Looking three times wins: a reference that only looks reaches the goal and changes nothing.
    "change": (proposal(task("long/sight", GOAL, fault="sight"), "look, look, look"), {}, Reason.UNCHANGED),
    # Another task by id and data, but it looks and is solved like one that is known.
    "duplicate": (
        proposal(task("long/twin", GOAL, note="twin")),
        {
            "known_sketches": [
                sketch(
                    "long/old",
                    "Press in this order: red green blue red. You see buttons: red green blue white.",
                    ["press red", "press green", "press blue", "press red"],
                )
            ]
        },
        Reason.DUPLICATE,
    ),
    # The query says half of what the goal wants: whoever follows it earns half, and never all.
    "query": (proposal(HALF_TOLD), {"agent": reader()}, Reason.QUERY_FAILS),
    # A wrong reference, of a task that the agent solves sometimes all the same.
    "replay": (proposal(SOUND, "press red, press white"), {}, Reason.NOT_SOLVED),
}


@pytest.mark.parametrize("check", BAD)
def test_each_check_refuses_what_all_others_let_through(check: str):
    bad, options, reason = BAD[check]
    refused = verdict(bad, **options)
    assert refused.refusal is not None
    assert refused.refusal.reason is reason
    assert refused.is_quarantined == (check == "probe")
    on_replay = ("duplicate", "change") if check == "replay" else ()  # they have nothing to judge then
    others = replace(ALL, checks=tuple(one for one in ALL.checks if one != check and one not in on_replay))
    assert verdict(bad, others, **options).is_accepted


def test_every_check_has_its_bad_task():
    assert set(BAD) == set(ALL.checks) > set(ValidationConfig().checks)


def test_replaying_twice_refuses_a_world_that_answers_differently():
    moody = proposal(task("long/moody", GOAL, fault="moody"))
    refused = verdict(moody)
    assert refused.refusal is not None
    assert refused.refusal.reason is Reason.NOT_REPRODUCED
    assert verdict(moody, replace(ALL, num_replays=1)).is_accepted


def test_the_gate_refuses_an_evaluation_task_even_without_validation():
    overlapping = proposal(task("long/mine", GOAL, machine="m7"))
    for config in (ALL, ValidationConfig(checks=())):
        refused = verdict(overlapping, config)
        assert refused.refusal is not None
        assert refused.refusal.reason is Reason.OVERLAP
        assert refused.refusal.detail == "long/test-0 (machine)"
        assert verdict(overlapping, config, gate=EvaluationGate(GrowingSynthesis(), [])).is_accepted


def test_the_gate_refuses_what_only_a_replay_shows():
    """Nothing in its data agrees with an evaluation task, but it begins and is solved like one."""
    start = "Press in this order: red green blue red. You see buttons: red green blue white."
    answer = ["press red", "press green", "press blue", "press red"]
    gate = EvaluationGate(
        GrowingSynthesis(), EVALUATION, starts={"long/test-0": start}, answers={"long/test-0": answer}
    )
    refused = verdict(proposal(), gate=gate)
    assert refused.refusal is not None
    assert (refused.refusal.reason, refused.refusal.detail) == (Reason.OVERLAP, "long/test-0 (start and answer)")


def test_what_is_known_already_is_refused_even_without_validation():
    nothing = ValidationConfig(checks=())
    for known in (SOUND, task("long/other-name", GOAL)):
        refused = verdict(proposal(), nothing, known_tasks=[known])
        assert refused.refusal is not None
        assert (refused.refusal.reason, refused.refusal.detail) == (Reason.DUPLICATE, f"the same as {known.id}")
    with live_arena() as arena:
        first, second = validate([proposal(), proposal()], ground(), arena, nothing)
    assert first.is_accepted
    assert not second.is_accepted


def test_a_near_duplicate_of_a_proposal_before_it_is_refused():
    twins = [proposal(), proposal(task("long/twin", GOAL, note="twin"))]
    with live_arena() as arena:
        first, second = validate(twins, ground(), arena, ALL)
    assert first.is_accepted
    assert second.refusal is not None
    assert second.refusal.detail == "nearly the same as long/new"


@pytest.mark.parametrize(
    "bad",
    [
        Proposal(task=SOUND, references=(), origin=ORIGIN),
        Proposal(task=SOUND, references=((),), origin=ORIGIN),
        Proposal(task=replace(SOUND, id=" "), references=(("press red",),), origin=ORIGIN),
        proposal(SOUND, ", ".join(["look"] * 9)),
        proposal(SOUND, "press red\n"),
        proposal(SOUND, "press \ud800"),
        proposal(SOUND, "  "),
        proposal(SOUND, "x" * 2001),
        proposal(replace(SOUND, data={"goal": ["red"], "odd": float("nan")})),
        proposal(replace(SOUND, data={"goal": ["red"], "odd": {1, 2}})),
    ],
)
def test_what_cannot_be_played_is_refused_unplayed(bad: Proposal):
    with live_arena() as arena:
        (found,) = validate([bad], ground(), arena, ALL)
        assert arena.total == 0
    assert found.refusal is not None
    assert found.refusal.reason is Reason.FORM


def test_a_form_that_can_be_played_is_not_refused():
    assert check_form(proposal(SOUND, ", ".join(["look"] * 8)), turn_limit=8) is None
    assert check_form(proposal(SOUND, "x" * 2000), turn_limit=8) is None
    assert check_form(proposal(SOUND, "打开门"), turn_limit=8) is None


def test_a_world_that_breaks_is_no_verdict_on_the_task():
    found = verdict(proposal(task("long/fire", GOAL, fault="fire")))
    assert found.refusal is not None
    assert found.refusal.reason is Reason.FAULT
    assert "the machine burns" in found.refusal.detail


# ── References, budget, parity ────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_reference_that_reaches_the_goal_counts():
    right = "press red, press green, press blue, press red"
    with live_arena() as arena:
        (found,) = validate([proposal(SOUND, "press white", right, "look")], ground(), arena, ALL)
        assert found.reference == tuple(right.split(", "))
        assert arena.spent["replay"] == 3  # the wrong one, the right one, the right one again


def test_every_episode_is_counted_and_the_budget_holds():
    goals = ("red green blue red", "white blue green green", "blue blue white red", "green red red white")
    proposals = [proposal(task(f"long/{i}", goal)) for i, goal in enumerate(goals)]
    cost = ALL.cost(1)
    assert cost == 2 + 1 + 1 + 4
    with live_arena(budget=2 * cost + 1) as arena:
        found = validate(proposals, ground(), arena, ALL)
        assert arena.spent == {"explore": 0, "replay": 4, "empty": 2, "random": 2, "query": 0, "probe": 8}
        assert arena.total == 16
    reasons = [one.refusal.reason if one.refusal else None for one in found]
    assert reasons[2:] == [Reason.BUDGET, Reason.BUDGET]
    assert Reason.BUDGET not in reasons[:2]


def test_what_is_refused_is_played_no_further():
    with live_arena() as arena:
        validate([proposal(SOUND, "press white")], ground(), arena, ALL)
        assert arena.spent == {"explore": 0, "replay": 1, "empty": 0, "random": 0, "query": 0, "probe": 0}


GOALS = [" ".join(goal) for goal in permutations(("red", "green", "blue", "white"))]


def many(num: int, *, faulty: int | None = None) -> list[Proposal]:
    """Sound proposals, of which one is solved by silence."""
    return [
        proposal(task(f"long/{i}", goal, **({"fault": "patience"} if i == faulty else {})))
        for i, goal in enumerate(GOALS[:num])
    ]


def test_by_default_a_sound_task_costs_less_than_three_episodes():
    """Eight in full are four episodes each; of the others about a quarter has each of three checks."""
    config = ValidationConfig()
    with live_arena() as arena:
        found = validate(many(24), ground(), arena, config)
        assert arena.spent["probe"] == 0
        assert 8 <= arena.spent["empty"] < 18 and 8 <= arena.spent["random"] < 18 and 32 <= arena.spent["replay"] < 42
        assert arena.total / sum(one.is_accepted for one in found) < 3
    with live_arena() as arena:
        assert validate(many(24), ground(), arena, replace(config, spot_share=1.0)) == found
        assert arena.total == 4 * 24


@pytest.mark.parametrize("place", [3, "drawn"])
def test_one_refusal_and_the_check_is_made_of_all(place: int | str):
    with live_arena() as arena:
        validate(many(24), ground(), arena, ValidationConfig(checks=("replay", "empty")))
        drawn = arena.spent["empty"]
    faulty = (
        place
        if isinstance(place, int)
        else next(i for i in range(8, 24) if draw(0, "spot", "empty", f"long/{i}") < 0.25)
    )
    with live_arena() as arena:
        found = validate(many(24, faulty=faulty), ground(), arena, ValidationConfig(checks=("replay", "empty")))
        assert arena.spent["empty"] == 24 > drawn
    assert [i for i, one in enumerate(found) if not one.is_accepted] == [faulty]


def test_parity_with_the_paper_keeps_failures_with_a_positive_reward():
    """The loophole: a task whose reference gets half of it done passes; one that gets nothing done does not."""
    parity = ValidationConfig(checks=("replay",), num_replays=1, keep_partial=True)
    assert verdict(proposal(SOUND, "press red, press green"), parity).is_accepted
    assert not verdict(proposal(SOUND, "press red, press green"), replace(parity, keep_partial=False)).is_accepted
    assert not verdict(proposal(SOUND, "press white"), parity).is_accepted


def test_a_restart_is_validated_from_its_start():
    halfway = task("long/half", GOAL, prefix=["press red", "press green"])
    found = verdict(proposal(halfway, "press blue, press red"), agent=skilled(0.6))
    assert found.refusal is None or found.is_quarantined
    assert found.reference == ("press blue", "press red")


# ── Trying the query ──────────────────────────────────────────────────────────────────────────────────────────────────

QUERY = ValidationConfig(checks=("query",))


def test_a_query_that_does_not_say_what_its_goal_wants_passes_replay_alone():
    bad, agent = proposal(HALF_TOLD), reader()
    assert verdict(bad, ValidationConfig(checks=("replay",)), agent=agent).is_accepted
    refused = verdict(bad, QUERY, agent=agent)
    assert refused.refusal is not None
    assert (refused.refusal.reason, refused.refusal.detail) == (Reason.QUERY_FAILS, "best reward 0.50 of 4 tries")
    assert not refused.is_quarantined
    whole = verdict(proposal(), QUERY, agent=agent)
    assert whole.is_accepted and whole.start is not None  # compared with later proposals, though no replay was played


def test_parity_with_the_paper_keeps_tries_with_a_positive_reward():
    half, nothing = proposal(HALF_TOLD), proposal(task("long/mistold", GOAL, told=["white"]))
    parity = replace(QUERY, num_query_tries=1, keep_partial=True)
    assert verdict(half, parity, agent=reader()).is_accepted
    assert not verdict(nothing, parity, agent=reader()).is_accepted


def test_the_first_try_that_solves_it_is_enough():
    with live_arena() as arena:
        found = validate([proposal(), proposal(HALF_TOLD)], ground(agent=reader()), arena, QUERY)
        assert [one.is_accepted for one in found] == [True, False]
        assert arena.spent["probe"] == 1 + QUERY.num_query_tries == arena.total


def test_probes_are_tries_and_none_is_played_twice():
    config = ValidationConfig(checks=("query", "probe"), probe_by="episodes", num_query_tries=6, num_probes=4)
    assert (config.cost(1), replace(config, num_query_tries=2).cost(1)) == (6, 4)
    for sound, num in ((proposal(), 4), (proposal(HALF_TOLD), 6)):
        with live_arena() as arena:
            validate([sound], ground(agent=reader()), arena, config)
            assert (arena.spent["probe"], arena.total) == (num, num)


def test_a_served_explorer_may_try_in_the_place_of_the_agent():
    config = replace(ALL, checks=("query", "probe"), query_agent="explorer", num_query_tries=2)
    assert config.cost(1) == 2 + 4
    with live_arena() as arena:
        found = validate(
            [proposal(), proposal(HALF_TOLD)], ground(agent=skilled(0.8), explorer=reader()), arena, config
        )
        assert found[0].is_accepted and not found[1].is_accepted
        assert (arena.spent["query"], arena.spent["probe"]) == (1 + 2, 4)  # what is refused is not probed


def test_tries_that_broke_are_no_verdict():
    broken = replace(played("a", [0.0], stop=StopReason.ENV_FAULT), error="gone")
    assert check_query([broken, played("a", [1.0])], QUERY) is None
    refusal = check_query([broken], QUERY)
    assert refusal is not None and (refusal.reason, refusal.detail) == (Reason.FAULT, "gone")


def test_a_goal_that_is_true_already_is_refused():
    """Replay and query alone would take it, so the empty policy is what tells."""
    won = proposal(task("long/won", GOAL, fault="won"))
    assert verdict(won, ValidationConfig(checks=("replay", "query"))).is_accepted
    refused = verdict(won)
    assert refused.refusal is not None and refused.refusal.reason is Reason.EMPTY_SOLVES


# ── The pure checks ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ((0, 0, 0, 1), None),
        ((1, 1, 1, 0), None),
        ((1, 1, 1, 1), Reason.TOO_EASY),
        ((0, 0, 0, 0), Reason.TOO_HARD),
        ((0.1, 0.1, 0.1, 0.1), None),
        ((0.09, 0.1, 0.1, 0.1), Reason.TOO_HARD),
    ],
)
def test_probes(rewards, reason):
    refusal = check_probe([played("a", [float(reward)]) for reward in rewards], ALL)
    assert (refusal.reason if refusal else None) is reason


def test_broken_probes_do_not_count():
    broken = played("a", [0.0], stop=StopReason.ENV_FAULT)
    assert check_probe([broken, played("a", [0.5])], ALL) is None
    assert check_probe([broken], ALL).reason is Reason.FAULT  # pyright: ignore


def test_the_goal_is_the_full_reward_up_to_rounding():
    assert check_goal(played("a", [1.0 - 1e-7]), ALL) is None
    assert check_goal(played("a", [0.99]), ALL).reason is Reason.NOT_SOLVED  # pyright: ignore


def test_replays_that_differ_in_reward_alone_differ():
    one, other = played("a, b", [0.2, 1.0]), played("a, b", [0.3, 1.0])
    assert check_replays([one, one], ALL) is None
    assert check_replays([one, other], ALL).reason is Reason.NOT_REPRODUCED  # pyright: ignore


def test_a_replay_that_broke_is_no_verdict():
    good, broken = played("a", [1.0]), replace(played("a", [0.0], stop=StopReason.ENV_FAULT), error="gone")
    refusal = check_replays([good, broken], ALL)
    assert refusal is not None
    assert (refusal.reason, refusal.detail) == (Reason.FAULT, "gone")


def test_quarantined_tasks_are_probed_again():
    hard = task("long/new", GOAL)
    with live_arena(budget=9) as arena:
        assert probe_again([hard], ScriptedPolicy(lambda _: "look"), arena, ALL) == []
        (released,) = probe_again([hard, task("long/b", GOAL)], skilled(0.8), arena, ALL)
        assert released in ("long/new", "long/b")
        assert arena.total == 8  # the other was not affordable


def test_no_more_of_them_than_the_config_says():
    waiting = [task(f"long/{i}", GOAL) for i in range(9)]
    drawn: set[str] = set()
    for seed in range(6):
        with live_arena() as arena:
            released = probe_again(waiting, skilled(0.8), arena, ALL, seed=seed)
            assert arena.total == ALL.num_again * ALL.num_probes
            drawn.update(released)
    assert len(drawn) > ALL.num_again  # others at other times


def test_a_verdict_survives_json():
    for found in (verdict(proposal()), verdict(proposal(SOUND, "press white"))):
        again = Verdict.from_json(json.loads(json.dumps(found.to_json())))
        assert again == found
        assert again.sketch == found.sketch
    with pytest.raises(DataError, match="not a verdict"):
        Verdict.from_json({"reason": "no such reason"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_probes": 0},
        {"num_replays": 0},
        {"probe_range": (0.9, 0.1)},
        {"probe_range": (0.0, 1.1)},
        {"checks": ("change", "empty")},
    ],
)
def test_a_config_that_checks_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ValidationConfig(**wrong)
