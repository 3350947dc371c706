"""Record the simulator's gold paths of training variations, which take it about a second each to find.

In: task types. Out: the JSON file that `ScienceWorld.experts` looks into before it asks the simulator; its paths are
replayed and checked like any others. Killed, it goes on with the same command.

    python recipes/gold/record.py --kinds find-animal find-plant --num-processes 3
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparring.core.types import Task
from sparring.envs.scienceworld.benchmark import GOLD_PATHS, ScienceWorld


def record(tasks: list[Task], found: dict[str, list[str]], path: Path) -> None:
    """Ask one simulator for the gold paths of some tasks, and save after each."""
    env = ScienceWorld().make_env()
    try:
        for task in tasks:
            if task.id not in found:
                found[task.id] = env.gold_path(task)
                path.write_text(to_text(dict(sorted(found.copy().items()))), encoding="utf-8")
    finally:
        env.close()


def to_text(paths: dict[str, list[str]]) -> str:
    """Write a path a line, so that a change shows as one."""
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(path)}" for key, path in paths.items()) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", required=True)
    parser.add_argument("--num-processes", type=int, default=3, help="one JVM each")
    parser.add_argument("--out", type=Path, default=GOLD_PATHS)
    args = parser.parse_args()
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    tasks = [task for task in ScienceWorld().tasks("train") if task.kind in args.kinds]
    with ThreadPoolExecutor(args.num_processes) as threads:
        jobs = [tasks[i :: args.num_processes] for i in range(args.num_processes)]
        list(threads.map(lambda job: record(job, found, args.out), jobs))
    print(f"{len(found)} gold paths: {args.out}")


if __name__ == "__main__":
    main()
