"""A finished run comes in; how near its synthetic tasks lie to its evaluation tasks goes out, with the nearest pairs.

    python -m sparring.report.nearness RUN

The comparison happens here, afterwards: no synthesiser reads an evaluation task (docs/methods/coevolve.md). Two tasks
are compared by their texts, the first observations (the cosine of their words, weighed by how rare they are among all
texts compared), and by their references (the Jaccard similarity of neighbouring actions), where the run knows one: a
synthetic task's own, of evaluation tasks the episodes that solved them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sparring.core.errors import SparringError
from sparring.core.filters import actions, is_success
from sparring.core.phases import TRAJECTORIES
from sparring.core.records import read_trajectories
from sparring.core.similarity import Pairs, Vector, cosine, jaccard, neighbours, normalise, weigh_words
from sparring.core.terminal import write
from sparring.core.types import Trajectory
from sparring.report import svg
from sparring.report.collect import read_experts
from sparring.report.curriculum import ACCEPTED, INITIAL, SYNTHESIS, outcome_of, read_verdicts, round_numbers
from sparring.report.damage import content_of
from sparring.report.view import Results, read_results

MAX_PAIRS = 8
"""Pairs that the page shows of an arm."""
MAX_ROUNDS = 24
"""First rounds whose rollouts say what the initial tasks look like."""
WIDTH, HEIGHT = 350, 180
GATE = "overlaps an evaluation task"
"""The gate's reason."""
SETS = {INITIAL: "initial tasks", ACCEPTED: "synthetic tasks"}
"""What is compared with evaluation tasks, and what the page calls it."""
CLASSES = {INITIAL: "muted", ACCEPTED: "made-chain"}
NEAR = (0.5, 0.7, 0.9)
"""Similarities whose shares the table tells."""


@dataclass(slots=True)
class Known:
    """What a run knows of a task."""

    task_id: str
    text: str
    solutions: set[tuple[str, ...]] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An evaluation task, and the nearest task of a set."""

    evaluation: Known
    other: Known
    text: float
    """Cosine of the texts."""
    reference: float | None
    """Jaccard similarity of the nearest solutions; None where one has none that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearness:
    """What is nearest to each evaluation task, by set."""

    pairs: Mapping[str, Sequence[Pair]]
    num_refused: int = 0
    """Proposals that the gate refused."""

    def share(self, name: str, least: float) -> float:
        """Return the share of the evaluation tasks that a task of the set is at least so near to, by its text."""
        found = self.pairs[name]
        return sum(pair.text >= least for pair in found) / len(found)


def compare(evaluation: Sequence[Known], others: Mapping[str, Sequence[Known]], *, num_refused: int = 0) -> Nearness:
    """Find the nearest task of each set to each evaluation task, by text; of equals the first."""
    sets = {name: known for name, known in others.items() if known}
    everything = [*evaluation, *(one for known in sets.values() for one in known)]
    vectors = dict(zip(map(id, everything), weigh_words([one.text for one in everything]), strict=True))
    pairs = {}
    for name, known in sets.items():
        index = _index(known, vectors)
        pairs[name] = [_nearest(task, known, index, vectors) for task in evaluation]
    return Nearness(pairs=pairs, num_refused=num_refused)


def _index(known: Sequence[Known], vectors: Mapping[int, Vector]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = {}
    for place, one in enumerate(known):
        for word in vectors[id(one)]:
            index.setdefault(word, []).append(place)
    return index


def _nearest(
    task: Known, known: Sequence[Known], index: Mapping[str, Sequence[int]], vectors: Mapping[int, Vector]
) -> Pair:
    own = vectors[id(task)]
    places = sorted({place for word in own for place in index.get(word, ())}) or [0]
    best = max(places, key=lambda place: cosine(own, vectors[id(known[place])]))
    other = known[best]
    shared = [jaccard(a, b) for a in _sketches(task) for b in _sketches(other)]
    return Pair(
        evaluation=task,
        other=other,
        text=cosine(own, vectors[id(other)]),
        reference=max(shared, default=None),
    )


def _sketches(known: Known) -> list[Pairs]:
    return [neighbours([normalise(action) for action in way]) for way in sorted(known.solutions)]


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_nearness(folder: Path, experts: Sequence[Trajectory], success_eps: float) -> Nearness | None:
    """Compare what an arm with one seed made with what it was evaluated on; None where it made nothing.

    Args:
        folder: of the arm with one seed.
        experts: the run's experts: solutions of initial tasks.
        success_eps: a reward of at least one minus this is a success.
    """
    made, num_refused = list[Known](), 0
    for number in round_numbers(folder):
        path = folder / f"round-{number}" / SYNTHESIS
        for verdict in read_verdicts(path) if path.exists() else ():
            with content_of(path):
                num_refused += verdict["reason"] == GATE
                if outcome_of(verdict["reason"]) == ACCEPTED and verdict["start"]:
                    way = tuple(verdict["reference"])
                    made.append(Known(verdict["proposal"]["task"]["id"], verdict["start"], {way} - {()}))
    evaluation = _of_episodes(_episodes(folder, "evaluate-target", None), success_eps)
    if not evaluation or not made:
        return None
    names = {one.task_id for one in made}
    initial = _of_episodes([*experts, *_episodes(folder, "rollout-target", MAX_ROUNDS)], success_eps)
    others = {INITIAL: [one for one in initial if one.task_id not in names], ACCEPTED: made}
    return compare(evaluation, others, num_refused=num_refused)


def _episodes(folder: Path, phase: str, num_rounds: int | None) -> Iterable[Trajectory]:
    for number in round_numbers(folder)[:num_rounds]:
        path = folder / f"round-{number}" / phase / TRAJECTORIES
        if path.exists():
            yield from read_trajectories(path)


def _of_episodes(episodes: Iterable[Trajectory], success_eps: float) -> list[Known]:
    """List the tasks of episodes, each with all that solved it, in the order in which they come first."""
    found: dict[str, Known] = {}
    for episode in episodes:
        if episode.turns:
            known = found.setdefault(episode.task.id, Known(episode.task.id, episode.turns[0].observation))
            if is_success(episode.reward, success_eps):
                known.solutions.add(tuple(actions(episode)))
    return list(found.values())


def sections(run_dir: Path, results: Results, experts: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """Return what the page shows of each arm that made tasks, with its first seed; the featured arm's comes first."""
    found = []
    for arm in results.arms.values():
        folders = (run_dir / f"seed-{seed}" / arm.name for seed in arm.seeds)
        folder = next((one for one in folders if any(one.glob(f"round-*/{SYNTHESIS}"))), None)
        near = read_nearness(folder, experts, results.success_eps) if folder else None
        if near is not None:
            found.append({"title": arm.label, "is_open": arm is results.featured, **_shown(near, arm.label)})
    return sorted(found, key=lambda section: not section["is_open"])


def _shown(near: Nearness, label: str) -> dict[str, Any]:
    title = "Evaluation tasks that have a task so near, by text"
    rows = [
        {
            "name": SETS[name],
            "class": CLASSES[name],
            "num": len({pair.other.task_id for pair in pairs}),
            "largest": max(pair.text for pair in pairs),
            "shares": [near.share(name, least) for least in NEAR],
        }
        for name, pairs in near.pairs.items()
    ]
    nearest = sorted(near.pairs[ACCEPTED], key=lambda pair: -pair.text)[:MAX_PAIRS]
    common = _common_lines(pair.evaluation.text for pair in near.pairs[ACCEPTED])
    return {
        "panel": {
            "title": title,
            "drawing": _draw(near, f"{label}: {title}"),
            "legend": [(CLASSES[name], SETS[name]) for name in near.pairs],
        },
        "near": NEAR,
        "num_refused": near.num_refused,
        "rows": rows,
        "pairs": [
            {"pair": pair, "texts": [_without(one.text, common) for one in (pair.evaluation, pair.other)]}
            for pair in nearest
        ],
    }


def _draw(near: Nearness, label: str) -> Markup:
    panel = svg.Panel.within(WIDTH, HEIGHT, (0.0, 1.0), (0.0, 1.0), left=38)
    parts = [panel.y_axis(4)]
    for name, pairs in near.pairs.items():
        places = sorted({0.0, *(round(pair.text, 3) for pair in pairs), 1.0})
        points = [(place, near.share(name, place - 5e-4)) for place in places]
        parts.append(svg.group(svg.polyline(panel.points(points), CLASSES[name]), svg.title(SETS[name])))
    parts.append(panel.x_axis([(tick / 4, svg.tick_label(tick / 4)) for tick in range(5)]))
    return svg.drawing(WIDTH, HEIGHT, *parts, label=label)


def _common_lines(texts: Iterable[str]) -> set[str]:
    """Return lines that several tasks show: the functions there are, the rules of the world."""
    nums: dict[str, int] = {}
    for text in texts:
        for line in set(text.splitlines()):
            nums[line] = nums.get(line, 0) + 1
    return {line for line, num in nums.items() if num > 2}


def _without(text: str, lines: set[str]) -> str:
    return "\n".join(line for line in text.splitlines() if line.strip() and line not in lines) or text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of a run's arms; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparring.report.nearness", description="How near synthetic tasks lie to evaluation tasks."
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    chosen = parser.parse_args(arguments)
    try:
        found = sections(chosen.run, read_results(chosen.run), read_experts(chosen.run))
    except SparringError as error:
        write(f"error: {error}", on_stderr=True)
        return 2 if isinstance(error, ValueError) else 1
    for section in found:
        write(f"{section['title']}: evaluation tasks whose nearest task, by text, is at least as near as")
        write(f"  (the gate refused {section['num_refused']} proposals)")
        for row in section["rows"]:
            shares = "  ".join(f"{least}: {share:.0%}" for least, share in zip(NEAR, row["shares"], strict=True))
            write(f"  {row['name']:20} {shares}  nearest {row['largest']:.2f}")
        for one in section["pairs"]:
            pair = one["pair"]
            reference = "–" if pair.reference is None else f"{pair.reference:.2f}"
            write(f"  {pair.text:.2f} text, {reference} reference: {pair.evaluation.task_id} ~ {pair.other.task_id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
