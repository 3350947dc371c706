"""Sampled episodes and listed pairs → the JSON that the page's lists read.

Texts recur (a room is described each time it is entered), so each distinct text is stored once and named by its index.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from markupsafe import Markup

from sparring.core.phases import CHECKPOINT, TRAJECTORIES
from sparring.core.types import Turn
from sparring.report.charts import kind_class, kind_name
from sparring.report.collect import EXPERTS, SampledEpisode
from sparring.report.load import Loaded, LoadedRun
from sparring.report.pair_list import ListedPair

T = TypeVar("T")

MAX_TEXT = 20_000
"""Characters of one observation or answer that the page holds."""

MAX_BYTES = 5_000_000
"""Size of the lists' JSON at most."""


def payload(
    loaded: Loaded, sample: Sequence[SampledEpisode], pairs: Sequence[ListedPair] = (), *, max_bytes: int = MAX_BYTES
) -> tuple[Markup, int, int]:
    """Return the lists' JSON, safe inside a `<script>` element, and how many episodes and pairs it holds.

    Episodes that no pair needs are left out, spread evenly over the list, until the JSON is small enough; where that is
    not enough, pairs are.
    """
    share = 1.0
    while True:
        kept_pairs = _thin(pairs, share)
        needed = {place for pair in kept_pairs for place in pair.sides}
        free = {id(one) for one in _thin([one for one in sample if _place(one) not in needed], share)}
        kept = [one for one in sample if _place(one) in needed or id(one) in free]
        encoded, num_pairs = _encode(kept, kept_pairs, loaded)
        if len(encoded) <= max_bytes or not kept:
            return Markup(encoded), len(kept), num_pairs
        share *= 0.95 * max_bytes / len(encoded)
        share = share if share * len(sample) >= 1 else 0.0


def safe_json(content: Any) -> str:
    """Write JSON that no tag can begin or end in: ASCII alone, so that line separators and surrogates are escapes."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def spoken(turn: Turn) -> str:
    """Return what the agent wrote besides its action: `Thought: …`; empty where it wrote nothing else."""
    text, action = turn.text.strip(), turn.action.strip()
    if not text.endswith(action):
        return text
    before = text.removesuffix(action).rstrip()
    return before.removesuffix("Action:").rstrip()


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """Cut a text that is too long to show, and say so."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


def made_by(run: LoadedRun, episode: SampledEpisode) -> str:
    """Return the command that plays an episode's phase again: an evaluation whose weights are kept, or the whole run.

    Folders are named from the one that the run's lies in.
    """
    home = run.folder.resolve()
    if episode.kind == "evaluate" and episode.agent == "target":
        before = f"round-{episode.round}/train-target" if episode.round else "sft-target"
        arm = episode.arms[0].removeprefix(f"{run.name}/")
        folder = f"seed-{episode.seed}/{arm}/{before}/{CHECKPOINT}"
        if (home / folder).is_dir():
            return f"sparring eval {home.name}/{folder}"
    return f"sparring run RECIPE --out {home.name}"


def _thin(items: Sequence[T], share: float) -> list[T]:
    num = int(len(items) * share + 1e-9)
    return [items[i * len(items) // num] for i in range(num)] if num else []


def _place(episode: SampledEpisode) -> tuple[Any, str]:
    return episode.path, episode.trajectory.id


def _encode(sample: Sequence[SampledEpisode], pairs: Sequence[ListedPair], loaded: Loaded) -> tuple[str, int]:
    results = loaded.results
    texts, places = _Index(), _Index()
    arms = {name: i for i, name in enumerate(results.arms)}
    groups = list(dict.fromkeys(results.held_out.get(name, "") for name in arms))
    homes = {run.folder.resolve(): run for run in loaded.runs}
    rows, where = [], dict[Any, int]()
    for episode in sample:
        run = loaded.run_of(episode.arms[0]) if episode.arms else homes[episode.path]
        where[_place(episode)] = len(rows)
        place = places((_file(run, episode), made_by(run, episode)))
        rows.append([*_row(episode, arms, texts), place, loaded.runs.index(run)])
    listed = [_pair_row(pair, arms, where) for pair in pairs if all(side in where for side in pair.sides)]
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    content = {
        "arms": [arm.label for arm in results.arms.values()],
        "keys": list(arms),
        "groups": [groups.index(results.held_out.get(name, "")) for name in arms],
        "runs": [[run.name, _first_arm(run, loaded), run.results.name] for run in loaded.runs],
        "partners": [arm.agent_name("partner") for arm in results.arms.values()],
        "eps": results.success_eps,
        "episodes": rows,
        "pairs": listed,
        "kinds": {kind: [kind_name(kind), kind_class(kind)] for kind in kinds},
        "places": places.items,
        "texts": texts.items,
    }
    return safe_json(content), len(listed)


class _Index:
    """Gives each distinct thing a number."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def __call__(self, thing: Any) -> int:
        return self._numbers.setdefault(thing, len(self._numbers))

    @property
    def items(self) -> list[Any]:
        return list(self._numbers)


def _first_arm(run: LoadedRun, loaded: Loaded) -> int:
    name = next(iter(run.results.arms))
    return list(loaded.results.arms).index(f"{run.name}/{name}" if loaded.is_comparison else name)


def _file(run: LoadedRun, episode: SampledEpisode) -> str:
    home = run.folder.resolve().name
    if not episode.arms:
        return f"{home}/{EXPERTS}"
    arm = episode.arms[0].removeprefix(f"{run.name}/")
    return f"{home}/seed-{episode.seed}/{arm}/{episode.name}/{TRAJECTORIES}"


def _row(episode: SampledEpisode, arms: dict[str, int], texts: Callable[[str], int]) -> list[Any]:
    trajectory = episode.trajectory
    turns = [
        [
            texts(clip(turn.observation)),
            texts(clip(said)) if (said := spoken(turn)) else -1,
            texts(clip(turn.action)),
            round(turn.reward, 4),
        ]
        for turn in trajectory.turns
    ]
    return [
        [arms[arm] for arm in episode.arms],
        episode.seed,
        episode.kind,
        episode.agent,
        episode.round,
        trajectory.task.kind,
        trajectory.task.id,
        round(trajectory.reward, 6),
        trajectory.stop.value,
        trajectory.num_retries,
        trajectory.error,
        turns,
        texts(clip(trajectory.final_observation)),
        trajectory.id,
        trajectory.num_given,
    ]


def _pair_row(pair: ListedPair, arms: dict[str, int], where: dict[Any, int]) -> list[Any]:
    chosen, rejected = (where[side] for side in pair.sides)
    about = [arms[pair.arm], pair.seed, pair.round, pair.agent, pair.kind]
    return [*about, chosen, rejected, *pair.counted, *pair.given]
