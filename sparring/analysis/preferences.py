"""What agents make of preferences that were held out: log-probabilities of both sides in, accuracies and margins out.

An agent ranks a pair right *by likelihood* if the chosen side is likelier than the rejected one, and right *by reward*
if its log-ratio to the start is larger: the implicit reward of DPO (arXiv 2305.18290, Eq. 5), without its factor β.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from sparring.analysis.statistics import bootstrap_mean

Judgement = Mapping[str, Any]
"""A pair's: `task`, and of `chosen` and `rejected` log-probability and number of tokens. A conversation's: `id`, and of
`said` the same."""


def summarise(now: Sequence[Judgement], start: Sequence[Judgement], *, num_resamples: int = 2000) -> dict[str, Any]:
    """Summarise an agent's judgements by prompt, the mean over its pairs; and over prompts, with intervals.

    Chosen −10, rejected −12 and at the start −11 and −12: likelier, right by reward, margin 1 nat. Equal is half right.

    Args:
        now: the agent's.
        start: of the agent that it is compared with, of the same pairs in the same order.
        num_resamples: of the 95 % intervals over prompts.
    """
    pairs = [(a, b) for a, b in zip(now, start, strict=True) if "chosen" in a]
    tasks = [a["task"] for a, _ in pairs]
    likelihoods = [a["chosen"][0] - a["rejected"][0] for a, _ in pairs]
    margins = [gap - (b["chosen"][0] - b["rejected"][0]) for gap, (_, b) in zip(likelihoods, pairs, strict=True)]
    said = {a["id"]: -a["said"][0] / a["said"][1] for a in now if "said" in a}
    found = {
        "likelihood_accuracy": _by_task(tasks, likelihoods, _is_right),
        "reward_accuracy": _by_task(tasks, margins, _is_right),
        "margin": _by_task(tasks, margins, float),
        "chosen_gain": _by_task(tasks, [a["chosen"][0] - b["chosen"][0] for a, b in pairs], float),
        "nll": said,
    }
    intervals = {
        name: bootstrap_mean(list(own.values()), num_resamples=num_resamples) for name, own in found.items() if own
    }
    means = {name: {"mean": one.mean, "low": one.low, "high": one.high} for name, one in intervals.items()}
    return {"num_pairs": len(pairs), **found, "means": means}


def _is_right(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def _by_task(tasks: Sequence[str], values: Sequence[float], of: Callable[[float], float]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for task, value in zip(tasks, values, strict=True):
        found.setdefault(task, []).append(of(value))
    return {task: fmean(own) for task, own in sorted(found.items())}
