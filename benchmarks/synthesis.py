"""What synthesis adds to a run's time at the paper's schedule: arithmetic, from the measured parts of a finished run.

    python -m benchmarks.synthesis RUN [RUN …]

A run of CoEvolve says what an episode costs to play and to train on, and what a proposal costs to make and to check,
in CPU-seconds of agents and worlds. The paper's schedule has 10 rounds of 32 tasks, 8 episodes each, between two
syntheses, and ours has at most 32 proposals in one. Evaluation is left out: it makes the share smaller.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.core.journal import read_journal, read_json

ROUNDS, EPISODES, PROPOSALS = 10, 256, 32
"""Rounds between two syntheses, episodes a round (the paper's), and proposals of a synthesis (our default)."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What was measured."""

    play_s: float
    """CPU-seconds of an episode."""
    train_s: float
    """CPU-seconds of training on one."""
    proposal_s: float
    """CPU-seconds of making and checking a proposal."""
    proposed: int
    accepted: int
    episodes: Mapping[str, int]
    """Purpose → episodes of all syntheses."""

    @property
    def episodes_for_one(self) -> float:
        """Episodes of synthesis for an accepted task."""
        return sum(self.episodes.values()) / max(1, self.accepted)

    def overhead(self, num_proposals: int = PROPOSALS) -> float:
        """Return the share of its time that a run at the paper's schedule takes longer."""
        return num_proposals * self.proposal_s / (ROUNDS * EPISODES * (self.play_s + self.train_s))


def measure(run: Path) -> Parts:
    """Read a run's parts; arms and seeds that make tasks are added up."""
    seconds: Counter[str] = Counter()
    nums: Counter[str] = Counter()
    episodes: Counter[str] = Counter()
    for time in read_journal(run / "timings.jsonl"):
        act = str(time["phase"]).rpartition("/")[2]
        if (run / f"seed-{time['seed']}" / time["arm"] / time["phase"]).exists():
            seconds[act] += time["cpu_s"] + time["env_cpu_s"]
    for path in run.glob("seed-*/*/round-*/synthesis/synthesis.json"):
        found: dict[str, Any] = read_json(path)
        nums.update(proposed=len(found["verdicts"]), accepted=sum(one["reason"] is None for one in found["verdicts"]))
        episodes.update(found["episodes"])
    for path in run.glob("seed-*/*/round-*/rollout-target/done.json"):
        nums["played"] += read_json(path)["num"]
    return Parts(
        play_s=seconds["rollout-target"] / max(1, nums["played"]),
        train_s=seconds["train-target"] / max(1, nums["played"]),
        proposal_s=seconds["synthesis"] / max(1, nums["proposed"]),
        proposed=nums["proposed"],
        accepted=nums["accepted"],
        episodes={purpose: num for purpose, num in episodes.items() if num},
    )


def main() -> None:
    """Print the parts and what follows from them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthesis", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs with an arm that makes tasks")
    for run in parser.parse_args().runs:
        found = measure(run)
        purposes = ", ".join(f"{num} {purpose}" for purpose, num in found.episodes.items())
        print(f"{run}: an episode {found.play_s:.3f} s, its training {found.train_s:.3f} s, a proposal")
        print(f"  {found.proposal_s:.3f} s; {found.accepted} of {found.proposed} accepted; episodes: {purposes}:")
        print(f"  {found.episodes_for_one:.2f} for an accepted task. At the paper's schedule, {PROPOSALS} proposals")
        print(f"  beside {ROUNDS * EPISODES:,} episodes: {found.overhead():.2%} more time")


if __name__ == "__main__":
    main()
