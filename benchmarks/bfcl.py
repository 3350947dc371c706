"""BFCL episodes against the `bfcl-eval` package's own checker: references, silent agents, time and memory.

    python -m benchmarks.bfcl

Both sides play the references of all 800 multi-turn tasks and grade them. Ours also shows observations and reads its
calls from text, one an answer; the package evaluates them as Python and keeps every instance.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.measure import in_child, parse, peak, reset_peak, save, show


def ours(actions_of: Any) -> list[bool]:
    """Play all tasks with given actions and tell which succeed."""
    from sparring.envs.bfcl import BFCL, score

    tasks = BFCL().tasks("all")
    return [score(task, actions_of(task)).is_success for task in tasks]


def theirs() -> list[bool]:
    """Check the references of all tasks by themselves."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    from sparring.envs.bfcl import BFCL, wheel

    found = []
    for task in BFCL().tasks("all"):
        entry, calls = wheel.entries(task.kind)[task.data["entry"]], wheel.references(task.kind)[task.data["entry"]]
        answers = [[[call] for call in turn] for turn in calls]
        found.append(multi_turn_checker(answers, calls, entry, task.kind, "reference")["valid"])
    return found


def child(request: dict[str, Any]) -> dict[str, float]:
    """Play one side, after a few episodes that load what it needs."""
    from sparring.envs.bfcl import BFCL, expert, reference_of, score

    world = BFCL()
    experts = {task.id: expert(reference_of(task)) for task in world.tasks("all")}
    for task in world.tasks("all")[::20]:
        score(task, experts[task.id])
    before, started = reset_peak(), time.process_time()
    match request["side"]:
        case "sparring":
            solved = ours(lambda task: experts[task.id])
        case "silent":
            solved = ours(lambda task: ["done"] * 20)
        case _:
            solved = theirs()
    return {
        "solved": sum(solved),
        "tasks": len(solved),
        "cpu_s": time.process_time() - started,
        "actions": sum(map(len, experts.values())),
        "memory_mb": (peak() - before) / 2**20,
    }


def main() -> None:
    """Measure all sides and print the table."""
    parse(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), child)
    sides = {side: in_child("benchmarks.bfcl", {"side": side}) for side in ("sparring", "silent", "bfcl-eval")}
    rows = [[side, f"{one['solved']} of {one['tasks']}", one["cpu_s"], one["memory_mb"]] for side, one in sides.items()]
    show("All 800 tasks", ["side", "solved", "CPU-seconds", "MB grown"], rows)
    rate = sides["sparring"]["actions"] / sides["sparring"]["cpu_s"]
    print(f"\nActions per CPU-second, resets and grading included: {rate:.0f}")
    save("bfcl", sides)


if __name__ == "__main__":
    main()
