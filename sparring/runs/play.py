"""A config comes in, a model, a server, the experts or chance plays its tasks, trajectories and a table go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sparring.core.errors import ConfigError, DataError
from sparring.core.filters import counted
from sparring.core.journal import Journal
from sparring.core.phases import check_checkpoint
from sparring.core.records import trajectory_to_json
from sparring.core.types import Task, Trajectory
from sparring.envs.base import Benchmark, select_tasks, tasks_of
from sparring.envs.measures import Measures, measures_of
from sparring.envs.pool import EnvPool
from sparring.policies.base import AnyPolicy, Policy
from sparring.policies.factory import Prompt, Sampling, server_policy
from sparring.policies.scripted import RandomPolicy, ReplayPolicy
from sparring.rollouts.demonstrations import expert_actions, expert_trajectories
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import count_lanes, cut_waves
from sparring.rollouts.loop import rollout as play_waves
from sparring.runs.engines import SERVER_LOG, make_playing_engine
from sparring.runs.world_check import check_world

if TYPE_CHECKING:
    from sparring.core.progress import Progress
    from sparring.runs.config import PlayConfig

EXAMPLE_STEP = 8
"""Experts that are played at a time until there are enough worked examples."""

NUM_TASKS_FOR_ACTIONS = 50
"""Training tasks whose experts' actions chance draws from."""

Player = Literal["model", "openai", "expert", "random"]


@dataclass(frozen=True, kw_only=True)
class World:
    """What every player plays in."""

    config: PlayConfig
    benchmark: Benchmark
    pool: EnvPool
    log_file: Path = Path(SERVER_LOG)
    """Gets what a server that is started here writes."""

    def tasks(self, split: str, num: int | None) -> list[Task]:
        """Choose tasks of a split."""
        return select_tasks(tasks_of(self.benchmark, split), kinds=self.config.env.kinds, num=num)

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return what the experts do, from `expert.path` or the world: task id → actions.

        Raises:
            DataError: there are no experts.
        """
        found = expert_actions(self.config.expert, self.benchmark, tasks)
        if not found:
            raise DataError(f"{self.config.env.id}: no expert trajectories. Name demonstrations with expert.path.")
        return found


def play(
    config: PlayConfig,
    player: Player,
    *,
    split: str,
    num_tasks: int | None,
    seed: int,
    progress: Progress,
    out: Path | None = None,
) -> list[Trajectory]:
    """Play `rollout.num_per_task` episodes of each task; `out` gets them wave by wave.

    Raises:
        SparringError: whatever the user can mend.
    """
    with EnvPool.of(config.env) as pool:
        world = World(config=config, benchmark=config.env.load(), pool=pool, log_file=_log_file(out))
        tasks = world.tasks(split, num_tasks)
        check_world(config.env, world.benchmark, tasks, pool, progress)
        with ExitStack() as stack:
            policy = _policy(world, player, tasks, seed, progress, stack)
            return _play(world, policy, tasks, name=player, seed=seed, progress=progress, out=out)


def evaluate_models(
    config: PlayConfig,
    models: Sequence[str],
    out: Path | None,
    progress: Progress,
    *,
    player: Literal["model", "openai"] = "model",
    benchmark: Benchmark | None = None,
) -> dict[str, list[Trajectory]]:
    """Let each model play the held-out tasks greedily, one episode each; return model → trajectories.

    Args:
        config: its `model.path` or `openai.model` gives way to each model's name.
        models: folders, Hub ids or bundled models' names; for `openai`, as the server calls them.
        out: JSONL file that gets the trajectories.
        progress: shows how it goes.
        player: who plays the models: this process, or the server of `openai.base_url`.
        benchmark: of `config.env`, where it is built already.

    Raises:
        SparringError: whatever the user can mend.
    """
    if len(set(models)) < len(models):
        raise ConfigError("eval: a model is named twice.")
    greedy = replace(config.rollout, temperature=0.0, num_per_task=1)
    with EnvPool.of(config.env) as pool:
        benchmark = benchmark or config.env.load()
        played = {}
        for model in models:
            if player == "openai":
                own = replace(config, rollout=greedy, openai=replace(config.openai, model=model))
            else:
                own = replace(config, rollout=greedy, model=replace(config.model, path=model))
            world = World(config=own, benchmark=benchmark, pool=pool, log_file=_log_file(out))
            tasks = world.tasks(config.eval.split, config.eval.num_tasks)
            with ExitStack() as stack:
                policy = _policy(world, player, tasks, 0, progress, stack)
                played[model] = _play(world, policy, tasks, name=model, seed=0, progress=progress, out=out)
    return played


def measures_of_models(
    config: PlayConfig, benchmark: Benchmark, played: Mapping[str, Sequence[Trajectory]]
) -> dict[str, Measures]:
    """Return model → what the world's own measures say of its episodes on the held-out tasks.

    Raises:
        ConfigError: the world's measures are none.
    """
    tasks = select_tasks(tasks_of(benchmark, config.eval.split), kinds=config.env.kinds, num=config.eval.num_tasks)
    return {
        model: measures_of(benchmark, tasks, {one.task.id: one.reward for one in counted(trajectories)})
        for model, trajectories in played.items()
    }


def _play(
    world: World,
    policy: AnyPolicy,
    tasks: Sequence[Task],
    *,
    name: str,
    seed: int,
    progress: Progress,
    out: Path | None,
) -> list[Trajectory]:
    config = world.config
    specs = episode_specs(name, tasks, agent="target", seed=seed, num_per_task=config.rollout.num_per_task)
    journal = Journal(out) if out else None

    def finished(wave: Sequence[Trajectory]) -> None:
        if journal:
            journal.append(trajectory_to_json(trajectory) for trajectory in wave)

    num_envs = 1 if config.sampler.deterministic else config.env.num_envs
    num_lanes = count_lanes(world.benchmark, num_envs)
    with progress.phase(f"{name} plays", total=len(specs)) as bar:
        return play_waves(
            policy,
            world.pool,
            world.benchmark,
            cut_waves(specs, config.rollout.wave_size, num_slots=num_envs, num_lanes=num_lanes),
            num_slots=num_envs,
            finished=finished,
            on_episode=lambda _: bar.advance(1),
        )


def _policy(
    world: World, player: Player, tasks: Sequence[Task], seed: int, progress: Progress, stack: ExitStack
) -> AnyPolicy:
    """Return a player's policy; a server that is started for it ends with the stack."""
    if player == "model":
        path = world.config.model.path
        check_checkpoint(path)
        with progress.phase(f"loading {path}"):
            engine = make_playing_engine(world.config, _prompt(world), world.log_file)
            stack.callback(engine.close)
            return engine.policy(path, _sampling(world))
    if player == "openai":
        with progress.phase("laying out the prompt"):
            return server_policy(world.config.openai, _prompt(world), _sampling(world))
    return _scripted(world, player, tasks, seed, progress)


def _log_file(out: Path | None) -> Path:
    """Return where a server's log goes: beside the trajectories."""
    return (out.parent if out else Path()) / SERVER_LOG


def _scripted(
    world: World, player: Literal["expert", "random"], tasks: Sequence[Task], seed: int, progress: Progress
) -> Policy:
    if player == "expert":
        with progress.phase("asking the experts"):
            actions = world.expert_actions(tasks)
        missing = [task.id for task in tasks if task.id not in actions]
        if missing:
            progress.note(
                f"{len(missing)} of {len(tasks)} tasks have no expert, {missing[0]} for one; their answer is empty."
            )
        return ReplayPolicy(dict.fromkeys(missing, ()) | actions)
    with progress.phase("gathering actions"):
        known = world.expert_actions(world.tasks("train", NUM_TASKS_FOR_ACTIONS))
    return RandomPolicy(seed, sorted({action for actions in known.values() for action in actions}))


def _sampling(world: World) -> Sampling:
    config = world.config
    return Sampling(
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        num_envs=config.env.num_envs,
        num_lanes=count_lanes(world.benchmark, config.env.num_envs),
    )


def _prompt(world: World) -> Prompt:
    return Prompt(config=world.config.chat, instruction=world.benchmark.instruction, examples=_examples(world))


def _examples(world: World) -> list[Trajectory]:
    """Return the worked examples that a run of this config shows: the first of its experts."""
    num = world.config.chat.num_examples
    if not num:
        return []
    config = world.config
    tasks = select_tasks(world.tasks("train", config.env.num_train), num=config.expert.num_tasks)
    play = {"format": config.chat.format, "num_slots": config.env.num_envs}
    # The world's own experts are played, which takes time: no more of them than are shown.
    step = max(1, len(tasks)) if config.expert.path else EXAMPLE_STEP
    found: list[Trajectory] = []
    for start in range(0, len(tasks), step):
        found += expert_trajectories(config.expert, world.benchmark, world.pool, tasks[start : start + step], **play)
        if len(found) >= num:
            break
    return found[:num]
