"""How a co-evolution round grows: CPU-seconds and peak memory at 1, 4 and 16 times the tasks, and with more rollouts.

    python -m benchmarks.growth

The recipe is the tests' toy world with the bundled model, so that the world costs next to nothing and everything else
shows: rollouts, pairs, training, journals, evaluation, report. One round of Co-Evolving Agents, SFT included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import in_child, parse, peak, reset_peak, save, show

NUM_TASKS = 8
"""Training tasks at size 1."""
SIZES = (1, 4, 16)
ROLLOUTS = (1, 2, 4)
RECIPE = """
name = "growth"
[env]
id = "tests.toy_world:ToyWorld"
num_envs = 16
options = {{ size = {size} }}
[chat]
format = "action"
instruction = ""
max_context = 512
[rollout]
num_per_task = {num_per_task}
max_new_tokens = 8
temperature = 1.0
[sft]
lr = 1e-4
epochs = 1
[dpo]
epochs = 1
[partner]
start = "shared"
[loop]
rounds = 1
[fail]
min_pairs = 1
[eval]
num_tasks = 8
[arms.coevolving_agents]
method = "coevolving_agents"
"""


def child(request: dict[str, Any]) -> dict[str, float]:
    """Run the recipe once; start-up (imports, the first run at the smallest size) is not counted."""
    from sparring.core.progress import SilentProgress
    from sparring.runs.recipe import run_recipe
    from sparring.runs.recipe_files import load_recipe

    def run(size: int, num_per_task: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "growth.toml"
            recipe.write_text(RECIPE.format(size=size, num_per_task=num_per_task))
            before, started = reset_peak(), time.process_time()
            results = run_recipe(load_recipe(recipe), Path(folder) / "run", SilentProgress())
            cpu_s, memory = time.process_time() - started, peak() - before
            (arm,) = results["arms"].values()
            (counts,) = (entry["counts"] for entry in arm["seeds"]["0"]["pairs"] if entry["agent"] == "target")
            return {"cpu_s": cpu_s, "peak_mb": memory / 2**20, "num_pairs": sum(counts.values())}

    run(NUM_TASKS // 2, 1)
    return run(NUM_TASKS // 2 * request["size"], request["num_per_task"])


def main() -> None:
    """Measure all sizes, print the tables and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parse(parser, child)
    wanted = [(size, 1) for size in SIZES] + [(SIZES[1], num) for num in ROLLOUTS[1:]]
    rows, found = [], []
    for size, num_per_task in wanted:
        result = in_child("benchmarks.growth", {"size": size, "num_per_task": num_per_task})
        tasks = NUM_TASKS * size
        episodes = 2 * tasks * num_per_task
        found.append({"tasks": tasks, "num_per_task": num_per_task, "episodes": episodes, **result})
        cpu = [result["cpu_s"], 1000 * result["cpu_s"] / episodes]
        rows.append([tasks, num_per_task, episodes, result["num_pairs"], *cpu, result["peak_mb"]])
    header = ["tasks", "rollouts", "episodes", "pairs", "CPU-s", "CPU-ms an episode", "peak beyond the model, MB"]
    show("One round of Co-Evolving Agents on the toy world", header, rows)
    save("growth", {"rows": found})


if __name__ == "__main__":
    main()
