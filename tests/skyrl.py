"""SkyRL's Tinker server on JAX and a CPU, as a process of its own that tests may kill and start again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

BACKEND = {
    "max_lora_adapters": 16,
    "max_lora_rank": 8,
    "train_micro_batch_size": 1,
    "sample_max_num_sequences": 4,
}


class SkyRL:
    """The server, which may be killed and started again on the same states; what it compiled is kept, too."""

    def __init__(self, python: str, model: Path, work: Path) -> None:
        self.python, self.model, self.work = Path(python), model, work
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        venv = self.python.parents[1]
        command = [
            venv / "bin/uv",
            "run",
            "--active",
            "--no-project",
            "--python",
            self.python,
            "-m",
            "skyrl.tinker.api",
        ]
        command += ["--base-model", self.model, "--host", "127.0.0.1", "--port", self.port, "--backend", "jax"]
        command += ["--backend-config", json.dumps(BACKEND), "--checkpoints-base", self.work / "states"]
        command += ["--database-url", f"sqlite:///{self.work / 'tinker.db'}"]
        surroundings = os.environ | {"JAX_PLATFORMS": "cpu", "VIRTUAL_ENV": str(venv), "HF_HUB_OFFLINE": "1"}
        surroundings |= {"JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled")}
        surroundings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        surroundings["PATH"] = f"{venv / 'bin'}:{os.environ['PATH']}"
        with (self.work / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), env=surroundings, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(300):
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/api/v1/healthz", timeout=2).is_success:
                    return
            assert self.process.poll() is None, (self.work / "server.log").read_text()[-2000:]
            time.sleep(1)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
