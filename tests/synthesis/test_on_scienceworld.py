"""A whole synthesis on the real simulator."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparring.core.types import Trajectory
from sparring.envs.pool import EnvPool
from sparring.envs.scienceworld.benchmark import ScienceWorld
from sparring.policies.base import Episode, Policy
from sparring.policies.scripted import ScriptedPolicy
from sparring.rollouts.episodes import EpisodeSpec
from sparring.rollouts.loop import cut_waves, rollout
from sparring.synthesis.arena import Arena, Attempt, Purpose
from sparring.synthesis.curriculum import CoEvolveConfig, SynthesisConfig, begin, extend, observe, synthesise
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.programmatic import Programmatic
from sparring.synthesis.signals import SignalConfig, draw
from sparring.synthesis.validation import Ground

WORLD = ScienceWorld()


@pytest.mark.slow
def test_a_whole_synthesis_on_live_simulators_yields_tasks_that_no_evaluation_task_overlaps():
    """An agent that errs at random turns of the expert's way is flagged; what is made of it is replayed and probed."""
    kinds = ("find-animal", "find-plant")
    tasks = [task for task in WORLD.tasks("train") if task.kind in kinds and task.data["variation"] in (5, 20, 40)]
    experts = WORLD.expert_actions([task for task in WORLD.tasks("train") if task.kind in kinds])

    def choose(episode: Episode) -> str:
        way = experts[episode.task.id.partition("+")[0]]
        place = len(episode.turns) + len(episode.task.data.get("prefix", ()))
        is_right = place < len(way) and draw(0, episode.id, place) < 0.9
        return way[place] if is_right else "look around"

    agent = ScriptedPolicy(choose)
    config = CoEvolveConfig(synthesis=SynthesisConfig(num_proposals=6), signals=SignalConfig(boundary="graded"))
    gate = EvaluationGate(WORLD.synthesis, [*WORLD.tasks("dev"), *WORLD.tasks("test")])
    with EnvPool("scienceworld", num_envs=2) as pool:

        def play_all(policy: Policy, attempts: Sequence[Attempt]) -> list[Trajectory]:
            specs = [EpisodeSpec(id=one.id, task=one.task, agent="target", seed=one.seed) for one in attempts]
            return rollout(policy, pool, WORLD, cut_waves(specs), num_slots=2)

        arena = Arena(play_all, prefix="s", seed=0)
        rollouts = [one for group in arena.play(Purpose.PROBE, agent, tasks, num=4) for one in group]
        curriculum, _ = observe(begin(tasks)[0], 1, rollouts, WORLD.synthesis.pattern, config)
        ground = Ground(
            world=WORLD.synthesis,
            gate=gate,
            turn_limit=WORLD.turn_limit,
            agent=agent,
        )
        result = synthesise(curriculum, Programmatic(WORLD), ground, arena, config, seed=0)
    grown, _ = extend(curriculum, result, config.pool)
    assert result.refusals().get("accepted", 0) >= 1
    assert not gate.audit([member.task for member in grown.pool.members]).overlaps
