"""BFCL's tasks, splits and experts, and that its reward 1 is what the benchmark's own checker calls valid."""

from __future__ import annotations

import importlib
import random
import re
from collections import Counter
from collections.abc import Sequence

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.bfcl import BFCL, benchmark_task, expert, reference_of, scenario_of, score, wheel
from sparring.envs.bfcl.benchmark import DONE
from tests.envs.bfcl.episodes import actions_of, named, spoilt


def test_all_800_tasks_are_there(world: BFCL):
    tasks = world.tasks("all")
    assert Counter(task.kind for task in tasks) == dict.fromkeys(wheel.VARIANTS, 200)
    assert sum(len(scenario_of(task).requests) for task in tasks) == 734 * 2 + 934 * 2


def test_all_variants_of_a_scenario_are_on_the_same_side(world: BFCL):
    sides = {split: {number_of(task) for task in world.tasks(split)} for split in ("train", "dev", "test")}
    assert {split: len(numbers) for split, numbers in sides.items()} == {"train": 123, "dev": 39, "test": 38}
    assert set.union(*sides.values()) == set(range(200))
    for split, numbers in sides.items():
        for variant in wheel.VARIANTS:
            assert {number_of(task) for task in world.tasks(split) if task.kind == variant} == numbers


def test_scenarios_that_start_alike_are_on_the_same_side(world: BFCL):
    side = {task.id: split for split in ("train", "dev", "test") for task in world.tasks(split)}
    configs = {number: scenario_of(benchmark_task("base", number)).initial_config for number in range(200)}
    alike = [(a, b) for a in configs for b in configs if a < b and configs[a] == configs[b]]
    assert (66, 74) in alike and (100, 133) in alike
    assert all(side[f"base/{a}"] == side[f"base/{b}"] for a, b in alike)


def test_each_split_has_all_apis(world: BFCL):
    for split in ("train", "dev", "test"):
        assert {api for task in world.tasks(split) for api in scenario_of(task).apis} == set(wheel.API_FILES)


def test_references_solve_all_800_tasks(world: BFCL):
    experts = world.expert_actions(world.tasks("all"))
    assert [task.id for task in world.tasks("all") if not score(task, experts[task.id]).is_success] == []
    assert all(len(experts[task.id]) <= world.turn_limit(task) for task in world.tasks("all"))


def test_a_silent_agent_solves_none_and_earns_nothing(world: BFCL):
    scores = [score(task, [DONE] * 20) for task in world.tasks("all")]
    assert len(scores) == 800 and {one.reward for one in scores} == {0.0}
    assert {one.failure for one in scores} == {"no calls"}


def test_experts_call_once_an_answer_where_the_steps_allow_it(world: BFCL):
    long = max(world.tasks("all"), key=lambda task: max(map(len, reference_of(task))))
    longest = max(map(len, reference_of(long)))
    assert longest == 34
    assert Counter(action.count("(") > 1 for action in expert(reference_of(long)))[True] > 0
    assert score(long, expert(reference_of(long), 5), steps_per_turn=5).is_success
    assert expert(reference_of(benchmark_task("base", 0)))[:4] == [
        "[cd(folder='document')]",
        "[mkdir(dir_name='temp')]",
        "[mv(source='final_report.pdf', destination='temp')]",
        DONE,
    ]


def test_the_reward_is_one_exactly_where_the_benchmarks_checker_says_valid(world: BFCL):
    draw = random.Random(0)
    tasks = [task for task in world.tasks("all") if named(reference_of(task))]
    verdicts = Counter()
    for task in draw.sample(tasks, 250):
        turns = spoilt(task, draw)
        mine = score(task, actions_of(turns))
        assert mine.is_success == official(task, turns), (task.id, actions_of(turns), mine)
        verdicts[mine.is_success] += 1
    assert min(verdicts.values()) > 40, verdicts


def test_the_reward_is_the_share_of_turns_that_the_benchmarks_checker_passes_one_after_another(world: BFCL):
    draw = random.Random(1)
    tasks = [task for task in world.tasks("train") if named(reference_of(task))]
    graded = 0
    for task in draw.sample(tasks, 60):
        turns, checked = spoilt(task, draw), [bool(calls) for calls in reference_of(task)]
        passed = 0
        for num in range(1, len(turns) + 1):
            if not official(task, turns[:num]):
                break
            passed += checked[num - 1]
        mine = score(task, actions_of(turns))
        assert mine.num_met == passed and mine.reward == pytest.approx(passed / sum(checked))
        graded += 0 < mine.reward < 1
    assert graded > 5


def number_of(task: Task) -> int:
    return int(task.id.partition("/")[2])


def official(task: Task, turns: Sequence[Sequence[Sequence[object]]]) -> bool:
    """Ask the benchmark's own checker about the first user turns, and remove the instances that it leaves behind."""
    checker = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
    utils = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    decoded = [[[str(call) for call in calls] for calls in answers if calls] for answers in turns]
    id = task.data["entry"]
    try:
        found = checker.multi_turn_checker(
            decoded, wheel.references(task.kind)[id][: len(turns)], wheel.entries(task.kind)[id], task.kind, "sparring"
        )
    finally:
        for name in [name for name in vars(utils) if re.fullmatch(r"sparring.*_instance", name)]:
            delattr(utils, name)
    return found["valid"]


def test_evaluation_tasks_give_no_scenario_to_make_tasks_from(world: BFCL):
    train, test = world.tasks("train")[0], world.tasks("test")[0]
    assert world.training_scenario(train) == scenario_of(train)
    with pytest.raises(ConfigError, match="kept for evaluation"):
        world.training_scenario(test)


@pytest.mark.parametrize("options", [{"docs": "none"}, {"steps_per_turn": 0}, {"steps_per_turn": "many"}])
def test_options_that_make_no_sense_are_refused(world: BFCL, options: dict):
    with pytest.raises(ConfigError, match=next(iter(options))):
        BFCL(**options)


def test_without_the_wheel_the_command_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape(wheel.INSTALL_COMMAND)):
        BFCL()


@pytest.mark.parametrize(
    ("text", "told"), [("{}\n", "line 1 is no task"), ('{"id": "x"}\n{"id"', "line 2 is not JSON")]
)
def test_a_damaged_data_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path, text: str, told: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "BFCL_v4_multi_turn_base.json").write_text(text)
    monkeypatch.setattr(wheel, "find_wheel", lambda: tmp_path)
    with pytest.raises(DataError, match=told):
        wheel.entries.__wrapped__("base")
    with pytest.raises(DataError, match="can't be read"):
        wheel.references.__wrapped__("base")
