"""Drawings: escaping, scales, labels that do not overlap, and curves that do not lie."""

from __future__ import annotations

import itertools
import re

import pytest

from sparring.analysis.failures import Outcomes
from sparring.analysis.statistics import Interval
from sparring.report import charts, svg
from sparring.report.svg import Scale


def test_text_and_attributes_are_escaped_and_drawings_are_not():
    made = svg.tag("g", svg.text(1, 2, "</text><script>"), class_='a" onload="x')
    assert made == '<g class="a&#34; onload=&#34;x"><text x="1" y="2">&lt;/text&gt;&lt;script&gt;</text></g>'


def test_scale_maps_and_keeps_inside():
    scale = Scale(0.0, 1.0, 100.0, 0.0)
    assert [scale(value) for value in (0, 0.25, 1, 2, -1)] == [100, 75, 0, 0, 100]
    assert Scale(3.0, 3.0, 0.0, 10.0)(3.0) == 5.0


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.53, 0.61), (-7.5, 0.0), (0.0, 0.1), (0.0, 12345.0)])
def test_ticks_are_round_few_and_inside(low, high):
    ticks = Scale(low, high, 0.0, 1.0).ticks(4)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_domain_holds_the_values_and_survives_none_of_them():
    low, high = svg.domain([0.52, 0.61], include=[0.5])
    assert low <= 0.5 and high >= 0.61
    assert svg.domain([]) == (pytest.approx(-0.25), pytest.approx(1.25))
    low, high = svg.domain([0.7, float("nan")])
    assert low < 0.7 < high


def test_labels_are_moved_apart_in_order():
    placed = svg.spread([50.0, 52.0, 51.0, 10.0], 13.0, 0.0, 100.0)
    ordered = sorted(placed)
    assert all(b - a >= 13.0 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert placed[3] == 10.0
    assert placed[0] < placed[2] < placed[1]
    assert max(svg.spread([99.0, 100.0], 13.0, 0.0, 100.0)) == 100.0


def test_bars_of_a_histogram_stand_for_counts():
    drawn = charts.histogram_panel([0, 3, 0, 6], "target", threshold=0.75, mean=0.5, top=6, label="x")
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="bar', drawn)]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0])
    assert drawn.count("bar target pale") == 1


def test_outcome_bar_fills_its_width():
    drawn = charts.outcome_bar(Outcomes(success=0.25, hard=0.5, failure=0.25, num=8), "partner")
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', drawn)]
    assert sum(widths) == pytest.approx(460, abs=4)
    assert "hard negative: 50 % of 8" in drawn


def test_forest_of_nothing_is_nothing():
    nothing = Interval(mean=float("nan"), low=float("nan"), high=float("nan"))
    assert charts.forest(nothing, (0.0, 1.0), "target") == ""


def test_smoothing_keeps_short_curves_and_the_mean_of_long_ones():
    short = [(float(i), float(i % 2)) for i in range(24)]
    assert charts.smooth(short) == short
    long = [(float(i), float(i % 2)) for i in range(600)]
    drawn = charts.smooth(long)
    assert len(drawn) <= 2 * charts.MAX_POINTS
    assert sum(y for _, y in drawn) / len(drawn) == pytest.approx(0.5)
    assert charts.smooth([]) == []
