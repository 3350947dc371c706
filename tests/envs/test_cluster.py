"""Envs on a Ray cluster: what a lost node costs, what a lost cluster does, and what is refused at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparring.core.errors import ClusterError, ConfigError
from sparring.envs.base import EnvConfig
from sparring.envs.cluster import SHORT_FOLDER, ClusterPool
from sparring.envs.pool import EnvPool
from sparring.policies.base import Episode, Reply
from sparring.policies.scripted import RandomPolicy
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout
from tests.processes import is_alive, wait_until
from tests.toy_world import ToyWorld

WORLD = "tests.toy_world:ToyWorld"
ACTIONS = ["look", "press red", "press green", "press blue", "press white"]
NUM_ENVS = 4


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"env\.pool: 'ray' needs Ray.*pip install 'sparring\[ray\]'"):
        EnvPool.of(EnvConfig(id=WORLD, pool="ray"))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "message"),
    [("ray://head:10001", "not host:port"), ("head", "not host:port"), ("127.0.0.1:9", "refused")],
)
@pytest.mark.usefixtures("ray")
def test_an_address_without_a_cluster_is_refused(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS.*{message}"):
        ClusterPool(WORLD, num_envs=1)


class Killing:
    """Plays as another policy does, and kills a node the first time that an episode is at its third turn."""

    def __init__(self, inner: RandomPolicy, node: Any) -> None:
        self.inner, self.node = inner, node
        self.has_killed = False

    def act(self, episodes: Sequence[Episode], *, lane: int = 0) -> list[Reply]:
        if not self.has_killed and any(len(episode.turns) == 2 for episode in episodes):
            self.has_killed = True
            kill_node(self.node)
        return self.inner.act(episodes, lane=lane)

    def close(self, episode_id: str) -> None:
        self.inner.close(episode_id)


def kill_node(node: Any) -> None:
    """Kill all that runs on a node, as when the machine is switched off."""
    for started in (started for kind in node.all_processes.values() for started in kind):
        if psutil.pid_exists(started.process.pid):
            root = psutil.Process(started.process.pid)
            for process in [root, *root.children(recursive=True)]:
                process.kill()


@pytest.fixture
def nodes(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster as Nodes  # pyright: ignore[reportMissingImports]

    if ray.is_initialized():
        pytest.skip("another test's cluster is in use")
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    monkeypatch.setenv("RAY_ADDRESS", str(nodes.address))
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.ray
def test_a_node_that_is_lost_costs_retries_alone_and_a_lost_cluster_ends_it_with_one_message(nodes: Any) -> None:
    world = ToyWorld(size=6, num_turns=8, per_process=True)
    specs = episode_specs("r", world.tasks("train"), agent="target", seed=3, num_per_task=2)
    waves = cut_waves(specs, 6)
    with EnvPool(WORLD, {"size": 6}, num_envs=NUM_ENVS) as here:
        expected = rollout(RandomPolicy(0, ACTIONS), here, world, waves, num_slots=NUM_ENVS)
    _, second = nodes.list_all_nodes()
    killing = Killing(RandomPolicy(0, ACTIONS), second)
    with ClusterPool(WORLD, {"size": 6}, num_envs=NUM_ENVS) as pool:
        played = rollout(killing, pool, world, waves, num_slots=NUM_ENVS)
        assert killing.has_killed
        assert [replace(one, num_retries=0) for one in played] == expected
        assert {one.num_retries for one in played} == {0, 1}
        kill_node(nodes.head_node)
        with pytest.raises(ClusterError, match="The Ray cluster is gone"):
            rollout(RandomPolicy(0, ACTIONS), pool, world, waves, num_slots=NUM_ENVS)


@pytest.mark.ray
@pytest.mark.usefixtures("ray")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    before = set(Path(SHORT_FOLDER).glob("sparring-ray-*"))
    words = ["rollout", "--recipe", "examples/treasure.toml", "--policy", "random", "--env.pool", "ray"]
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sparring",
            *words,
            "--rollout.num_per_task",
            "9999",
            "--out",
            str(tmp_path / "out.jsonl"),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    below: list[psutil.Process] = []

    def has_envs() -> bool:
        below[:] = psutil.Process(run.pid).children(recursive=True)
        return any(one.cmdline()[1:4] == ["-P", "-m", "sparring.envs.worker"] for one in below if is_alive(one))

    try:
        wait_until(has_envs, 300)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
    finally:
        run.kill()
    wait_until(lambda: not any(is_alive(one) for one in below))
    assert set(Path(SHORT_FOLDER).glob("sparring-ray-*")) == before
