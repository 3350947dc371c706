"""What a finished run's folder says, as the values of `results.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.analysis.preferences import summarise as summarise_preferences
from sparring.core.convert import to_dict
from sparring.core.journal import read_journal
from sparring.core.phases import ALSO, Phase
from sparring.core.records import read_trajectories
from sparring.envs.measures import mean_points, measures_of, solved_points
from sparring.envs.rewards import odd_rewards
from sparring.report.arm_record import Bounds, Measure, arm_record, evaluation
from sparring.report.folder import PhaseFolder, list_phases
from sparring.runs.judging import JUDGEMENTS
from sparring.runs.seeds import digest

if TYPE_CHECKING:
    from sparring.core.types import Task
    from sparring.envs.base import Benchmark
    from sparring.runs.config import Arm, Recipe
    from sparring.runs.world import World


def collect_results(recipe: Recipe, out: Path, world: World) -> dict[str, Any]:
    """Read a finished run folder and return what it found: a pure function of folder and world, without clock times."""
    config = recipe.shared_config()
    return {
        "name": recipe.name,
        "split": config.eval.split,
        "success_eps": config.pairs.success_eps,
        "num_demonstrations": len({record.task.id for record in read_trajectories(out / "experts.jsonl")}),
        "num_eval_tasks": len(world.eval_tasks),
        "broken": count_broken(recipe, out),
        **({"odd_rewards": odd} if (odd := count_odd_rewards(recipe, out)) else {}),
        "arms": {
            name: {
                "method": arm.method,
                "label": arm.label,
                "config": to_dict(arm.config),
                "digest": digest(arm.method, arm.config),
                "seeds": {str(seed): _arm_results(arm, out / f"seed-{seed}" / name, world) for seed in recipe.seeds},
            }
            for name, arm in recipe.arms.items()
        },
    }


def count_broken(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Count the episodes that infrastructure broke, in all phases of a run; one that arms share counts once.

    Returns:
        `num` of `episodes`, their `share`, and `phases`: how many in each phase that lost one.
    """
    num, episodes, phases = 0, 0, dict[str, int]()
    for phase, result in _phase_results(recipe, out):
        if lost := result.get("broken", 0):
            phases[f"seed-{phase.seed}/{phase.arm}/{phase.name}"] = lost
        num, episodes = num + lost, episodes + (result["num"] if "broken" in result else 0)
    share = num / episodes if episodes else 0.0
    return {"num": num, "episodes": episodes, "share": share, "phases": dict(sorted(phases.items()))}


def count_odd_rewards(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Count the episodes whose rewards look like a mistake of the world's, the experts' included.

    Returns:
        The `world`, and how many of `episodes` have each oddity (`envs.rewards`); nothing where none has one.
    """
    experts = read_trajectories(out / "experts.jsonl")
    counts, episodes = Counter(odd_rewards(experts)), len(experts)
    for _, result in _phase_results(recipe, out):
        counts.update(result.get("odd_rewards", {}))
        episodes += result["num"] if "broken" in result else 0
    world = recipe.shared_config().env.id
    return {"world": world, "episodes": episodes, **dict(sorted(counts.items()))} if counts else {}


def _phase_results(recipe: Recipe, out: Path) -> Iterator[tuple[PhaseFolder, dict[str, Any]]]:
    """Yield the finished phases of a run with what they found; one that arms share comes once."""
    found = list_phases(out, list(map(str, recipe.seeds)), list(recipe.arms))
    for path, phase in {phase.path: phase for phase in reversed(found)}.items():
        yield phase, Phase(path).result()


def _arm_results(arm: Arm, folder: Path, world: World) -> dict[str, Any]:
    found = arm_record(folder, _bounds(arm), _measure(world.benchmark, world.eval_tasks))
    if judged := _judged(arm, folder):
        found["preferences"] = judged
    also = _also(arm, folder, world)
    return {**found, **({"also": also} if also else {})}


def _bounds(arm: Arm) -> Bounds:
    own = arm.config.analysis
    return Bounds(
        thresholds=own.hard_thresholds,
        success_eps=arm.config.pairs.success_eps,
        collapse_drop=own.collapse_drop,
        collapse_rise=own.collapse_rise,
    )


def _measure(benchmark: Benchmark, tasks: Sequence[Task]) -> Measure:
    return lambda rewards: measures_of(benchmark, tasks, rewards)


def _judged(arm: Arm, folder: Path) -> list[dict[str, Any]]:
    """Summarise what the target agent made of held-out preferences, against the first judging."""
    phases = [(number, Phase(folder / f"round-{number}" / "judge-target")) for number in (0, 1)]
    there = [(number, phase) for number, phase in phases if phase.is_done]
    found = []
    for number, phase in there:
        phase.check(JUDGEMENTS)
        now, start = (read_journal(one.path / JUDGEMENTS) for one in (phase, there[0][1]))
        summary = summarise_preferences(now, start, num_resamples=arm.config.eval.num_resamples)
        overflows = phase.result()["overflows"]
        found.append({"round": number, "agent": "target", "overflows": overflows, **summary})
    return found


def _also(arm: Arm, folder: Path, world: World) -> list[dict[str, Any]]:
    """Summarise the last agent's episodes on the further splits."""
    found = []
    for split, tasks in world.also.items():
        played = Phase(folder / f"{ALSO}-target-{split}")
        record = evaluation(played, _bounds(arm), _measure(world.benchmark, tasks))
        earned = record["rewards"].values()
        usual = {"mean reward": mean_points(earned), "success": solved_points(earned)}
        found.append({"split": split, "agent": "target", "measures": usual, **record})
    return found
