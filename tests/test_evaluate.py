"""Means, success, bootstrap intervals and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparring.analysis.statistics import Interval, bootstrap_mean, paired_difference, summarise, to_table
from sparring.core.filters import is_success


def test_success_allows_for_rounding_alone():
    assert is_success(1.0)
    assert is_success(0.9999995)
    assert not is_success(0.99)
    assert is_success(0.99, success_eps=0.05)


def test_table_is_seeds_by_tasks_with_gaps_where_an_episode_broke():
    table = to_table({1: {"c": 0.4, "b": 0.3}, 0: {"b": 0.2, "a": 0.1}})
    np.testing.assert_array_equal(table, [[0.1, 0.2, np.nan], [np.nan, 0.3, 0.4]])


def test_summary_of_a_hand_worked_run():
    """Rewards 1, .5, .5, 0: mean .5, one success in four."""
    summary = summarise({0: {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}})
    assert summary.mean == pytest.approx(0.5)
    assert summary.success == pytest.approx(0.25)
    assert (summary.num, summary.num_tasks, summary.num_seeds) == (4, 4, 1)
    assert 0.0 <= summary.ci_low < 0.5 < summary.ci_high <= 1.0
    assert 0.0 <= summary.success_ci_low < 0.25 < summary.success_ci_high <= 1.0


def test_missing_episodes_are_left_out_of_the_mean_and_never_count_as_zero():
    """Seed 0 lost b, seed 1 lost a: the mean is (.2 + .6) / 2."""
    summary = summarise({0: {"a": 0.2}, 1: {"b": 0.6}})
    assert summary.mean == pytest.approx(0.4)
    assert summary.num == 2


def test_equal_rewards_leave_no_doubt():
    assert bootstrap_mean([0.7] * 20) == Interval(mean=0.7, low=0.7, high=0.7, num=20)


def test_nothing_gives_nan_and_no_error():
    for interval in (bootstrap_mean([]), bootstrap_mean([np.nan, np.nan]), paired_difference({0: {"a": 1.0}}, {})):
        assert math.isnan(interval.mean) and math.isnan(interval.low) and interval.num == 0
    assert math.isnan(summarise({}).mean)
    assert math.isnan(summarise({0: {}}).success)


def test_interval_over_tasks_agrees_with_the_normal_one():
    """200 values of spread s: half width 1.96 s / √200."""
    values = np.random.default_rng(1).beta(2, 2, size=200)
    interval = bootstrap_mean(values, num_resamples=4000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(200), rel=0.08)


def test_interval_covers_the_truth_nineteen_times_in_twenty():
    """300 samples of 60 uniform values, whose mean is .5: coverage .95 with a standard error of .013."""
    rng = np.random.default_rng(2)
    intervals = [bootstrap_mean(rng.random(60), num_resamples=400, seed=i) for i in range(300)]
    assert 0.90 <= np.mean([i.low <= 0.5 <= i.high for i in intervals]) <= 0.985


def test_seeds_count_as_a_sample_too():
    """Three seeds that differ as wholes: redrawing them shows it, pooling all episodes hides it."""
    noise = np.random.default_rng(3).normal(0, 0.02, size=(3, 100))
    table = np.array([[0.3], [0.5], [0.7]]) + noise
    both, pooled = bootstrap_mean(table), bootstrap_mean(table.ravel())
    assert both.low < 0.37 and both.high > 0.63
    assert pooled.high - pooled.low < 0.08
    assert both.mean == pytest.approx(pooled.mean)


def test_tasks_are_redrawn_together_for_all_seeds():
    """Seeds that agree on every task say no more about the tasks than one does: the interval must not shrink."""
    row = np.random.default_rng(4).random(50)
    one, five = bootstrap_mean(row), bootstrap_mean(np.tile(row, (5, 1)))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)


def test_same_values_same_interval_other_seed_another():
    values = np.random.default_rng(5).random(30)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_interval_is_recorded():
    """Pins the resampling: published tables must come out the same on every machine and with every numpy."""
    interval = bootstrap_mean([[0.0, 0.25, 0.5, 1.0], [0.25, 0.25, 0.75, 1.0]], num_resamples=500)
    assert interval == Interval(mean=0.5, low=0.1875, high=0.8453125, num=8)


def test_difference_is_paired_by_seed_and_task():
    a = {0: {"x": 0.5, "y": 1.0}, 1: {"x": 0.9}, 2: {"x": 1.0}}
    b = {0: {"x": 0.4, "z": 0.0}, 1: {"x": 0.6}, 3: {"x": 0.0}}
    difference = paired_difference(a, b)
    assert difference.num == 2
    assert difference.mean == pytest.approx(0.2)


def test_pairing_narrows_the_interval():
    """b is a less exactly .05, task by task: the difference is certain although both vary wildly."""
    rng = np.random.default_rng(6)
    a = {s: {str(i): r for i, r in enumerate(rng.random(40))} for s in range(2)}
    b = {s: {task: r - 0.05 for task, r in by_task.items()} for s, by_task in a.items()}
    difference = paired_difference(a, b)
    assert difference.low == pytest.approx(0.05) and difference.high == pytest.approx(0.05)
    assert bootstrap_mean(to_table(a)).high - bootstrap_mean(to_table(a)).low > 0.1
