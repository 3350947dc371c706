"""docs/results.md and the compact JSON behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.progress import SilentProgress
from sparring.models.loading import save_model
from sparring.report.markdown import table, unfold
from sparring.report.results import export, main, read_compact, render, to_text
from sparring.report.view import read_results
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.report.run_folder import RunFolder
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    arms = ("sft", "eto", "coevolving_agents", "coevolving_frozen")
    return RunFolder(tmp_path_factory.mktemp("run"), arms=arms, seeds=(0, 1), name="study").write()


@pytest.fixture(scope="module")
def compact(run_dir, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("docs") / "results" / "study.json"
    assert main(["export", str(run_dir), str(path)]) == 0
    return path


def test_committed_page_is_what_the_committed_numbers_make():
    files = sorted((DOCS / "results").glob("*.json"))
    if not files:
        pytest.skip("docs/results holds no JSON yet: no study has been exported")
    assert (DOCS / "results.md").read_text("utf-8") == render(files), "run: python -m sparring.report.results render"


def test_nothing_is_lost_that_the_tables_need(run_dir, compact):
    whole, unfolded = read_results(run_dir), unfold(read_compact(compact))
    for name, arm in whole.arms.items():
        again = unfolded.arms[name]
        assert (again.method, again.label, again.partner) == (arm.method, arm.label, arm.partner)
        for agent in arm.agents:
            for number in arm.rounds(agent):
                for seed, rewards in arm.rewards(agent, number).items():
                    assert again.rewards(agent, number)[seed] == pytest.approx(rewards)


def test_page_from_the_compact_file_has_the_run_s_numbers(run_dir, compact):
    page = render([compact])
    record = json.loads((run_dir / "results.json").read_text())
    rewards = [
        reward
        for seed in record["arms"]["coevolving_agents"]["seeds"].values()
        for evaluation in seed["evaluations"]
        if (evaluation["agent"], evaluation["round"]) == ("target", 2)
        for reward in evaluation["rewards"].values()
    ]
    assert f"{sum(rewards) / len(rewards):.3f}" in page
    for words in ("## study", "seeds 0, 1", "config `", "revision `0123abc`", "Figure 2", "Figure 3", "CPU-seconds"):
        assert words in page, words
    assert "of which training the failure agent" in page
    assert "nan" not in page


def test_failure_agent_s_training_is_counted_apart_and_within_the_total(compact):
    """Two rounds of 55 s and a start of 61 s, at 1.7 CPU-seconds a second."""
    record = read_compact(compact)
    cpu = record["arms"]["coevolving_agents"]["seeds"]["0"]["cpu_s"]
    assert cpu["train-partner"] == pytest.approx(2 * 1.7 * 55)
    assert cpu["sft-partner"] == pytest.approx(1.7 * 61, abs=0.1)
    row = next(line for line in render([compact]).splitlines() if line.startswith("| Co-Evolving Agents"))
    total, partner = (cell.strip() for cell in row.split("|")[-3:-1])
    assert total == f"{sum(cpu.values()):,.0f}"
    assert partner == f"{1.7 * (2 * 55 + 61):,.0f}"


def test_a_method_s_episodes_and_steps_stand_beside_its_result(compact):
    """Two rounds of twelve episodes by each agent; a start of 40 steps and two trainings of 6 for each agent."""
    lines = render([compact]).splitlines()
    head = next(line for line in lines if line.startswith("| method") and "optimizer steps" in line)
    column = [cell.strip() for cell in head.split("|")].index("episodes")
    found = {}
    for label in ("SFT", "ETO", "Co-Evolving Agents", "frozen partner"):
        row = next(line for line in lines if line.startswith(f"| {label} "))
        found[label] = tuple(cell.strip() for cell in row.split("|")[column : column + 2])
    assert found == {
        "SFT": ("0", "40"),
        "ETO": ("24", "52"),
        "Co-Evolving Agents": ("48", "104"),
        "frozen partner": ("48", "92"),
    }


def test_files_that_do_not_count_episodes_are_read(compact, tmp_path):
    record = json.loads(compact.read_text())
    for arm in record["arms"].values():
        for seed in arm["seeds"].values():
            del seed["episodes"], seed["steps"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(record))
    page = render([path])
    assert "optimizer steps |" not in page and "| CPU-seconds" in page


def test_second_rollouts_have_rows_of_their_own(tmp_path):
    run_dir = RunFolder(tmp_path / "run", refreshes=True).write()
    path = tmp_path / "x.json"
    path.write_text(to_text(export([run_dir])))
    seed = read_compact(path)["arms"]["coevolving_agents"]["seeds"]["0"]
    assert seed["episodes"] == {"rollout-target": 24, "rollout-partner": 48}
    rows = [line for line in render([path]).splitlines() if "| failure agent, second rollout" in line]
    shares = [record["hard_share"]["0.6"] for record in seed["refreshed"]]
    assert [row.split("|")[-4].strip() for row in rows] == [f"{100 * share:.0f} %" for share in shares]


def test_figure_two_is_there_in_both_readings(compact):
    page = render([compact])
    alone, together = page.index("the target agents alone"), page.index("both agents together")
    assert alone < together
    assert "of these, the failure agent" in page[together:] and "of these, the frozen partner" in page[together:]
    record = read_compact(compact)
    for name, arm in record["arms"].items():
        assert all(("figure_two" in seed) is name.startswith("coevolving") for seed in arm["seeds"].values()), name


def test_words_of_a_person_stand_above_the_tables(compact):
    compact.with_suffix(".md").write_text("It went *well*.\n")
    page = render([compact])
    compact.with_suffix(".md").unlink()
    assert page.index("## study") < page.index("It went *well*.") < page.index("| method")


def test_same_run_same_file_and_rewards_on_one_line(run_dir, compact):
    assert to_text(export([run_dir])) == compact.read_text()
    lines = [line for line in compact.read_text().splitlines() if '"rewards"' in line]
    assert len(lines) == sum(
        len(seed["evaluations"]) for arm in read_compact(compact)["arms"].values() for seed in arm["seeds"].values()
    )


def test_seeds_that_ran_in_folders_of_their_own_are_one_study(run_dir, tmp_path):
    arms = ("sft", "eto", "coevolving_agents", "coevolving_frozen")
    apart = [RunFolder(tmp_path / str(seed), arms=arms, seeds=(seed,), name="study").write() for seed in (1, 0)]
    assert export(apart) == export([run_dir])


def test_seeds_join_those_that_were_exported_before(run_dir, tmp_path):
    arms = ("sft", "eto", "coevolving_agents", "coevolving_frozen")
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    later = RunFolder(tmp_path / "later", arms=arms, seeds=(2,), name="study").write()
    assert main(["export", str(run_dir), str(before)]) == 0
    assert main(["export", str(before), str(later), str(now)]) == 0
    assert read_compact(now) == read_compact(before) | {"arms": export([run_dir, later])["arms"]}
    with pytest.raises(DataError, match="Two of the runs hold seed 0, 1"):
        export([before, run_dir])


def test_runs_that_are_no_one_study_are_refused(run_dir, tmp_path):
    with pytest.raises(DataError, match="hold seed 0, 1"):
        export([run_dir, run_dir])
    other = RunFolder(tmp_path, arms=("sft",), seeds=(2,), name="study").write()
    results = json.loads((other / "results.json").read_text("utf-8"))
    results["arms"]["sft"]["digest"] = "of other settings"
    (other / "results.json").write_text(json.dumps(results), "utf-8")
    with pytest.raises(DataError, match="config_hash of arm sft"):
        export([run_dir, other])
    del results["arms"]["sft"]["digest"]
    (other / "results.json").write_text(json.dumps(results), "utf-8")
    with pytest.raises(DataError, match="Run the same recipe once more"):
        export([other])


def test_arms_that_ran_in_a_folder_of_their_own_join_the_study(run_dir, tmp_path):
    arms = ("sft", "eto", "coevolving_agents", "coevolving_frozen")
    first = RunFolder(tmp_path / "first", arms=arms[:2], seeds=(0, 1), name="study").write()
    second = RunFolder(tmp_path / "second", arms=arms[2:], seeds=(0, 1), name="study").write()
    joined, whole = export([first, second]), export([run_dir])
    assert list(joined["arms"]) == list(arms)
    assert {name: arm["seeds"].keys() for name, arm in joined["arms"].items()} == {
        name: arm["seeds"].keys() for name, arm in whole["arms"].items()
    }
    assert joined["config_hash"] not in (export([first])["config_hash"], export([second])["config_hash"])


def test_seeds_that_ran_with_other_numbers_of_envs_join(tmp_path):
    save_model(tiny_model(), tiny_tokenizer(), tmp_path / "model")
    recipe = tmp_path / "toy.toml"
    recipe.write_text(TOY_RECIPE.format(model=tmp_path / "model") + '[arms.plain]\nmethod = "zero_shot"\n')
    settings = ({"env.num_envs": 1}, {"env.num_envs": 2}, {"chat.max_context": 300})
    folders = [tmp_path / str(seed) for seed in range(3)]
    for seed, (folder, own) in enumerate(zip(folders, settings, strict=True)):
        run_recipe(load_recipe(recipe, own, seeds=[seed], arms=["plain"]), folder, SilentProgress(), with_report=False)
    assert list(export(folders[:2])["arms"]["plain"]["seeds"]) == ["0", "1"]
    with pytest.raises(DataError, match="config_hash of arm plain"):
        export(folders)


@pytest.mark.parametrize(
    "value",
    [{}, [], {"a": []}, {"a": {"b": [1, 2.5, None]}}, {"a": [{"agent": "x", "c": {"d": 1}}], "é": "\u2028"}],
)
def test_layout_is_json(value):
    assert json.loads(to_text(value)) == value


def test_broken_episodes_stay_missing_and_do_not_become_zero(run_dir, compact):
    record = read_compact(compact)
    evaluations = [e for arm in record["arms"].values() for s in arm["seeds"].values() for e in s["evaluations"]]
    assert any(None in e["rewards"] for e in evaluations)
    assert all(e["rewards"].count(None) == e["faults"] for e in evaluations)


def test_run_without_timings_has_no_cost_columns(tmp_path):
    run_dir = RunFolder(tmp_path / "run").write()
    (run_dir / "timings.jsonl").unlink()
    path = tmp_path / "x.json"
    path.write_text(to_text(export([run_dir])))
    assert "| CPU-seconds" not in render([path])


def test_bad_input_is_named(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"other\.json"):
        render([other])
    assert main(["render", str(other), "--out", str(tmp_path / "x.md")]) == 2
    assert main(["export", str(tmp_path), str(tmp_path / "x.json")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_table_is_aligned_and_escapes_bars():
    assert table(["a", "b"], [["x|y", "1"]]).splitlines() == ["| a    |   b |", "| ---- | --: |", "| x\\|y |   1 |"]
