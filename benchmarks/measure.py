"""What all benchmarks share: sides in processes of their own, CPU-seconds, peak memory, tables, results as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent


def in_child(module: str, request: Mapping[str, Any], *, threads: int = 1, env: Mapping[str, str] | None = None) -> Any:
    """Run `python -m MODULE --child < REQUEST` and return the JSON on its last line; what it prints besides is dropped.

    Raises:
        RuntimeError: it failed; the message has its last words.
    """
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--child"],
        input=json.dumps(request),
        cwd=ROOT,
        env={**os.environ, **settings, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed on {json.dumps(request)[:1000]}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def parse(parser: argparse.ArgumentParser, child: Callable[[Any], Any]) -> argparse.Namespace:
    """Read the command line; in a process that `in_child` started, answer its request and end."""
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.child:
        return args
    with contextlib.redirect_stdout(sys.stderr):
        result = child(json.load(sys.stdin))
    print(json.dumps(result))
    sys.exit()


def reset_peak() -> int:
    """Forget the peak of this process's memory (Linux), and return what it holds now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Return the most memory that this process held since `reset_peak`, in bytes."""
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


class Clock:
    """Seconds of the GPU's clock or of this process."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def __call__(self) -> float:
        """Return seconds since some moment, once all work is done."""
        import torch

        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.monotonic()


def machine() -> dict[str, Any]:
    """Describe where and with what the figures were taken."""
    import torch
    import transformers

    import sparring

    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sparring": sparring.__version__,
    }


def save(name: str, results: Mapping[str, Any]) -> None:
    """Write a benchmark's results beside the others'."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    print(f"\n{path.relative_to(ROOT)}")


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, in Markdown."""
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
