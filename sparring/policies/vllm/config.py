"""Where agents' actions are drawn, and how vLLM servers are reached or started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sparring.core.convert import check_values
from sparring.core.errors import ConfigError
from sparring.core.ranges import ADJUSTABLE, ADJUSTABLE_WITH_NOTE, Deadline, Place, PositiveShare, Range, Retries
from sparring.policies.transport import check_address

Devices = Annotated[int, Range(at_least=1, at_most=1024), ADJUSTABLE_WITH_NOTE]
Tolerance = Annotated[float, Range(above=0, at_most=100)]

KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable with the servers' API key: vLLM reads the same one."""
TAKE_ADAPTERS = (
    "vllm.base_urls: running servers take new adapters, not new weights. Set lora.rank, or vllm.launch = true, which "
    "starts a server again on each new checkpoint."
)
FORBIDDEN_ARGS = {
    "--trust-remote-code": "set model.trust_remote_code if you have read the model's code",
    "--host": "a server that Sparring starts listens on the loopback alone",
    "--port": "a free one is taken",
    "--uds": "a server that Sparring starts listens on the loopback alone",
    "--api-key": f"put it into the environment variable {KEY_VARIABLE}",
    "--served-model-name": "it is the run's model.path",
    "--middleware": "it would run code inside the server",
}


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Who draws the agents' actions."""

    kind: Literal["local", "vllm"] = "local"
    """`local`: the model in this process. `vllm`: vLLM servers (docs/vllm.md)."""
    deterministic: bool = False
    """With `vllm`: one request at a time, so that a run gives the same numbers each time on one machine. Slow."""

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """The vLLM servers: those that run already, or one that is started here.

    `base_urls`, `python` and `extra_args` say what runs on this machine and where data is sent: they stand on the
    command line alone, never in a recipe.
    """

    base_urls: Annotated[tuple[str, ...], ADJUSTABLE_WITH_NOTE] = ()
    """Addresses of running servers, for instance `http://gpu1:8000`. They see the run's folder at its path."""
    launch: Annotated[bool, ADJUSTABLE_WITH_NOTE] = False
    """Start `vllm serve` on this machine, and end it with the run. Its log is `vllm.log` in the run's folder."""
    python: Annotated[Place, ADJUSTABLE_WITH_NOTE] = ".venv-vllm/bin/python"
    """Python of the environment that vLLM is installed in (`make setup-vllm` makes `.venv-vllm`)."""
    gpu_memory_utilization: Annotated[PositiveShare, ADJUSTABLE_WITH_NOTE] = 0.5
    """Share of each GPU's memory that a started server takes. Training needs the rest, unless the server sleeps."""
    tensor_parallel: Devices = 1
    """GPUs that a started server splits the model over."""
    data_parallel: Devices = 1
    """Copies of the model that a started server runs, each on its own GPUs."""
    sleep: Annotated[bool, ADJUSTABLE_WITH_NOTE] = True
    """A started server on a GPU gives its memory back while agents train."""
    extra_args: Annotated[tuple[str, ...], ADJUSTABLE_WITH_NOTE] = ()
    """Further words for `vllm serve`, for instance `--kv-cache-dtype fp8`."""
    startup_s: Annotated[Deadline, ADJUSTABLE] = 900.0
    """Seconds within which a started server must answer."""
    timeout_s: Annotated[Deadline, ADJUSTABLE] = 600.0
    """Seconds within which an answer must be there in full."""
    max_retries: Annotated[Retries, ADJUSTABLE] = 5
    """How often a request is sent again after a timeout, a broken connection, or status 408, 409, 425, 429 or 5xx."""
    tolerance: Annotated[Tolerance | None, ADJUSTABLE_WITH_NOTE] = None
    """Largest mean difference between a server's log-probabilities and the learner's that the probe after each publish
    lets pass; none: 0.001 in float32, 0.05 in half precision."""

    def __post_init__(self) -> None:
        """Refuse addresses that are none, and words that would open the server or run code."""
        check_values(self)
        for url in self.base_urls:
            check_address(url, "base_urls")
        for word in self.extra_args:
            given = word.partition("=")[0].replace("_", "-")
            for name, remedy in FORBIDDEN_ARGS.items():
                if len(given) > 2 and name.startswith(given):  # vLLM takes a name's beginning for it
                    raise ValueError(f"extra_args: {name} can't be set there: {remedy}")


def check_servers(sampler: SamplerConfig, config: VllmConfig, where: str = "") -> None:
    """Refuse a sampler that has no servers, or two kinds of them.

    Raises:
        ConfigError: the message begins with `where`.
    """
    if sampler.kind == "vllm" and bool(config.base_urls) == config.launch:
        raise ConfigError(
            f"{where}sampler.kind: vllm takes either running servers (--vllm.base_urls URL …), or one that is started "
            "here (vllm.launch = true)."
        )
