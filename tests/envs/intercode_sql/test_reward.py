"""The reward, edge case by edge case, with numbers worked by hand."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from sparring.envs.intercode_sql.backend import Result
from sparring.envs.intercode_sql.reward import SEEN_SHARE, grade, kendall_tau, reward


def of(*rows) -> Result:
    return Result(rows=tuple(row if isinstance(row, tuple) else (row,) for row in rows))


@pytest.mark.parametrize(
    ("result", "gold", "expected"),
    [
        (of(1, 2, 3), of(1, 2, 3), 1.0),
        (of(), of(), 1.0),  # both empty
        (of(), of(1), 0.0),
        (of(1), of(), 0.0),
        (None, of(1), 0.0),  # submitted without a statement
        (Result(error="no such table"), of(1), 0.0),
        (Result(error="no such table"), of(), 0.0),
        (Result(), of(), 0.0),  # an INSERT gives no rows; that is not an empty result
        (of(1, 2), of(1, 2, 3), 0.67),  # 2 of 3, scaled by τ = 1 and rounded as the benchmark does
        (of(1), of(1, 2, 3), 1 / 3),  # one common row has no order: neither scaled nor rounded
        (of(1, 1), of(1), 1 / 2),  # duplicates count
        (of(1, 1, 2), of(1, 2, 2), 0.5),  # common {1, 2} of {1, 1, 2, 2}
        (of("a", "a"), of("a", "a"), 1.0),  # all alike: τ is not defined
        (of((None, 1)), of((None, 1)), 1.0),  # NULL equals NULL
        (of(None), of("None"), 0.0),  # and is no text
        (of(3), of(3.0), 0.0),  # compared as text, as in the benchmark
        (of(0.1 + 0.2), of(0.3), 0.0),
        (of(Decimal("2.50")), of(Decimal("2.5")), 0.0),
        (of(Decimal("2.5")), of(2.5), 0.0),
        (of(1), of("1"), 0.0),
        (of(("a", "b")), of(("b", "a")), 0.0),  # the order of columns counts
        (of(3, 2, 1), of(1, 2, 3), 0.0),  # reversed: τ = -1, clamped
        (of(1, 3, 2), of(1, 2, 3), 0.33),  # τ = 1/3
        (of(2, 1, 4), of(1, 2, 3), 0.0),  # common in the orders (2, 1) and (1, 2)
    ],
)
def test_reward(result: Result | None, gold: Result, expected: float):
    assert reward(result, gold) == pytest.approx(expected)


def test_one_swap_among_many_rows_is_rounded_away():
    """64 rows, two neighbours swapped: τ = 1 - 2·1/2016 = 0.999, which the benchmark's rounding makes a success."""
    names = [f"row {i:02}" for i in range(64)]
    swapped = [*names[:10], names[11], names[10], *names[12:]]
    assert reward(of(*swapped), of(*names)) == 1.0


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "dcba", -1.0),
        ("abcd", "abdc", 4 / 6),  # one of six pairs is discordant
        ("aab", "abb", 1 / math.sqrt(2 * 2)),  # ties: (1 concordant) / √((3-1)(3-1))
        ("aabb", "abab", 0.0),  # one concordant, one discordant
    ],
)
def test_kendall_tau_by_hand(left: str, right: str, expected: float):
    assert kendall_tau(left, right) == pytest.approx(expected)


def test_kendall_tau_is_what_its_definition_says():
    """Against all pairs, one by one: (concordant - discordant) / √((n0 - ties left)(n0 - ties right))."""
    left = [str(i * 7919 % 13) for i in range(60)]
    right = [str(i * 104729 % 11) for i in range(60)]
    pairs = [(i, j) for i in range(60) for j in range(i)]

    def sign(side: list[str], i: int, j: int) -> int:
        return (side[i] > side[j]) - (side[i] < side[j])

    difference = sum(sign(left, i, j) * sign(right, i, j) for i, j in pairs)
    scale = math.sqrt(sum(sign(left, i, j) ** 2 for i, j in pairs) * sum(sign(right, i, j) ** 2 for i, j in pairs))
    assert kendall_tau(left, right) == pytest.approx(difference / scale)


@pytest.mark.parametrize("texts", ["", "a", "aaa"])
def test_kendall_tau_is_not_defined_without_an_order(texts: str):
    assert math.isnan(kendall_tau(texts, texts))


def test_grades_order_failures_and_stay_below_success():
    gold = of(("a", 1), ("b", 2))
    right = grade(gold, gold)
    one_column_more = grade(of(("a", 1, 7), ("b", 2, 8)), gold)
    one_row_missing = grade(of(("a", 1)), gold)
    wrong = grade(of(("x", 9)), gold)
    assert right == SEEN_SHARE < 1
    assert one_row_missing == pytest.approx(SEEN_SHARE * (1 / 2 + 1 / 2) / 2)
    assert one_column_more == pytest.approx(SEEN_SHARE * (0 + 4 / 6) / 2)
    assert right > one_row_missing > one_column_more > wrong == 0.0
    assert grade(Result(error="x"), gold) == 0.0
