"""ScienceWorld steps per CPU-second against the package's own `env.step`, and how they scale with processes.

    python -m benchmarks.env_steps

Both sides play the same episodes: gold paths of training variations in which one action in five is replaced by one of
another episode. Observations, scores and ends must be equal at every step. Both JVMs run with a constant identity hash,
without which no two loads of a variation agree. Time counts after a few episodes of warm-up, Java and Python together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.measure import in_child, parse, save, show

REPLACED = 0.2
HASH = {"JAVA_TOOL_OPTIONS": "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2"}


def make_episodes(num: int) -> list[tuple[str, int, list[str]]]:
    """Return (task type, variation, actions), the same ones each time."""
    from sparring.envs.scienceworld.benchmark import recorded_gold_paths

    rng = random.Random(0)
    paths = recorded_gold_paths()
    pool = sorted({action for path in paths.values() for action in path})
    chosen = rng.sample(sorted(paths), num)
    episodes = []
    for task in chosen:
        kind, _, variation = task.partition("/")
        actions = [rng.choice(pool) if rng.random() < REPLACED else action for action in paths[task]]
        episodes.append((kind, int(variation), actions))
    return episodes


class Ours:
    """A world of Sparring's."""

    def __init__(self) -> None:
        from sparring.envs.scienceworld.benchmark import ScienceWorldEnv

        self.env = ScienceWorldEnv()
        self.java = self.env.simulator._process.pid

    def reset(self, kind: str, variation: int) -> str:
        from sparring.envs.scienceworld.benchmark import make_task

        return self.env.reset(make_task(kind, variation), 0)

    def step(self, action: str) -> tuple[str, int, bool]:
        answer = self.env.step(action)
        return answer.observation, round(100 * answer.reward), answer.is_done


class Official:
    """The package's own world, driven as ETO drives it."""

    def __init__(self) -> None:
        from scienceworld import ScienceWorldEnv

        self.env = ScienceWorldEnv("", envStepLimit=10_000)
        self.java = self.env._gateway.java_process.pid

    def reset(self, kind: str, variation: int) -> str:
        self.env.load(kind, variation, "easy")
        observation, _ = self.env.reset()
        return f"{self.env.get_task_description()}\n\n{observation}"

    def step(self, action: str) -> tuple[str, int, bool]:
        observation, _, is_done, info = self.env.step(action)
        return observation, info["score"], is_done


def play(world: Any, episodes: Iterable[tuple[str, int, list[str]]], clock: Callable[[], float]) -> dict[str, Any]:
    """Play episodes to their end; return a digest of all that was seen, counts, and CPU-seconds."""
    seen, num_steps, reset_s, step_s = [], 0, 0.0, 0.0
    for kind, variation, actions in episodes:
        started = clock()
        record: list[Any] = [world.reset(kind, variation)]
        between = clock()
        for action in actions:
            record.append(world.step(action))
            num_steps += 1
            if record[-1][2]:
                break
        reset_s += between - started
        step_s += clock() - between
        seen.append(hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16])
    return {"seen": seen, "num_steps": num_steps, "reset_s": reset_s, "step_s": step_s}


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Play one side."""
    import psutil

    world = {"ours": Ours, "official": Official}[request["side"]]()
    java = psutil.Process(world.java)

    def clock() -> float:
        return sum(java.cpu_times()[:2]) + time.process_time()

    episodes = make_episodes(request["warmup"] + request["num"])
    play(world, episodes[: request["warmup"]], clock)
    found = play(world, episodes[request["warmup"] :], clock)
    return {**found, "java_mb": java.memory_info().rss / 2**20}


def scaling(num_envs: int, num: int, warmup: int) -> float:
    """Return steps per second of wall-clock time with some envs side by side, after warm-up."""
    from sparring.envs.pool import EnvPool
    from sparring.envs.scienceworld.benchmark import make_task

    episodes = make_episodes(warmup + num)

    def run(pool: EnvPool, slot: int, part: list[Any]) -> int:
        steps = 0
        for kind, variation, actions in part:
            pool.reset(slot, make_task(kind, variation), 0).result()
            for action in actions:
                steps += 1
                if pool.step(slot, action).result().is_done:
                    break
        return steps

    from concurrent.futures import ThreadPoolExecutor

    with EnvPool("scienceworld", {}, num_envs=num_envs) as pool, ThreadPoolExecutor(num_envs) as threads:
        list(threads.map(lambda slot: run(pool, slot, episodes[:warmup]), range(num_envs)))
        started = time.perf_counter()
        steps = sum(threads.map(lambda slot: run(pool, slot, episodes[warmup:]), range(num_envs)))
        return steps / (time.perf_counter() - started)


def main() -> None:
    """Compare both sides, print the tables and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num", type=int, default=200, help="episodes")
    parser.add_argument("--warmup", type=int, default=40, help="episodes before the clock starts")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4])
    args = parse(parser, child)
    sides = {}
    for side in ("ours", "official"):
        request = {"side": side, "num": args.num, "warmup": args.warmup}
        sides[side] = in_child("benchmarks.env_steps", request, env=HASH)
    ours, official = sides["ours"], sides["official"]
    equal = sum(a == b for a, b in zip(ours["seen"], official["seen"], strict=True))
    rows = []
    for side, found in sides.items():
        per_step, per_reset = found["step_s"] / found["num_steps"], found["reset_s"] / args.num
        episode = (found["step_s"] + found["reset_s"]) / args.num
        rows.append([side, 1000 * per_step, 1000 * per_reset, 1000 * episode, found["java_mb"]])
    rows.append(["ratio", *(theirs / mine for mine, theirs in zip(rows[0][1:4], rows[1][1:4], strict=True)), ""])
    header = ["", "ms a step", "ms a reset", "ms an episode", "Java, MB"]
    show(f"{equal} of {args.num} episodes equal, {ours['num_steps']} steps; CPU-milliseconds", header, rows)
    speeds = {num: scaling(num, args.num // 4, args.warmup) for num in args.processes}
    first = speeds[args.processes[0]]
    show("Processes", ["envs", "steps/s", "ratio"], [[num, speed, speed / first] for num, speed in speeds.items()])
    for found in sides.values():
        found.pop("seen")
    save("env_steps", {"num": args.num, "num_equal": equal, "sides": sides, "steps_per_second": speeds})


if __name__ == "__main__":
    main()
