"""Figure 2 in both of its readings, on numbers worked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sparring.report.collect import Episodes
from sparring.report.figure_two import exploring, held_out, merge, row_names, sections, to_json
from sparring.report.view import Results, results_from_json


def evaluated(rewards: Mapping[str, float]) -> dict[str, Any]:
    return {"evaluations": [{"round": 1, "agent": "target", "rewards": rewards}]}


@pytest.fixture
def results() -> Results:
    """SFT solves d. Of the rest ETO fails a, b and c, and ours a and b."""
    sft = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 1.0}
    eto = {"a": 0.4, "b": 0.6, "c": 0.0, "d": 0.5}
    ours = {"a": 0.8, "b": 0.4, "c": 1.0, "d": 1.0}
    rollouts = [{"round": 1, "agent": agent} for agent in ("target", "partner")]
    arms = {
        "sft": {"method": "sft", "label": "SFT", "seeds": {"0": evaluated(sft)}},
        "eto": {"method": "eto", "label": "ETO", "seeds": {"0": evaluated(eto)}},
        "ours": {
            "method": "coevolving_agents",
            "label": "Ours",
            "partner": "failure",
            "seeds": {"0": {**evaluated(ours), "rollouts": rollouts}},
        },
    }
    return results_from_json({"name": "x", "split": "test", "success_eps": 1e-6, "arms": arms})


@pytest.fixture
def episodes() -> Episodes:
    """Round 1: the target solves p at its start; round 2 plays p and r anew. Branches are no rollouts."""
    played: dict[tuple[str, str, str, int], dict[str, list[float]]] = {
        ("eto", "rollout", "target", 1): {"p": [1.0, 1.0], "q": [0.2, 0.4]},
        ("eto", "rollout", "target", 2): {"p": [0.0, 0.0], "r": [0.5, 1.0]},
        ("ours", "rollout", "target", 1): {"p": [1.0], "q": [0.3]},
        ("ours", "rollout", "partner", 1): {"p": [0.7], "q": [1.0]},
        ("ours", "rollout-refreshed", "partner", 1): {"p": [0.7], "q": [0.9]},
        ("ours", "rollout", "target", 2): {"p": [0.9], "r": [1.0]},
        ("ours", "rollout", "partner", 2): {"p": [0.9], "r": [1.0]},
        ("ours", "branch", "target", 1): {"q": [0.99]},
    }
    rewards = {key: {("0", task): values for task, values in own.items()} for key, own in played.items()}
    return Episodes(rewards=rewards)


def test_target_agent_alone_on_held_out_tasks(results: Results):
    reading = held_out(results, results.arms["ours"])
    assert reading is not None
    assert (reading.num_tasks, reading.num_shared) == (3, 2)
    eto, ours = reading.rows["eto"], reading.rows["target"]
    assert (eto.num_failures, ours.num_failures) == (3, 2)
    assert (eto.shared_mean, ours.shared_mean) == (pytest.approx(0.5), pytest.approx(0.6))


def test_all_rollouts_of_both_agents_without_what_the_start_solved(results: Results, episodes: Episodes):
    """Left are q of round 1 and r of round 2, and both methods fail q: ours with .3 and .9, ETO with .2 and .4."""
    reading = exploring(results, results.arms["ours"], episodes, ["0"])
    assert reading is not None
    assert (reading.num_tasks, reading.num_shared) == (2, 1)
    found = {name: (row.num_failures, row.num_episodes, row.shared_mean) for name, row in reading.rows.items()}
    assert found == {
        "eto": (3, 4, pytest.approx(0.3)),
        "both": (2, 5, pytest.approx(0.6)),
        "target": (1, 2, pytest.approx(0.3)),
        "partner": (1, 3, pytest.approx(0.9)),
    }


def test_seeds_put_together_weigh_by_their_failures(results: Results, episodes: Episodes):
    one = exploring(results, results.arms["ours"], episodes, ["0"])
    assert one is not None
    other = to_json(one)
    other["rows"] = {name: {**row, "shared_failures": 6, "shared_mean": 0.7} for name, row in other["rows"].items()}
    merged = merge([to_json(one), other])
    assert merged is not None
    assert (merged.num_tasks, merged.num_shared) == (4, 2)
    assert merged.rows["eto"].num_failures == 6
    assert merged.rows["eto"].shared_mean == pytest.approx((2 * 0.3 + 6 * 0.7) / 8)
    assert merge([to_json(one)]) == one
    assert merge([]) is None


def test_nothing_to_compare_is_no_figure(results: Results, episodes: Episodes):
    assert exploring(results, results.arms["ours"], Episodes(), ["0"]) is None
    assert exploring(results, results.arms["ours"], episodes, ["1"]) is None
    alone = results_from_json(
        {
            "name": "x",
            "split": "test",
            "success_eps": 1e-6,
            "arms": {"sft": {"method": "sft", "label": "SFT", "seeds": {"0": evaluated({"a": 0.5})}}},
        }
    )
    assert sections(alone, episodes) == []


def test_page_has_both_readings_with_a_drawing_each(results: Results, episodes: Episodes):
    (section,) = sections(results, episodes)
    assert [reading["title"] for reading in section["readings"]] == [
        "Target agents alone, on held-out tasks",
        "All training rollouts of both agents",
    ]
    second = section["readings"][1]
    assert [row["name"] for row in second["rows"]] == [
        "ETO",
        "Ours, both agents",
        "of these, the target agent",
        "of these, the failure agent",
    ]
    assert "75 % (3 of 4)" in second["drawing"] and "0.600" in second["drawing"]
    reading = held_out(results, results.arms["ours"])
    assert reading is not None
    assert row_names(results, results.arms["ours"], reading) == {"eto": "ETO", "target": "Ours, target agent"}
