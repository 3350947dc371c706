"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError
from sparring.envs import cluster

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # this and the next: as the command line does
os.environ.setdefault("MKL_CBWR", "AUTO")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test models are tiny: threads that wait for each other only cost time

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; its children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch knows as CUDA")


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """Python of the environment that has vLLM: SPARRING_VLLM_PYTHON, or `.venv-vllm` beside the package."""
    own = Path(__file__).resolve().parents[1] / ".venv-vllm" / "bin" / "python"
    python = os.environ.get("SPARRING_VLLM_PYTHON") or str(own)
    if not Path(python).exists():
        pytest.skip(f"needs vLLM; there is no {python} (`make setup-vllm`, or set SPARRING_VLLM_PYTHON)")
    return python


@pytest.fixture(scope="session")
def skyrl_python() -> str:
    """Python of the environment that has SkyRL: SPARRING_SKYRL_PYTHON, or `.venv-skyrl` beside the package."""
    pytest.importorskip("tinker", reason="needs the Tinker client (pip install 'sparring[tinker]')")
    own = Path(__file__).resolve().parents[1] / ".venv-skyrl" / "bin" / "python"
    python = os.environ.get("SPARRING_SKYRL_PYTHON") or str(own)
    if not Path(python).exists():
        pytest.skip(f"needs SkyRL; there is no {python} (`make setup-skyrl`, or set SPARRING_SKYRL_PYTHON)")
    return python


@pytest.fixture(scope="session")
def ray() -> Any:
    """Ray, imported as pools do it: with its own settings it would end this process a minute after a cluster is lost,
    in the middle of another test."""
    try:
        return cluster._import_ray()  # pyright: ignore
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ray_cluster(ray: Any) -> Iterator[None]:
    """A Ray cluster on this machine, which pools on Ray find and leave running; other files bring their own."""
    found = cluster.Cluster(1)
    yield
    found.close()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def each_pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test twice: with its module's `EnvPool` on this machine, and on a Ray cluster."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        monkeypatch.setattr(request.module, "EnvPool", cluster.ClusterPool)
    return request.param


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with data that does not ship: SPARRING_DATA, or `../shared/data` beside the repository."""
    given = os.environ.get("SPARRING_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs data files; {folder} is not there (set SPARRING_DATA)")
    return folder
