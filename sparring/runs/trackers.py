"""Experiment trackers: one small class over each library, none of which a run needs.

Each arm with each seed is a run of the tracker, in one group. A tracker's library is imported when it starts, and a
tracker that raises is named once and left alone from then on: training goes on, and the run's own files have it all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from sparring.core.errors import ConfigError, quote

FOLDER = "trackers"
"""In the run's folder: what trackers write that write files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """What a tracker is told of the run that it follows: one arm with one seed."""

    project: str
    """The recipe's name, or `run.project`."""
    group: str
    """The run's folder, which all its arms and seeds share."""
    name: str
    """Arm and seed: `eto-seed-0`."""
    id: str
    """The same when the run goes on, and unlike any other's."""
    config: Mapping[str, Any]
    """The arm's resolved config, with method and seed."""
    folder: Path
    """Where it may write: its own below the run's folder."""


class Tracker(Protocol):
    """A tracker, by name or as `package.module:Class`; it is made from a `Tracked`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics of a step; steps never fall, but those after the last saved state come again on resuming."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


class Wandb:
    """Weights & Biases; `WANDB_MODE=offline` keeps all on this machine, `wandb sync` sends it later."""

    module, install = "wandb", "wandb"

    def __init__(self, run: Tracked) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            group=run.group,
            name=run.name,
            id=run.id,
            resume="allow",
            config=dict(run.config),
            dir=str(run.folder),
            settings=wandb.Settings(console="off", silent=True, login_timeout=10),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, which keeps its runs on this machine (`TRACKIO_DIR`) unless `TRACKIO_SPACE_ID` names a Space."""

    module, install = "trackio", "trackio"

    def __init__(self, run: Tracked) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._run = trackio.init(
            project=run.project,
            name=f"{run.name}-{run.id}",
            group=run.group,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


class TensorBoard:
    """TensorBoard's event files: `tensorboard --logdir RUN/trackers/tensorboard`."""

    module, install = "tensorboard", "tensorboard"

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


class Mlflow:
    """MLflow; `MLFLOW_TRACKING_URI` names a server or a store, else a store of files below the run's folder."""

    module, install = "mlflow", "mlflow-skinny"

    def __init__(self, run: Tracked) -> None:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # it wants a database else
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        store = os.environ.get("MLFLOW_TRACKING_URI") or (run.folder.parent / "store").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=store)
        place = self._experiment(run.project)
        known = self._client.search_runs([place], filter_string=f"tags.`sparring.id` = '{run.id}'", max_results=1)
        tags = {"sparring.id": run.id, "sparring.group": run.group, "mlflow.runName": run.name}
        self._id = (known[0] if known else self._client.create_run(place, tags=tags)).info.run_id
        for key, value in () if known else flat(run.config).items():
            self._client.log_param(self._id, key, str(value)[:500])

    def _experiment(self, name: str) -> str:
        """Return an experiment's id; another job may have made it, or be about to."""
        for _ in range(2):
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            with contextlib.suppress(Exception):
                return self._client.create_experiment(name)
        return self._client.create_experiment(name)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=step)

    def finish(self) -> None:
        self._client.set_terminated(self._id)


KNOWN: Mapping[str, Any] = {"wandb": Wandb, "trackio": Trackio, "tensorboard": TensorBoard, "mlflow": Mlflow}


def check_trackers(names: Iterable[str]) -> None:
    """Refuse a tracker that can't start, before anything is written.

    Raises:
        ConfigError: it is unknown, its library is missing, or nobody is logged in where that is needed.
    """
    for name in dict.fromkeys(names):
        known = KNOWN.get(name)
        if known is None:
            _own(name)
        elif find_spec(known.module) is None:
            raise ConfigError(
                f"run.tracker: {name} is not installed: pip install {known.install} (or 'sparring[trackers]' for all)."
            )
        if name == "wandb" and os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
            _check_wandb_login()


def _check_wandb_login() -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    if not wandb.login(prompt=False, verify=False):  # asking would stop a run that nobody watches
        raise ConfigError("run.tracker: wandb: nobody is logged in. Run `wandb login`, or set WANDB_MODE=offline.")


def _own(name: str) -> Callable[[Tracked], Tracker]:
    """Import a tracker of the user's own."""
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ConfigError(
            f"run.tracker: unknown {quote(name)}. Known: {', '.join(KNOWN)}; or your own as package.module:Class."
        )
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ConfigError(f"run.tracker: can't import {module_name!r} ({error}). Is it on PYTHONPATH?") from None
    except AttributeError:
        raise ConfigError(f"run.tracker: module {module_name!r} has no class {class_name!r}.") from None


class Trackers:
    """The trackers of one arm with one seed. Use as a context manager."""

    def __init__(self, names: Sequence[str], run: Tracked, warn: Callable[[str], None]) -> None:
        """Start them.

        Args:
            names: which.
            run: what they follow.
            warn: told once of each that fails.
        """
        self._warn = warn
        self._live: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            make = KNOWN.get(name) or _own(name)
            own = name.rpartition(":")[2] if name not in KNOWN else name
            place = replace(run, folder=run.folder / own / run.name)
            self._try(name, lambda make=make, place=place, name=name: self._live.__setitem__(name, make(place)))

    def __bool__(self) -> bool:
        """Say whether any is at work."""
        return bool(self._live)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell all of them."""
        for name, tracker in list(self._live.items()):
            self._try(name, lambda tracker=tracker: tracker.log(metrics, step))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for name, tracker in list(self._live.items()):
            self._try(name, tracker.finish)

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is the results'
                act()
        except Exception as error:  # whatever a library raises must not end a training
            self._live.pop(name, None)
            what = str(error).strip().splitlines()
            self._warn(
                f"tracker {name} failed and is left out from here on: {type(error).__name__}"
                + (f": {what[0]:.200}" if what else "")
            )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
