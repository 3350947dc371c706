"""How near synthetic tasks lie to evaluation tasks: the figures, the nearest pairs, what a run's folder says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.core.similarity import cosine, jaccard, neighbours, weigh_words
from sparring.report import write_report
from sparring.report.curriculum import ACCEPTED, INITIAL
from sparring.report.nearness import Known, compare, main
from tests.report.growing_folder import GrowingFolder
from tests.report.test_page import Page

LISTED = "You can call ls, cd, mv. "


def known(name: str, words: str, *ways: str) -> Known:
    return Known(name, LISTED + words, {tuple(way.split(", ")) for way in ways})


def test_words_that_all_texts_have_make_none_alike():
    first, second, third = weigh_words([LISTED + "Move a to b.", LISTED + "Buy a stock.", LISTED + "Move a to b."])
    assert cosine(first, third) == pytest.approx(1.0)
    assert cosine(first, second) < 0.5
    assert weigh_words([LISTED, LISTED]) == [{}, {}] and cosine({}, first) == 0.0


def test_each_evaluation_task_has_the_nearest_of_each_set():
    evaluation = [known("e/0", "Move the report to docs.", "cd(a), mv(b)"), known("e/1", "Buy ten shares.")]
    near = compare(
        evaluation,
        {
            INITIAL: [known("i/0", "Sell the car.", "ls()")],
            ACCEPTED: [known("s/0", "Buy nine tickets."), known("s/1", "Move the report to music.", "cd(a), mv(c)")],
            "none": [],
        },
    )
    assert list(near.pairs) == [INITIAL, ACCEPTED]
    first, second = near.pairs[ACCEPTED]
    assert (first.other.task_id, second.other.task_id) == ("s/1", "s/0")
    assert first.reference == jaccard(neighbours(["cd(a)", "mv(b)"]), neighbours(["cd(a)", "mv(c)"])) == 1 / 5
    assert second.reference is None
    assert near.share(ACCEPTED, 0.0) == 1.0 and near.share(ACCEPTED, first.text) == 0.5
    assert near.share(INITIAL, 0.5) == 0.0


def test_the_page_and_the_command_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = GrowingFolder(tmp_path / "run", seeds=(0,)).write()
    page = Page(write_report(run_dir))
    assert page.with_id("nearness")
    for words in ("Synthetic tasks beside evaluation tasks", "initial tasks", "The gate refused"):
        assert words in page.text, words
    assert main([str(run_dir)]) == 0
    assert "synthetic tasks" in capsys.readouterr().out
    assert main([str(tmp_path / "none")]) == 2
