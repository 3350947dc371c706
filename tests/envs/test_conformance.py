"""What every world must do, whatever it is: the checks of `sparring check-env`, over all worlds that ship."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.base import BENCHMARKS, EnvConfig
from sparring.envs.conformance import CHECKS, check
from sparring.envs.processes import children_of
from sparring.envs.subject import Subject


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


def test_every_known_world_is_in_this_suite() -> None:
    assert set(BENCHMARKS) <= {world.id for world in WORLDS}


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: world.id)
def world(request: pytest.FixtureRequest) -> World:
    return request.param


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def subject(request: pytest.FixtureRequest, world: World) -> Iterator[Subject]:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    try:
        config = EnvConfig(id=world.id, options=world.options, pool=request.param)
        subject = Subject.of(config, num_tasks=3, task_ids=world.task_ids)
    except ConfigError as error:
        if world.is_optional:
            pytest.skip(str(error))
        raise
    subject.actions = world.wanderings
    yield subject
    subject.close()


@pytest.mark.parametrize("name", CHECKS)
def test_a_world_passes_every_check(subject: Subject, name: str) -> None:
    (found,) = check(subject, [name])
    expected = "pass"
    if (name == "side by side" and not subject.shares_process) or (name == "own process" and is_alone(subject)):
        expected = "skip"
    assert found.verdict == expected, f"{found.said} {found.remedy}"


def is_alone(subject: Subject) -> bool:
    """Whether envs can't be anywhere else than in processes of their own on this machine."""
    return subject.benchmark.env_per_process and subject.config.pool == "local"


def test_experts_are_known_for_every_task_and_for_no_other(subject: Subject) -> None:
    assert set(subject.solutions) == {task.id for task in subject.tasks}
    assert not subject.benchmark.expert_actions([])


def test_closing_the_envs_leaves_no_process_behind(subject: Subject) -> None:
    before = children_of()
    subject.env(0)
    subject.close()
    assert not children_of() - before
