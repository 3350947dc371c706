"""A world's own measures beside mean reward: in the terminal, on the page, and over several runs for the headline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import DataError
from sparring.report import write_report
from sparring.report.markdown import unfold
from sparring.report.measures import HEADLINE, columns_of, headline_of, main, measure_table, shown, shown_of
from sparring.report.results import export, render, to_text
from sparring.report.view import read_results
from tests.report.run_folder import RunFolder

ARMS = ("sft", "eto")


def measured(
    folder: Path,
    by_seed: Sequence[Mapping[str, Any]],
    *,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    world: str = "appworld",
) -> Path:
    """Write a run whose arms have these measures after their last round, seed by seed, and others before."""
    run_dir = RunFolder(
        folder, arms=ARMS, seeds=tuple(range(len(by_seed))), num_rounds=1, num_train=4, num_test=4
    ).write()
    results = json.loads((run_dir / "results.json").read_text())
    for arm in results["arms"].values():
        for seed, measures in zip(arm["seeds"].values(), by_seed, strict=True):
            last = max(one["round"] for one in seed["evaluations"])
            for one in seed["evaluations"]:
                is_last = (one["agent"], one["round"]) == ("target", last)
                one["measures"] = measures if is_last else dict.fromkeys(measures, 99.0)
            seed["also"] = [{"split": split, "agent": "target", "measures": own} for split, own in (also or {}).items()]
    (run_dir / "results.json").write_text(json.dumps(results))
    config = json.loads((run_dir / "config.json").read_text())
    for arm in config["arms"].values():
        arm["env"] = {"id": world}
    (run_dir / "config.json").write_text(json.dumps(config))
    return run_dir


def test_compact_exports_carry_them(tmp_path: Path) -> None:
    seeds = [{"TGC": 10.0, "SGC": "none whole"}, {"TGC": 20.0, "SGC": 4.0}]
    run_dir = measured(tmp_path / "run", seeds, also={"hard": {"TGC": 1.0}})
    record = export([run_dir])
    whole, again = measure_table(read_results(run_dir)), measure_table(unfold(record))
    assert whole is not None and again is not None
    assert (again.columns, again.rows, again.notes) == (whole.columns, whole.rows, whole.notes)
    (tmp_path / "study.json").write_text(to_text(record))
    page = render([tmp_path / "study.json"])
    head = next(line for line in page.splitlines() if "hard: TGC" in line)
    assert head.replace(" ", "") == "|method|TGC|SGC|hard:TGC|"
    assert "15.0" in page and "SGC (test): none whole." in page


def test_values_are_those_of_the_last_round_averaged_over_seeds(tmp_path: Path) -> None:
    run_dir = measured(
        tmp_path, [{"TGC": 10.0, "SGC": "none whole"}, {"TGC": 20.0, "SGC": 4.0}], also={"hard": {"TGC": 1.0}}
    )
    results = read_results(run_dir)
    found = measure_table(results)
    assert found is not None
    assert found.columns == [("test", "TGC"), ("test", "SGC"), ("hard", "TGC")]
    assert found.heads("test") == ["TGC", "SGC", "hard: TGC"]
    assert [values for _, _, values in found.rows] == [[15.0, 4.0, 1.0]] * 2
    assert found.notes == ["SGC (test): none whole."]
    table, note = shown(results)
    assert note == "SGC (test): none whole."
    assert not isinstance(table, str) and list(table.columns[1].cells) and table.row_count == 2
    page = write_report(run_dir).read_text()
    assert "own measures" in page and "<b>15.0</b>" in page and "hard: TGC" in page and "none whole" in page


def test_a_world_without_measures_is_shown_as_before(tmp_path: Path) -> None:
    run_dir = RunFolder(tmp_path, arms=ARMS, num_rounds=1, num_train=4, num_test=4).write()
    assert measure_table(read_results(run_dir)) is None and shown(read_results(run_dir)) == []
    assert "own measures" not in write_report(run_dir).read_text()
    assert shown_of({"a-model": {}}) == []
    with pytest.raises(DataError, match="has none of appworld test TGC, "):
        columns_of([run_dir])


def test_measures_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the measure 'TGC' is None, neither a number nor words"):
        read_results(measured(tmp_path, [{"TGC": None}]))


def test_models_that_were_evaluated_stand_side_by_side() -> None:
    table, note = shown_of({"a": {"TGC": 12.34, "SGC": "none whole"}, "b": {"TGC": 1.0}})
    assert note == "SGC: none whole."
    assert not isinstance(table, str)
    assert [[str(cell) for cell in column.cells] for column in table.columns] == [
        ["a", "b"],
        ["12.3", "1.0"],
        ["–", "–"],
    ]


def test_the_headline_is_the_mean_of_five_columns_over_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = measured(tmp_path / "a", [{"TGC": 28.0, "SGC": 12.0}], also={"test_challenge": {"TGC": 8.0, "SGC": 2.0}})
    second = measured(tmp_path / "b", [{"accuracy": 60.0, "accuracy, base": 70.0}], world="bfcl")
    by_arm = columns_of([second, first])
    assert by_arm == {arm: [28.0, 12.0, 8.0, 2.0, 60.0] for arm in ARMS}
    assert headline_of(by_arm["eto"]) == 22.0
    assert headline_of([None, *by_arm["eto"][1:]]) is None
    assert len(HEADLINE) == 5
    assert main([str(first), str(second)]) == 0
    assert "22.0" in capsys.readouterr().out
    assert main([str(first)]) == 0
    assert "needs bfcl test accuracy too" in capsys.readouterr().out
    with pytest.raises(DataError, match="measures appworld test TGC, and so does a run before it"):
        columns_of([first, first])
    assert main([str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err
