"""Near duplicates by hand-counted Jaccard similarities, and the gate that no evaluation task passes."""

from __future__ import annotations

import pytest

from sparring.core.similarity import jaccard
from sparring.synthesis.novelty import EvaluationGate, find_duplicate, sketch, sketch_of
from tests.synthesis.growing_world import GrowingSynthesis
from tests.synthesis.scenes import played, task

WORLD = GrowingSynthesis()


def test_jaccard_by_hand():
    """^a ab b$ against ^a ab bc c$: two shared of five."""
    two, three = sketch("x", "a b", []).words, sketch("y", "A  B\nc", []).words
    assert jaccard(two, three) == pytest.approx(2 / 5)
    assert jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(two, frozenset()) == 0.0


def test_order_matters():
    """Pressing red then green is another task than green then red, though the same words and actions occur."""
    one = sketch("one", "press red green", ["press red", "press green"])
    other = sketch("other", "press green red", ["press green", "press red"])
    assert jaccard(one.actions, other.actions) == 0.0
    assert find_duplicate(one, [other]) is None


@pytest.mark.parametrize(
    ("observation", "actions", "is_twin"),
    [
        ("a b c d e f g h i j", "1 2 3 4 5 6 7 8 9", True),
        ("a b c d e f g h i X", "1 2 3 4 5 6 7 8 9", True),  # 9 of 13 pairs shared
        ("X X X X X X X X X X", "1 2 3 4 5 6 7 8 9", False),  # solved alike, looks different
        ("a b c d e f g h i j", "9 8 7 6 5 4 3 2 1", False),  # looks alike, solved differently
    ],
)
def test_a_duplicate_looks_alike_and_is_solved_alike(observation, actions, is_twin):
    known = sketch("known", "a b c d e f g h i j", list("123456789"))
    new = sketch("new", observation, actions.split())
    threshold = 0.69  # ten words: 11 pairs; one other word at the end leaves 9 of 13 = 0.692
    assert find_duplicate(new, [known], threshold) == ("known" if is_twin else None)


def test_the_threshold_is_inclusive():
    known, new = sketch("known", "a b", ["1"]), sketch("new", "a b c", ["1"])
    assert find_duplicate(new, [known], 2 / 5) == "known"
    assert find_duplicate(new, [known], 2 / 5 + 1e-6) is None


def test_a_solution_makes_a_sketch():
    assert sketch_of(played("press red, press green", [0.5, 1.0])) == sketch(
        "short/a", "before 0", ["press red", "press green"]
    )


# ── The gate ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def gate(**options) -> EvaluationGate:
    return EvaluationGate(WORLD, [task("short/test-0", "blue white", machine="M 7")], **options)


def test_the_same_id_or_content_overlaps():
    assert gate().check(task("short/test-0")).aspect == "id"  # pyright: ignore
    found = gate().check(task("short/mine", "blue white", machine="M 7"))
    assert found is not None
    assert (found.task_id, found.evaluation_id, found.aspect) == ("short/mine", "short/test-0", "content")


def test_an_identifying_aspect_overlaps_whatever_its_case_and_spaces():
    found = gate().check(task("short/mine", "red red", machine="  m\t7 "))
    assert found is not None
    assert found.aspect == "machine"
    assert gate().check(task("short/mine", "red red", machine="M 8")) is None


def test_the_same_start_and_answer_overlap():
    known = gate(starts={"short/test-0": "Press blue."}, answers={"short/test-0": ["press blue"]})
    mine = task("short/mine", "red red")
    assert known.check(mine, "press  BLUE.", ["press blue"]).aspect == "start and answer"  # pyright: ignore
    assert known.check(mine, "press BLUE.", ["press red"]) is None
    assert known.check(mine, "Press red.", ["press blue"]) is None
    assert gate().check(mine, "Press blue.", ["press blue"]) is None


def test_an_audit_reports_on_a_whole_pool():
    report = gate().audit([task("short/x", "red red"), task("short/y", "blue white", machine="M 7")])
    assert (report.num_tasks, report.num_evaluation) == (2, 1)
    assert report.aspects == ("id", "content", "machine")
    assert [one.task_id for one in report.overlaps] == ["short/y"]
    assert str(report) == (
        "1 of 2 tasks overlap one of 1 evaluation tasks in id, content, machine: short/y = short/test-0 (content)."
    )
    assert "0 of 1" in str(gate().audit([task("short/x", "red red")]))
