"""Sampled episodes come in, the JSON that the page's trajectory list reads goes out.

Texts recur (a room is described each time it is entered), so each distinct text is stored once and named by its index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from sparring.core.types import Turn
from sparring.report.collect import Episodes, SampledEpisode
from sparring.report.view import Results

MAX_TEXT = 6000
"""Characters of one observation or answer that the page holds."""

MAX_BYTES = 5_000_000
"""Size of the list's JSON at most."""


def payload(episodes: Episodes, results: Results, *, max_bytes: int = MAX_BYTES) -> tuple[Markup, int]:
    """Return the list's JSON, safe inside a `<script>` element, and how many episodes it holds.

    Episodes are left out, spread evenly over the list, until the JSON is small enough.
    """
    sample = list(episodes.sample)
    while True:
        encoded = _encode(sample, results)
        if len(encoded) <= max_bytes or not sample:
            return Markup(encoded), len(sample)
        num = int(len(sample) * 0.95 * max_bytes / len(encoded))
        sample = [sample[i * len(sample) // num] for i in range(num)] if num else []


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


def _encode(sample: Sequence[SampledEpisode], results: Results) -> str:
    indices: dict[str, int] = {}

    def index(text: str) -> int:
        return indices.setdefault(clip(text), len(indices))

    arms = {name: i for i, name in enumerate(results.arms)}
    rows = [_row(episode, arms, index) for episode in sample]
    content = {
        "arms": [arm.label for arm in results.arms.values()],
        "partners": [arm.agent_name("partner") for arm in results.arms.values()],
        "eps": results.success_eps,
        "episodes": rows,
        "texts": list(indices),
    }
    # ASCII alone: line separators, surrogates and control characters are escapes, and no tag can begin or end.
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _row(episode: SampledEpisode, arms: dict[str, int], index: Any) -> list[Any]:
    trajectory = episode.trajectory
    turns = [
        [
            index(turn.observation),
            index(said) if (said := spoken(turn)) else -1,
            index(turn.action),
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
        index(trajectory.final_observation),
    ]
