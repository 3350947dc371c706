"""What the tests of worlds' syntheses share: episodes played by hand, and the real validation of what is proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.envs.base import Benchmark, Env
from sparring.envs.pool import EnvPool
from sparring.envs.synthesis import Draft, synthesis_of
from sparring.policies.base import Policy
from sparring.rollouts.episodes import EpisodeSpec
from sparring.rollouts.loop import cut_waves, rollout
from sparring.synthesis.arena import Arena, Attempt, empty_policy
from sparring.synthesis.checks import ValidationConfig
from sparring.synthesis.novelty import EvaluationGate
from sparring.synthesis.proposals import Origin, Proposal
from sparring.synthesis.validation import Ground, Verdict, validate

CHECKS = ValidationConfig(checks=("duplicate", "replay", "change", "empty", "random"))
"""All but the probe, which asks for an agent."""


def play(env: Env, task: Task, actions: Sequence[str]) -> Trajectory:
    """Play actions until they, or the episode, end."""
    observation, turns, best, is_done = env.reset(task, 0), [], 0.0, False
    for action in actions:
        step = env.step(action)
        best = min(1.0, max(best, step.reward))
        turns.append(Turn(observation=observation, text=action, action=action, reward=best))
        observation, is_done = step.observation, step.is_done
        if is_done:
            break
    stop = StopReason.DONE if is_done else StopReason.TURN_LIMIT
    return Trajectory(
        id="t", task=task, agent="expert", turns=tuple(turns), final_observation=observation, reward=best, stop=stop
    )


def judge(
    drafts: Sequence[Draft], world: Benchmark, env_id: str, options: Mapping[str, Any], vocabulary: Sequence[str] = ()
) -> list[Verdict]:
    """Give drafts to validation, in the world's own live envs and with all its evaluation tasks at the gate."""
    offered = synthesis_of(world)
    proposals = [Proposal(task=one.task, references=(one.actions,), origin=Origin(strategy="test")) for one in drafts]
    ground = Ground(
        world=offered,
        gate=EvaluationGate(offered, [*world.tasks("dev"), *world.tasks("test")]),
        turn_limit=world.turn_limit,
        agent=empty_policy(),
        vocabulary=vocabulary,
    )
    with EnvPool(env_id, dict(options), num_envs=2) as pool:

        def play_all(policy: Policy, attempts: Sequence[Attempt]) -> list[Trajectory]:
            specs = [EpisodeSpec(id=one.id, task=one.task, agent="target", seed=one.seed) for one in attempts]
            return rollout(policy, pool, world, cut_waves(specs), num_slots=2)

        return validate(proposals, ground, Arena(play_all, prefix="s", seed=0), CHECKS)


def refusals(verdicts: Sequence[Verdict]) -> list[str]:
    """Say what was refused and why, for a test's message."""
    return [f"{one.proposal.task.id}: {one.refusal.reason} ({one.refusal.detail})" for one in verdicts if one.refusal]
