"""Env processes on a Ray cluster: each is a child of an actor, and the actors are spread over the cluster's nodes.

An actor holds what a pool holds on this machine, the env process with its pipe (`processes.py`), and passes lines on.
So a world gets the same confined process wherever it runs, and an actor that is lost takes its env process with it.
What travels is text, bytes and numbers; that Ray serialises with cloudpickle between its own processes makes a cluster
a matter of trust, as its documentation says.

This module alone imports Ray, at first use.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparring.core.errors import ClusterError, ConfigError, EnvFault, quote
from sparring.envs.base import Benchmark, num_cores
from sparring.envs.faults import MAX_MESSAGE
from sparring.envs.pool import EnvPool
from sparring.envs.processes import CLOSE_DEADLINE_S, RELAY, LocalWorkers, WorkerProcess
from sparring.envs.variables import clean_environment, portable_environment

ACTOR_DEADLINE_S = 120.0
"""Seconds within which the cluster must have started an actor: a free core, a Python process, the imports."""
RETRY_S = 1.0
"""Seconds between two tries to start one."""
GRACE_S = 10.0
"""Seconds that an answer may take beyond the env's own deadline; then its node is given up."""
KILL_DEADLINE_S = 5.0
"""Seconds an actor has to kill its env process; then it is killed itself, and the env process ends by that."""
KNOCK_DEADLINE_S = 10.0
"""Seconds within which a cluster's head must take a connection."""
LOOK_DEADLINE_S = 15.0
"""Seconds within which the cluster must say that it lives."""
SHARE_IN_USE = 0.5
"""Share of the cluster's cores that the actors ask for together: what is left takes those of a node that is lost."""
LEAST_SHARE = 1e-4
"""Smallest share of a core that Ray can count."""
OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a cluster that is started here: what travels is small."""
SETTINGS = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_gcs_rpc_server_reconnect_timeout_s": "1000000"}
"""What Ray reads of the environment as it is imported and as it starts. Without the first, what nodes report would go
to standard output; without the second, Ray ends this process a minute after the cluster's head was lost, whatever it
does then."""
OWN_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""Further ones for a cluster that is started here: no usage report, and env processes that come to their turn as they
would without Ray, which would let everything else go first."""
SHORT_FOLDER = "/tmp"
"""Where a cluster that is started here has its files: names of sockets may not be long."""


class Host:
    """The actor: holds one env process on its node."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the env process with the node's own places and the given settings."""
        # Ray kills an actor's own children as the actor ends, and would leave theirs: it gets the relay, and the env
        # process, whose pipe ends, takes all of its group along.
        self.process = WorkerProcess({**clean_environment(), **environment}, relay=RELAY)

    def ready(self) -> bool:
        """Say that the env process was started."""
        return True

    def ask(self, line: bytes, what: str, deadline_s: float) -> tuple[bool, bytes | str]:
        """Return (True, the answer) or (False, what failed): a fault travels as text."""
        try:
            return True, self.process.ask(line, what, deadline_s)
        except EnvFault as fault:
            return False, str(fault)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the env process and its children."""
        return LocalWorkers().cpu_seconds([self.process])

    def close(self) -> None:
        """Let the env process end."""
        self.process.close()

    def kill(self) -> None:
        """End the env process and its children."""
        self.process.kill()


class RemoteWorker:
    """The transport to an env process that an actor holds."""

    def __init__(self, cluster: Cluster, actor: Any) -> None:
        self.cluster, self.actor = cluster, actor

    def ask(self, line: bytes, what: str, deadline_s: float) -> bytes:
        is_answer, answer = self.cluster.get(self.actor.ask.remote(line, what, deadline_s), deadline_s + GRACE_S, what)
        if not is_answer:
            raise EnvFault(str(answer))
        return answer

    def close(self) -> None:
        self._end(self.actor.close, CLOSE_DEADLINE_S + KILL_DEADLINE_S)

    def kill(self) -> None:
        self._end(self.actor.kill, KILL_DEADLINE_S)

    def _end(self, how: Any, deadline_s: float) -> None:
        with contextlib.suppress(EnvFault, ClusterError):
            self.cluster.get(how.remote(), deadline_s, "its end")
        self.cluster.kill(self.actor)


class Cluster:
    """A Ray cluster: the one that RAY_ADDRESS names, else one on this machine that lives as long as this object.

    Make it in the main thread: what is started here ends with the thread that started it.
    """

    def __init__(self, num_envs: int, variables: Sequence[str] = ()) -> None:
        """Connect.

        Args:
            num_envs: how many env processes there are to be in all.
            variables: names of variables of this environment that they get besides the usual settings.

        Raises:
            ConfigError: Ray is not installed, or there is no cluster where RAY_ADDRESS says.
        """
        self.ray = _import_ray()
        self.num_envs, self.variables = num_envs, variables
        self.is_joined_here = not self.ray.is_initialized()
        self.folder = _connect(self.ray) if self.is_joined_here else None
        self.num_starting = max(1, int(self._num_cores()))

    def start(self) -> RemoteWorker:
        """Start an actor with an env process on one of the nodes.

        Raises:
            EnvFault: no node has started it within `ACTOR_DEADLINE_S`.
            ClusterError: the cluster is gone.
        """
        environment, until = portable_environment(self.variables), time.monotonic() + ACTOR_DEADLINE_S
        while True:
            actor = self._host().remote(environment)
            try:
                self.get(actor.ready.remote(), max(0.0, until - time.monotonic()), "its start")
                return RemoteWorker(self, actor)
            except EnvFault:  # for seconds, the cluster goes on to place actors on a node that is lost
                self.kill(actor)
                if time.monotonic() + RETRY_S > until:
                    raise
            except BaseException:
                self.kill(actor)
                raise
            time.sleep(RETRY_S)

    def _host(self) -> Any:
        share = min(1.0, SHARE_IN_USE * self._num_cores() / self.num_envs)
        options = {"num_cpus": max(LEAST_SHARE, round(share, 4)), "max_restarts": 0, "max_concurrency": 2}
        return self.ray.remote(Host).options(scheduling_strategy="SPREAD", **options)

    def cpu_seconds(self, transports: Sequence[RemoteWorker]) -> float:
        """Add up the CPU time of env processes, wherever they run; one that is being lost counts 0."""
        total, asked = 0.0, [one.actor.cpu_seconds.remote() for one in transports]
        for answer in asked:
            with contextlib.suppress(EnvFault):
                total += self.get(answer, LOOK_DEADLINE_S, "its CPU time")
        return total

    def _num_cores(self) -> float:
        return self.ray.cluster_resources().get("CPU", 0.0)

    def get(self, answer: Any, deadline_s: float, what: str) -> Any:
        """Wait for an actor's answer.

        Raises:
            EnvFault: it was late, or the actor or its node died.
            ClusterError: the cluster is gone.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(answer, timeout=deadline_s)
        except errors.GetTimeoutError:
            fault = f"The cluster did not answer {what} within {deadline_s:g} s."
        except errors.RayError as error:
            fault = f"The env's actor or its node was lost ({type(error).__name__})."
        self.check()
        raise EnvFault(fault)

    def kill(self, actor: Any) -> None:
        """End an actor at once; the env process that it holds ends with it."""
        with contextlib.suppress(Exception):  # it is dead already, or the cluster is
            self.ray.kill(actor)

    def check(self) -> None:
        """Ask the cluster whether it lives.

        Raises:
            ClusterError: it gave no answer within `LOOK_DEADLINE_S`.
        """
        alive = threading.Event()

        def look() -> None:
            with contextlib.suppress(Exception):
                if any(node["Alive"] for node in self.ray.nodes()):
                    alive.set()

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(LOOK_DEADLINE_S)
        if not alive.is_set():
            raise ClusterError("The Ray cluster is gone. Start it again, then the same command: the run goes on.")

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self.is_joined_here:
            self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class ClusterPool(EnvPool):
    """A pool whose envs run on a Ray cluster, those of worlds that would share this process included."""

    def _choose_workers(self, benchmark: Benchmark, num_envs: int, variables: Sequence[str]) -> Cluster:
        return Cluster(num_envs, variables)


def _import_ray() -> Any:
    try:
        with _set(SETTINGS):
            return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"env.pool: 'ray' needs Ray ({error}). Install it with: pip install 'sparring[ray]'"
        ) from None


def _connect(ray: Any) -> str | None:
    """Join the cluster that RAY_ADDRESS names (`auto`: the one that runs on this machine), or start one.

    Returns:
        The folder with the files of a cluster that was started, which only this user can read.

    Raises:
        ConfigError: no cluster answers there.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        try:
            _knock(address)
            with _set(SETTINGS):
                ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            why = _first_line(error)
            raise ConfigError(f"RAY_ADDRESS: can't join a Ray cluster at {quote(address)}: {why}") from None
        return None
    folder = tempfile.mkdtemp(prefix="sparring-ray-", dir=SHORT_FOLDER)
    with _set({**SETTINGS, **OWN_SETTINGS, "RAY_AUTH_TOKEN": _own_token()}):
        size = {"num_cpus": num_cores(), "object_store_memory": OBJECT_STORE_BYTES}
        ray.init("local", include_dashboard=False, _temp_dir=folder, **size, **quiet)
    return folder


@functools.cache
def _own_token() -> str:
    """Make the token of clusters that this process starts: Ray keeps its first one for as long as the process lives."""
    return secrets.token_hex(32)


def _knock(address: str) -> None:
    """See that something listens at `host:port`: Ray itself would try for minutes. Raises OSError or ValueError."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():
        raise ValueError("it is not host:port of a cluster's head, nor auto, nor local.")
    socket.create_connection((host.strip("[]"), int(port)), KNOCK_DEADLINE_S).close()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:MAX_MESSAGE]


@contextlib.contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for the processes that are started meanwhile."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
