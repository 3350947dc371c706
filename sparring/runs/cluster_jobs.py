"""Jobs over a Ray cluster: each worker is a child of an actor on some node, which passes on what it tells.

All nodes see the run's folder, and whatever the recipe names, at the same paths. What travels is text and numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.envs.cluster import Cluster
from sparring.runs.jobs import Job
from sparring.runs.recipe_files import recipe_from_dict
from sparring.runs.side_by_side import Worker, WorkerEndedError
from sparring.runs.worker import GRACE_S

if TYPE_CHECKING:
    from sparring.runs.config import Recipe


class JobHost:
    """The actor: holds a worker on its node."""

    def __init__(self, recipe: dict[str, Any], folder: str, number: int, place: str) -> None:
        """Start the worker's process in a folder that all nodes see."""
        self._worker: Worker | None = None
        self._problem = ""
        try:
            os.chdir(place)
            self._worker = Worker(recipe_from_dict(recipe), Path(folder), number)
        except OSError as error:
            node = os.uname().nodename
            self._problem = f"node {node} does not see {error.filename or folder} ({error.strerror})"

    def do(self, seed: int, arm: str) -> Iterator[list[Any]]:
        """Yield what the worker tells of a job, and `["ended", why]` where it ends in the middle."""
        if self._worker is None:
            yield ["ended", self._problem]
            return
        try:
            yield from self._worker.do(Job(seed=seed, arm=arm))
        except WorkerEndedError as error:
            yield ["ended", str(error)]

    def hang_up(self) -> None:
        """Let the worker end."""
        if self._worker is not None:
            self._worker.hang_up()

    def end(self) -> None:
        """Wait until the worker has ended."""
        if self._worker is not None:
            self._worker.end()


class RemoteWorker:
    """A worker somewhere on the cluster; see `runs.side_by_side.Worker`."""

    def __init__(self, cluster: ClusterOfJobs, recipe: Recipe, folder: Path, number: int) -> None:
        self._cluster = cluster
        request = (recipe.to_dict(), str(folder.absolute()), number, str(Path.cwd()))
        self._actor = cluster.host.remote(*request)

    def do(self, job: Job) -> Iterator[list[Any]]:
        """Give it a job, and yield what it tells until the job has ended.

        Raises:
            WorkerEndedError: its process has ended, or its node is lost.
        """
        ray = self._cluster.ray
        try:
            for answer in self._actor.do.options(num_returns="streaming").remote(job.seed, job.arm):
                message = ray.get(answer)
                if message[0] == "ended":
                    raise WorkerEndedError(message[1])
                yield message
        except ray.exceptions.RayError as error:
            raise WorkerEndedError(f"its node was lost ({type(error).__name__})") from None

    def hang_up(self) -> None:
        """Let the process end: at once where it waits, else as at Ctrl-C."""
        with suppress(self._cluster.ray.exceptions.RayError):
            self._actor.hang_up.remote()

    def end(self) -> None:
        """Wait until the process has ended, and let the actor go."""
        ray = self._cluster.ray
        with suppress(ray.exceptions.RayError):
            ray.get(self._actor.end.remote(), timeout=2 * GRACE_S)
        self._cluster.kill(self._actor)


class ClusterOfJobs(Cluster):
    """A Ray cluster, the one that RAY_ADDRESS names or one on this machine, that does jobs."""

    def __init__(self, *, wants_gpu: bool) -> None:
        """Connect.

        Args:
            wants_gpu: each job gets a GPU, where the cluster has any.

        Raises:
            ConfigError: Ray is not installed, or there is no cluster where RAY_ADDRESS says.
        """
        super().__init__(1)
        found = self.ray.cluster_resources()
        num_gpus = int(found.get("GPU", 0)) if wants_gpu else 0
        self.num_slots = max(1, num_gpus or int(found.get("CPU", 0)))
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": min(1, num_gpus), "max_concurrency": 2}
        self.host = self.ray.remote(JobHost).options(scheduling_strategy="SPREAD", max_restarts=0, **options)
