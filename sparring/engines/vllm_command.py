"""What a vLLM server is to serve, as a command and its environment. The flags are those of vLLM 0.32."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.core.errors import ConfigError
from sparring.policies.vllm.config import KEY_VARIABLE

if TYPE_CHECKING:
    from sparring.policies.vllm.config import VllmConfig

HOST = "127.0.0.1"
GUARD = Path(__file__).parent / "vllm_guard"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that `--max-lora-rank` takes."""
ADAPTERS_IN_BATCH = 2
"""Agents that are served at once: each takes an adapter's memory."""
ADAPTERS_HELD = 4
"""Adapters that the server has in memory at most: a new one is loaded before an old one goes."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server serves, and how."""

    model: str
    """Folder or Hub id of the base, or of full weights."""
    name: str
    """What requests call it."""
    dtype: str
    """`float32` or `bfloat16`."""
    max_model_len: int
    """Tokens of a prompt and its answer."""
    max_lora_rank: int | None
    """Largest rank of an adapter; none: no adapters."""
    deterministic: bool
    """One request at a time, and no prefix cache: the same requests get the same numbers."""
    on_gpu: bool
    """The learner's device is a GPU, which the server shares."""
    trust_remote_code: bool = False
    seed: int = 0


def command_of(config: VllmConfig, served: Served, port: int) -> list[str]:
    """Return the command that starts a server.

    Raises:
        ConfigError: there is no such Python, or vLLM has no room for such adapters.
    """
    flags: dict[str, object] = {
        "--served-model-name": served.name,
        "--host": HOST,
        "--port": port,
        "--dtype": served.dtype,
        "--max-model-len": served.max_model_len,
        "--seed": served.seed,
        "--logprobs-mode": "processed_logprobs",  # at the temperature and the bias that a token is drawn with
        "--generation-config": "vllm",  # sampling parameters never come from the model's folder
        "--middleware": "sparring_guard.Guard",
        "--tensor-parallel-size": config.tensor_parallel,
        "--data-parallel-size": config.data_parallel,
    }
    switches = ["--disable-uvicorn-access-log"]
    if served.max_lora_rank is not None:
        switches.append("--enable-lora")
        flags["--max-loras"] = ADAPTERS_IN_BATCH
        flags["--max-cpu-loras"] = ADAPTERS_HELD
        flags["--max-lora-rank"] = _rank(served.max_lora_rank)
    if served.on_gpu:
        flags["--gpu-memory-utilization"] = config.gpu_memory_utilization
    else:
        switches.append("--enforce-eager")  # compiling takes minutes on a CPU
    if sleeps(config, served):
        switches.append("--enable-sleep-mode")
    if served.deterministic:
        switches.append("--no-enable-prefix-caching")
        flags["--max-num-seqs"] = 1
    if served.trust_remote_code:
        switches.append("--trust-remote-code")
    words = [str(word) for flag in flags.items() for word in flag]
    serve = [python_of(config), "-m", "vllm.entrypoints.cli.main", "serve", _place(served.model)]
    return [*serve, *words, *switches, *config.extra_args]


def environment_of(config: VllmConfig, served: Served, api_key: str) -> dict[str, str]:
    """Return a server's environment: this process's, and what vLLM reads from there."""
    given = os.environ
    environment = {
        **given,
        KEY_VARIABLE: api_key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(GUARD), given.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # a folder `vllm` where the run was started is not the package
        "PYTHONFAULTHANDLER": "1",  # a crash leaves a line in the log
        "PYTHONUNBUFFERED": "1",
    }
    if Path(served.model).expanduser().is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if sleeps(config, served):
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    if not served.on_gpu:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the learner uses the same cores
    return environment


def sleeps(config: VllmConfig, served: Served) -> bool:
    """Say whether the server can give its memory back while agents train."""
    return served.on_gpu and config.sleep


def python_of(config: VllmConfig) -> str:
    """Return the Python that vLLM is installed for.

    Raises:
        ConfigError: it is not there.
    """
    if found := shutil.which(str(Path(config.python).expanduser())):
        return found
    raise ConfigError(
        f"vllm.python: there is no program {config.python!r}. Run `make setup-vllm`, which makes .venv-vllm, or name "
        "the Python of an environment that has vLLM."
    )


def _place(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model


def _rank(rank: int) -> int:
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise ConfigError(f"lora.rank: vLLM serves adapters of rank {RANKS[-1]} at most, and this is {rank}. Lower it.")
