"""The command line in forks of one process that has loaded torch already: a start costs milliseconds, not seconds.

Each fork is a process of its own, with a session of its own as under a terminal, that calls `sparring.cli.main` and can
be signalled from outside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
BARELY_LOADING = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""What the command line sets before it loads transformers, which here is loaded already."""

SERVER = """
import json, os, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM
import sparring.cli.commands, sparring.cli.eval, sparring.cli.run
import sparring.policies.local.policy, sparring.report, sparring.runs.recipe
import sparring.learning.trainer, sparring.runs.session
from sparring.cli.main import main

print("ready", flush=True)
for line in sys.stdin:
    words, folder = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, name in enumerate((os.devnull, f"{folder}/stdout", f"{folder}/stderr")):
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        main(words)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended; the code of one that was killed is the signal's number below zero."""

    code: int
    out: str
    errors: str


class CommandLine:
    """Runs commands one after another. Use as a context manager."""

    def __init__(self, folder: Path, *, within: Sequence[str] = ()) -> None:
        """`folder` gets what commands print; `within` are words before Python's, for instance of `unshare`."""
        self.folder = folder
        self.server = subprocess.Popen(
            [*within, sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=ENVIRONMENT | BARELY_LOADING,
        )
        self.child: psutil.Process | None = None

    def wait_until_ready(self) -> bool:
        """Say whether it started."""
        return self._answer() == "ready"

    def start(self, *words: str) -> psutil.Process:
        """Start a command, and return its process."""
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps([words, str(self.folder)]) + "\n")
        self.server.stdin.flush()
        self.child = psutil.Process(int(self._answer()))
        return self.child

    def end(self) -> Ended:
        """Wait for the command."""
        code = int(self._answer())
        self.child = None
        return Ended(code, *((self.folder / name).read_text() for name in ("stdout", "stderr")))

    def run(self, *words: str) -> Ended:
        """Run a command to its end."""
        self.start(*words)
        return self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child is not None and self.child.is_running():
            os.killpg(self.child.pid, signal.SIGKILL)
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()
