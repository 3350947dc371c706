"""Tests on states, on three-line states: every kind of test, and the arithmetic of the reward."""

from __future__ import annotations

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.appworld import checks
from sparring.envs.appworld.drafting import added, answered, only, removed, there, updated

OPEN = [{"id": 1, "status": None, "answer": '"<<NOT_GIVEN>>"'}]
NOTES = [{"id": 1, "title": "a", "pinned": False}, {"id": 2, "title": "b", "pinned": False}]
BEFORE = {"supervisor.Task": OPEN, "simple_note.Note": NOTES}


def done(answer: str = "null", notes=NOTES, **more):
    return {"supervisor.Task": [{"id": 1, "status": "success", "answer": answer}], "simple_note.Note": notes, **more}


def holds(check: checks.Check, after: checks.Rows) -> bool:
    return checks.passed([check], BEFORE, after)[0]


STATUS = {"name": "complete", "check": "status"}
PINNED = [{**NOTES[0], "pinned": True}, NOTES[1]]


def test_status_asks_for_success():
    assert holds(STATUS, done())
    assert not holds(STATUS, BEFORE)
    assert not holds(STATUS, {**done(), "supervisor.Task": [{"id": 1, "status": "fail", "answer": "null"}]})


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        (4, ("4", '"4"', "4.0", '"$4.00"'), ("5", "null", '"four"', "true", '"<<NOT_GIVEN>>"')),
        (1200, ('"1,200"', "1200"), ("1", '"1.200"')),
        ("Velvet Tide", ('"velvet  tide"', '"Velvet Tide."', "\"'Velvet Tide'\""), ('"Velvet"', "null", "7")),
        ("5559175378", ('"5559175378"', "5559175378"), ('"5559175379"',)),
        (["a", "b"], ('["b", "A"]', '"a, b"'), ('["a"]', '["a", "b", "b"]', "null", "3")),
    ],
)
def test_answers(wanted, right, wrong):
    assert all(holds(answered(wanted), done(answer)) for answer in right)
    assert not any(holds(answered(wanted), done(answer)) for answer in wrong)


def test_count_wants_exactly_so_many_rows():
    assert holds(there("", "simple_note.Note", title="a"), done())
    assert not holds(there("", "simple_note.Note", pinned=False), done())
    assert holds(there("", "simple_note.Note", 2, pinned=False), done())
    assert holds(there("", "venmo.Transaction", 0, amount=1.0), done())
    money = done(**{"venmo.Transaction": [{"id": 1, "amount": 5}]})
    assert holds(there("", "venmo.Transaction", amount=5.0), money)
    assert not holds(there("", "venmo.Transaction", no_such_field=None), money)


def test_changes_must_be_allowed_in_kind_field_and_row():
    after = done(notes=PINNED)
    assert holds(only(updated("simple_note.Note", "pinned", id=1)), after)
    assert not holds(only(), after)
    assert not holds(only(updated("simple_note.Note", "title", id=1)), after)
    assert not holds(only(updated("simple_note.Note", "pinned", id=2)), after)
    assert not holds(only(added("simple_note.Note"), removed("simple_note.Note")), after)


def test_added_removed_and_unannounced_changes():
    more = done(notes=[*NOTES, {"id": 3, "title": "c", "pinned": False}])
    assert holds(only(added("simple_note.Note", title="c")), more)
    assert not holds(only(added("simple_note.Note", title="d")), more)
    less = done(notes=NOTES[:1])
    assert holds(only(removed("simple_note.Note", id=2)), less)
    assert not holds(only(removed("simple_note.Note", id=1)), less)
    assert holds(only(), done(**{"venmo.Notification": [{"id": 1}]})), "apps tell people by themselves"


def test_reward_is_the_share_beyond_an_idle_agent():
    """Four tests: an idle agent passes `status` and `changes`, so there are two to gain; one lost costs one gained."""
    tests = [
        STATUS,
        there("1", "simple_note.Note", id=1, pinned=True),
        there("2", "simple_note.Note", id=2, pinned=True),
        only(updated("simple_note.Note", "pinned")),
    ]
    both = [{**note, "pinned": True} for note in NOTES]
    assert checks.reward(tests, BEFORE, done()) == 0.0
    assert checks.reward(tests, BEFORE, done(notes=PINNED)) == 0.5
    assert checks.reward(tests, BEFORE, done(notes=both)) == 1.0
    assert checks.reward(tests, BEFORE, done(notes=both, **{"todoist.Task": [{"id": 1}]})) == 0.5
    assert checks.reward(tests, BEFORE, done(notes=[])) == 0.0
    assert checks.reward(tests, BEFORE, {**done(notes=both), "supervisor.Task": OPEN}) == 0.5


def test_an_idle_agent_that_passes_everything_is_worth_nothing():
    assert checks.beyond_idle(2, 2, 2) == 0.0


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"name": "x", "check": "magic"}, "no known `check`"),
        ({"name": "x", "check": "answer"}, "missing or unknown: answer"),
        ({"name": "x", "check": "status", "extra": 1}, "missing or unknown: extra"),
        ({"name": " ", "check": "status"}, "no `name`"),
    ],
)
def test_tests_that_say_something_unknown_are_refused(check, message):
    with pytest.raises(ConfigError, match=message):
        checks.validate([check], "task t")
