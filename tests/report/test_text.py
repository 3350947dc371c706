"""What the terminal shows at the end: the table, and three lines on the failure agent."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sparring.core.errors import DataError
from sparring.report.text import between, contribution_lines, notice_lines, percent, reward, summary_table
from sparring.report.view import results_from_json
from tests.report.run_folder import RunFolder


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    run_dir = RunFolder(tmp_path_factory.mktemp("run"), arms=("sft", "rft", "eto", "coevolving_agents")).write()
    return json.loads((run_dir / "results.json").read_text())


def printed(table, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_table_has_a_row_per_method_with_intervals_and_differences(record):
    text = printed(summary_table(record))
    for label in ("SFT", "RFT", "ETO", "Co-Evolving Agents", "− SFT", "− ETO", "12 held-out tasks (test)"):
        assert label in text
    assert text.count("[") == 4 * 2 + 3 + 2  # Reward and success of all; three beside SFT, two beside ETO.


def test_table_fits_a_narrow_terminal(record):
    assert max(len(line) for line in printed(summary_table(record), 80).splitlines()) <= 80
    assert "…" not in printed(summary_table(record), 80)


def test_table_shows_what_a_label_says_and_no_markup(record):
    record = json.loads(json.dumps(record))
    record["arms"]["eto"]["label"] = "[red]ETO[/red]"
    assert "[red]ETO[/red]" in printed(summary_table(record))
    record["arms"]["eto"]["label"] = "\u202eETO\x1b[2J"
    assert "\\u202eETO␛[2J" in printed(summary_table(record))


def test_three_lines_on_the_failure_agent(record):
    near, hard, pairs = contribution_lines(record)
    rollouts = record["arms"]["coevolving_agents"]["seeds"]["0"]["rollouts"]
    means = {(r["agent"], r["round"]): r["failure_mean"] for r in rollouts}
    assert f"{means['partner', 1]:.3f} → {means['partner', 2]:.3f} (round 1 → 2)" in near
    assert f"{means['target', 1]:.3f} → {means['target', 2]:.3f}" in near
    assert "0.6 or more" in hard and "%" in hard
    assert "ranks" in pairs and "right" in pairs


def test_lines_average_over_seeds(record):
    record = json.loads(json.dumps(record))
    seeds = record["arms"]["coevolving_agents"]["seeds"]
    seeds["1"] = json.loads(json.dumps(seeds["0"]))
    for rollout in seeds["1"]["rollouts"]:
        if (rollout["agent"], rollout["round"]) == ("partner", 1):
            mean, rollout["failure_mean"] = rollout["failure_mean"], rollout["failure_mean"] + 0.1
    assert f"{mean + 0.05:.3f} →" in contribution_lines(record)[0]
    assert "per seed" in contribution_lines(record)[2]


def test_no_partner_no_lines(record):
    alone = {**record, "arms": {"eto": record["arms"]["eto"]}}
    assert contribution_lines(alone) == []


def test_one_round_without_failures_leaves_dashes_and_no_error(record):
    record = json.loads(json.dumps(record))
    seed = record["arms"]["coevolving_agents"]["seeds"]["0"]
    seed["rollouts"] = [r for r in seed["rollouts"] if r["round"] == 1]
    for rollout in seed["rollouts"]:
        rollout |= {"failure_mean": None, "failures": 0, "hard_share": {"0.6": None}}
    seed["pairs"], seed["training"] = [], []
    lines = contribution_lines(record)
    assert len(lines) == 3
    assert "–" in lines[0]


def test_equal_labels_are_told_apart_by_their_arms(record):
    arms = {name: {**record["arms"]["eto"], "label": "ETO"} for name in ("eto", "eto_matched")}
    view = results_from_json({**record, "arms": arms})
    assert [arm.label for arm in view.arms.values()] == ["ETO (eto)", "ETO (eto_matched)"]


def test_partner_kind_comes_from_the_config(record):
    record = json.loads(json.dumps(record))
    record["arms"]["coevolving_agents"]["config"]["partner"]["kind"] = "positive"
    assert results_from_json(record).arms["coevolving_agents"].agent_name("partner") == "positive partner"
    assert "positive partner" in contribution_lines(record)[0]


def test_malformed_results_name_the_field():
    with pytest.raises(DataError, match="'arms'"):
        results_from_json({"name": "x"})
    with pytest.raises(DataError, match="no arm"):
        results_from_json({"name": "x", "split": "test", "success_eps": 1e-6, "arms": {}})


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (reward(0.6344), "0.634"),
        (reward(-0.0214, signed=True), "−0.021"),
        (reward(0.0214, signed=True), "+0.021"),
        (reward(-0.0001, signed=True), "0.000"),
        (reward(None), "–"),
        (reward(float("nan")), "–"),
        (percent(0.126), "13 %"),
        (percent(None), "–"),
        (between(0.58, 0.694), "[0.58, 0.69]"),
        (between(-0.012, 0.09, signed=True), "[−0.01, +0.09]"),
        (between(-0.001, 0.001, signed=True), "[0.00, 0.00]"),
        (between(0.08, 0.21, as_percent=True), "[8, 21]"),
        (between(float("nan"), float("nan")), ""),
    ],
)
def test_numbers_are_written_alike_everywhere(shown, text):
    assert shown == text


class TestNotices:
    def told(self, record, name, **content):
        record = json.loads(json.dumps(record))
        record["arms"][name]["seeds"]["0"] |= content
        return notice_lines(record)

    def test_nothing_is_said_of_a_run_that_went_well(self, record):
        good = {"round": 1, "agent": "target", "attempts": [{"before": 0.5, "after": 0.6, "num": 8}], "kept": 1}
        assert self.told(record, "eto", checks=[good]) == []

    def test_a_training_that_was_taken_back_is_named(self, record):
        attempts = [{"before": 0.5, "after": after, "num": 8} for after in (0.1, 0.2, 0.3)]
        check = {"round": 2, "agent": "target", "attempts": attempts, "kept": None}
        (line,) = self.told(record, "eto", checks=[check])
        assert line.startswith("ETO, round 2: the training was taken back (0.500 → 0.100 on 8 training tasks)")
        (line,) = self.told(record, "eto", checks=[check | {"kept": 3}])
        assert "done again at a quarter of the rate" in line

    def test_a_collapse_is_named_with_its_agent_and_round(self, record):
        notice = {"round": 1, "agent": "partner", "tasks": "training tasks", "signs": ["a", "b"], "is_start": False}
        (line,) = self.told(record, "coevolving_agents", notices=[notice])
        assert line == "Co-Evolving Agents, failure agent in round 1, training tasks: a; b."
