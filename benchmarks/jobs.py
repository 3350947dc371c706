"""What `--jobs N` costs and brings: wall time and CPU time by kind of process, one job after another and side by side.

    python -m benchmarks.jobs --recipe recipes/quickstart.toml --jobs 1 2 -- --seeds 0 1

Each run has a folder of its own, which is deleted; results must be equal to the byte. Give the machine nothing else to
do: CPU time grows where others share its caches. What follows `--` goes to `sparring run`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.measure import ROOT, save, show

LOOK_EVERY_S = 0.5
"""Seconds between two looks at the processes; what one uses after the last look is not seen."""
KINDS = ("the run", "workers", "envs", "simulators")


def main() -> None:
    """Run a recipe for each number of jobs, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--recipe", default="recipes/quickstart.toml")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    args, words = parser.parse_known_args()
    rows, results = [], set()
    for jobs in args.jobs:
        with tempfile.TemporaryDirectory() as folder:
            found, result = measure([args.recipe, "--jobs", str(jobs), *(one for one in words if one != "--")], folder)
        rows.append({"jobs": jobs, **found})
        results.add(result)
    header = ["jobs", "wall, s", "CPU, s", *(f"{kind}, CPU-s" for kind in KINDS)]
    show("Arms and seeds side by side", header, [list(row.values()) for row in rows])
    print(f"\nResults are {'equal' if len(results) == 1 else 'DIFFERENT'}.")
    save("jobs", {"recipe": args.recipe, "words": words, "rows": rows, "are_equal": len(results) == 1})


def measure(words: list[str], folder: str) -> tuple[dict[str, float], bytes]:
    """Run a recipe into a folder; return seconds of wall and CPU time, and its results."""
    out, started = Path(folder) / "run", time.monotonic()
    command = [sys.executable, "-m", "sparring", "run", *words, "--out", str(out), "-q"]
    run = subprocess.Popen(command, cwd=ROOT)
    used: dict[tuple[int, float], tuple[str, float]] = {}
    while run.poll() is None:
        look(psutil.Process(run.pid), used)
        time.sleep(LOOK_EVERY_S)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {run.returncode}.")
    by_kind = dict.fromkeys(KINDS, 0.0)
    for kind, seconds in used.values():
        by_kind[kind] += seconds
    figures = {"wall_s": time.monotonic() - started, "cpu_s": sum(by_kind.values()), **by_kind}
    return {name: round(value, 1) for name, value in figures.items()}, (out / "results.json").read_bytes()


def look(root: psutil.Process, used: dict[tuple[int, float], tuple[str, float]]) -> None:
    """Note what each process below one, and itself, has used so far."""
    try:
        below = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in below:
        try:
            times = process.cpu_times()
            key, words = (process.pid, process.create_time()), process.cmdline()
            kind = kind_of(words) if words or key not in used else used[key][0]  # one that has ended has no words
            used[key] = (kind, times.user + times.system)
        except psutil.Error:  # it has just ended
            continue


def kind_of(words: list[str]) -> str:
    """Say what a process is, by its command line."""
    if words and Path(words[0]).name == "java":
        return "simulators"
    return {"sparring.envs.worker": "envs", "sparring.runs.worker": "workers"}.get((words[3:4] or [""])[0], "the run")


if __name__ == "__main__":
    main()
