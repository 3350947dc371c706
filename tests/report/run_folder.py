"""Writes a plausible run folder without training anything: a made-up house with animals in it, and agents of set skill.

The layout is the one that real runs have, so that the report, the tables and the exports can be tested, and looked at,
at any size. Same arguments, same files.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparring.analysis.failures import summarise_rollouts, to_json
from sparring.core.phases import Phase
from sparring.core.records import pair_to_json, trajectory_to_json
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

ROOMS = ("hallway", "kitchen", "workshop", "greenhouse", "art studio", "outside", "living room")
KINDS: Mapping[str, tuple[str, ...]] = {
    "find-animal": ("dove", "giant tortoise", "baby elephant", "wolf"),
    "find-plant": ("peach tree", "apple tree", "orange tree", "avocado tree"),
    "find-non-living-thing": ("steel table", "glass jar", "axe", "painting"),
    "lifespan-longest-lived": ("giant tortoise", "parrot", "crocodile", "elephant"),
}
LADDER = (0.0, 0.08, 0.17, 0.25, 0.5, 0.67, 0.75, 0.83, 1.0)
"""Rewards that an episode climbs through."""
TURN_LIMIT = 20

ARMS: Mapping[str, dict[str, Any]] = {
    "sft": {"method": "sft", "label": "SFT"},
    "rft": {"method": "rft", "label": "RFT"},
    "eto": {"method": "eto", "label": "ETO"},
    "coevolving_agents": {"method": "coevolving_agents", "label": "Co-Evolving Agents", "partner": "failure"},
    "coevolving_frozen": {"method": "coevolving_agents", "label": "frozen partner", "partner": "frozen"},
    "grpo": {"method": "grpo", "label": "GRPO"},
    "coevolve": {"method": "coevolve", "label": "CoEvolve"},
    "replay": {"method": "coevolve", "label": "replay only"},
}
"""The last three are written by `growing_folder`."""
SKILL_GAIN = {"sft": 0.0, "rft": 0.3, "eto": 0.35, "coevolving_agents": 0.7, "coevolving_frozen": 0.45}
SKILL_GAIN |= {"grpo": 0.12, "coevolve": 0.2, "replay": 0.14}  # there are more rounds of these
"""How much further up the ladder a round brings an arm's target agent."""

HOSTILE = (
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "' onmouseover='document.title=1' x='",
    "{{ 7 * 7 }} ${7*7} <!-- --> ]]> &amp; &lt;b&gt; \\u003c",
    "a\u2028b\u2029c\u0000d\u202ee\ud800f",
)
"""What a world or a model might write to break the page that shows it."""


@dataclass
class RunFolder:
    """Everything about the run that the tests choose."""

    folder: Path
    arms: Sequence[str] = ("sft", "eto", "coevolving_agents")
    seeds: Sequence[int] = (0,)
    num_rounds: int = 2
    num_train: int = 12
    num_test: int = 12
    num_steps: int = 6
    is_hostile: bool = False
    evaluates_partner: bool = True
    refreshes: bool = False
    """The partner plays a second time in each round, after its training."""
    branches: bool = False
    """The target's failures are played on from their middle, and make pivot pairs."""
    name: str = "quickstart"
    _timings: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> Path:
        """Write the folder and return it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self._config()
        self._json("config.json", config)
        self._json("versions.json", {"sparring": "0.1.0", "python": "3.11.7", "revision": "0123abc", "torch": "2.13.0"})
        self._jsonl("experts.jsonl", [trajectory_to_json(self._expert(task)) for task in self._tasks("train")])
        arms = {arm: {**self._arm(arm), "config": config["arms"][arm]} for arm in self.arms}
        about = {"name": self.name, "split": "test", "success_eps": 1e-6, "num_demonstrations": self.num_train}
        self._json("results.json", {**about, "num_eval_tasks": self.num_test, "arms": arms})
        self._jsonl("timings.jsonl", self._timings)
        return self.folder

    def _arm(self, arm: str) -> dict[str, Any]:
        about = ARMS[arm]
        seeds = {str(seed): self._seed(arm, seed) for seed in self.seeds}
        return {"method": about["method"], "label": about["label"], "digest": f"digest-of-{arm}", "seeds": seeds}

    def _seed(self, arm: str, seed: int) -> dict[str, Any]:
        results: dict[str, Any] = {"evaluations": [], "rollouts": [], "pairs": [], "training": []}
        agents = ["target", "partner"] if "partner" in ARMS[arm] else ["target"]
        for agent in agents:
            if self._claim(f"seed-{seed}/{arm}/sft-{agent}", f"seed-{seed}/shared/sft-{agent}-0123abcd"):
                self._done(f"seed-{seed}/{arm}/sft-{agent}", {"steps": 40})
                self._time(seed, arm, f"sft-{agent}", 61.0)
            if agent == "target" or self.evaluates_partner:
                self._evaluate(results, arm, seed, 0, agent)
        last = 0 if arm == "sft" else 1 if arm == "rft" else self.num_rounds
        for number in range(1, last + 1):
            played = {agent: self._rollout(results, arm, seed, number, agent) for agent in agents}
            trained = ["target"] if ARMS[arm].get("partner") == "frozen" else agents
            for agent in reversed(trained) if arm != "rft" else []:
                self._train(results, arm, seed, number, agent, played)
                if agent == "partner" and self.refreshes:
                    played["partner"] = self._rollout(results, arm, seed, number, "partner", part="-refreshed")
            for agent in agents if self.evaluates_partner else ["target"]:
                self._evaluate(results, arm, seed, number, agent)
        return results

    def _rollout(
        self, results: dict, arm: str, seed: int, number: int, agent: str, *, part: str = ""
    ) -> list[Trajectory]:
        phase = f"round-{number}/rollout-{agent}{part}"
        played = self._play(arm, seed, number, agent, "train", phase, spread=1.8)
        section = results.setdefault("refreshed" if part else "rollouts", [])
        section.append({"round": number, "agent": agent, **to_json(summarise_rollouts(played))})
        return played

    def _evaluate(self, results: dict, arm: str, seed: int, number: int, agent: str) -> None:
        phase = f"round-{number}/evaluate-{agent}"
        played = self._play(arm, seed, number, agent, "test", phase, spread=1.4)
        rewards = {t.task.id: t.reward for t in played if t.stop is not StopReason.ENV_FAULT}
        summary = to_json(summarise_rollouts(played))
        results["evaluations"].append({"round": number, "agent": agent, **summary, "rewards": rewards})

    def _play(
        self, arm: str, seed: int, number: int, agent: str, split: str, phase: str, *, spread: float
    ) -> list[Trajectory]:
        done = number if split == "test" or phase.endswith("-refreshed") else number - 1
        own = f"seed-{seed}/{arm}/{phase}"
        shared = None if done else f"seed-{seed}/shared/{phase.replace('/', '-')}-4567cdef"
        is_new = shared is None or self._claim(own, shared)
        is_failure_agent = agent == "partner" and ARMS[arm]["partner"] == "failure"
        gain = SKILL_GAIN[arm] if agent == "target" else 0.8 if is_failure_agent else 0.0
        skill = (5.6 if agent == "target" else 5.1) + done * gain
        cap = 7 if is_failure_agent and done else 8  # A trained failure agent stops short of success.
        played = []
        for i, task in enumerate(self._tasks(split)):
            rng = random.Random(f"{arm if done else ''}/{seed}/{phase}/{task.id}")
            level = max(0, min(cap, round(rng.gauss(skill, spread))))
            identifier = f"{phase}/{task.id}" + ("/0" if split == "train" else "")
            played.append(self._episode(task, agent, level, identifier, rng, is_broken=i == 3 and number == 1))
        if is_new:
            self._jsonl(f"{own}/trajectories.jsonl", [trajectory_to_json(t) for t in played])
            self._done(f"{own}", {"num": len(played)})
            self._time(seed, arm, phase, 0.4 * len(played), env_cpu_s=0.2 * len(played))
        return played

    def _claim(self, own: str, shared: str) -> bool:
        """Link an arm's phase to the seed's shared one; say whether it is still to be written."""
        link, target = self.folder / own, self.folder / shared
        is_new = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        return is_new

    def _episode(
        self, task: Task, agent: str, level: int, identifier: str, rng: random.Random, *, is_broken: bool = False
    ) -> Trajectory:
        expert = agent == "expert"
        thing, room = task.data["thing"], task.data["room"]
        moves = [("look around", 1), ("open door to kitchen", 1), (f"go to {room}", 3), ("look around", 3)]
        moves += [(f"focus on {thing}", 5), (f"pick up {thing}", 6), (f"go to {task.data['goal_room']}", 7)]
        moves += [(f"move {thing} to {task.data['box']}", 8)]
        turns: list[Turn] = []
        observation, reward = f"{task.data['text']}\n\n{self._look('hallway', rng, thing)}", 0.0
        wrong = f"The {rng.choice(ROOMS)} is not where you are."
        path = [move for move in moves if move[1] <= level]
        wander = [rng.choice(["look around", f"examine {thing}", "wait", "open cupboard"])] * rng.randint(2, 6)
        detours = [] if expert or level == 8 else [(action, 0) for action in wander]
        for action, rung in [*path, *detours]:
            reward = max(reward, LADDER[min(rung, level)])
            text = action if expert else f"Thought: I have seen {len(turns)} things.\nAction: {action}"
            if self.is_hostile and not expert:
                turns.append(Turn(observation=observation, text=HOSTILE[0], action=HOSTILE[1], reward=reward))
                text = f"Thought: {HOSTILE[len(turns) % len(HOSTILE)]}\nAction: {action}"
            ids = () if expert else tuple(range(5, 9))
            turns.append(Turn(observation=observation, text=text, action=action, reward=reward, token_ids=ids))
            looks = action == "look around"
            observation = self._look(room, rng, thing) if looks else f"You {action}." if rung else wrong
            if self.is_hostile:
                observation += HOSTILE[rng.randrange(len(HOSTILE))]
        stop = StopReason.DONE if level == 8 or expert else StopReason.TURN_LIMIT
        return Trajectory(
            id=identifier,
            task=task,
            agent=agent,
            turns=tuple(turns),
            final_observation=observation,
            reward=0.0 if is_broken else reward,
            stop=StopReason.ENV_FAULT if is_broken else stop,
            num_retries=2 if is_broken else 0,
            error="EnvFault: the world fell silent for 30 s" if is_broken else "",
        )

    def _expert(self, task: Task) -> Trajectory:
        return self._episode(task, "expert", 8, f"expert/{task.id}", random.Random(task.id))

    def _look(self, room: str, rng: random.Random, thing: str) -> str:
        things = ["the agent", "a substance called air", f"a {thing}", "a drawing", "a cupboard. The door is closed."]
        doors = "".join(f"\n\tA door to the {other} (that is open)" for other in ROOMS[:4] if other != room)
        return f"This room is called the {room}. In it, you see: \n\t" + "\n\t".join(things) + "\nYou also see:" + doors

    def _tasks(self, split: str) -> list[Task]:
        tasks = []
        for i in range(self.num_train if split == "train" else self.num_test):
            kind, things = list(KINDS.items())[i % len(KINDS)]
            rng = random.Random(f"{split}/{i}")
            thing, room, goal_room = rng.choice(things), rng.choice(ROOMS[2:]), rng.choice(ROOMS[:2])
            text = (
                f"Your task is to find the {thing}. First, focus on the thing. Then, move it to the red box in the "
                f"{goal_room}."
            )
            if self.is_hostile:
                text += HOSTILE[i % len(HOSTILE)]
            number = i // len(KINDS) + (0 if split == "train" else 100)
            data = {"thing": thing, "room": room, "goal_room": goal_room, "box": "red box", "text": text}
            tasks.append(Task(id=f"{kind}/{number}", kind=kind, data=data))
        return tasks

    def _train(
        self,
        results: dict,
        arm: str,
        seed: int,
        number: int,
        agent: str,
        played: Mapping[str, list[Trajectory]],
    ) -> None:
        phase = f"round-{number}/train-{agent}"
        pairs = self._pairs(agent, played)
        if agent == "target" and self.branches:
            pairs += self._pivots(results, arm, seed, number, played["target"])
        counts = {kind.value: sum(pair.kind is kind for pair in pairs) for kind in PairKind}
        kinds = [kind for kind, count in counts.items() if count]
        log = [self._step(step, kinds, random.Random(f"{arm}/{seed}/{phase}/{step}")) for step in range(self.num_steps)]
        folder = f"seed-{seed}/{arm}/{phase}"
        self._jsonl(f"{folder}/pairs.jsonl", [pair_to_json(pair) for pair in pairs])
        self._jsonl(f"{folder}/log.jsonl", log)
        tail = log[-max(1, len(log) // 3) :]
        metrics = {key: sum(line[key] for line in tail) / len(tail) for key in tail[0] if "/" in key}
        self._done(f"{folder}", {"steps": len(log), "metrics": metrics, "pairs": counts})
        self._time(seed, arm, phase, 55.0)
        results["pairs"].append({"round": number, "agent": agent, "counts": counts})
        results["training"].append({"round": number, "agent": agent, "steps": len(log), "metrics": metrics})

    def _pairs(self, agent: str, played: Mapping[str, list[Trajectory]]) -> list[PreferencePair]:
        experts = {task.id: self._expert(task) for task in self._tasks("train")}
        sides: list[tuple[PairKind, Trajectory, Trajectory]] = []
        for target, partner in zip(played["target"], played.get("partner", played["target"]), strict=True):
            if target.reward < partner.reward < 1:
                sides.append((PairKind.FAILURE_FAILURE, partner, target))
            for kind, side in ((PairKind.EXPERT_TARGET, target), (PairKind.EXPERT_PARTNER, partner)):
                if agent == "target" and side.agent == kind.value.split(">")[1] and side.reward < 1:
                    sides.append((kind, experts[side.task.id], side))
        return [
            PreferencePair(kind=k, chosen=c, rejected=r, chosen_turns=len(c.turns), rejected_turns=len(r.turns))
            for k, c, r in sides
        ]

    def _pivots(
        self, results: dict, arm: str, seed: int, number: int, played: Sequence[Trajectory]
    ) -> list[PreferencePair]:
        """Play the failures on from their middle, with success: the same beginning, then the expert's way."""
        phase, pairs = f"round-{number}/branch-target", []
        for failure in (one for one in played if one.reward < 1 and len(one.turns) > 3):
            turn = len(failure.turns) // 2
            rest = self._expert(failure.task).turns[-2:]
            seen = replace(rest[0], observation=failure.turns[turn].observation)
            chosen = replace(
                failure,
                id=f"{phase}/{failure.task.id}/0/0",
                turns=(*failure.turns[:turn], seen, *rest[1:]),
                reward=1.0,
                stop=StopReason.DONE,
                num_given=turn,
            )
            rejected = replace(failure, id=f"{failure.id}@{turn}", num_given=turn)
            num, most = len(chosen.turns), len(failure.turns)
            pair = PreferencePair(
                kind=PairKind.PIVOT,
                chosen=chosen,
                rejected=rejected,
                chosen_turns=num,
                rejected_turns=min(num + 1, most),
            )
            pairs.append(pair)
        tries = [pair.chosen for pair in pairs]
        self._jsonl(f"seed-{seed}/{arm}/{phase}/trajectories.jsonl", [trajectory_to_json(t) for t in tries])
        self._done(f"seed-{seed}/{arm}/{phase}", {"num": len(tries)})
        section = results.setdefault("branches", [])
        section.append({"round": number, "agent": "target", **to_json(summarise_rollouts(tries))})
        return pairs

    def _step(self, step: int, kinds: Sequence[str], rng: random.Random) -> dict[str, Any]:
        share = (step + 1) / self.num_steps
        line: dict[str, Any] = {"step": step + 1, "epoch": int(share * 2), "lr": 1e-5, "tokens": 2000}
        line |= {"loss": 0.7 - 0.3 * share, "grad_norm": 1.2}
        for kind in kinds:
            easy = 0.5 if kind == "failure>failure" else 1.6
            margin = easy * 4 * (1 - math.exp(-2 * share)) + rng.gauss(0, 0.4)
            line[f"{kind}/loss"] = math.log1p(math.exp(-0.3 * margin))
            line[f"{kind}/accuracy"] = min(1.0, max(0.0, 0.5 + 0.3 * easy * share + rng.gauss(0, 0.05)))
            line[f"{kind}/margin"] = margin
            line[f"{kind}/delta_chosen"] = -0.8 * share * easy + rng.gauss(0, 0.1)
            line[f"{kind}/delta_rejected"] = -0.8 * share * easy - margin
        return line

    def _config(self) -> dict[str, Any]:
        base = {
            "model": {"path": "sparring-worlds", "dtype": "auto"},
            "env": {"id": "scienceworld", "kinds": list(KINDS), "num_envs": 8},
            "rollout": {"num_per_task": 1, "temperature": 0.7},
            "sft": {"lr": 1e-3, "epochs": 3, "batch_size": 32},
            "dpo": {"lr": 2e-5, "epochs": 2, "batch_size": 32},
            "loss": {"variant": "dpo", "beta": 0.1, "sft_reduction": "mean"},
            "pairs": {"min_gap": 0.01, "max_extra_turns": 5},
            "loop": {"rounds": self.num_rounds},
            "eval": {"split": "test", "num_tasks": self.num_test, "num_resamples": 500},
            "analysis": {"hard_thresholds": [0.6, 0.7, 0.8]},
        }
        arms = {
            arm: {
                "method": ARMS[arm]["method"],
                "label": ARMS[arm]["label"],
                **base,
                "partner": {"kind": ARMS[arm].get("partner", "failure"), "start": "independent"},
            }
            for arm in self.arms
        }
        return {"name": self.name, "seeds": list(self.seeds), "arms": arms}

    def _time(self, seed: int, arm: str, phase: str, seconds: float, *, env_cpu_s: float = 0.0) -> None:
        times = {"wall_s": seconds, "cpu_s": 1.7 * seconds, "env_cpu_s": env_cpu_s}
        self._timings.append({"seed": seed, "arm": arm, "phase": phase, **times})

    def _done(self, phase: str, result: Mapping[str, Any]) -> None:
        Phase(self.folder / phase).finish(result)

    def _json(self, name: str, value: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def _jsonl(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        path.write_bytes(lines.encode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    import sys

    arms = ("sft", "rft", "eto", "coevolving_agents", "coevolving_frozen")
    RunFolder(Path(sys.argv[1]), arms=arms, seeds=(0, 1, 2), num_train=160, num_test=120, num_steps=60).write()
