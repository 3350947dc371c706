"""What every world must do, whatever it is: one suite, parametrised over worlds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil
import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.base import BENCHMARKS, Benchmark, Env, EnvStep, load_benchmark

ODD_ACTIONS = (
    "",
    "   ",
    "x" * 10_000,
    "open door\nopen door",
    "\x00\x01\x07\x1b[2J\r\n",
    "打开门",
    "\U0001f600 \ud800",
    "%s ${x} {} \\ ' \" [ ( *",
    "-1",
    "reset task",
    "help",
)


@dataclass(frozen=True)
class World:
    """A world under test and a few of its training tasks, short ones."""

    id: str
    task_ids: tuple[str, ...]
    wanderings: tuple[str, ...]
    """Actions that change something or are answered in several ways."""
    options: dict = field(default_factory=dict)
    is_optional: bool = False
    """Whether what it needs may be missing: then it is skipped, with the reason."""


WORLDS = (
    World("tests.toy_world:ToyWorld", ("short/train-0", "long/train-1"), ("look", "press red", "press blue")),
    World(
        "scienceworld",
        ("lifespan-longest-lived/1", "find-animal/17", "find-non-living-thing/1"),
        (
            "open door",
            "0",
            "look around",
            "look in hallway",
            "go to kitchen",
            "pick up cup",
            "wait",
            "teleport to outside",
        ),
    ),
    World(
        "webshop",
        ("furniture/P0893-0", "outdoor/P0284-2", "office/P0109-0"),
        (
            "search[water bottle blue]",
            "search[leak proof]",
            "click[Next >]",
            "click[< Prev]",
            "click[P0001]",
            "click[blue]",
            "click[Features]",
            "click[Back to Search]",
            "click[Buy Now]",
        ),
    ),
    World(
        "intercode_sql",
        ("filter/singer/28babaf8", "join-group/world_1/048310bd", "nested/dog_kennels/0b0c899c"),
        (
            "SHOW TABLES",
            "DESC singer",
            "SELECT * FROM country LIMIT 2",
            "SELECT count(*) FROM dogs",
            "DELETE FROM singer",
            "CREATE TABLE t AS SELECT 1 AS a",
            "SELECT * FROM t, nothing",
            "PRAGMA writable_schema = 1",
        ),
        is_optional=True,
    ),
    World(
        "bfcl",
        ("base/0", "miss_func/100", "long_context/60"),
        (
            "[ls(), cd('document'), mkdir('new')]",
            "get_outside_temperature_from_google()",
            "[trading_login('a', 'b'), fund_account(50)]",
            "[get_current_speed(), no_such_function()]",
            "[lockDoors(unlock=False, door=['driver'])]",
            "done",
        ),
        is_optional=True,
    ),
    World(
        "appworld",
        ("simple_note/notes-with-tag/0", "phone/text-message/1", "venmo/deny-requests/2"),
        (
            "print(apis.supervisor.show_profile())",
            "passwords = {a['account_name']: a['password'] for a in apis.supervisor.show_account_passwords()}",
            "me = apis.supervisor.show_profile()['email']",
            "token = apis.simple_note.login(username=me, password=passwords['simple_note'])['access_token']",
            "print(token, apis.simple_note.search_notes(access_token=token))",
            "print(apis.simple_note.create_note(title='n', content='c', access_token=token))",
            "print(apis.api_docs.search_api_docs(query='message'), random.random(), DateTime.now())",
            "print({'a', 'b', 'c'}, object(), token)",
            "1 / 0",
        ),
        is_optional=True,
    ),
)


def test_every_known_world_is_in_this_suite():
    assert set(BENCHMARKS) <= {world.id for world in WORLDS}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: world.id)
def world(request: pytest.FixtureRequest) -> World:
    return request.param


@pytest.fixture(scope="module")
def benchmark(world: World) -> Benchmark:
    try:
        return load_benchmark(world.id, world.options)
    except ConfigError as error:
        if world.is_optional:
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def tasks(world: World, benchmark: Benchmark) -> list[Task]:
    by_id = {task.id: task for task in benchmark.tasks("train")}
    return [by_id[id] for id in world.task_ids]


@pytest.fixture(scope="module")
def envs(benchmark: Benchmark) -> Iterator[list[Env]]:
    """Two live envs, and the proof that closing them, even twice, leaves no process behind."""
    before = set(psutil.Process().children(recursive=True))  # another test's process may stay, as templates' renderer
    envs = [benchmark.make_env(), benchmark.make_env()]
    yield envs
    for env in [*envs, *envs]:
        env.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


def play(env: Env, task: Task, actions: Sequence[str]) -> list[str | EnvStep]:
    """Play actions until the world ends."""
    answers: list[str | EnvStep] = [env.reset(task, 0)]
    for action in actions:
        answer = env.step(action)
        answers.append(answer)
        if answer.is_done:
            break
    return answers


def test_splits_are_fixed_disjoint_and_plain_data(world: World, benchmark: Benchmark):
    again = load_benchmark(world.id, world.options)
    seen: set[str] = set()
    for split in ("train", "dev", "test"):
        tasks = benchmark.tasks(split)
        assert tasks
        assert list(tasks) == list(again.tasks(split))
        assert all(json.loads(json.dumps(dict(task.data))) == task.data for task in tasks)
        assert all(benchmark.turn_limit(task) >= 1 for task in tasks)
        ids = {task.id for task in tasks}
        assert len(ids) == len(tasks)
        assert not ids & seen
        seen |= ids
    with pytest.raises(ConfigError, match="train"):
        benchmark.tasks("no-such-split")
    assert benchmark.instruction.strip()


def test_the_same_actions_give_the_same_answers(world: World, envs: list[Env], tasks: list[Task]):
    draw = random.Random(0)
    actions = draw.choices(world.wanderings, k=12)
    first = [play(envs[0], task, actions) for task in tasks]
    assert [play(envs[0], task, actions) for task in tasks] == first
    backwards = [play(envs[1], task, actions) for task in reversed(tasks)]
    assert backwards[::-1] == first


def test_experts_solve_their_tasks(benchmark: Benchmark, envs: list[Env], tasks: list[Task]):
    experts = benchmark.expert_actions(tasks)
    assert set(experts) == {task.id for task in tasks}
    for task in tasks:
        answers = play(envs[0], task, experts[task.id])[1:]
        assert max(answer.reward for answer in answers) == 1.0 and answers[-1].is_done
    assert not benchmark.expert_actions([])


def test_any_text_is_a_legal_action(envs: list[Env], tasks: list[Task]):
    task = tasks[0]
    envs[0].reset(task, 0)
    for action in ODD_ACTIONS:
        answer = envs[0].step(action)
        assert answer.observation.strip(), repr(action[:20])
        assert -1.0 <= answer.reward <= 1.0
        if answer.is_done:
            envs[0].reset(task, 0)
    assert play(envs[0], task, ()) == play(envs[1], task, ())
