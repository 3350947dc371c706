"""A whole curriculum on the toy world, with an agent that gets better: the pool grows where it is weak, and resumes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparring.core.convert import from_dict
from sparring.core.errors import DataError
from sparring.core.types import Task, Trajectory
from sparring.synthesis.arena import Arena, Purpose
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.curriculum import (
    CoEvolveConfig,
    Curriculum,
    SynthesisConfig,
    SynthesisResult,
    begin,
    draw_tasks,
    extend,
    notice,
    observe,
    synthesise,
)
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.pool import Change, PoolConfig, PoolEvent, Status
from sparring.synthesis.presets import PRESETS
from sparring.synthesis.programmatic import Programmatic, ReplayOnly
from sparring.synthesis.proposals import Synthesiser
from sparring.synthesis.signals import SignalConfig, visits_of
from sparring.synthesis.validation import Ground
from tests.synthesis.growing_world import GrowingWorld
from tests.synthesis.scenes import live_arena, played, skilled, task, verb

WORLD = GrowingWorld(size=6)
GATE = EvaluationGate(WORLD.synthesis, [*WORLD.tasks("dev"), *WORLD.tasks("test")])
INITIAL = [one for one in WORLD.tasks("train") if GATE.check(one) is None]
CONFIG = CoEvolveConfig(
    synthesis=SynthesisConfig(every=2, num_proposals=8, num_flags=8),
    pool=PoolConfig(min_active=4),
    validation=ValidationConfig(probe_by="episodes"),
)


def rollouts(arena: Arena, tasks: Sequence[Task], skill: float) -> list[Trajectory]:
    return [one for group in arena.play(Purpose.PROBE, skilled(skill), tasks, num=4) for one in group]


def run(
    config: CoEvolveConfig = CONFIG, synthesiser: Synthesiser | None = None, num_steps: int = 6
) -> tuple[Curriculum, list[PoolEvent], list[tuple[list[Trajectory], SynthesisResult | None]]]:
    """Play a curriculum; returns where it ends, all events, and each step's rollouts and result."""
    curriculum, events = begin(INITIAL)
    records: list[tuple[list[Trajectory], SynthesisResult | None]] = []
    for step in range(1, num_steps + 1):
        with live_arena() as arena:
            played = rollouts(arena, draw_tasks(curriculum, 6, 0, step, config.synthesis), 0.5 + 0.05 * step)
        curriculum, changed = observe(curriculum, step, played, WORLD.synthesis.pattern, config)
        events += changed
        result = None
        if config.synthesis.is_due(step):
            with live_arena(budget=120) as arena:
                maker = synthesiser or Programmatic(WORLD)
                result = synthesise(curriculum, maker, ground(step), arena, config, seed=step)
            curriculum, changed = extend(curriculum, result, config.pool)
            events += changed
        records.append((played, result))
    return curriculum, events, records


def ground(step: int) -> Ground:
    return Ground(
        world=WORLD.synthesis,
        gate=GATE,
        turn_limit=WORLD.turn_limit,
        agent=skilled(0.5 + 0.05 * step),
    )


def test_the_pool_grows_where_the_agent_is_weak_and_holds_no_evaluation_task():
    curriculum, events, records = run()
    growths = [result for _, result in records if result]
    assert len(growths) == 3
    accepted = sum(result.refusals().get("accepted", 0) for result in growths)
    waited = {event.task_id for event in events if event.change is Change.QUARANTINED}
    added = [event for event in events if event.change in (Change.ADDED, Change.OVER_SHARE)]
    assert len([event for event in added if event.task_id not in waited]) == accepted > 4
    assert curriculum.pool.synthetic_share <= CONFIG.pool.max_synthetic_share
    played = {one.id for trajectories, _ in records for one in trajectories}
    made = [member for member in curriculum.pool.members if not member.origin.is_initial]
    assert made
    assert {member.origin.trajectory_id for member in made} <= played  # each can be read beside what caused it
    assert not GATE.audit([member.task for member in curriculum.pool.members]).overlaps
    assert (curriculum.flags, curriculum.visits) == ((), ())  # done with
    for result in growths:
        assert sum(result.episodes.values()) <= 120


def test_chance_plays_what_was_seen_played():
    """No vocabulary is given: it is that of the rollouts."""
    _, _, records = run(num_steps=2)
    assert records[1][1].episodes["random"] > 0  # pyright: ignore


def test_new_tasks_are_drawn_and_their_visits_noted():
    curriculum, _, records = run()
    drawn = {one.task.id for trajectories, _ in records for one in trajectories}
    made = {member.task.id for member in curriculum.pool.members if not member.origin.is_initial}
    assert drawn & made
    assert all(curriculum.pool.get(id).visits for id in drawn & made)  # pyright: ignore


def test_a_resumed_course_stands_where_it_stood():
    """Rollouts and growths are what a run records: folded again, through JSON, they give the same curriculum."""
    curriculum, events, records = run()
    again, events_again = begin(INITIAL)
    for step, (trajectories, result) in enumerate(records, start=1):
        again, changed = observe(again, step, trajectories, WORLD.synthesis.pattern, CONFIG)
        events_again += changed
        if result is not None:
            recorded = SynthesisResult.from_json(json.loads(json.dumps(result.to_json())))
            assert recorded == result
            again, changed = extend(again, recorded, CONFIG.pool)
            events_again += changed
    assert again == curriculum
    assert events_again == events
    assert draw_tasks(again, 6, 0, 7, CONFIG.synthesis) == draw_tasks(curriculum, 6, 0, 7, CONFIG.synthesis)


def test_a_course_depends_on_nothing_but_its_seeds():
    assert run(num_steps=3) == run(num_steps=3)


def test_the_control_arm_replays_and_makes_nothing():
    config = replace(CONFIG, synthesis=replace(CONFIG.synthesis, kind="replay", replay_strength=50.0))
    curriculum, _, _ = run(config, ReplayOnly(), num_steps=1)
    assert not [member for member in curriculum.pool.members if not member.origin.is_initial]
    flagged = {flag.trajectory.task.id for flag in curriculum.flags}
    assert flagged and len(flagged) < len(INITIAL)
    counts = Counter(
        one.id in flagged for step in range(300) for one in draw_tasks(curriculum, 1, 0, step, config.synthesis)
    )
    assert counts[True] > 0.9 * 300
    plain = [draw_tasks(curriculum, 1, 0, step, CONFIG.synthesis)[0].id in flagged for step in range(300)]
    assert sum(plain) < 0.9 * 300


def test_random_synthesis_makes_tasks_that_no_flag_asked_for():
    config = replace(CONFIG, synthesis=replace(CONFIG.synthesis, guidance="random"))
    curriculum, _, _ = run(config)
    origins = {member.origin.signal for member in curriculum.pool.members if not member.origin.is_initial}
    assert {str(origin) for origin in origins} == {"unguided"}


def test_the_other_agents_near_misses_begin_tasks_and_say_nothing_of_the_target():
    curriculum, _ = begin(INITIAL)
    long = next(one for one in INITIAL if one.kind == "long")
    close = replace(played("press x, press y, press z, press no", [0.25, 0.5, 0.75, 0.75], of=long), agent="partner")
    noticed = notice(curriculum, 1, [close], SignalConfig())
    assert [(str(flag.signal), flag.turn, flag.priority) for flag in noticed.flags] == [("near-miss", 3, 0.75)]
    assert (noticed.history, noticed.pool) == (curriculum.history, curriculum.pool)


def test_a_left_out_signal_makes_no_tasks():
    config = replace(CONFIG, signals=SignalConfig(kinds=("rare",)))
    curriculum, _, _ = run(config)
    signals = {str(member.origin.signal) for member in curriculum.pool.members if not member.origin.is_initial}
    assert signals <= {"rare"}


def test_without_validation_nothing_is_played_and_the_gate_still_holds():
    config = replace(CONFIG, validation=ValidationConfig(checks=()))
    curriculum, _, records = run(config)
    growths = [result for _, result in records if result]
    assert sum(sum(result.episodes.values()) for result in growths) == 0
    assert any(not member.origin.is_initial for member in curriculum.pool.members)
    assert not GATE.audit([member.task for member in curriculum.pool.members]).overlaps


def test_quarantined_tasks_enter_once_the_agent_solves_them_sometimes():
    curriculum, _ = begin(INITIAL[:8])
    with live_arena() as arena:
        played = rollouts(arena, INITIAL[:8], 0.6)
    curriculum, _ = observe(curriculum, 1, played, WORLD.synthesis.pattern, CONFIG)
    with live_arena() as arena:
        hopeless = replace(ground(1), agent=skilled(0.0))
        result = synthesise(curriculum, Programmatic(WORLD), hopeless, arena, CONFIG, seed=0)
    curriculum, events = extend(curriculum, result, CONFIG.pool)
    waiting = {one.task.id for one in curriculum.pool.members if one.status is Status.QUARANTINED}
    assert waiting
    assert {event.change for event in events} == {Change.QUARANTINED}
    with live_arena() as arena:
        better = replace(ground(2), agent=skilled(0.7))
        result = synthesise(curriculum, ReplayOnly(), better, arena, CONFIG, seed=0)
    curriculum, events = extend(curriculum, result, CONFIG.pool)
    assert result.released
    assert set(result.released) <= waiting
    assert Change.RELEASED in {event.change for event in events}


def test_first_rollouts_are_probes_and_cost_nothing():
    config = replace(CONFIG, validation=ValidationConfig())
    curriculum, events, records = run(config)
    assert sum(result.episodes["probe"] for _, result in records if result) == 0
    made = {member.task.id for member in curriculum.pool.members if not member.origin.is_initial}
    put_away = [event for event in events if event.change is Change.QUARANTINED]
    assert made and put_away and {event.task_id for event in put_away} <= made
    means = {}
    for trajectories, _ in records:
        for visit in visits_of(1, trajectories):
            means.setdefault(visit.task.id, []).append(visit.mean)
    for event in put_away:
        assert not 0.1 <= means[event.task_id][0] <= 0.9, "four rollouts are a first visit"
    assert {one.num_failed_probes for one in curriculum.pool.members if one.status is Status.QUARANTINED} <= {1}


def test_when_synthesis_is_due():
    assert [step for step in range(1, 31) if SynthesisConfig().is_due(step)] == [10, 20, 30]
    assert [step for step in range(1, 31) if SynthesisConfig(warmup=15).is_due(step)] == [20, 30]
    assert [step for step in range(1, 31) if SynthesisConfig(until=20).is_due(step)] == [10, 20]


def test_the_papers_pool_only_grows():
    config = from_dict(CoEvolveConfig(), PRESETS["paper"], source="preset")
    curriculum, _ = begin(INITIAL[:2])
    for step in (1, 2, 3):  # neither a solved nor a hopeless task leaves
        played_out = [played("a", [float(place)], of=one) for place, one in enumerate(INITIAL[:2])]
        curriculum, events = observe(
            curriculum, step, played_out, verb, replace(config, pool=replace(config.pool, min_active=0))
        )
        assert not events


def test_what_is_no_growth_is_refused():
    with pytest.raises(DataError, match="not a synthesis"):
        SynthesisResult.from_json({"step": 1})
    with pytest.raises(ValueError, match="every"):
        SynthesisConfig(every=0)


def test_an_arena_counts_by_purpose_and_keeps_its_budget():
    with live_arena(budget=5) as arena:
        tasks = [task("short/a"), task("short/b")]
        groups = arena.play(Purpose.PROBE, skilled(1.0), tasks, num=2)
        assert [[one.task.id for one in group] for group in groups] == [["short/a"] * 2, ["short/b"] * 2]
        assert len({one.id for group in groups for one in group}) == 4
        assert (arena.total, arena.spent["probe"], arena.affords(1), arena.affords(2)) == (4, 4, True, False)
        with pytest.raises(AssertionError):
            arena.play(Purpose.REPLAY, skilled(1.0), tasks)
        assert arena.total == 4
