"""Worlds of other libraries through their adapters, for real: each passes the checks, and earns what it says."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.base import ADAPTERS, EnvConfig, load_benchmark
from sparring.envs.conformance import check
from sparring.envs.pool import EnvPool
from sparring.envs.rewards import Score
from sparring.envs.subject import Subject

HERE = "tests.envs.adapters"
SPLITS = {"train": 12, "dev": 4, "test": 4}
SLOW_S = 300.0
"""Seconds that a library may take to be imported on a busy machine."""
LAKE = {
    "env": "FrozenLake-v1",
    "kwargs": {"render_mode": "ansi", "is_slippery": False},
    "observation": "render",
    "actions": ["left", "down", "right", "up"],
}
LAKE_PATH = ["down", "down", "right", "right", "down", "right"]


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def failures(config: EnvConfig, actions: Sequence[str]) -> dict[str, str]:
    subject = Subject.of(config, num_tasks=2)
    subject.actions = actions
    try:
        return {one.check: f"{one.said} {one.remedy}" for one in check(subject) if one.verdict == "fail"}
    finally:
        subject.close()


def play(config: EnvConfig, task: Task, actions: Sequence[str]) -> tuple[list[str], float, bool]:
    """Play a task in a pool, and return what was said, the episode's reward, and whether it is over."""
    with EnvPool.of(config) as pool:
        score, is_done = Score(pool.rewards), False
        said = [pool.reset(0, task, 0).result()]
        for action in actions:
            answer = pool.step(0, action).result()
            said.append(answer.observation)
            score.add(answer.reward, task.id)
            is_done = answer.is_done
    assert not score.end(task.id)
    return said, score.value, is_done


def train(config: EnvConfig) -> list[Task]:
    return list(config.load().tasks("train"))


# ── gymnasium ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        (LAKE, ["left", "down", "right", "up"]),
        ({"env": f"{HERE}.text_envs:Spelling"}, ["c", "a", "t", "d"]),
        ({"env": f"{HERE}.text_envs:Spelling", "kwargs": {"shape": "table"}, "observation": "said"}, ["c", "d", "a"]),
    ],
)
def test_gymnasium_environments_pass_every_check(options: dict[str, Any], actions: list[str]) -> None:
    need("gymnasium")
    assert failures(EnvConfig(id="gymnasium", options={**options, "splits": SPLITS}), actions) == {}


def test_gymnasiums_rewards_per_step_are_added_up() -> None:
    need("gymnasium")
    from tests.envs.adapters.text_envs import spelled

    config = EnvConfig(id="gymnasium", num_envs=1, options={"env": f"{HERE}.text_envs:Spelling", "splits": SPLITS})
    task = train(config)[0]
    letters = spelled(task)
    said, reward, is_done = play(config, task, letters)
    assert said == [f"Spell {''.join(letters)}."] + ["Right."] * len(letters)
    assert reward == pytest.approx(1) and is_done
    assert play(config, task, [*letters[:2], "?"]) == ([*said[:3], "Wrong."], pytest.approx(2 / len(letters)), True)
    short = EnvConfig(id="gymnasium", num_envs=1, options={**config.options, "kwargs": {"most": 2}})
    assert play(short, task, letters[:2])[2], "truncated is the end, too"


def test_a_real_environment_is_solved_by_the_names_of_its_actions() -> None:
    need("gymnasium")
    config = EnvConfig(id="gymnasium", num_envs=1, options=LAKE)
    said, reward, is_done = play(config, train(config)[0], ["swim", *LAKE_PATH])
    assert "SFFF" in said[0].replace("\x1b[41mS\x1b[0m", "S")
    assert said[1] == "There is no such action. Actions: left, down, right, up."
    assert (reward, is_done) == (1.0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "NoSuchLake-v1"}, "gymnasium can't make 'NoSuchLake-v1'"),
        ({"env": f"{HERE}.text_envs:Nothing"}, "gymnasium can't make"),
        ({**LAKE, "actions": ["left"]}, "the action space has 4 actions, and 1 have names"),
        ({**LAKE, "observation": None}, "observations are of type int, not text. With a text render mode: observation"),
        ({**LAKE, "kwargs": {}}, "render() gave a NoneType, not text"),
        (
            {"env": f"{HERE}.text_envs:Spelling", "kwargs": {"shape": "table"}},
            "tables with the fields said, number. Name one",
        ),
        (
            {"env": f"{HERE}.text_envs:Spelling", "kwargs": {"shape": "table"}, "observation": "text"},
            "observation 'text': the fields are said, number",
        ),
        ({"env": f"{HERE}.text_envs:Spelling", "kwargs": {"shape": "numbers"}}, "agents write text, or a name"),
        ({"env": f"{HERE}.text_envs:OldApi"}, "step gave a tuple of 4, not gymnasium's (observation, reward,"),
        ({**LAKE, "splits": {"train": -1}}, "splits.train is -1; it is a number of tasks"),
        ({}, "missing 1 required keyword-only argument: 'env'"),
    ],
)
def test_what_is_no_text_or_not_there_is_one_message(options: dict[str, Any], message: str) -> None:
    need("gymnasium")
    with pytest.raises(ConfigError) as refused:
        config = EnvConfig(id="gymnasium", num_envs=1, options=options)
        play(config, train(config)[0], ["a"])
    assert message in str(refused.value)


def test_an_adapter_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("gymnasium", "textarena", "openenv.core", "verifiers.v1", "mcp.client.client"):
        monkeypatch.setitem(sys.modules, package, None)
    options = {
        "gymnasium": {"env": "x"},
        "textarena": {"game": "x"},
        "openenv": {"base_url": "http://localhost:1"},
        "verifiers": {"taskset": "x"},
        "mcp": {"server": "x", "tasks": {}, "scorer": "x:y"},
    }
    assert options.keys() == ADAPTERS.keys()
    for name, own in options.items():
        with pytest.raises(ConfigError, match=r"Install it with: pip install"):
            load_benchmark(name, own)


# ── TextArena ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_game_of_textarena_forgets_and_is_won() -> None:
    need("textarena")
    options = {"game": "TowerOfHanoi-v0", "splits": SPLITS}
    config = EnvConfig(id="textarena", num_envs=1, reset_deadline_s=SLOW_S, options=options)
    assert failures(config, ["[A C]", "[A B]", "[C B]", "[B A]"]) == {}
    moves = [f"[{move}]" for move in ("A C", "A B", "C B", "A C", "B A", "B C", "A C")]
    said, reward, is_done = play(config, train(config)[0], moves)
    assert (reward, is_done) == (1.0, True)
    assert len(said[3]) < len(said[0]), "what is new, not the whole game again"
    poker = EnvConfig(id="textarena", num_envs=1, reset_deadline_s=SLOW_S, options={"game": "Poker-v0"})
    with pytest.raises(ConfigError, match="can't begin 'Poker-v0' with one player"):
        play(poker, train(config)[0], [])


# ── OpenEnv ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def openenv_url() -> Iterator[str]:
    need("openenv")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", f"{HERE}.openenv_server", str(port)])
    try:
        for _ in range(600):
            time.sleep(0.1)
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_an_openenv_server_is_played(openenv_url: str) -> None:
    options = {"base_url": openenv_url, "action": "text", "observation": "text", "splits": SPLITS}
    config = EnvConfig(id="openenv", num_envs=1, reset_deadline_s=SLOW_S, options=options)
    assert failures(config, ["1", "2", "3"]) == {}
    task = train(config)[1]
    said, reward, is_done = play(config, task, ["1", "7", "2", "3"])
    assert said == ["Count to 3, one number at a time.", "Yes, 1.", "No. You are at 1.", "Yes, 2.", "Yes, 3."]
    assert reward == pytest.approx(1) and is_done
    with pytest.raises(ConfigError, match="observation 'words': the fields are"):
        play(
            EnvConfig(id="openenv", num_envs=1, reset_deadline_s=SLOW_S, options={**options, "observation": "words"}),
            task,
            [],
        )


# ── MCP ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_mcp_servers_tools_are_called_and_scored() -> None:
    need("mcp.client.client" if importlib.util.find_spec("mcp") else "mcp")
    row = {"prompt": "Where is the key? Look at the red note.", "wanted": "the key lies under the mat"}
    options = {
        "server": f"{HERE}.mcp_server",
        "scorer": f"{HERE}.mcp_server:score",
        "tasks": {
            "train": [{**row, "expert": ['read {"colour": "red"}', f"answer {row['wanted']}"]}],
            "test": [{**row, "prompt": "Again?"}],
        },
    }
    config = EnvConfig(id="mcp", num_envs=1, reset_deadline_s=SLOW_S, options=options)
    assert failures(config, ['read {"colour": "red"}', 'write {"colour": "red", "text": "x"}', "read {", "look"]) == {}
    actions = ["look", "read [", "read []", 'read {"colour": "red"}', f"answer {row['wanted']}"]
    said, reward, is_done = play(config, train(config)[0], actions)
    assert "- read(colour: string): Read a note." in said[0] and row["prompt"] in said[0]
    assert said[1] == "There is no tool 'look'. Tools: read, write."
    assert said[2].startswith("The arguments are no JSON") and said[3].startswith("The arguments are no table")
    assert said[4] == row["wanted"] and (reward, is_done) == (1.0, True)
    assert play(config, train(config)[0], actions[:4])[1] == 0.5
    with pytest.raises(ConfigError, match=r"tasks.train\[0\] has no text `prompt`"):
        load_benchmark("mcp", {**options, "tasks": {"train": [{}]}})


# ── verifiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tasksets(monkeypatch: pytest.MonkeyPatch) -> None:
    need("verifiers")
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.usefixtures("tasksets")
def test_a_taskset_of_verifiers_is_played_and_its_rewards_are_added_up() -> None:
    options = {"taskset": "adding_taskset", "splits": SPLITS}
    config = EnvConfig(id="verifiers", num_envs=1, reset_deadline_s=SLOW_S, options=options)
    assert failures(config, ["4", "five"]) == {}
    task = train(config)[3]
    first = "Answer with a number.\n\nWhat is 3 + 3?"
    assert play(config, task, ["6"]) == ([first, "The episode is over."], 1.0, True)
    assert play(config, task, ["7"])[1:] == (0.25, True)
    assert play(config, task, ["six"])[1:] == (0.0, True)


@pytest.mark.usefixtures("tasksets")
def test_an_environment_of_verifiers_that_speaks_in_turns_is_played() -> None:
    config = EnvConfig(
        id="verifiers", num_envs=1, reset_deadline_s=SLOW_S, options={"taskset": "guessing_taskset", "splits": SPLITS}
    )
    assert failures(config, ["0", "1", "2", "3"]) == {}
    said, reward, is_done = play(config, train(config)[5], ["3", "9", "5"])
    assert said == ["Guess my number.", "Higher.", "Lower.", "The episode is over."]
    assert reward == pytest.approx(1 / 3) and is_done


@pytest.mark.usefixtures("tasksets")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taskset": "no_such_taskset"}, "verifiers can't load the taskset 'no_such_taskset'"),
        ({"taskset": "adding_taskset", "env": "user-sim"}, "the roles assistant, user; all but one would be models"),
        ({"taskset": "adding_taskset", "config": {"colour": 1}}, "verifiers can't load the taskset 'adding_taskset'"),
        ({"taskset": "judged_taskset"}, "tasks need a runtime to score it, which this adapter has not. Serve"),
    ],
)
def test_what_needs_more_than_an_agent_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_benchmark("verifiers", {**options, "splits": SPLITS}).tasks("train")
    assert message in str(refused.value), json.dumps(options)
