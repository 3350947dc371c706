"""Ranks as forks of one process that has loaded torch already: a group costs seconds less than under `torchrun`.

`python -m tests.engines.ranked NUM_RANKS[,NUM_RANKS…] FUNCTION FOLDER` calls a function of `tests.engines.rank_checks`
on the first rank, with its leader; what it returns is printed as JSON, a line for each number of ranks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.command_line import ENVIRONMENT, ROOT


def run(ranks: str, function: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run this module."""
    command = [sys.executable, "-m", "tests.engines.ranked", ranks, function, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def call(ranks: str, function: str, folder: Path) -> list[Any]:
    """Run this module, and return what the function returned for each number of ranks."""
    done = run(ranks, function, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fork_ranks(world: int, function: str, folder: Path) -> bool:
    """Run a group of ranks to its end; say whether all of them ended well."""
    port, children = free_port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                _be(rank, function, folder)
                code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return not any(codes)


def _be(rank: int, function: str, folder: Path) -> None:
    import traceback

    from sparring.engines.fsdp.engine import Leader
    from sparring.engines.fsdp.group import Group
    from sparring.runs.ranks import follow, sent_kinds
    from tests.engines import rank_checks

    try:
        rank_checks.spoil(rank, function)
        if rank:
            follow()
            return
        leader = Leader(Group(), sent_kinds())
        found = getattr(rank_checks, function)(leader, folder)
        leader.group.end()
        print(json.dumps(found), flush=True)
    except BaseException:
        traceback.print_exc()
        raise


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

    from sparring.engines.fsdp import engine, host, learner
    from sparring.learning import objectives, policy_gradient
    from tests.engines import rank_checks

    torch.set_num_threads(1)
    assert all((AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM, engine, host, learner))
    assert all((objectives, policy_gradient, rank_checks))
    folder = Path(sys.argv[3])
    rank_checks.prepare(folder)
    done = [fork_ranks(int(world), sys.argv[2], folder) for world in sys.argv[1].split(",")]
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
