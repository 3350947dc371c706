"""Gather the base model's corpus in the worlds that run in this process: scripted walks on their training tasks.

In: the worlds' own `walks`, which look around, try and err. Out: JSONL lines as `gather.py` writes them. Official texts
and evaluation tasks never enter: WebShop's walks go through the invented catalogue, InterCodeSQL's through our own
questions, and both through their training splits alone.

    python recipes/pretrain/gather_worlds.py --world webshop --out runs/pretrain/webshop --num-per-task 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sparring.core.types import Task
from sparring.envs.base import Env, load_benchmark

WORLDS = ("webshop", "intercode_sql")


def play(env: Env, task: Task, actions: Sequence[str]) -> list[dict[str, str]]:
    """Play a walk and return its turns, the last observation with an empty action."""
    turns, observation = [], env.reset(task, 0)
    for action in actions:
        turns.append({"observation": observation, "action": action})
        step = env.step(action)
        observation = step.observation
        if step.is_done:
            break
    return [*turns, {"observation": observation, "action": ""}]


def write_invented(description: str | None, walks: Callable[[int, int], Iterable[dict[str, Any]]], num: int) -> None:
    """Write the walks of `walks(seed, num)` to a folder, as the command line asks; `num` is how many by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the walks")
    parser.add_argument("--num-walks", type=int, default=num)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept, start = 0, time.monotonic()
    with (args.out / f"walks-{args.seed}.jsonl").open("w", encoding="utf-8") as file:
        for line in walks(args.seed, args.num_walks):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            kept += 1
    print(f"{kept} walks, {kept / (time.monotonic() - start):.2f} a second: {args.out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the walks")
    parser.add_argument("--num-per-task", type=int, default=1, help="walks per training task")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    benchmark: Any = load_benchmark(args.world)
    walks = import_module(f"sparring.envs.{args.world}.walks").walks
    args.out.mkdir(parents=True, exist_ok=True)
    env, num = benchmark.make_env(), 0
    with (args.out / f"walks-{args.seed}.jsonl").open("w", encoding="utf-8") as file:
        for task, actions in walks(benchmark, seed=args.seed, num_per_task=args.num_per_task):
            line = {"task": f"{args.world}/{task.id}", "walk": "scripted", "turns": play(env, task, actions)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            num += 1
    env.close()
    print(f"{num} walks: {args.out}")


if __name__ == "__main__":
    main()
