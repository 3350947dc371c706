"""Two results in, a reward out: intersection over union of their rows, times Kendall's τ of their order.

Source: arXiv 2306.14898 (InterCode), and its released code where the paper leaves things open: rows are compared as
text, so 3 and 3.0 differ; τ is the τ-b of the two lists of common rows, place by place and by their text,
where it is defined (at least two different texts); a reward that τ has scaled is rounded to two places.

Deviates: what would be negative is 0 (rewards here lie in [0,1]).
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence

from sparring.envs.intercode_sql.backend import Result

SEEN_SHARE = 0.8
"""What the right answer is worth to a graded episode that has seen it and has not submitted it."""


def reward(result: Result | None, gold: Result) -> float:
    """Compare the last result with the gold one; nothing to compare (an error, an INSERT, no statement yet) is 0."""
    if result is None or result.rows is None or gold.rows is None:
        return 0.0
    rows, gold_rows = [str(row) for row in result.rows], [str(row) for row in gold.rows]
    if not rows and not gold_rows:
        return 1.0
    overlap = _iou(rows, gold_rows)
    common = Counter(rows) & Counter(gold_rows)
    tau = kendall_tau(_keep(rows, common), _keep(gold_rows, common))
    return overlap if math.isnan(tau) else max(0.0, round(tau * overlap, 2))


def grade(result: Result, gold: Result) -> float:
    """Return how near a result is, in [0, `SEEN_SHARE`]: the reward and the overlap of single values, half and half.

    Rows count only as a whole, so that one column too many makes the reward 0; single values tell such a near miss from
    a wrong table. Two results with the same rows in the same order give `SEEN_SHARE`.
    """
    if result.rows is None or gold.rows is None:
        return 0.0
    values = _iou(*([repr(value) for row in side for value in row] for side in (result.rows, gold.rows)))
    return SEEN_SHARE * (reward(result, gold) + values) / 2


def kendall_tau(left: Sequence[str], right: Sequence[str]) -> float:
    """Return Kendall's τ-b of two lists of one length; NaN where one of them has a single value or none.

    Takes n log n comparisons and, for the insertions, n²/2 moves of a pointer.
    """
    pairs = sorted(zip(left, right, strict=True))
    num_pairs = len(pairs) * (len(pairs) - 1) // 2
    left_ties, right_ties, both_ties = _ties(left), _ties(right), _ties(pairs)
    if num_pairs in (left_ties, right_ties):
        return math.nan
    num_discordant, seen = 0, []
    for place, (_, y) in enumerate(pairs):  # sorted by x, then y: an inversion in y is a discordant pair
        num_discordant += place - bisect_right(seen, y)
        insort(seen, y)
    difference = num_pairs - left_ties - right_ties + both_ties - 2 * num_discordant
    return difference / math.sqrt((num_pairs - left_ties) * (num_pairs - right_ties))


def _ties(values: Iterable[object]) -> int:
    return sum(num * (num - 1) // 2 for num in Counter(values).values())


def _iou(left: Sequence[str], right: Sequence[str]) -> float:
    """Return intersection over union of two multisets; 1 for two empty ones."""
    left_counts, right_counts = Counter(left), Counter(right)
    union = (left_counts | right_counts).total()
    return (left_counts & right_counts).total() / union if union else 1.0


def _keep(rows: Sequence[str], common: Counter[str]) -> list[str]:
    """Keep the rows of the multiset `common`, the first of each, in their order."""
    left = common.copy()
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            kept.append(row)
    return kept
