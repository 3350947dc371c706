"""Writes a plausible run folder of GRPO and CoEvolve without training anything; pool and verdicts are the real ones.

What happens to the pool is decided by the library's own functions, and written by the library's own `to_json`, so that
the report is tested on what runs write.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparring.analysis.failures import rewards_by_task, summarise_rollouts, to_json
from sparring.core.records import trajectory_to_json
from sparring.core.types import Task, Trajectory
from sparring.report.curriculum import summarise_curriculum
from sparring.synthesis import pool as pools
from sparring.synthesis.checks import Reason, Refusal
from sparring.synthesis.curriculum import SynthesisResult
from sparring.synthesis.pool import PoolConfig, PoolEvent, TaskPool
from sparring.synthesis.proposals import Origin, Proposal
from sparring.synthesis.signals import Signal, visits_of
from sparring.synthesis.validation import Verdict
from tests.report.run_folder import ARMS, HOSTILE, SKILL_GAIN, RunFolder

STRATEGIES = ("restart", "variation", "relabel", "chain")
SIGNALS = (Signal.BOUNDARY, Signal.BOUNDARY, Signal.FORGETTING, Signal.RARE)
FATES = (None, None, Reason.NOT_SOLVED, None, Reason.TOO_EASY, Reason.DUPLICATE, Reason.TOO_HARD, Reason.OVERLAP)
"""What becomes of one proposal after the other; none: accepted."""


@dataclass
class GrowingFolder(RunFolder):
    """Everything about the run that the tests choose."""

    arms: Sequence[str] = ("sft", "grpo", "coevolve", "replay")
    num_rounds: int = 8
    num_tasks: int = 6
    num_per_task: int = 4
    every: int = 3
    num_proposals: int = 8
    has_kl: bool = True
    name: str = "growing"

    def _seed(self, arm: str, seed: int) -> dict[str, Any]:
        if ARMS[arm]["method"] not in ("grpo", "coevolve"):
            return super()._seed(arm, seed)
        results: dict[str, Any] = {"evaluations": [], "rollouts": [], "refreshed": [], "pairs": [], "training": []}
        if self._claim(f"seed-{seed}/{arm}/sft-target", f"seed-{seed}/shared/sft-target-0123abcd"):
            self._done(f"seed-{seed}/{arm}/sft-target", {"steps": 40})
            self._time(seed, arm, "sft-target", 61.0)
        self._evaluate(results, arm, seed, 0, "target")
        own, has_pool = f"seed-{seed}/{arm}", ARMS[arm]["method"] == "coevolve"
        pool, events = pools.start(self._tasks("train"))
        self._events(f"{own}/round-0", events if has_pool else None)
        sampled: dict[int, dict[str, list[float]]] = {}
        for number in range(1, self.num_rounds + 1):
            played = self._sample(arm, seed, number, pool)
            sampled[number] = rewards_by_task(played)
            results["rollouts"].append({"round": number, "agent": "target", **to_json(summarise_rollouts(played))})
            self._improve(results, arm, seed, number)
            if has_pool:
                pool, events = pools.record(pool, visits_of(number, played), number, PoolConfig(min_active=4))
                if arm == "coevolve" and number % self.every == 0:
                    pool, grown = self._grow(own, seed, number, pool, played)
                    events += grown
                self._events(f"{own}/round-{number}", events)
            if number % self.every == 0 or number == self.num_rounds:
                self._evaluate(results, arm, seed, number, "target")
        return {**results, **summarise_curriculum(self.folder / own, sampled, 1e-6)}

    def _events(self, folder: str, events: Sequence[PoolEvent] | None) -> None:
        if events is not None:
            self._jsonl(f"{folder}/pool.jsonl", [event.to_json() for event in events])

    def _sample(self, arm: str, seed: int, number: int, pool: TaskPool) -> list[Trajectory]:
        phase, played = f"round-{number}/rollout-target", []
        for task in pools.sample(pool, self.num_tasks, seed, number):
            for attempt in range(self.num_per_task):
                identifier = f"{phase}/{task.id}/{attempt}"
                rng = random.Random(f"{arm}/{seed}/{identifier}")
                level = round(rng.gauss(4.8 + number * SKILL_GAIN[arm] - 0.8 * ("+" in task.id), 2.0))
                played.append(self._episode(task, "target", max(0, min(8, level)), identifier, rng))
        self._jsonl(f"seed-{seed}/{arm}/{phase}/trajectories.jsonl", [trajectory_to_json(t) for t in played])
        self._done(f"seed-{seed}/{arm}/{phase}", {"num": len(played)})
        self._time(seed, arm, phase, 0.4 * len(played))
        return played

    def _improve(self, results: dict, arm: str, seed: int, number: int) -> None:
        phase, log = f"round-{number}/train-target", []
        for step in range(2):
            rng = random.Random(f"{arm}/{seed}/{phase}/{step}")
            line = {"step": step + 1, "epoch": 1, "lr": 1e-6, "loss": rng.gauss(0, 0.1), "grad_norm": 0.3}
            line |= {"pg/surrogate": 0.0, "pg/ratio": 1.0 + step * rng.gauss(0, 0.01), "pg/ratio_max": 1.0 + step * 2.5}
            line |= {
                "pg/log_ratio": 0.003,  # of agents that play in half precision
                "pg/log_ratio_max": 0.9,
                "pg/clipped": step * abs(rng.gauss(0, 0.02)),
                "pg/entropy": 1.2 - 0.01 * number + rng.gauss(0, 0.02),
            }
            log.append(line | ({"pg/kl": 0.01 * number + abs(rng.gauss(0, 0.01))} if self.has_kl else {}))
        folder = f"seed-{seed}/{arm}/{phase}"
        self._jsonl(f"{folder}/log.jsonl", log)
        self._done(f"{folder}", {"steps": len(log)})
        self._time(seed, arm, phase, 25.0)
        metrics = {key: value for key, value in log[-1].items() if "/" in key}
        results["training"].append({"round": number, "agent": "target", "steps": len(log), "metrics": metrics})

    def _grow(
        self, own: str, seed: int, number: int, pool: TaskPool, played: Sequence[Trajectory]
    ) -> tuple[TaskPool, list[PoolEvent]]:
        failures = [t for t in played if t.reward < 1.0 and "+" not in t.task.id] or list(played)
        causes = [failures[i * 3 % len(failures)] for i in range(self.num_proposals)]
        verdicts = [self._verdict(cause, number, place) for place, cause in enumerate(causes)]
        folder = f"{own}/round-{number}/synthesis"
        replays = [self._replay(one, number, place) for place, one in enumerate(verdicts) if one.start is not None]
        episodes = {"explore": 0, "replay": len(replays), "empty": 6, "random": 6, "probe": 20}
        result = SynthesisResult(step=number, verdicts=tuple(verdicts), counts={"repeated": 2}, episodes=episodes)
        self._json(f"{folder}/synthesis.json", result.to_json())
        self._jsonl(f"{folder}/trajectories.jsonl", [trajectory_to_json(t) for t in replays])
        self._done(f"{folder}", {"episodes": episodes})
        self._time(seed, own.rpartition("/")[2], f"round-{number}/synthesis", 0.4 * sum(episodes.values()))
        accepted = [(one.proposal.task, one.proposal.origin) for one in verdicts if one.is_accepted]
        waiting = [(one.proposal.task, one.proposal.origin) for one in verdicts if one.is_quarantined]
        pool, added = pools.add(pool, accepted, number, PoolConfig(max_synthetic_share=0.6))
        pool, quarantined = pools.quarantine(pool, waiting, number)
        return pool, [*added, *quarantined]

    def _verdict(self, cause: Trajectory, number: int, place: int) -> Verdict:
        strategy = STRATEGIES[(place + place // 8 + number) % len(STRATEGIES)]
        reason = FATES[(place + number) % len(FATES)]
        base = cause.task
        task = Task(id=f"{base.id}+{strategy}-{number}{place}", kind=base.kind, data={**base.data, "prefix": ["wait"]})
        origin = Origin(
            synthesiser="programmatic",
            strategy=strategy,
            signal=SIGNALS[place % len(SIGNALS)],
            step=number,
            task_id=base.id,
            trajectory_id=cause.id,
            note=f"{25 * (place % 4)}% of 4 rollouts reach 0.5",
        )
        detail = "nearly the same as another" if reason is Reason.DUPLICATE else ""
        if self.is_hostile:
            task = replace(task, id=f"{task.id}{HOSTILE[1]}", data={**task.data, "evil": HOSTILE[0]})
            origin, detail = replace(origin, note=HOSTILE[3], strategy=HOSTILE[0]), HOSTILE[0]
        actions = ("look around", HOSTILE[0] if self.is_hostile else f"go to {base.data['room']}", "wait")
        was_played = reason not in (Reason.DUPLICATE, Reason.OVERLAP)
        return Verdict(
            proposal=Proposal(task=task, references=(actions,), origin=origin),
            refusal=None if reason is None else Refusal(reason=reason, detail=detail),
            reference=actions if was_played else (),
            start=base.data["text"] if was_played else None,
            probe=0.5 if reason is None else None,
        )

    def _replay(self, verdict: Verdict, number: int, place: int) -> Trajectory:
        task = verdict.proposal.task
        rng = random.Random(task.id)
        return self._episode(task, "target", 8, f"round-{number}/synthesis/replay-1/{place}/{task.id}/0", rng)


if __name__ == "__main__":
    import sys

    GrowingFolder(
        Path(sys.argv[1]),
        seeds=(0, 1, 2),
        num_rounds=60,
        num_train=60,
        num_test=60,
        num_tasks=12,
        every=10,
        num_proposals=24,
    ).write()
