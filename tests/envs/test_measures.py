"""Measures of the worlds' own, on hand-worked rewards; scenarios count when they are whole; nonsense is named."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.appworld.generate import own_tasks
from sparring.envs.appworld.official import OFFICIAL_KIND
from sparring.envs.appworld.scenarios import goal_completion, scenario_of, variants
from sparring.envs.bfcl import BFCL
from sparring.envs.intercode_sql import InterCodeSQL
from sparring.envs.measures import mean_points, measures_of, missing_measures, scenario_points, solved_points
from sparring.envs.scienceworld import ScienceWorld
from sparring.envs.webshop import WebShop
from tests.toy_world import ToyWorld

OURS = own_tasks(0, 6)


def tasks(*ids: str, kind: str = OFFICIAL_KIND) -> list[Task]:
    return [Task(id=id, kind=kind) for id in ids]


PAIR = tasks("a_1", "a_2", "a_3", "b_1", "b_2", "b_3")


def test_points() -> None:
    assert mean_points([0.5, 1.0]) == 75.0
    assert solved_points([0.5, 1.0, 1.0 - 1e-9, 0.99]) == 50.0
    assert mean_points([]) == solved_points([]) == "no episode has a reward"


def test_a_scenario_is_solved_when_all_its_variants_are() -> None:
    rewards = dict.fromkeys([task.id for task in PAIR], 1.0)
    assert goal_completion(PAIR, PAIR, rewards) == {"TGC": 100.0, "SGC": 100.0}
    assert goal_completion(PAIR, PAIR, {**rewards, "b_3": 0.9}) == {"TGC": pytest.approx(500 / 6), "SGC": 50.0}
    spread = {**rewards, "a_2": 0.0, "b_1": 0.0}
    assert goal_completion(PAIR, PAIR, spread) == {"TGC": pytest.approx(400 / 6), "SGC": 0.0}


def test_a_scenario_with_a_broken_episode_counts_nowhere() -> None:
    rewards = dict.fromkeys(["a_1", "a_2", "a_3", "b_1", "b_2"], 1.0)
    assert goal_completion(PAIR, PAIR, {**rewards, "b_1": 0.0})["SGC"] == 100.0
    assert goal_completion(PAIR, PAIR, {"a_1": 1.0})["SGC"] == "no episode has a reward"


def test_a_variant_that_is_not_played_or_not_listed_is_named() -> None:
    rewards = {task.id: 1.0 for task in PAIR}
    for known in (PAIR, PAIR[:-1]):  # left out by eval.num_tasks; missing in the official list
        found = goal_completion(known, PAIR[:-1], rewards)
        assert found["TGC"] == 100.0
        assert isinstance(found["SGC"], str) and "scenario b lacks its task b_3" in found["SGC"]
    assert goal_completion(PAIR, PAIR[:3], rewards)["SGC"] == 100.0  # whole scenarios may be left out


@pytest.mark.parametrize("id", ["abc", "abc_", "_1", "abc_0", "abc_1_2", "a/b_1", "abc_1\n", ""])
def test_an_official_id_without_a_scenario_is_named(id: str) -> None:
    with pytest.raises(DataError, match="names no scenario; official ids are SCENARIO_NUMBER"):
        scenario_of(Task(id=id, kind=OFFICIAL_KIND))
    (task,) = tasks(id)
    found = goal_completion([task], [task], {id: 1.0})
    assert found["TGC"] == 100.0
    assert isinstance(found["SGC"], str) and found["SGC"].endswith("official ids are SCENARIO_NUMBER")


def test_our_own_tasks_are_grouped_by_three_draws_of_a_template() -> None:
    for split in OURS.values():
        groups = variants(split)
        assert {len(ids) for ids in groups.values()} == {3} and len(groups) * 3 == len(split)
        assert all(len({id.rpartition("/")[0] for id in ids}) == 1 for ids in groups.values())
    shared = own_tasks(7, 4, shared_templates=True)["dev"]
    assert {len(ids) for ids in variants(shared).values()} == {3, 1}
    first = OURS["test"][0]
    solved = variants(OURS["test"])[scenario_of(first)]
    found = goal_completion(
        [task for split in OURS.values() for task in split],
        OURS["test"],
        {task.id: float(task.id in solved) for task in OURS["test"]},
    )
    assert found == {"TGC": 100 * 3 / 48, "SGC": 100 * 1 / 16}
    with pytest.raises(DataError, match="ids of ours are APP/TEMPLATE/NUMBER"):
        scenario_of(Task(id="mine/1", kind="todoist"))


def test_each_world_measures_as_its_literature_does() -> None:
    pair, rewards = tasks("a", "b", kind="base"), {"a": 1.0, "b": 0.5}
    # The method needs nothing of the instance, so that no data has to be there.
    assert ScienceWorld.measures(object.__new__(ScienceWorld), pair, rewards) == {"score": 75.0}
    assert WebShop.measures(object.__new__(WebShop), pair, rewards) == {"score": 75.0, "success rate": 50.0}
    assert InterCodeSQL.measures(object.__new__(InterCodeSQL), pair, rewards) == {"reward": 75.0, "success rate": 50.0}
    bfcl = object.__new__(BFCL)
    assert bfcl.measures(pair, rewards) == {"accuracy": 50.0}
    mixed = [*pair, *tasks("c", "d", kind="miss_func")]
    assert bfcl.measures(mixed, {**rewards, "c": 0.9}) == {
        "accuracy": pytest.approx(100 / 3),
        "accuracy, base": 50.0,
        "accuracy, miss_func": 0.0,
    }


class Counted(ToyWorld):
    """A world of a user's with measures of its own."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer

    def measures(self, tasks: Any, rewards: Any) -> Any:
        return {"presses": 3} if self.answer is None else self.answer


def test_a_world_may_have_no_measures_or_its_own() -> None:
    toy = ToyWorld()
    assert measures_of(toy, toy.tasks("test"), {}) == {} and missing_measures(toy, toy.tasks("test")) == []
    assert measures_of(Counted(), [], {}) == {"presses": 3.0}
    assert missing_measures(Counted({"presses": 3, "jams": "nobody counts them"}), []) == [
        "no jams: nobody counts them."
    ]


@pytest.mark.parametrize("answer", [{"presses": float("nan")}, {"presses": None}, {3: 1.0}, {"presses": True}, 5])
def test_measures_that_are_none_are_refused(answer: Any) -> None:
    with pytest.raises(ConfigError, match=r"env\.id: the world's measures\(…\)"):
        measures_of(Counted(answer), [], {})


def test_scenarios_of_nothing_have_no_points() -> None:
    assert scenario_points({"a": ["a_1"]}, [], {}) == "no episode has a reward"
