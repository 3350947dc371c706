"""Trajectories by hand and a live toy world for the tests of synthesis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.envs.pool import EnvPool
from sparring.policies.base import Episode, Policy
from sparring.policies.scripted import ScriptedPolicy
from sparring.rollouts.episodes import EpisodeSpec
from sparring.rollouts.loop import cut_waves, rollout
from sparring.synthesis.arena import Arena, Attempt
from sparring.synthesis.signals import Visit, draw
from tests.synthesis.growing_world import GrowingWorld
from tests.toy_world import COLOURS

WORLD = "tests.synthesis.growing_world:GrowingWorld"


def task(id: str = "short/a", goal: str = "red green", kind: str = "short", **data: object) -> Task:
    return Task(id=id, kind=kind, data={"goal": goal.split(), **data})


def played(
    actions: str,
    rewards: Sequence[float],
    *,
    of: Task | None = None,
    stop: StopReason = StopReason.DONE,
    id: str = "r/0",
) -> Trajectory:
    """One episode; actions separated by commas, the reward so far after each."""
    names = [action.strip() for action in actions.split(",")]
    turns = tuple(
        Turn(observation=f"before {i}", text=name, action=name, reward=reward)
        for i, (name, reward) in enumerate(zip(names, rewards, strict=True))
    )
    return Trajectory(
        id=id,
        task=of or task(),
        agent="target",
        turns=turns,
        final_observation="the end",
        reward=turns[-1].reward if turns else 0.0,
        stop=stop,
    )


def visit(*rewards: float, of: Task | None = None, step: int = 1, actions: str = "look") -> Visit:
    """A visit of one-turn rollouts with these rewards."""
    rollouts = [played(actions, [reward], of=of, id=f"s{step}/{k}") for k, reward in enumerate(rewards)]
    return Visit(step=step, task=of or task(), rollouts=tuple(rollouts))


@contextmanager
def live_arena(budget: int | None = None) -> Iterator[Arena]:
    """An arena on live toy worlds, through the rollout engine."""
    world = GrowingWorld()
    with EnvPool(WORLD, num_envs=4, max_retries=0) as pool:

        def play(policy: Policy, attempts: Sequence[Attempt]) -> list[Trajectory]:
            specs = [EpisodeSpec(id=one.id, task=one.task, agent="target", seed=one.seed) for one in attempts]
            return rollout(policy, pool, world, cut_waves(specs), num_slots=4)

        yield Arena(play, prefix="s", seed=0, budget=budget)


def skilled(chance: float) -> ScriptedPolicy:
    """A policy that presses the right colour with a chance, and a wrong one else."""

    def choose(episode: Episode) -> str:
        goal = episode.task.data["goal"]
        place = len(episode.task.data.get("prefix", ())) + len(episode.turns)
        right = goal[place] if place < len(goal) else COLOURS[0]
        is_right = draw(0, episode.id, len(episode.turns)) < chance
        return f"press {right if is_right else next(colour for colour in COLOURS if colour != right)}"

    return ScriptedPolicy(choose)


def reader() -> ScriptedPolicy:
    """A policy that presses what the first observation asks for, and then looks: it knows what an agent is shown."""

    def choose(episode: Episode) -> str:
        first = episode.turns[0].observation if episode.turns else episode.observation
        asked = first.partition("order: ")[2].partition(".")[0].split()
        return f"press {asked[len(episode.turns)]}" if len(episode.turns) < len(asked) else "look"

    return ScriptedPolicy(choose)


def verb(action: str) -> str:
    """The pattern used where no world is at hand."""
    return action.split()[0] if action.strip() else ""
