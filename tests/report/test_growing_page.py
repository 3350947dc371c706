"""The page and the terminal's lines for GRPO, PPO and CoEvolve: what they show, and that nothing breaks out of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sparring.core.errors import DataError
from sparring.core.phases import Phase
from sparring.report import evolving, series, synthetic, write_report
from sparring.report.collect import collect
from sparring.report.folder import list_phases, read_costs
from sparring.report.series import MAX_ROUNDS, shown_rounds
from sparring.report.text import pool_lines
from sparring.report.view import read_results
from sparring.synthesis.arena import Purpose
from sparring.synthesis.signals import Signal
from tests.report.growing_folder import GrowingFolder
from tests.report.run_folder import HOSTILE, RunFolder
from tests.report.test_page import Page


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return GrowingFolder(tmp_path_factory.mktemp("run"), seeds=(0, 1)).write()


@pytest.fixture(scope="module")
def page(run_dir: Path) -> Page:
    return Page(write_report(run_dir))


def test_page_has_every_section(page: Page) -> None:
    for section in ("result", "rounds", "failures", "pool", "made", "learning", "sides", "trajectories", "setup"):
        assert page.with_id(section), section
    for words in (
        "How and why tasks were made",
        "validation yield",
        "Policy gradient",
        "training rollouts before it",
        "Gap between",
    ):
        assert words in page.text, words
    assert "Preference pairs" not in page.text and "preference pairs" not in page.text
    assert "arXiv 2604.15840" in page.text and "2511.22254" not in page.text
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", page.text)
    linked = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert [href for href in linked if not page.with_id(href[1:])] == []


def test_same_run_same_page(run_dir: Path, page: Page) -> None:
    assert write_report(run_dir).read_text("utf-8") == page.source


def test_runs_without_a_pool_or_policy_gradient_have_none_of_it(tmp_path: Path) -> None:
    page = Page(write_report(RunFolder(tmp_path / "pairs").write()))
    assert not page.with_id("pool") and not page.with_id("made") and "Policy gradient" not in page.text
    page = Page(write_report(GrowingFolder(tmp_path / "grpo", arms=("sft", "grpo")).write()))
    assert not page.with_id("pool") and not page.with_id("made")
    assert page.with_id("learning") and "Policy gradient" in page.text and "pool" not in page.text.lower()


def test_the_control_arm_has_a_pool_and_no_synthesis(tmp_path: Path) -> None:
    run_dir = GrowingFolder(tmp_path, arms=("replay",)).write()
    page = Page(write_report(run_dir))
    assert page.with_id("pool") and not page.with_id("made") and "validation yield" not in page.text
    assert len(pool_lines(read_results(run_dir))) == 1


def test_what_worlds_and_models_write_can_not_leave_its_place(tmp_path: Path) -> None:
    harmless = Page(write_report(GrowingFolder(tmp_path / "a").write()))
    hostile = Page(write_report(GrowingFolder(tmp_path / "b", is_hostile=True).write()))
    assert len(hostile.scripts) == len(harmless.scripts) == 3
    assert hostile.scripts[2] == harmless.scripts[2]
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in harmless.elements}
    for tag, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag in ("svg", "path", "title") or "pwned" not in str(attributes), (tag, attributes)
    assert "src" not in {name for _, attributes in hostile.elements for name in attributes}
    made = hostile.source[hostile.source.index('id="made"') : hostile.source.index('id="learning"')]
    assert "<script" not in made and "<img" not in made
    for shown in HOSTILE[:2]:  # task ids, strategies, notes, verdicts and references are shown, as text
        assert shown in hostile.text


def test_reader_shows_a_made_task_beside_the_failure_that_caused_it(run_dir: Path) -> None:
    section, *others = synthetic.choose(run_dir, read_results(run_dir))
    assert not others, "the other arms made nothing"
    for task in section["tasks"]:
        assert task.cause is not None and task.cause.id.startswith(f"round-{task.round}/rollout-target/")
        assert task.cause.task.id == task.task_id.partition("+")[0]
        assert task.reference and (task.reason == "") == (task.outcome == "accepted")
        assert (task.replay is None) == task.reason.startswith(("duplicate", "overlaps"))
        if task.replay is not None:
            assert task.replay.task.id == task.task_id and task.replay.reward == 1.0
    opened = section["tasks"][section["open"]]
    assert opened.outcome == "accepted" and "added in round" in opened.fate


def test_reader_takes_some_of_every_sort(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(run_dir)
    everything = synthetic.choose(run_dir, results)[0]
    monkeypatch.setattr(synthetic, "MAX_TASKS", 9)
    some = synthetic.choose(run_dir, results)[0]
    assert len(some["tasks"]) == 9 < len(everything["tasks"]) == some["num"]
    assert {task.outcome for task in some["tasks"]} == {"accepted", "quarantined", "refused"}
    assert [task.round for task in some["tasks"]] == sorted(task.round for task in some["tasks"])


def test_a_trajectory_id_names_no_file_outside_its_arm(tmp_path: Path) -> None:
    run_dir = GrowingFolder(tmp_path / "run").write()
    outside = tmp_path / "run/seed-0/grpo/round-1/rollout-target/trajectories.jsonl"
    identifier = json.loads(outside.read_text().splitlines()[0])["id"]
    for path in run_dir.glob("seed-0/coevolve/round-*/synthesis/synthesis.json"):
        result = json.loads(path.read_text())
        for verdict in result["verdicts"]:
            verdict["proposal"]["origin"]["trajectory_id"] = "round-1/../" + identifier
        path.write_text(json.dumps(result))
        Phase(path.parent).finish()
    tasks = synthetic.choose(run_dir, read_results(run_dir))[0]["tasks"]
    assert tasks and all(task.cause is None for task in tasks)
    assert "does not have it any more" in Page(write_report(run_dir)).text


def test_results_alone_make_a_report(run_dir: Path, tmp_path: Path) -> None:
    for name in ("results.json", "config.json"):
        (tmp_path / name).write_text((run_dir / name).read_text())
    page = Page(write_report(tmp_path))
    assert page.with_id("pool") and "validation yield" in page.text
    assert not page.with_id("made") and not page.with_id("trajectories")


def test_a_torn_synthesis_is_named(tmp_path: Path) -> None:
    run_dir = GrowingFolder(tmp_path).write()
    (run_dir / "seed-0/coevolve/round-3/synthesis/synthesis.json").write_text("{}")
    with pytest.raises(DataError, match=r"round-3/synthesis/synthesis\.json"):
        write_report(run_dir)


def test_tables_are_means_over_seeds(run_dir: Path) -> None:
    results = read_results(run_dir)
    section = evolving.pools(results)[0]
    seeds = results.arms["coevolve"].seeds.values()
    groups = {title: {row["name"]: row for row in rows} for title, rows in section["syntheses"]["groups"]}
    proposed = [one["proposed"] for seed in seeds for one in seed.synthesis]
    accepted = [one["outcomes"].get("accepted", 0) for seed in seeds for one in seed.synthesis]
    assert groups["Proposals"]["proposed"]["total"] == sum(proposed) / 2
    assert groups["Proposals"]["validation yield"]["total"] == pytest.approx(sum(accepted) / sum(proposed))
    assert sum(row["accepted"] for row in section["kinds"]) == sum(accepted) / 2
    assert groups["Episodes played"]["all of them"]["total"] == 2 * (8 - 2 + 6 + 6 + 20)  # two of eight are not played


def test_every_strategy_and_signal_has_a_colour() -> None:
    style = (Path(evolving.__file__).parent / "style.css").read_text("utf-8")
    assert {signal.value for signal in Signal} == set(evolving.SIGNALS)
    for name in {*evolving.STRATEGIES.values(), *evolving.SIGNALS.values(), "otherwise"}:
        assert f".made-{name} {{" in style
    assert {purpose.value for purpose in Purpose} == {name for name, _ in evolving.PURPOSES}


def test_coevolve_is_followed_and_grpo_is_what_it_is_compared_with(run_dir: Path, page: Page) -> None:
    results = read_results(run_dir)
    assert results.featured.name == "coevolve"
    assert [arm.name for arm in results.references] == ["sft", "grpo"]
    assert "Difference to GRPO" in page.text
    assert not results.compares(results.arms["grpo"], results.arms["grpo"])
    assert results.compares(results.arms["coevolve"], results.arms["grpo"])


def test_three_lines_on_the_pool(run_dir: Path) -> None:
    results = read_results(run_dir)
    pool, validation, new = pool_lines(results)
    first, last = (fmean_of(results, place) for place in (0, -1))
    assert f"{first:g} → {last:g} tasks in 8 rounds, per seed" in pool and "retired" in pool
    assert re.search(r"\d+(\.5)? of 16 proposals passed \(\d+ %\)", validation)
    assert new.startswith("Synthetic tasks: mean reward") and "76 episodes beside" in new


def fmean_of(results, place: int) -> float:
    seeds = results.arms["coevolve"].seeds.values()
    return sum(seed.pool[place]["num"] for seed in seeds) / len(seeds)


def test_preference_runs_have_no_lines_on_a_pool(tmp_path: Path) -> None:
    assert pool_lines(read_results(RunFolder(tmp_path).write())) == []


def test_curves_are_left_out_where_there_is_no_such_metric(tmp_path: Path) -> None:
    without = Page(write_report(GrowingFolder(tmp_path / "a", arms=("sft", "grpo"), has_kl=False).write()))
    with_kl = Page(write_report(GrowingFolder(tmp_path / "b", arms=("sft", "grpo")).write()))
    assert "KL to the reference" in with_kl.text and "KL to the reference" not in without.text
    for page in (with_kl, without):
        assert "Importance ratio" in page.text and "Value error" not in page.text
        assert "Largest ratio of any token: 3.5" in page.text


def test_synthesis_is_paid_for(run_dir: Path) -> None:
    phases = list_phases(run_dir, ["0", "1"], ["sft", "grpo", "coevolve", "replay"])
    costs = read_costs(run_dir, phases)
    assert costs.of("coevolve", "synthesis").cpu == pytest.approx(2 * 1.7 * 0.4 * 38)
    assert costs.of("grpo", "synthesis").num == 0


def test_hundreds_of_rounds_make_a_page_of_some(tmp_path: Path) -> None:
    run_dir = GrowingFolder(tmp_path, arms=("coevolve",), num_rounds=40, num_tasks=4, num_per_task=2).write()
    page = Page(write_report(run_dir))
    assert "Of many rounds some are shown" in page.text
    landscape = page.source[page.source.index('id="failures"') : page.source.index('id="pool"')]
    assert landscape.count("target agent, round ") <= 2 * MAX_ROUNDS
    watched = collect(list_phases(run_dir, ["0"], ["coevolve"]), max_bytes=0, watch=["coevolve"]).watched
    assert sorted(key[3] for key in watched) == [35, 36, 37, 38, 39, 40]


def test_shown_rounds_by_hand() -> None:
    assert shown_rounds([1, 2, 3]) == [1, 2, 3]
    assert shown_rounds(range(1, 12)) == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize(
    ("numbers", "ticks"),
    [
        ([1, 2, 3], [1, 2, 3]),
        (range(121), [0, 20, 40, 60, 80, 100, 120]),
        (range(1, 9), [2, 4, 6, 8]),
        (range(10, 130, 10), [20, 40, 60, 80, 100, 120]),
        (range(3, 43, 5), [3, 13, 23, 33]),
        ([], []),
    ],
)
def test_ticks_keep_their_distance(numbers, ticks) -> None:
    assert series.thin(numbers, 7) == ticks


def test_columns_stand_on_each_other() -> None:
    stack = [
        series.Series(name="a", class_="x", points=[(1, 2.0), (2, 0.0)]),
        series.Series(name="</title><script>", class_="y", points=[(1, 4.0), (2, 2.0)]),
    ]
    drawn = series.stacked_panel("label", stack, [1, 2], 6.0)
    bars = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="bar (\w)"', drawn)
    (y_a, height_a, _), (y_b, height_b, _), (_, height_c, class_c) = bars
    assert float(height_b) == pytest.approx(2 * float(height_a), abs=0.1) and class_c == "y"
    assert float(y_b) + float(height_b) == pytest.approx(float(y_a), abs=0.1)
    assert float(height_c) == pytest.approx(float(height_a), abs=0.1)
    assert "<script" not in drawn
