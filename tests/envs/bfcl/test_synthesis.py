"""BFCL's synthetic tasks: made of training scenarios, solved by what is said to solve them, and by nothing less."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparring.core.types import StopReason, Task, Trajectory
from sparring.envs.bfcl import BFCL, Call, Scenario, benchmark_task, make_task, reference_of, scenario_of, score
from sparring.envs.bfcl.env import DONE, MAX_SO_FAR
from sparring.envs.bfcl.played import play as play_calls
from sparring.envs.bfcl.synthesis import MAX_REQUESTS, NUM_VARIATIONS
from sparring.envs.bfcl.variation import exchange, find_slots
from sparring.envs.bfcl.wording import CHANGING, LOOKING, ask_for
from sparring.envs.synthesis import Draft, Synthesis, synthesis_of
from tests.envs.proposing import judge, play, refusals

FILES = benchmark_task("base", 0)
"""Four requests about files; the first is answered by three calls."""
NAMED = benchmark_task("base", 31)
"""Two requests about files, which they call by their names alone."""


@pytest.fixture(scope="module")
def offered(world: BFCL) -> Synthesis:
    return synthesis_of(world)


def way(world: BFCL, task: Task) -> list[str]:
    return list(world.expert_actions([task])[task.id])


def played(world: BFCL, task: Task, actions: Sequence[str]) -> Trajectory:
    return play(world.make_env(), task, actions)


def account(balance: int = 100, *requests: str, calls: Sequence[Sequence[str]]) -> Task:
    """A task at a small broker of our own."""
    state = {
        "TradingBot": {
            "orders": {},
            "account_info": {"account_id": 1, "balance": balance, "binding_card": 1},
            "authenticated": True,
            "market_status": "Open",
            "order_counter": 7,
            "stocks": {name: {"price": price} for name, price in (("AAPL", 10.5), ("GOOG", 20.25))},
            "watch_list": [],
            "transaction_history": [],
        }
    }
    return make_task("own/1", Scenario(apis=("TradingBot",), initial_config=state, requests=requests), calls)


# ── Variations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_variation_changes_values_in_requests_calls_and_state_alike(offered: Synthesis):
    found = offered.variations(NAMED)
    assert 0 < len(found) <= NUM_VARIATIONS
    for task in found:
        said, names = "\n".join(scenario_of(task).requests), str(scenario_of(task).initial_config)
        assert "data.txt" not in said and "data.txt" not in names
        shown = next(call.kwargs["file_name"] for call in reference_of(task)[0] if call.name == "cat")
        assert f"'{shown}'" in said and f"'{shown}'" in names and shown.endswith(".txt")
    assert offered.variations(NAMED) == found


def test_what_was_looked_up_is_taken_from_the_new_result(offered: Synthesis):
    """The price is AAPL's; the user names neither it nor the order's number, and another stock has another price."""
    task = account(
        9000,
        "Buy 100 shares of AAPL at what they cost now, and show me the order.",
        calls=[
            [
                "get_stock_info(symbol='AAPL')",
                "place_order(order_type='Buy', symbol='AAPL', price=10.5, amount=100)",
                "get_order_details(order_id=7)",
            ]
        ],
    )
    found = offered.variations(task)
    assert found
    for one in found:
        look, order, show = reference_of(one)[0]
        assert (look.kwargs, order.kwargs["price"]) == ({"symbol": "GOOG"}, 20.25)
        assert order.kwargs["amount"] != 100 and show.kwargs == {"order_id": 7}
        assert f"{order.kwargs['amount']} shares of GOOG" in scenario_of(one).requests[0]


def test_a_number_whose_origin_nobody_knows_makes_no_variation(offered: Synthesis):
    """The second amount is half of the first, which the calls don't say."""
    task = account(
        9000,
        "Put 4000 dollars into my account.",
        "Take half of that out again.",
        calls=[["fund_account(amount=4000)"], ["withdraw_funds(amount=2000)"]],
    )
    assert offered.variations(task) == []


def test_values_are_varied_only_where_the_user_spells_them_out():
    """Not the symbol behind a company's name, a small number, or a word that the text also uses as one."""
    scenario = Scenario(
        apis=("TradingBot", "GorillaFileSystem"),
        initial_config={},
        requests=("Buy 5 shares of Apple (AAPL) for 250 dollars and note it in the document 'notes.txt' in document.",),
    )
    calls = (
        Call("place_order", (), {"order_type": "Buy", "symbol": "AAPL", "price": 250.0, "amount": 5}),
        Call("cd", (), {"folder": "document"}),
        Call("touch", (), {"file_name": "notes.txt"}),
    )
    assert [slot.spelling for slot in find_slots(scenario, (calls,))] == ["250", "notes.txt"]


def test_a_name_that_is_also_spoken_of_in_other_words_stays():
    for said, num in (("Sort 'final_report.pdf'.", 1), ("Sort 'final_report.pdf'. Read me the final report.", 0)):
        scenario = Scenario(apis=("GorillaFileSystem",), initial_config={}, requests=(said,))
        assert len(find_slots(scenario, ((Call("sort", (), {"file_name": "final_report.pdf"}),),))) == num


def test_exchanging_is_by_whole_words_and_all_at_once():
    assert exchange("a.txt, aa.txt and a b", {"a": "b", "b": "a"}) == "a.txt, aa.txt and b a"
    assert exchange("$1,500 or 1500", {"1,500": "3,000"}) == "$3,000 or 1500"


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluation_tasks_are_no_material(world: BFCL, offered: Synthesis, split: str):
    for task in world.tasks(split)[:5]:
        actions = way(world, task)
        assert offered.variations(task) == []
        assert offered.restart(task, actions[:1]) is None
        assert offered.relabel(played(world, task, actions)) is None
        assert offered.chain(Draft(task=task, actions=tuple(actions)), Draft(task=FILES, actions=())) is None


# ── Restarts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num", [1, 3, 4, 6])
def test_a_restart_goes_on_exactly_where_the_prefix_ends(world: BFCL, offered: Synthesis, num: int):
    actions = way(world, FILES)
    task = offered.restart(FILES, actions[:num])
    assert task is not None and task.kind == FILES.kind
    whole, rest = played(world, FILES, actions), played(world, task, actions[num:])
    assert [turn.observation for turn in rest.turns[1:]] == [turn.observation for turn in whole.turns[num + 1 :]]
    assert (rest.final_observation, rest.reward, rest.stop) == (whole.final_observation, 1.0, StopReason.DONE)


def test_only_what_is_earned_after_the_start_counts(world: BFCL, offered: Synthesis):
    """After the first of four requests 1/4 is there; the next is 1/4 of the 3/4 that are left.

    After the calls of the first request, silence would still earn its 1/4, so that this counts as had, too.
    """
    actions = way(world, FILES)
    for num in (3, 4):
        task = offered.restart(FILES, actions[:num])
        assert task is not None
        assert played(world, task, [DONE] * 6).reward == 0.0
        rest = played(world, task, actions[num:])
        rewards = [turn.reward for turn in rest.turns]
        assert (rewards[5 - num], rewards[6 - num]) == (0.0, pytest.approx((2 / 4 - 1 / 4) / (3 / 4)))


def test_less_than_at_the_start_is_nothing(world: BFCL, offered: Synthesis):
    """The first request's share, which silence would earn, is not there before the request is over."""
    task = offered.restart(FILES, way(world, FILES)[:3])
    assert task is not None
    env = world.make_env()
    env.reset(task, 0)
    ends = [env.step(action) for action in ("[cd(folder='..')]", "[rm(file_name='nothing')]", DONE)]
    assert [step.reward for step in ends] == [0.0] * 3


def test_the_start_tells_what_was_said_and_done(world: BFCL, offered: Synthesis):
    actions = way(world, FILES)
    task = offered.restart(FILES, actions[:5])
    assert task is not None
    first = world.make_env().reset(task, 0)
    assert first.startswith("Functions:\n")
    first_request, second_request = scenario_of(FILES).requests[:2]
    so_far = first.partition("\n\n")[2].splitlines()
    assert so_far[:3] == [f"User: {first_request}", f"You: {actions[0]}", '{"current_working_directory": "document"}']
    assert so_far[-3:] == [f"User: {second_request}", f"You: {actions[4]}", '{"current_working_directory": "temp"}']


def test_long_results_are_cut_in_the_account_and_what_the_user_says_is_not(world: BFCL, offered: Synthesis):
    task = next(one for one in world.tasks("train") if one.kind == "miss_func")
    turn = min(scenario_of(task).held_back)
    actions = way(world, task)
    num = [place for place, action in enumerate(actions, start=1) if action == DONE][turn - 1]
    restarted = offered.restart(task, actions[:num])
    assert restarted is not None
    first = world.make_env().reset(restarted, 0)
    env = world.make_env()
    env.reset(task, 0)
    assert first.endswith([env.step(action).observation for action in actions[:num]][-1])
    long = benchmark_task("long_context", 0)
    after = offered.restart(long, ["[cd(folder='document')]", "[ls(a=True)]"])
    assert after is not None
    assert max(map(len, world.make_env().reset(after, 0).partition("\n\n")[2].splitlines())) <= MAX_SO_FAR + 1


def test_a_restart_of_a_restart_is_a_longer_restart(world: BFCL, offered: Synthesis):
    actions = way(world, FILES)
    once = offered.restart(FILES, actions[:2])
    assert once is not None
    assert offered.restart(once, actions[2:4]) == offered.restart(FILES, actions[:4])


def test_there_is_no_restart_from_the_start_a_lost_place_or_the_end(world: BFCL, offered: Synthesis):
    actions = way(world, FILES)
    assert offered.restart(FILES, []) is None
    assert offered.restart(FILES, [DONE]) is None
    assert offered.restart(FILES, actions) is None
    assert offered.restart(FILES, actions[:-1]) is None  # silence would end it well


def test_after_a_restart_the_env_plays_other_tasks_as_ever(world: BFCL, offered: Synthesis):
    env, actions = world.make_env(), way(world, FILES)
    task = offered.restart(FILES, actions[:4])
    assert task is not None
    before = play(env, FILES, actions)
    play(env, task, actions[4:])
    assert play(env, FILES, actions) == before


# ── Hindsight and chains ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_done_is_asked_for_turn_by_turn(world: BFCL, offered: Synthesis):
    """A refused call and what comes after the last turn that was ended are left out; the rest solves it."""
    actions = ["[cd(folder='document')]", "[touch(file_name='a.txt'), cat(file_name='none')]", DONE]
    actions += ["[cat(file_name='a.txt')]", DONE, "[rm(file_name='a.txt')]"]
    episode = played(world, FILES, actions)
    task = offered.relabel(episode)
    assert task is not None
    assert scenario_of(task).requests == (
        "Please go to the directory 'document', then create the file 'a.txt'.",
        "Please show what is in the file 'a.txt'.",
    )
    again = played(world, task, actions)
    assert (again.reward, len(again.turns)) == (1.0, 5)
    assert played(world, task, [DONE] * 3).reward == 0.0
    worded = offered.relabel(episode, "Start a note.")
    assert worded is not None
    assert scenario_of(worded).requests[0].splitlines() == ["Start a note.", scenario_of(task).requests[0]]
    assert reference_of(worded) == reference_of(task)


def test_looking_or_an_open_turn_makes_no_goal(world: BFCL, offered: Synthesis):
    for actions in ([DONE], ["[ls()]", DONE], ["[mkdir(dir_name='a')]"], ["[cd(folder='document')]", DONE], ["[no()]"]):
        assert offered.relabel(played(world, FILES, actions)) is None


def test_a_restarted_episode_is_relabelled_from_its_start(world: BFCL, offered: Synthesis):
    actions = way(world, FILES)
    begun = offered.restart(FILES, actions[:4])
    assert begun is not None
    episode = played(world, begun, ["[touch(file_name='b.txt')]", DONE])
    task = offered.relabel(episode)
    assert task is not None
    assert played(world, task, [turn.action for turn in episode.turns]).reward == 1.0
    assert played(world, task, [DONE] * 3).reward == 0.0


def test_a_chain_lets_the_second_user_go_on(world: BFCL, offered: Synthesis):
    first = offered.relabel(played(world, FILES, ["[mkdir(dir_name='one')]", DONE]))
    second = offered.relabel(played(world, FILES, ["[mkdir(dir_name='two')]", DONE]))
    assert first is not None and second is not None
    drafts = [
        Draft(task=first, actions=("[mkdir(dir_name='one')]", DONE, "[ls()]")),  # what comes after its end is left out
        Draft(task=second, actions=("[mkdir(dir_name='two')]", DONE)),
    ]
    made = offered.chain(*drafts)
    assert made is not None
    assert made.actions == ("[mkdir(dir_name='one')]", DONE, "[mkdir(dir_name='two')]", DONE)
    assert scenario_of(made.task).requests == (*scenario_of(first).requests, *scenario_of(second).requests)
    assert played(world, made.task, made.actions).reward == 1.0
    assert offered.chain(drafts[0], drafts[0]) is None
    other = Draft(task=benchmark_task("base", 1), actions=())
    assert offered.chain(drafts[0], other) is None


def test_a_chain_whose_second_part_would_go_another_way_is_none(world: BFCL, offered: Synthesis):
    """After the first has gone into the directory, the second finds none of that name."""
    made = []
    for name in ("one", "two"):
        actions = ["[cd(folder='document')]", f"[mkdir(dir_name='{name}')]", DONE]
        task = offered.relabel(played(world, FILES, actions))
        assert task is not None
        made.append(Draft(task=task, actions=tuple(actions)))
    assert offered.chain(*made) is None
    assert MAX_REQUESTS >= 8


# ── The rest of what is offered ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("every", "num_accepted"), [(40, 10), pytest.param(10, 40, marks=pytest.mark.slow)])
def test_all_that_is_made_of_training_tasks_passes_the_real_validation(
    world: BFCL, offered: Synthesis, every: int, num_accepted: int
):
    """Of every so many training tasks one of each kind; whatever is refused only looks, or is like another."""
    tasks = world.tasks("train")[::every]
    experts = world.expert_actions(tasks)
    drafts: list[Draft] = []
    for task in tasks:
        actions = list(experts[task.id])
        half = [place for place, action in enumerate(actions, start=1) if action == DONE][: len(actions) // 8 + 1][-1]
        for one in offered.variations(task)[:1]:
            drafts.append(Draft(task=one, actions=tuple(world.expert_actions([one])[one.id])))
        for one, rest in (
            (offered.restart(task, actions[:half]), actions[half:]),
            (offered.relabel(played(world, task, actions[:half])), actions[:half]),
        ):
            if one is not None and rest:
                drafts.append(Draft(task=one, actions=tuple(rest)))
    verdicts = judge(drafts, world, "bfcl", {}, [action for actions in experts.values() for action in actions])
    sound = ("its reference changes nothing", "duplicate")
    assert [text for text in refusals(verdicts) if not any(reason in text for reason in sound)] == []
    assert sum(verdict.is_accepted for verdict in verdicts) >= num_accepted


def test_whatever_starts_in_a_state_belongs_to_it(world: BFCL, offered: Synthesis):
    begun = offered.restart(FILES, way(world, FILES)[:4])
    assert begun is not None
    assert offered.footprint(begun) == offered.footprint(FILES)
    assert set(offered.footprint(FILES)) == {"text", "scenario", "answer"}
    sides = [
        {(aspect, text) for task in world.tasks(split) for aspect, text in offered.footprint(task).items()}
        for split in ("train", "dev", "test")
    ]
    assert not sides[0] & (sides[1] | sides[2])


def test_patterns_are_the_names_of_functions(offered: Synthesis):
    names = {"[cd(folder='a'), ls()]": "cd", "ls()": "ls", "Done ": DONE, "no()": "", "[1]": "", "well": "", "": ""}
    assert {action: offered.pattern(action) for action in names} == names


def test_looking_and_what_is_refused_changes_nothing(world: BFCL, offered: Synthesis):
    for actions, has_changed in (
        (["[ls()]", "[cd(folder='document')]", DONE], False),
        (["[cd(folder='nowhere')]", "[rm(file_name='nothing')]"], False),
        (["[mkdir(dir_name='a')]"], True),
    ):
        assert offered.has_changed(played(world, FILES, actions)) is has_changed


def test_whoever_begins_in_the_middle_has_no_expert_and_as_many_turns(world: BFCL, offered: Synthesis):
    task = offered.restart(FILES, way(world, FILES)[:4])
    assert task is not None
    assert world.expert_actions([task]) == {}
    assert world.turn_limit(task) == world.turn_limit(FILES)


def test_words_ask_for_calls():
    apis = ("VehicleControlAPI", "TwitterAPI")
    calls = [
        Call("lockDoors", (), {"unlock": False, "door": ["driver", "passenger"]}),
        Call("post_tweet", ("Hello",), {"tags": ["#a"], "mentions": []}),
    ]
    assert ask_for(calls, apis) == (
        "Please lock the doors 'driver', 'passenger', then post the tweet 'Hello' (tags '#a', mentions none)."
    )
    assert ask_for([Call("get_current_speed")], apis) == ask_for([Call("post_tweet")], apis) == ask_for([], apis) == ""
    assert not CHANGING.keys() & LOOKING.keys()


def test_calls_are_told_apart_by_what_they_do(world: BFCL):
    calls = [Call("mkdir", ("a",)), Call("mkdir", ("a",)), Call("cd", ("a",)), Call("pwd"), Call("cd", ("x",))]
    done = play_calls(scenario_of(FILES), calls)
    assert [one.has_changed for one in done] == [True, False, True, False, False]
    assert [one.is_refused for one in done] == [False, True, False, False, True]
    assert score(FILES, []).reward == 0.0
