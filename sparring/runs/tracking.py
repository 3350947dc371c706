"""What trackers are told of a run: metrics under the names that TRL gives them, and rewards by round and split.

Steps count on over all trainings of an arm with a seed, so that one axis shows everything. The target agent's metrics
have no prefix; other agents' have their name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sparring.core.filters import counted, is_success
from sparring.core.phases import ALSO
from sparring.core.types import PairKind, Trajectory

if TYPE_CHECKING:
    from sparring.learning.phase import Training
    from sparring.runs.config import Config
    from sparring.runs.trackers import Trackers

RENAMED = {"lr": "learning_rate", "tokens": "num_tokens", "sft/nll": "nll", "pg/kl": "kl", "pg/entropy": "entropy"}
"""Names in the log → TRL's, of what is not of pairs."""
PAIR_METRICS = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "delta_chosen": "rewards/chosen",
    "delta_rejected": "rewards/rejected",
    "logp_chosen": "logps/chosen",
    "logp_rejected": "logps/rejected",
    "nll": "nll",
    "kl": "kl",
}
"""Metrics by pair kind in the log → TRL's names, over all kinds."""
IN_NATS = ("rewards/margins", "rewards/chosen", "rewards/rejected")
"""What TRL multiplies by β."""


def trl_metrics(record: Mapping[str, Any], beta: float | None) -> dict[str, float]:
    """Return a step of a training log with TRL's names; kinds of pairs are averaged, by their numbers.

    2 pairs with margin 1 and 6 with margin 5 and β 0.1: `rewards/margins` is 0.4.

    Args:
        record: a line of `log.jsonl`.
        beta: of a preference loss.
    """
    numbers = {key: float(value) for key, value in record.items() if isinstance(value, int | float)}
    counts = {kind: numbers[f"{kind}/num"] for kind in PairKind if numbers.get(f"{kind}/num")}
    found: dict[str, float] = {}
    for name, theirs in PAIR_METRICS.items():
        parts = [(numbers[f"{kind}/{name}"], num) for kind, num in counts.items() if f"{kind}/{name}" in numbers]
        if parts:
            mean = sum(value * num for value, num in parts) / sum(num for _, num in parts)
            found[theirs] = mean * (beta or 1.0) if theirs in IN_NATS else mean
    plain = {
        key: value for key, value in numbers.items() if key.partition("/")[0] not in set(PairKind) and key != "step"
    }
    if len(counts) > 1:
        found |= {f"pairs/{kind.replace('>', '-')}": num for kind, num in counts.items()}
    return {RENAMED.get(key, key): value for key, value in plain.items()} | found


class Tracking:
    """Follows one arm with one seed."""

    def __init__(self, config: Config, trackers: Trackers | None = None) -> None:
        """`config` is the arm's, `trackers` are told."""
        self._trackers, self._split, self._eps = trackers, config.eval.split, config.pairs.success_eps
        self._beta, self._step = config.loss.beta, 0
        """Optimizer steps of the trainings before."""

    def training(self, agent: str, name: str, training: Training) -> Callable[[Mapping[str, Any]], None]:
        """Return what takes the steps of a training."""
        beta = getattr(getattr(training.objective, "config", None), "beta", None)

        def log(record: Mapping[str, Any]) -> None:
            if self._trackers:
                own = {**trl_metrics(record, beta), "round": float(_round(name))}
                self._trackers.log(_prefixed(agent, own), self._step + int(record["step"]))

        return log

    def trained(self, steps: int) -> None:
        """Count a training's steps once it is finished, be it now or in an earlier process."""
        self._step += steps

    def played(self, agent: str, name: str, trajectories: Sequence[Trajectory]) -> None:
        """Tell the mean reward and the success of what an agent has just played."""
        rewards = [one.reward for one in counted(trajectories)]
        place = self._place(agent, name)
        if not self._trackers or not rewards or place is None:
            return
        success = fmean(float(is_success(reward, self._eps)) for reward in rewards)
        own = {f"{place}/reward": fmean(rewards), f"{place}/success": success, "round": float(_round(name))}
        self._trackers.log(_prefixed(agent, own), self._step)

    def judged(self, agent: str, name: str, means: Mapping[str, Mapping[str, float]]) -> None:
        """Tell what an agent makes of held-out preferences."""
        if not self._trackers:
            return
        names = {
            "likelihood_accuracy": ("eval/likelihood/accuracies", 1.0),
            "reward_accuracy": ("eval/rewards/accuracies", 1.0),
            "margin": ("eval/rewards/margins", self._beta),
            "chosen_gain": ("eval/rewards/chosen", self._beta),
            "nll": ("eval/nll", 1.0),
        }
        own = {theirs: means[ours]["mean"] * factor for ours, (theirs, factor) in names.items() if ours in means}
        self._trackers.log(_prefixed(agent, {**own, "round": float(_round(name))}), self._step)

    def _place(self, agent: str, name: str) -> str | None:
        """Return where a phase's rewards go: `eval/test`, `rollout`, `branch`; none for what only checks."""
        phase = name.rpartition("/")[2]
        if phase.startswith(f"{ALSO}-{agent}-"):
            return f"eval/{phase.removeprefix(f'{ALSO}-{agent}-')}"
        if phase == f"evaluate-{agent}":
            return f"eval/{self._split}"
        return next((act for act in ("rollout", "branch") if phase.startswith(f"{act}-")), None)


def _prefixed(agent: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return dict(metrics) if agent == "target" else {f"{agent}/{key}": value for key, value in metrics.items()}


def _round(name: str) -> int:
    """Return the round of a phase; 0 for what precedes the first."""
    place = name.partition("/")[0]
    return int(place.removeprefix("round-")) if place.startswith("round-") else 0
