"""Signals on visits worked by hand: what is flagged, how pressing it is, and from which turn on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sparring.core.errors import DataError
from sparring.core.types import StopReason
from sparring.synthesis.signals import (
    History,
    Signal,
    SignalConfig,
    boundary,
    find_flags,
    forgetting,
    near_miss,
    rare,
    remember,
    top_flags,
    unguided,
    visits_of,
    went_wrong,
)
from tests.synthesis.scenes import played, task, verb, visit

PAPER = SignalConfig()
GRADED = SignalConfig(boundary="graded")


def test_the_defaults_are_the_papers():
    assert (PAPER.cut, PAPER.window, PAPER.rare_share, PAPER.boundary) == (0.5, 10, 0.05, "cut")
    assert PAPER.kinds == ("forgetting", "boundary", "rare")


# ── Forgetting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_forgetting_needs_a_good_attempt_and_a_bad_visit():
    bad = visit(0.5, 0.0)  # mean 0.25
    flag = forgetting(bad, (0.1, 0.75, 0.3), PAPER)
    assert flag is not None
    assert flag.signal is Signal.FORGETTING
    assert flag.priority == pytest.approx(0.75 - 0.25)
    assert forgetting(bad, (0.1, 0.49), PAPER) is None
    assert forgetting(bad, (), PAPER) is None
    assert forgetting(visit(0.5, 0.5), (1.0,), PAPER) is None  # 0.5 is done


def test_forgetting_looks_back_on_ten_attempts():
    ten_ago, eleven_ago = (0.9, *[0.1] * 9), (0.9, *[0.1] * 10)
    assert forgetting(visit(0.0), ten_ago, PAPER) is not None
    assert forgetting(visit(0.0), eleven_ago, PAPER) is None


def test_one_good_rollout_of_a_bad_visit_is_no_good_attempt():
    """The paper's attempts as single rollouts would flag this task at its first visit."""
    history = remember(History(), [visit(1.0, 0.0, 0.0, 0.0)], verb)
    assert history.attempts == {"short/a": (0.25,)}
    assert forgetting(visit(0.0), history.attempts["short/a"], PAPER) is None


# ── Boundary ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "cut", "graded"),
    [
        ((1.0, 0.0, 0.0, 0.0), 0.75, 0.75),  # p = r̄ = 1/4
        ((1.0, 1.0, 0.0, 0.0), 1.0, 1.0),
        ((0.5, 0.49), 1.0, pytest.approx(4 * 0.495 * 0.505)),  # at the cut counts as done
        ((0.4, 0.4, 0.4, 0.4), None, pytest.approx(0.96)),  # a near miss that never crosses the cut
        ((0.2, 0.2), None, pytest.approx(0.64)),
        ((0.19, 0.19), None, None),
        ((0.8, 0.8), None, pytest.approx(0.64)),
        ((1.0, 1.0), None, None),
        ((0.0, 0.0), None, None),
    ],
)
def test_boundary_by_the_cut_and_graded(rewards, cut, graded):
    for config, expected in ((PAPER, cut), (GRADED, graded)):
        flag = boundary(visit(*rewards), config)
        assert (flag.priority if flag else None) == expected


def test_a_flag_starts_from_the_nearest_miss():
    flag = boundary(visit(1.0, 0.1, 0.4, 0.4), PAPER)
    assert flag is not None
    assert flag.trajectory.id == "s1/2"


# ── Rare ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rare_is_above_nothing_and_below_five_per_cent():
    """Of 100 patterns 2 pour: share 0.02, priority 1 − 0.02/0.05 = 0.6; 5 of 100 are not below 5 %."""
    pouring = visit(0.0, actions="pour tea")
    flag = rare(pouring, {"pour": 2, "go": 98}, verb, PAPER)
    assert flag is not None
    assert flag.priority == pytest.approx(0.6)
    assert rare(pouring, {"pour": 5, "go": 95}, verb, PAPER) is None
    assert rare(pouring, {"pour": 4, "go": 96}, verb, PAPER) is not None


def test_the_rarest_pattern_is_flagged_at_its_turn_in_the_best_rollout():
    poor = played("go, pour, go", [0, 0, 0.1], id="poor")
    good = played("go, mix, pour, go", [0, 0, 0, 0.9], id="good")
    both = replace(visit(0.0), rollouts=(poor, good))
    flag = rare(both, {"go": 97, "pour": 1, "mix": 2}, verb, PAPER)
    assert flag is not None
    assert (flag.trajectory.id, flag.turn) == ("good", 3)  # kept up to and with the pouring


def test_text_that_is_no_action_is_not_rare():
    assert rare(visit(0.0, actions="   "), {"go": 100}, verb, PAPER) is None


def test_this_steps_actions_count_as_seen():
    first = visit(*[0.0] * 19, actions="go"), visit(0.0, actions="pour", of=task("short/b"))
    assert not find_flags(first, History(), verb, SignalConfig(kinds=("rare",)))  # 1 of 20 is 5 %
    seen = History(patterns={"go": 1})
    assert [f.signal for f in find_flags(first, seen, verb, SignalConfig(kinds=("rare",)))] == [Signal.RARE]


# ── Near misses ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "priority"), [((1.0, 0.7, 0.6), 0.7), ((1.0, 0.5), None), ((1.0, 1.0), None), ((0.6,), 0.6)]
)
def test_a_near_miss_is_a_failure_from_six_tenths_on(rewards, priority):
    flag = near_miss(visit(*rewards), PAPER)
    assert (flag.priority if flag else None) == priority
    assert flag is None or flag.trajectory.reward == priority


# ── Where it went wrong ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rewards", "stop", "kept"),
    [
        ((0, 0.5, 0.5), StopReason.DONE, 2),  # the last action lost it
        ((0, 0.5, 0.5, 0.5), StopReason.TURN_LIMIT, 2),  # nothing was gained after the second
        ((0.5, 0.5), StopReason.CONTEXT_LIMIT, 1),
        ((0, 0, 0), StopReason.TURN_LIMIT, 0),
        ((0,), StopReason.DONE, 0),
    ],
)
def test_went_wrong(rewards, stop, kept):
    assert went_wrong(played(",".join("abcd"[: len(rewards)]), rewards, stop=stop)) == kept


# ── Together ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_signal_can_be_left_out():
    history = History(attempts={"short/a": (0.9,)}, patterns={"go": 99})
    wavering = visit(0.6, 0.0, actions="pour")
    kinds = ("forgetting", "boundary", "rare", "near-miss")
    assert [f.signal.value for f in find_flags([wavering], history, verb, SignalConfig(kinds=kinds))] == list(kinds)
    assert [f.signal.value for f in find_flags([wavering], history, verb)] == list(kinds[:3])
    for left_out in kinds:
        config = SignalConfig(kinds=tuple(k for k in kinds if k != left_out))  # pyright: ignore
        assert left_out not in [f.signal.value for f in find_flags([wavering], history, verb, config)]


def test_broken_and_empty_episodes_are_no_rollouts():
    good, broken = played("a", [1.0]), played("a", [0.0], stop=StopReason.ENV_FAULT)
    empty = replace(good, turns=(), reward=0.0)
    (found,) = visits_of(3, [good, broken, empty])
    assert (found.mean, found.step) == (1.0, 3)
    assert not visits_of(3, [broken, empty])


def test_top_flags_are_the_most_pressing_and_the_latest_of_each_task():
    old, new = boundary(visit(1.0, 0.0, step=1), PAPER), boundary(visit(1.0, 0.0, 0.0, 0.0, step=2), PAPER)
    other = boundary(visit(1.0, 1.0, 0.0, of=task("short/b")), PAPER)  # p = 2/3: 8/9
    assert old and new and other
    assert top_flags([old, other, new], 5) == [other, new]
    assert top_flags([old, other, new], 1) == [other]
    assert top_flags([new, other, old], 5) == top_flags([old, other, new], 5)


def test_unguided_flags_are_drawn_by_the_seed_from_all_rollouts():
    visits = [visit(*[0.0] * 8, of=task(f"short/{name}"), step=ord(name)) for name in "abcdefgh"]
    drawn = unguided(visits, 6, seed=1)
    assert unguided(list(reversed(visits)), 6, seed=1) == drawn
    assert unguided(visits, 6, seed=2) != drawn
    assert len({f.trajectory.id for f in drawn}) == 6
    assert {f.turn for f in unguided(visits, 64, seed=1)} == {0, 1}


def test_history_folds_and_survives_json():
    visits = [visit(0.0, 0.5, actions="go"), visit(1.0, actions="pour", of=task("short/b"))]
    history = remember(History(attempts={"short/a": (0.2, 0.9)}), visits, verb, window=2)
    assert history == History(attempts={"short/a": (0.9, 0.25), "short/b": (1.0,)}, patterns={"go": 2, "pour": 1})
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history
    with pytest.raises(DataError, match="patterns"):
        History.from_json({"attempts": {}})


def test_a_config_that_flags_nothing_is_refused():
    with pytest.raises(ValueError, match="window"):
        SignalConfig(window=0)
    with pytest.raises(ValueError, match="rare_share"):
        SignalConfig(rare_share=0.0)
