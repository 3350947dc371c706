"""Episodes leave nothing behind and don't disturb each other: interleaved, in threads, and in the shared modules."""

from __future__ import annotations

import decimal
import importlib
import inspect
import random
from collections.abc import Iterator, Sequence

import mpmath
import pytest

from sparring.core.types import Task
from sparring.envs.bfcl import (
    BFCL,
    BFCLEnv,
    LiveApis,
    Scenario,
    benchmark_task,
    expert,
    read_calls,
    reference_of,
    wheel,
)
from sparring.envs.pool import EnvPool
from tests.envs.bfcl.episodes import actions_of, spoilt, transcript

pytestmark = pytest.mark.usefixtures("world")

LEAKY = (
    "[post_tweet(content='x'), mention(tweet_id=3, mentioned_usernames=['@leak']), post_tweet(content='y')]",
    "get_outside_temperature_from_google()",
    "logarithm(value=10, base=3, precision=150)",
    "square_root(number=2, precision=150)",
    "[purchase_insurance('abc123xyz', 'x', '1', 9, 'card_3478'), get_all_credit_cards()]",
    "[touch('leak'), mkdir('leaks'), echo(content='leak', file_name='leak'), find()]",
)
"""Calls that change what the benchmark's APIs share."""


def shared_state() -> dict[str, str]:
    """Return all that the benchmark's modules and the libraries under them hold for everyone."""
    state = {"mpmath": str(mpmath.mp.prec), "decimal": str(decimal.getcontext()), "random": str(random.getstate())}
    turns = "bfcl_eval.eval_checker.multi_turn_eval"
    names = [f"func_source_code.{file}" for file in (*wheel.API_FILES.values(), "long_context")]
    for name in (*names, "multi_turn_utils", "multi_turn_checker"):
        module = importlib.import_module(f"{turns}.{name}")
        state[name] = ", ".join(vars(module))
        for key, value in vars(module).items():
            if isinstance(value, type):
                methods = inspect.getmembers(value, inspect.isfunction)
                state[f"{name}.{key}"] = str([(method, function.__defaults__) for method, function in methods])
            elif key.isupper():
                state[f"{name}.{key}"] = repr(value)
    return state


def episodes(world: BFCL, num: int, draw: random.Random) -> list[tuple[Task, list[str]]]:
    """Draw tasks and agents that make mistakes and try to leave something behind."""
    drawn = []
    for task in draw.choices(world.tasks("all"), k=num):
        actions = actions_of(spoilt(task, draw))
        for _ in range(3):
            actions.insert(draw.randrange(len(actions)), draw.choice(LEAKY))
        drawn.append((task, actions))
    return drawn


def interleaved(drawn: Sequence[tuple[Task, list[str]]], num_open: int, draw: random.Random) -> list[list]:
    """Play episodes, many open at once, a random one of them a step at a time; envs are used again."""
    seen: list[list] = [[] for _ in drawn]
    waiting = list(enumerate(drawn))
    idle = [BFCLEnv() for _ in range(num_open)]
    playing: list[tuple[int, BFCLEnv, Iterator]] = []
    while waiting or playing:
        while waiting and idle:
            (index, (task, actions)), env = waiting.pop(), idle.pop()
            playing.append((index, env, transcript(env, task, actions)))
        index, env, steps = playing[at := draw.randrange(len(playing))]
        found = next(steps, None)
        if found is None:
            del playing[at]
            idle.append(env)
        else:
            seen[index].append(found)
    return seen


@pytest.mark.parametrize("num", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_interleaved_episodes_are_what_they_are_alone(world: BFCL, num: int):
    drawn = episodes(world, num, random.Random(num))
    LiveApis(Scenario(apis=tuple(wheel.API_FILES), initial_config={}, requests=()))  # imports what there is
    before = shared_state()
    together = interleaved(drawn, 100, random.Random(1))
    assert shared_state() == before
    for (task, actions), seen in zip(drawn, together, strict=True):
        assert list(transcript(BFCLEnv(), task, actions)) == seen, task.id
    assert 0.1 < sum(seen[-1][1] == 1.0 for seen in together) / num < 0.9
    assert shared_state() == before


def test_the_leaks_that_are_mended_are_there_in_the_benchmarks_apis(world: BFCL):
    """Without the care of `live.py` each of these would be seen by the next episode: the tests above can fail."""
    api = wheel.api_class("TwitterAPI")
    defaults = api.post_tweet.__defaults__
    bot = api()
    bot._load_scenario({"authenticated": True})
    assert bot.post_tweet("x")["mentions"] is defaults[1]
    travel = wheel.api_class("TravelAPI")()
    travel._load_scenario({}, long_context=True)
    extension = importlib.import_module(f"{wheel.api_class('TravelAPI').__module__.rpartition('.')[0]}.long_context")
    assert any(card is extension.CREDIT_CARD_EXTENSION[id] for id, card in travel.credit_card_list.items())


def test_tables_of_the_long_context_are_not_written_to(world: BFCL):
    scenario = Scenario(
        apis=("TravelAPI",),
        initial_config={"TravelAPI": {"access_token": "t", "token_expires_in": 2}},
        requests=("Insure me.",),
        is_long=True,
    )
    balances = []
    for _ in range(2):
        live = LiveApis(scenario)
        booking, record = next(iter(live.instances["TravelAPI"].booking_record.items()))
        card = record["card_id"]
        bought = live.call(read_calls(f"purchase_insurance('t', 'trip', {booking!r}, 100.0, {card!r})")[0])
        assert '"insurance_status": true' in bought
        balances.append(live.call(read_calls(f"get_credit_card_balance('t', {card!r})")[0]))
    assert balances[0] == balances[1]


def test_an_hundred_episodes_at_once_in_threads_of_this_process(world: BFCL):
    tasks = world.tasks("all")[::8]
    experts = world.expert_actions(tasks)
    before = shared_state()
    with EnvPool("sparring.envs.bfcl:BFCL", num_envs=100) as pool:
        for slot, task in enumerate(tasks):
            pool.reset(slot, task, 0)
        answers = [[pool.step(slot, action) for action in experts[task.id]] for slot, task in enumerate(tasks)]
        assert all(steps[-1].result().reward == 1.0 and steps[-1].result().is_done for steps in answers)
    assert shared_state() == before


def test_a_literal_that_is_played_twice_is_not_kept(world: BFCL):
    scenario = Scenario(
        apis=("TwitterAPI",), initial_config={"TwitterAPI": {"authenticated": True}}, requests=("Post.",)
    )
    calls = read_calls("[post_tweet(content='x', mentions=['@a']), mention(tweet_id=0, mentioned_usernames=['@b'])]")
    for _ in range(2):
        live = LiveApis(scenario)
        assert '"mentions": ["@a"]' in live.call(calls[0])
        live.call(calls[1])
        assert '["@a", "@b"]' in live.call(read_calls("get_tweet(0)")[0])


def test_a_task_is_not_changed_by_being_played(world: BFCL):
    before = repr(wheel.entries("long_context"))
    env = BFCLEnv()
    for number in range(0, 200, 10):
        task = benchmark_task("long_context", number)
        list(transcript(env, task, expert(reference_of(task))))
    assert repr(wheel.entries("long_context")) == before
