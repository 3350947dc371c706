"""The conversation: user turns, results, rewards on the way, limits, and tasks of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.types import Task
from sparring.envs.bfcl import BFCL, BFCLEnv, Scenario, benchmark_task, make_task, reference_of, scenario_of, score
from sparring.envs.bfcl.env import OVER
from tests.envs.bfcl.episodes import transcript

pytestmark = pytest.mark.usefixtures("world")

FILES = Scenario(
    apis=("GorillaFileSystem",),
    initial_config={
        "GorillaFileSystem": {
            "root": {"home": {"type": "directory", "contents": {"a.txt": {"type": "file", "content": "b\na"}}}}
        }
    },
    requests=("Sort a.txt.", "Copy it to b.txt.", "Thanks."),
)
SORT, COPY = ["sort(file_name='a.txt')"], ["cp(source='a.txt', destination='b.txt')"]


def files_task(**changes: object) -> Task:
    return make_task("mine/1", replace(FILES, **changes), [SORT, COPY, []])


def test_user_turns_come_one_after_another():
    env = BFCLEnv()
    first = env.reset(files_task(), 0)
    functions, _, message = first.partition("\n\n")
    assert message == "User: Sort a.txt."
    assert "ls(a: bool = False): List the contents of the current directory" in functions.splitlines()
    answer = env.step("[sort(file_name='a.txt'), pwd()]")
    assert answer.observation == '{"sorted_content": "a\\nb"}\n{"current_working_directory": "/home"}'
    assert env.step("done").observation == "User: Copy it to b.txt."
    assert env.step(COPY[0]).observation == """{"result": "'a.txt' copied to 'b.txt'"}"""
    assert env.step("Here you are.").observation == "User: Thanks."
    assert env.step("done").observation == f"{OVER} Requests met: 2 of 2."
    assert env.step("ls()").observation == OVER


def test_the_reward_counts_turns_and_is_one_only_at_the_end():
    env = BFCLEnv()
    env.reset(files_task(), 0)
    rewards = [env.step(action).reward for action in (*SORT, "done", *COPY, "done", "done", "ls()")]
    assert rewards == [0, 0.5, 0.5, 0.5, 1, 1]  # the second request is met after "done", the user has yet to say thanks


@pytest.mark.parametrize(
    ("actions", "reward", "failure"),
    [
        (["done"] * 3, 0, "no calls"),
        ([*SORT, "done", "done", "done"], 0.5, "no calls"),
        (["ls()", "done", *SORT, *COPY, "done", "done"], 0, "missing results"),
        ([*SORT, "touch('x')", "done", *COPY, "done", "done"], 0, "wrong state: GorillaFileSystem (root)"),
        ([*SORT, "done", "cp('a.txt', 'c.txt')", "done", "done"], 0.5, "wrong state: GorillaFileSystem (root)"),
        ([*SORT, "done", *COPY, "done", *["ls()"] * 21], 0.5, "too many steps"),
        ([*SORT, *["ls()"] * 20], 0, "too many steps"),
        ([*SORT, *["ls()"] * 19, "done", *COPY, "done", "done"], 1, ""),
        (["[ls(), sort('a.txt')]", "done", *COPY, "done", "rm('a.txt')", "done"], 1, ""),
        ([*SORT, *COPY], 0, ""),
        (["nonsense(", *SORT], 0, "no calls"),
        (["[sort(file_name=name)]", "done"], 0, "missing results"),
    ],
)
def test_rewards_and_failures(actions: list[str], reward: float, failure: str):
    found = score(files_task(), actions)
    assert (found.reward, found.failure) == (reward, failure)
    assert found.is_success == (reward == 1)


def test_results_of_earlier_turns_count_and_calls_without_a_reference_are_not_checked_by_themselves():
    task = make_task("mine/2", FILES, [[], SORT, COPY])
    assert score(task, ["sort('a.txt')", "done", "ls()", "done", *COPY, "done"]).is_success
    assert score(task, ["touch('x')", "done", *SORT, "done", *COPY, "done"]).failure.startswith("wrong state")


def test_too_many_steps_end_the_conversation():
    env = BFCLEnv(steps_per_turn=2)
    env.reset(files_task(), 0)
    answers = [env.step("ls()") for _ in range(3)]
    assert [answer.is_done for answer in answers] == [False, False, True]
    assert answers[-1].observation == f"{OVER} Requests met: 0 of 2. Message 1: too many steps."


def test_too_much_output_ends_the_conversation():
    scenario = Scenario(
        apis=("TradingBot",), initial_config={"TradingBot": {"authenticated": True}}, requests=("?",), is_long=True
    )
    env = BFCLEnv()
    env.reset(make_task("mine/3", scenario, [["get_current_time()"]]), 0)
    assert len(env.step("get_transaction_history()").observation) > 80_000
    assert env.step(f"[{', '.join(['get_transaction_history()'] * 50)}]").is_done
    assert env.score is not None and env.score.failure == "too much output"


def test_functions_that_are_held_back_are_shown_at_their_turn():
    env = BFCLEnv()
    task = files_task(held_back={1: ("cp",)}, requests=("Sort a.txt and copy it.", "", "Thanks."))
    first = env.reset(task, 0)
    assert "\nsort(" in first and "\ncp(" not in first
    env.step(SORT[0])
    added, _, message = env.step("There is no function to copy.").observation.partition("\n\n")
    assert added.splitlines()[0] == "New functions:" and added.splitlines()[1].startswith("cp(source: str, ")
    assert message.startswith("User: ") and "functions" in message


def test_full_docs_are_the_benchmarks_own():
    env = BFCL(docs="full").make_env()
    functions = env.reset(files_task(), 0).split("\n\n")[0].splitlines()[1:]
    assert len(functions) == 18
    assert all({"name", "description", "parameters"} <= json.loads(line).keys() for line in functions)


def test_signatures_alone_are_the_shortest_docs():
    shown = {docs: BFCLEnv(docs=docs).reset(files_task(), 0) for docs in ("signatures", "short", "full")}
    assert shown["signatures"].splitlines()[3] == "cp(source: str, destination: str)"
    assert 2 * len(shown["signatures"]) < len(shown["short"]) < len(shown["full"]) / 4


def test_signatures_tell_what_may_be_given():
    env = BFCLEnv()
    shown = env.reset(benchmark_task("base", 60), 0)
    assert 'lockDoors(unlock: bool, door: list["driver"|"passenger"|"rear_left"|"rear_right"])' in shown
    assert 'temperature: float, unit: "celsius"|"fahrenheit" = \'celsius\', fanSpeed: int = 50' in shown


# ── Tasks of one's own ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_made_from_one_of_the_benchmarks_runs_like_it(world: BFCL):
    for task in world.tasks("train")[::25]:
        actions = world.expert_actions([task])[task.id]
        scenario = world.training_scenario(task)
        made = make_task("made", scenario, [[str(call) for call in calls] for calls in reference_of(task)])
        assert json.loads(json.dumps(dict(made.data))) == made.data
        assert scenario_of(made) == scenario
        played = list(transcript(BFCLEnv(), made, actions))
        assert played == list(transcript(BFCLEnv(), task, actions))
        assert played[-1][1:] == (1.0, True)


def test_a_made_task_keeps_what_it_is_given_besides():
    task = make_task("mine/1", FILES, [SORT, COPY, []], kind="chained", origin="base/3")
    assert (task.kind, task.data["origin"]) == ("chained", "base/3")


def test_the_example_of_the_docs_runs():
    page = Path(__file__).parents[3] / "docs" / "worlds" / "bfcl.md"
    code = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=page.parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    ("changes", "reference", "told"),
    [
        ({}, [SORT], "one list of calls for each request"),
        ({}, [[], [], []], "calls in at least one"),
        ({"apis": ("Nope",)}, [SORT, COPY, []], "no such API: Nope"),
        ({"apis": ("MathAPI",)}, [SORT, COPY, []], "no function cp, sort"),
        ({"held_back": {1: ("fly",)}}, [SORT, COPY, []], "no function fly"),
        ({}, [["sort(x.y)"], COPY, []], "can't be read"),
        ({}, [["sort('a.txt'), ls()"], COPY, []], "can't be read"),
        ({"initial_config": {"GorillaFileSystem": {1, 2}}}, [SORT, COPY, []], "must be JSON"),
        ({"initial_config": {"GorillaFileSystem": {"root": {"a": 5}}}}, [SORT, COPY, []], "can't start"),
    ],
)
def test_a_task_that_can_not_be_is_refused(changes: dict, reference: list[list[str]], told: str):
    with pytest.raises(DataError, match=told):
        make_task("mine/1", replace(FILES, **changes), reference)


@pytest.mark.parametrize(
    "data", [{}, {"entry": "multi_turn_base_200"}, {"entry": "multi_turn_other_1"}, {"entry": "x"}, {"scenario": {}}]
)
def test_a_task_of_another_world_is_refused(data: dict):
    with pytest.raises(DataError, match="BFCL"):
        BFCLEnv().reset(Task(id="x", kind="x", data=data), 0)
