"""What threads bring to a training step: OpenMP in every product, and passes side by side with one thread each.

    python -m benchmarks.threads --run runs/quickstart

Both clone the same experts of a run in the same steps: once with OpenMP's threads in each forward and backward pass,
one pass after another, and once as Sparring does it. The losses of all steps are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.measure import in_child, parse, save, show
from benchmarks.training import load

NUM = 96
"""Demonstrations."""
NUM_WARM_UP = 16
THREADS = (1, 2, 4)


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Clone the experts for an epoch, after two steps that are not counted."""
    from sparring.data.batches import Group
    from sparring.engines.learner import LocalLearner
    from sparring.learning.objectives import SFTObjective
    from sparring.learning.trainer import Start, TrainConfig, Watch, fit
    from sparring.models import threads

    if not request["is_side_by_side"]:
        threads.SideBySide = lambda num_threads: None  # pyright: ignore (the forward itself stays as it is)
        threads.one_thread = nullcontext
    model, _, tasks = load(Path(request["run"]))
    groups = [Group(task_id=task, nodes=(found[0],)) for task, found in tasks.items()][:NUM]
    config = TrainConfig(lr=1e-4, epochs=1, batch_size=8)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        learner, start = LocalLearner(model), Start(seed=0, state_dir=Path(folder) / "warm-up")
        fit(learner, groups[:NUM_WARM_UP], SFTObjective(), config, start)
        wall, cpu = time.monotonic(), time.process_time()
        fit(
            learner,
            groups,
            SFTObjective(),
            config,
            Start(seed=0, state_dir=Path(folder) / "measured"),
            Watch(log=lambda record: losses.append(record["loss"])),
        )
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "losses": losses}


def main() -> None:
    """Measure all numbers of threads, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default="runs/quickstart")
    args = parse(parser, child)
    found, rows = [], []
    for num in THREADS:
        openmp, ours = (
            in_child("benchmarks.threads", {"run": args.run, "is_side_by_side": is_side_by_side}, threads=num)
            for is_side_by_side in (False, True)
        )
        gap = max(abs(a - b) for a, b in zip(openmp.pop("losses"), ours.pop("losses"), strict=True))
        found.append({"threads": num, "openmp": openmp, "side_by_side": ours, "loss_gap": gap})
        times = [side[key] for key in ("wall_s", "cpu_s") for side in (openmp, ours)]
        rows.append([num, *times, openmp["wall_s"] / ours["wall_s"], gap])
    header = [
        "threads",
        "OpenMP, s",
        "side by side, s",
        "OpenMP, CPU-s",
        "side by side, CPU-s",
        "ratio of s",
        "loss gap",
    ]
    show(f"Cloning {NUM} demonstrations once", header, rows)
    save("threads", {"num": NUM, "threads": found})


if __name__ == "__main__":
    main()
