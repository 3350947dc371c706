"""The pool: what comes in, what retires, how it is drawn from, and that all of it is recorded."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from sparring.core.errors import DataError
from sparring.synthesis import pool as pools
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.pool import Change, PoolConfig, PoolEvent, Status, TaskPool
from sparring.synthesis.proposals import Origin
from sparring.synthesis.signals import Flag, Signal
from tests.synthesis.scenes import played, task, visit

SMALL = PoolConfig(min_active=1)
MADE = Origin(synthesiser="programmatic", strategy="restart", signal=Signal.BOUNDARY, step=10, trajectory_id="s9/0")


def tasks(num: int, name: str = "old"):
    return [task(f"short/{name}-{i}") for i in range(num)]


def visited(
    pool: TaskPool, task_id: str, *means: float, config: PoolConfig = SMALL
) -> tuple[TaskPool, list[PoolEvent]]:
    events = []
    for step, mean in enumerate(means, start=1):
        pool, found = pools.record(pool, [visit(mean, of=task(task_id), step=step)], step, config)
        events += found
    return pool, events


def test_it_starts_with_the_initial_tasks():
    pool, events = pools.start(tasks(3))
    assert [one.task.id for one in pool.active] == ["short/old-0", "short/old-1", "short/old-2"]
    assert pool.synthetic_share == 0.0
    assert {event.change for event in events} == {Change.STARTED}


def test_the_synthetic_share_is_capped():
    """Four old tasks and a share of one half: four new ones make 4/8, a fifth would make 5/9."""
    pool, _ = pools.start(tasks(4))
    grown, events = pools.add(pool, [(one, MADE) for one in tasks(6, "new")], 10, PoolConfig())
    assert len(grown.active) == 8
    assert grown.synthetic_share == 0.5
    assert Counter(event.change for event in events) == {Change.ADDED: 4, Change.OVER_SHARE: 2}
    assert len(pool.members) == 4  # a pool is a value
    assert len(pools.add(pool, [(tasks(1, "new")[0], MADE)] * 3, 10, PoolConfig())[0].members) == 5


@pytest.mark.parametrize(
    ("means", "change"),
    [
        ((1.0, 0.9, 1.0), Change.RETIRED_SOLVED),  # 0.967
        ((1.0, 0.85, 1.0), None),  # 0.95 is not above 0.95
        ((0.0, 0.0, 0.1), Change.RETIRED_HOPELESS),  # 0.033
        ((0.0, 0.05, 0.1), None),  # 0.05 is not below 0.05
        ((1.0, 1.0), None),
        ((0.0, 1.0, 1.0, 1.0), Change.RETIRED_SOLVED),  # the last three
    ],
)
def test_what_teaches_nothing_is_retired(means, change):
    pool, events = visited(pools.start(tasks(2))[0], "short/old-0", *means)
    assert [event.change for event in events] == ([change] if change else [])
    status = Status.RETIRED if change else Status.ACTIVE
    assert pool.members[0].status is status
    assert pool.members[1].status is Status.ACTIVE


def test_never_below_a_batch_and_the_most_extreme_first():
    config = PoolConfig(min_active=2, num_visits=1)
    pool, _ = pools.start(tasks(3))
    means = {"short/old-0": 0.96, "short/old-1": 1.0, "short/old-2": 0.04}
    pool, events = pools.record(pool, [visit(mean, of=task(id)) for id, mean in means.items()], 1, config)
    assert [(event.task_id, event.change) for event in events] == [("short/old-1", Change.RETIRED_SOLVED)]


def test_quarantined_tasks_wait_and_are_released():
    pool, _ = pools.start(tasks(2))
    pool, events = pools.quarantine(pool, [(one, MADE) for one in tasks(2, "new")], 10)
    assert [event.change for event in events] == [Change.QUARANTINED] * 2
    assert len(pool.active) == 2
    pool, events = pools.release(pool, ["short/new-1", "short/old-0", "no-such"], 20, PoolConfig())
    assert [(event.change, event.task_id) for event in events] == [(Change.RELEASED, "short/new-1")]
    assert [one.task.id for one in pool.active] == ["short/old-0", "short/old-1", "short/new-1"]
    assert pool.get("short/new-0").status is Status.QUARANTINED  # pyright: ignore


def test_a_release_over_the_share_waits_on():
    pool, _ = pools.quarantine(pools.start(tasks(1))[0], [(one, MADE) for one in tasks(2, "new")], 10)
    pool, events = pools.release(pool, ["short/new-0", "short/new-1"], 20, PoolConfig())
    assert [event.change for event in events] == [Change.RELEASED, Change.OVER_SHARE]
    assert pool.get("short/new-1").status is Status.QUARANTINED  # pyright: ignore


PROBE = ValidationConfig(num_probes=4)


@pytest.mark.parametrize(
    ("first", "second", "fate"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), Change.RETIRED_SOLVED),
        ((0, 0, 0, 0), (0, 0, 0, 0), Change.RETIRED_HOPELESS),
        ((0, 0, 0, 0), (0, 1, 0, 0), None),
    ],
)
def test_first_rollouts_put_a_new_task_away_once_and_for_good_the_second_time(first, second, fate):
    pool, _ = pools.add(pools.start(tasks(2))[0], [(task("new/0"), MADE)], 1, PoolConfig())
    for step, rewards in ((1, first), (2, second)):
        visits = [visit(*rewards, of=task("new/0"), step=step), visit(0, 0, 0, 0, of=tasks(1)[0], step=step)]
        pool, _ = pools.record(pool, visits, step, PoolConfig())
        pool, events = pools.probe(pool, visits, step, PROBE)
        if step == 1:
            assert [(event.change, event.task_id) for event in events] == [(Change.QUARANTINED, "new/0")]
            pool, events = pools.release(pool, ["new/0"], step, PoolConfig())
            assert [event.change for event in events] == [Change.RELEASED]
    assert [event.change for event in events] == ([fate] if fate else [])
    assert TaskPool.from_json(json.loads(json.dumps(pool.to_json()))) == pool


def test_a_new_task_is_judged_once_there_are_enough_rollouts_and_never_below_a_batch():
    pool, _ = pools.add(pools.start(tasks(2))[0], [(task("new/0"), MADE)], 1, PoolConfig())
    for step in (1, 2, 3, 4):
        visits = [visit(1, of=task("new/0"), step=step)]
        pool, _ = pools.record(pool, visits, step, PoolConfig(min_active=8))
        kept, none = pools.probe(pool, visits, step, PROBE, min_active=3)
        assert none == [] and len(kept.active) == 3
        pool, events = pools.probe(pool, visits, step, PROBE)
        assert [event.change for event in events] == ([Change.QUARANTINED] if step == 4 else [])


def test_draws_depend_on_the_seed_and_the_step_alone():
    pool, _ = pools.start(tasks(50))
    drawn = pools.sample(pool, 8, seed=1, step=3)
    assert pools.sample(pool, 8, seed=1, step=3) == drawn
    assert len({one.id for one in drawn}) == 8
    assert pools.sample(pool, 8, seed=1, step=4) != drawn
    assert pools.sample(pool, 8, seed=2, step=3) != drawn
    assert len(pools.sample(pool, 80, seed=1, step=3)) == 50


def test_a_pool_that_grew_draws_the_same_old_tasks_but_for_the_displaced():
    pool, _ = pools.start(tasks(50))
    grown, _ = pools.add(pool, [(one, MADE) for one in tasks(50, "new")], 10, PoolConfig())
    before = {one.id for one in pools.sample(pool, 20, 1, 3)}
    after = {one.id for one in pools.sample(grown, 20, 1, 3)}
    assert {id for id in after if "old" in id} < before
    assert any("new" in id for id in after)


def test_retired_and_quarantined_tasks_are_not_drawn():
    pool, _ = visited(pools.start(tasks(3))[0], "short/old-0", 1.0, 1.0, 1.0)
    pool, _ = pools.quarantine(pool, [(tasks(1, "new")[0], MADE)], 10)
    assert [one.id for one in pools.sample(pool, 9, 0, 1)] == ["short/old-1", "short/old-2"]


def test_a_task_of_twice_the_weight_is_drawn_about_twice_as_often():
    pool, _ = pools.start(tasks(40))
    counts = Counter(one.id for step in range(2000) for one in pools.sample(pool, 2, 0, step, {"short/old-7": 2.0}))
    others = [num for id, num in counts.items() if id != "short/old-7"]
    assert counts["short/old-7"] / (sum(others) / 39) == pytest.approx(2.0, rel=0.25)


def test_new_tasks_weigh_more_until_they_are_played():
    pool, _ = pools.start(tasks(4))
    pool, _ = pools.add(pool, [(one, MADE) for one in tasks(2, "new")], 1, SMALL)
    assert pools.fresh_weights(pool, 4.0) == {"short/new-0": 4.0, "short/new-1": 4.0}
    pool, _ = visited(pool, "short/new-0", 0.5)
    assert pools.fresh_weights(pool, 4.0) == {"short/new-1": 4.0}


def test_replay_weights_take_a_tasks_most_pressing_flag():
    flags = [
        Flag(signal=Signal.BOUNDARY, step=1, trajectory=played("a", [0.0]), turn=0, priority=priority)
        for priority in (0.3, 0.8, 0.5)
    ]
    assert pools.replay_weights(flags) == {"short/a": pytest.approx(1.8)}
    assert pools.replay_weights(flags, strength=0.0) == {"short/a": 1.0}


def test_the_pool_and_its_events_survive_json():
    pool, events = pools.start(tasks(2))
    pool, more = pools.add(pool, [(tasks(1, "new")[0], MADE)], 10, PoolConfig())
    pool, retired = visited(pool, "short/old-0", 0.0, 0.0, 0.0)
    assert TaskPool.from_json(json.loads(json.dumps(pool.to_json()))) == pool
    for event in [*events, *more, *retired]:
        assert PoolEvent.from_json(json.loads(json.dumps(event.to_json()))) == event
    assert pool.counts() == {
        "retired/initial": 1,
        "active/initial": 1,
        "active/programmatic/restart/boundary": 1,
    }


@pytest.mark.parametrize("torn", [{}, {"members": 3}, {"members": [{}]}, {"members": [{"task": 1}]}])
def test_what_is_no_pool_is_refused(torn):
    with pytest.raises(DataError, match="not a pool"):
        TaskPool.from_json(torn)
