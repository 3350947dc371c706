"""Nasty actions: none reaches what is not documented, none takes long, none takes much memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import psutil
import pytest

from sparring.core.types import Task
from sparring.envs.base import Env
from sparring.envs.bfcl import BFCLEnv, LiveApis, Scenario, functions_of, make_task, read_calls, wheel
from sparring.envs.bfcl.calls import MAX_CALLS, MAX_CHARS
from tests.envs.pooled import PooledEnv, on_cluster

pytestmark = pytest.mark.usefixtures("world")

MOST_SECONDS = 5.0
"""For one action, on a machine with other things to do; the slowest takes a tenth of a second alone."""
MOST_MEMORY = 300 * 2**20
"""For everything in this module."""

EVERYTHING = Scenario(
    apis=tuple(wheel.API_FILES),
    initial_config={
        "GorillaFileSystem": {
            "root": {
                "home": {
                    "type": "directory",
                    "contents": {"a": {"type": "directory", "contents": {"f": {"type": "file", "content": "x"}}}},
                }
            }
        },
        "TwitterAPI": {"authenticated": True},
        "TradingBot": {"authenticated": True, "market_status": "Open"},
    },
    requests=("Do as you like.",) * 3,
)

VALUES = (
    "10**10**10",
    "9" * 40,
    "-" + "9" * 40,
    "1e308",
    "-1e308",
    "1e999",
    "0",
    "True",
    "None",
    "''",
    "'" + "9" * 4_000 + "'",
    "'1e999999999999'",
    "'../../../etc/passwd'",
    "'/'",
    "'.'",
    "'\\ud800\\x00'",
    "'%s%n{0.__class__}'",
    "[]",
    "[[[]]]",
    "[" + "1," * 2_000 + "]",
    "{}",
    "{'__class__': 1}",
    "(1, 2)",
)

READERS = (
    "(" * 5_000,
    "[" * 5_000,
    "{" * 5_000,
    "-" * 9_000 + "1",
    "not " * 2_000 + "1",
    "f(a=" + "-" * 9_000 + "1)",
    "f(a=" + "[" * 4_000 + "]" * 4_000 + ")",
    "f(a=" + "{1:" * 90 + "1" + "}" * 90 + ")",
    "1" + "+1" * 4_000,
    "f" + ".a" * 4_000 + "()",
    "f" + "()" * 4_000,
    "f(" * 3_000 + ")" * 3_000,
    "lambda:" * 1_000 + "0",
    "[x for x in " * 500 + "]" * 500,
    "f(a=" + "9" * 9_000 + ")",
    "f(a=0x" + "f" * 9_000 + ")",
    "f'" + "{" * 1_000,
    "x" * 1_000_000,
    "ls()," * 200_000,
    "\x00" * 100,
    "\ud800",
    "'" * 9_999,
    '"""' * 3_000,
    "\\\n" * 4_000,
    "#" * 9_999,
)

FORBIDDEN = (
    "__init__()",
    "__class__()",
    "__reduce__()",
    "__getattribute__('root')",
    "_load_scenario(scenario={})",
    "_navigate_to_directory(path='/')",
    "_parse_positions(positions='1-99999999999')",
    "_generate_id()",
    "_set_card_balance(card_id='1', balance=5)",
    "_find_ticket(ticket_id=1)",
    "eval('1')",
    "exec('1')",
    "print('x')",
    "open('/etc/passwd')",
    "exit()",
    "globals()",
    "getattr('x', 'y')",
    "__import__('os')",
    "__import__('os').system('touch leaked')",
    "root.contents.clear()",
    "GorillaFileSystem.cd(folder='a')",
    "ls.__func__.__globals__",
    "ls.__globals__()",
    "''.format()",
    "(lambda: 1)()",
)


def task() -> Task:
    return make_task("hostile", EVERYTHING, [["ls()"]] * 3)


@pytest.fixture(scope="module", autouse=True)
def memory():
    before = psutil.Process().memory_info().rss
    yield
    assert psutil.Process().memory_info().rss - before < MOST_MEMORY


@pytest.fixture(scope="module")
def clustered(ray_cluster: None) -> Iterator[PooledEnv]:
    with on_cluster("sparring.envs.bfcl:BFCL") as env:
        yield env


@pytest.fixture(params=["here", pytest.param("ray", marks=pytest.mark.ray)])
def env(request: pytest.FixtureRequest) -> Env:
    env = BFCLEnv() if request.param == "here" else request.getfixturevalue("clustered")
    env.reset(task(), 0)
    return env


def play(env: Env, action: str) -> str:
    start = time.process_time()
    answer = env.step(action)
    assert time.process_time() - start < MOST_SECONDS, action[:80]
    assert answer.observation.strip() and 0 <= answer.reward < 1
    if answer.is_done:
        env.reset(task(), 0)
    return answer.observation


@pytest.mark.parametrize("env", ["here"], indirect=True)  # thousands of calls: their way through a pool is no other
def test_every_function_survives_every_value_for_each_of_its_arguments(env: Env):
    num = 0
    for function, value in itertools.product(functions_of(wheel.API_FILES), VALUES):
        names = list(function.doc["parameters"]["properties"])
        for call in {f"{function.name}({', '.join(f'{one}={value}' for one in names)})", f"{function.name}({value})"}:
            play(env, call)
            num += 1
    assert num > 3_000


@pytest.mark.parametrize("action", READERS, ids=lambda action: action[:12].encode("ascii", "replace").decode())
def test_text_that_is_hard_to_read(env: Env, action: str):
    play(env, action)


@pytest.mark.parametrize("action", FORBIDDEN)
def test_nothing_but_documented_functions_is_called(env: Env, action: str):
    before = LiveApis(EVERYTHING)
    observation = play(env, action)
    assert observation.startswith(("Error during execution: ", "User: "))
    if isinstance(env, BFCLEnv):  # on a cluster its state is out of reach
        assert env._live is not None
        check_state, _ = wheel.checkers()
        assert check_state(env._live.instances, before.instances)["valid"]


@pytest.mark.parametrize(
    "call",
    [
        "power(base=10, exponent=100000000000)",
        "power(base=-2, exponent=99999999999999999999)",
        "logarithm(value=2, base=3, precision=1000000000)",
        "logarithm(value='1e999999999999', base=3, precision=10)",
        "logarithm(2, 3, 1000000000)",
        "square_root(number=2, precision=1000000000)",
        "square_root(2, 1000000000)",
        "round_number(number=7, decimal_places=-1000000000)",
        "round_number(7, -1000000000)",
    ],
)
def test_mathematics_that_runs_away_is_refused(env: Env, call: str):
    assert play(env, call).startswith("Error during execution: ")


def test_the_slowest_mathematics_that_is_played_is_quick_enough(env: Env):
    for call in ("logarithm(1.5e300, 3, 200)", "square_root(2, 200)", f"power({'9' * 40}, 100)"):
        play(env, f"[{', '.join([call] * MAX_CALLS)}]")


def test_copies_that_double_the_file_system_are_refused_in_time(env: Env):
    play(env, "mv('a', 'x')")
    for _ in range(6):
        double = "mkdir('p'), cp('x', 'p'), mv('x', 'y'), cp('y', 'p'), rm('y'), mv('p', 'x')"
        observation = play(env, f"[{', '.join([double] * 8)}]")
    assert "the file system is full" in observation
    for action in ("find()", "du()", "[ls(), cd('x'), ls()]", "done"):
        play(env, action)


@pytest.mark.parametrize("loop", ["cp('a', 'a')", "mkdir('.'), cp('.', 'y')", "mkdir('.'), mv('.', 'y')"])
def test_a_directory_inside_itself_stops_nothing(env: Env, loop: str):
    play(env, f"[{loop}]")
    for action in ("find()", "du()", "[cd('a'), cd('a'), cd('a'), pwd()]", "[cp('a', 'b'), find(), cd('..')]", "done"):
        play(env, action)


def test_deep_directories_and_long_names_are_bounded(env: Env):
    deeper = f"mkdir('{'n' * 180}'), cd('{'n' * 180}')"
    for _ in range(19):
        observation = play(env, f"[{', '.join([deeper] * 24)}, find(), du()]")
    assert "the file system is full" in observation
    play(env, "pwd()")
    play(env, "done")


def test_an_episode_of_the_longest_actions_is_bounded(env: Env):
    longest = f"post_tweet(content='{'x' * (MAX_CHARS - 40)}')"
    for _ in range(60):
        play(env, longest)
        play(env, "search_tweets(keyword='x')")


def test_messages_that_list_a_set_do_so_in_order():
    live = LiveApis(EVERYTHING)
    flight = "book_flight('t', 'c', '2024-01-01', 'JFK', 'LAX', 'third')"
    live.instances["TravelAPI"].credit_card_list = {"c": {"balance": 10}}
    live.instances["TravelAPI"].access_token = "t"
    assert "{'business', 'economy', 'first'}" in live.call(read_calls(flight)[0])
    live.instances["TicketAPI"].ticket_queue = [{"id": 1}]
    assert "update: b, c, z" in live.call(read_calls("edit_ticket(1, {'z': 1, 'c': 2, 'b': 3})")[0])
