"""ScienceWorld's synthetic tasks on the real simulator: they begin where they say, and the state grades them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from sparring.core.types import StopReason, Task, Trajectory
from sparring.envs.scienceworld.benchmark import ScienceWorld, ScienceWorldEnv, make_task
from sparring.envs.scienceworld.synthesis import ScienceWorldSynthesis, State, achieved, describe
from sparring.envs.synthesis import Draft, Synthesis, synthesis_of
from tests.envs.proposing import play

WORLD = ScienceWorld()
OFFERED = synthesis_of(WORLD)
FIND = make_task("find-animal", 17)
PAINT = make_task("chemistry-mix-paint-secondary-color", 0)
ROUTE = (
    "focus on dove",
    "pick up dove",
    "open door to greenhouse",
    "go to greenhouse",
    "open door to hallway",
    "go to hallway",
    "open door to living room",
    "go to living room",
    "move egg dove egg in inventory to purple box",
)
"""Solves `FIND`: the simulator's own gold path, which it takes a JVM and seconds to search."""
MIXING = (
    "open door to hallway",
    "go to hallway",
    "open door to art studio",
    "go to art studio",
    "pour cup containing blue paint in art studio in jug",
    "pour cup containing yellow paint in art studio in jug",
    "mix jug",
    "look around",
)
"""Makes green paint in `PAINT`."""


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorldEnv]:
    env = ScienceWorldEnv()
    yield env
    env.close()


def restarted(task: Task, prefix: Sequence[str]) -> Task:
    made = OFFERED.restart(task, prefix)
    assert made is not None
    return made


# ── Restarts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num", [1, 4, 8])
def test_a_restart_goes_on_exactly_where_the_prefix_ends(env: ScienceWorldEnv, num: int):
    whole, rest = play(env, FIND, ROUTE), play(env, restarted(FIND, ROUTE[:num]), ROUTE[num:])
    assert [turn.observation for turn in rest.turns[1:]] == [turn.observation for turn in whole.turns[num + 1 :]]
    assert (rest.final_observation, rest.reward, rest.stop) == (whole.final_observation, 1.0, StopReason.DONE)


def test_only_what_is_earned_after_the_start_counts(env: ScienceWorldEnv):
    """The expert of this task has 0.67 after two actions: 0.83 − 0.67 of the 0.33 that is left is 0.48."""
    whole = play(env, FIND, ROUTE)
    rewards = [turn.reward for turn in whole.turns]
    assert (rewards[1], rewards[7]) == (0.67, 0.83)
    rest = play(env, restarted(FIND, ROUTE[:2]), ROUTE[2:])
    assert rest.turns[5].reward == pytest.approx((0.83 - 0.67) / (1 - 0.67))
    idle = play(env, restarted(FIND, ROUTE[:4]), [""] * 5)
    assert idle.reward == 0.0


def test_the_start_shows_what_was_done_and_what_is_held(env: ScienceWorldEnv):
    first = env.reset(restarted(FIND, ROUTE[:4]), 0)
    assert first.startswith("Your task is to find a(n) animal.")
    assert f"Done so far: {'; '.join(ROUTE[:4])}." in first
    assert "called the greenhouse" in first
    assert "\ta dove egg" in first.partition("In your inventory")[2]


def test_a_restart_of_a_restart_is_a_longer_restart():
    twice = restarted(restarted(FIND, ["a", "b"]), ["c"])
    assert twice == restarted(FIND, ["a", "b", "c"])
    assert twice.id.startswith("find-animal/17+restart-")
    assert OFFERED.restart(FIND, []) is None


def test_a_start_that_is_lost_stays_lost(env: ScienceWorldEnv):
    lost = play(env, restarted(FIND, ["focus on axe"]), ROUTE)
    assert (lost.reward, lost.stop, len(lost.turns)) == (0.0, StopReason.DONE, 1)


def test_after_a_synthetic_task_the_env_plays_others_as_ever(env: ScienceWorldEnv):
    before = env.reset(FIND, 0)
    env.reset(restarted(FIND, ["pick up dove"]), 0)
    assert env.reset(FIND, 0) == before
    assert env.step("focus on axe").is_done


# ── Goals in hindsight ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("task", "actions"),
    [
        pytest.param(FIND, ROUTE[:4], id="holding"),
        pytest.param(FIND, ROUTE[:7], id="further"),
        pytest.param(PAINT, MIXING, id="mixing"),
    ],
)
def test_what_an_episode_brought_about_is_solved_by_its_own_actions(
    env: ScienceWorldEnv, task: Task, actions: Sequence[str]
):
    made = OFFERED.relabel(play(env, task, actions))
    assert made is not None
    assert play(env, made, [""] * 3).reward < 1.0
    again = play(env, made, actions)
    assert (again.reward, again.stop) == (1.0, StopReason.DONE)


def test_facts_are_those_that_the_simulator_told(env: ScienceWorldEnv):
    assert achieved(play(env, FIND, ROUTE[:4])) == [["at", "greenhouse"], ["holding", "dove"]]
    assert achieved(play(env, PAINT, MIXING)) == [["at", "art studio"], ["seeing", "green paint"]]
    there = ["go to kitchen", "pick up cup", "activate stove", "put down cup"]
    assert achieved(play(env, FIND, there)) == [
        ["at", "kitchen"],
        ["seeing", "stove", "turned on"],
        ["seeing", "glass cup"],
    ]
    assert achieved(play(env, FIND, ["look around", "focus on axe", "sing"])) == []
    assert OFFERED.relabel(play(env, FIND, ["look around"])) is None


def test_a_goal_is_graded_by_the_facts_that_hold_at_once(env: ScienceWorldEnv):
    """Two facts: one of them is half of it; leaving the place again takes nothing back from the best so far."""
    goal = make_goal(["at", "kitchen"], ["holding", "axe"])
    episode = play(env, goal, ["pick up axe", "put down axe", "go to kitchen", "go to outside", "pick up axe"])
    assert [turn.reward for turn in episode.turns] == [0.5] * 5
    assert episode.stop is StopReason.TURN_LIMIT
    assert play(env, goal, ["pick up axe", "go to kitchen", "look around"]).stop is StopReason.DONE


def test_the_simulators_own_task_plays_no_part_in_a_goal(env: ScienceWorldEnv):
    goal = make_goal(["at", "kitchen"])
    assert play(env, goal, ["focus on axe", "wait1", "go to kitchen"]).reward == 1.0


def test_a_fact_that_holds_from_the_start_earns_nothing(env: ScienceWorldEnv):
    half = make_goal(["at", "outside"], ["holding", "axe"])
    assert play(env, half, ["look around"]).reward == 0.0
    assert play(env, half, ["pick up axe"]).reward == 1.0
    assert play(env, make_goal(["at", "outside"]), [""]).reward == 1.0  # so that a policy that does nothing shows it


def test_the_goal_is_stated_after_its_wording():
    facts = [("at", "kitchen"), ("holding", "dove"), ("seeing", "purple box", "dove")]
    assert describe(facts, "Bring the bird.") == (
        "Bring the bird.\nYour task is to be in the kitchen, and to have the dove in your inventory, and to be where "
        "you can see the purple box with the dove, all at the same time."
    )


def test_a_chain_keeps_what_is_held_and_asks_for_more(env: ScienceWorldEnv):
    first = play(env, FIND, ["pick up axe"])
    second = play(env, FIND, ["go to kitchen", "pick up cup"])
    drafts = [Draft(task=relabelled(one), actions=tuple(turn.action for turn in one.turns)) for one in (first, second)]
    made = OFFERED.chain(*drafts)
    assert made is not None
    assert made.task.data["goal"] == [["holding", "axe"], ["at", "kitchen"], ["holding", "glass cup"]]
    assert play(env, made.task, made.actions).reward == 1.0
    other = Draft(task=relabelled(play(env, PAINT, ["go to kitchen"])), actions=("go to kitchen",))
    assert OFFERED.chain(drafts[0], other) is None
    assert OFFERED.chain(drafts[0], Draft(task=FIND, actions=())) is None


def test_names_are_matched_as_words():
    state = State(look="This room is called the kitchen. In it:\n\ta tin cup", inventory="In it:\n\tan orange")
    assert state.holds(("holding", "orange"))
    assert not state.holds(("holding", "range"))
    assert not state.holds(("at", "kit"))
    assert not state.holds(("seeing", "cup (")) and state.holds(("seeing", "tin cup"))


# ── The rest of what is offered ───────────────────────────────────────────────────────────────────────────────────────


def test_variations_are_of_the_training_split_alone():
    held_out = {task.id for split in ("dev", "test") for task in WORLD.tasks(split)}
    found = OFFERED.variations(FIND)
    assert len(found) == 149
    assert {task.kind for task in found} == {"find-animal"}
    assert not {task.id for task in found} & (held_out | {FIND.id})
    assert OFFERED.variations(restarted(FIND, ["a"])) == found


def test_variations_leave_out_what_a_split_from_files_shares_with_its_training_split():
    train = [make_task("boil", variation) for variation in range(4)]
    offered = ScienceWorldSynthesis(train, {"boil/2"})
    assert [task.id for task in offered.variations(train[0])] == ["boil/1", "boil/3"]


def test_whatever_begins_in_a_variation_belongs_to_it():
    assert OFFERED.footprint(restarted(FIND, ["a"])) == OFFERED.footprint(FIND) == {"scenario": "find-animal/17"}


def test_patterns_are_verbs():
    verbs = {action: OFFERED.pattern(action) for action in ("pour cup in jug", "go to hall", "0", "sing", "", "  ")}
    assert list(verbs.values()) == ["pour", "go", "number", "", "", ""]


def test_looking_and_what_is_refused_changes_nothing(env: ScienceWorldEnv):
    for actions, has_changed in (
        (["look around", "wait1", "inventory", "examine axe"], False),
        (["open nothing", "pick up moon"], False),
        (["pick up axe"], True),
    ):
        assert OFFERED.has_changed(play(env, FIND, actions)) is has_changed


def test_it_keeps_the_protocol_and_has_no_experts_of_its_own():
    assert isinstance(OFFERED, Synthesis)
    assert WORLD.expert_actions([restarted(FIND, ["pick up axe"])]) == {}
    assert WORLD.turn_limit(restarted(FIND, ["a"])) == WORLD.turn_limit(FIND)


def make_goal(*facts: list[str]) -> Task:
    return Task(id="find-animal/17+goal", kind="find-animal", data={"variation": 17, "goal": list(facts)})


def relabelled(trajectory: Trajectory) -> Task:
    made = OFFERED.relabel(trajectory)
    assert made is not None
    return made
