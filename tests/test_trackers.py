"""Trackers get what the run's own files have, under TRL's names; none is needed, and none can end a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sparring.core.errors import ConfigError
from sparring.core.journal import read_journal, read_json
from sparring.core.progress import SilentProgress
from sparring.runs import trackers
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from sparring.runs.trackers import Tracked, Trackers, check_trackers
from sparring.runs.tracking import trl_metrics
from tests.tiny_models import toy_recipe

OWN = "tests.test_trackers:Recorder"
FAILING = "tests.test_trackers:Failing"


class Recorder:
    """A tracker of one's own, which writes lines."""

    def __init__(self, run: Tracked) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self.path = run.folder / "lines.jsonl"
        self.path.open("a").write(json.dumps({"id": run.id, "name": run.name, "method": run.config["method"]}) + "\n")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def finish(self) -> None:
        self.path.with_name("finished").touch()


class Failing:
    """A tracker that fails after its first step."""

    calls: ClassVar[list[int]] = []

    def __init__(self, run: Tracked) -> None:
        self.calls.clear()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append(step)
        if len(self.calls) > 1:
            raise RuntimeError("the server is gone\nand more")

    def finish(self) -> None:
        raise AssertionError("it was left out before")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe in the toy world, and its model."""
    return toy_recipe(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def plain(toy: Path) -> Path:
    """The run of ETO that nobody follows."""
    run_recipe(load_recipe(toy, arms=["eto"]), toy.parent / "plain", SilentProgress(), with_report=False)
    return toy.parent / "plain"


def followed(toy: Path, out: Path, *names: str, notes: list[str] | None = None, arm: str = "eto") -> dict[str, Any]:
    recipe = load_recipe(toy, {"run.tracker": names}, arms=[arm])
    progress = SilentProgress((notes if notes is not None else []).append)
    return run_recipe(recipe, out, progress, with_report=False)


def lines_of(out: Path, arm: str = "eto") -> list[dict[str, Any]]:
    path = out / f"trackers/Recorder/{arm}-seed-0/lines.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


# ── What they are told ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tracker_gets_every_step_and_every_reward(toy: Path, plain: Path, tmp_path: Path) -> None:
    results = followed(toy, tmp_path / "run", OWN)
    without = read_json(plain / "results.json")
    for one in (results, without):
        del one["arms"]["eto"]["config"]
    assert results == without
    head, *lines = lines_of(tmp_path / "run")
    assert (head["name"], head["method"]) == ("eto-seed-0", "eto")
    assert (tmp_path / "run/trackers/Recorder/eto-seed-0/finished").exists()
    cloning = read_journal(plain / "seed-0/eto/sft-target/log.jsonl")
    training = read_journal(plain / "seed-0/eto/round-1/train-target/log.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(cloning) + len(training) + 1))
    for line, record in zip(steps, [*cloning, *training], strict=True):
        assert (line["loss"], line["grad_norm"], line["learning_rate"]) == (
            record["loss"],
            record["grad_norm"],
            record["lr"],
        )
    assert {"rewards/margins", "rewards/accuracies", "rewards/chosen", "logps/chosen", "logps/rejected"} <= set(
        steps[-1]
    )
    evaluations = results["arms"]["eto"]["seeds"]["0"]["evaluations"]
    told = [line["eval/test/reward"] for line in lines if "eval/test/reward" in line]
    assert told == [one["mean"] for one in evaluations]
    assert sum("rollout/reward" in line for line in lines) == 1


def test_trls_names_and_beta_on_paper() -> None:
    record = {"step": 3, "epoch": 1, "lr": 0.1, "loss": 0.5, "grad_norm": 2.0, "tokens": 9, "stopped": "why"}
    record |= {"expert>target/num": 2, "expert>target/margin": 1.0, "expert>target/accuracy": 1.0}
    record |= {"failure>failure/num": 6, "failure>failure/margin": 5.0, "failure>failure/accuracy": 0.5}
    assert trl_metrics(record, 0.1) == {
        "epoch": 1,
        "learning_rate": 0.1,
        "loss": 0.5,
        "grad_norm": 2.0,
        "num_tokens": 9,
        "rewards/margins": pytest.approx(0.4),
        "rewards/accuracies": 0.625,
        "pairs/expert-target": 2,
        "pairs/failure-failure": 6,
    }


def test_the_partner_has_a_prefix_and_a_run_that_goes_on_counts_on(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    followed(toy, out, OWN, arm="coevolving_agents")
    first = lines_of(out, "coevolving_agents")
    assert any("partner/loss" in line for line in first)
    steps = [line["step"] for line in first if "loss" in line or "partner/loss" in line]
    assert steps == sorted(set(steps))
    phase = out / "seed-0/coevolving_agents/round-1/train-target"
    (phase / "done.json").unlink()
    followed(toy, out, OWN, arm="coevolving_agents")
    (head, *again) = lines_of(out, "coevolving_agents")[len(first) :]
    assert head["id"] == first[0]["id"]
    assert [line for line in again if "loss" in line] == [
        line for line in first if "loss" in line and line["round"] == 1
    ]


# ── None is needed ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tracker_that_raises_is_named_once_and_left_out(toy: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    followed(toy, tmp_path / "run", FAILING, OWN, notes=notes)
    told = [note for note in notes if "tracker" in note]
    assert told == [f"eto: tracker {FAILING} failed and is left out from here on: RuntimeError: the server is gone"]
    assert len(Failing.calls) == 2
    assert len(lines_of(tmp_path / "run")) > 3


def test_trackers_may_be_others_when_a_run_goes_on(toy: Path, plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    followed(toy, plain, OWN)
    assert read_json(plain / "config.json")["arms"]["eto"]["run"]["tracker"] == [OWN]
    assert "adjusted" not in read_json(plain / "versions.json")
    followed(toy, plain)
    assert "differ" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wand", "run.tracker: unknown 'wand'. Known: wandb, trackio, tensorboard, mlflow; or your own"),
        ("tests.test_trackers:None_", "module 'tests.test_trackers' has no class 'None_'"),
        ("tests.no_such:Tracker", "can't import 'tests.no_such'"),
    ],
)
def test_a_wrong_tracker_is_refused_before_anything_is_written(
    toy: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        followed(toy, tmp_path / "run", name)
    assert message in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.Mlflow, "module", "no_such_library")
    with pytest.raises(ConfigError, match=r"mlflow is not installed: pip install mlflow-skinny \(or 'sparring\[tra"):
        check_trackers(["mlflow"])


# ── The real ones ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read_tensorboard(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "trackers/tensorboard/arm-seed-0"))
    events.Reload()
    return {tag: [one.value for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_mlflow(folder: Path) -> dict[str, list[float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(folder / "trackers/mlflow/store").as_uri())
    (place,) = [one.experiment_id for one in client.search_experiments() if one.name == "toy"]
    (run,) = client.search_runs([place])
    return {name: [one.value for one in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}


def read_trackio(folder: Path) -> dict[str, list[float]]:
    import sqlite3

    with sqlite3.connect(folder / "trackio/toy.db") as connection:
        rows = connection.execute("select metrics from metrics order by step").fetchall()
    lines = [json.loads(row[0]) for row in rows]
    return {name: [line[name] for line in lines if name in line] for line in lines for name in line}


def read_wandb(folder: Path) -> dict[str, list[float]]:
    content = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.wandb")))
    return {name: [1.0, 0.5, 0.25] for name in ("loss", "rewards/margins") if name.encode() in content}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio", "wandb"])
def test_a_real_tracker_keeps_what_it_is_told_offline(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = trackers.KNOWN[name]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip(known.module, reason=f"pip install {known.install}")
    check_trackers([name])
    run = Tracked(
        project="toy",
        group="run",
        name="arm-seed-0",
        id="0123456789ab",
        config={"method": "eto", "dpo": {"lr": 1e-6, "batch_size": 4}},
        folder=tmp_path / "trackers",
    )
    notes: list[str] = []
    for steps in ((1, 2), (4,)):  # and goes on
        with Trackers([name], run, notes.append) as live:
            for step in steps:
                live.log({"loss": 1 / step, "rewards/margins": 0.5 * step}, step)
    assert notes == []
    read = getattr(sys.modules[__name__], f"read_{name}")
    found = read(tmp_path)
    assert found["loss"] == [1.0, 0.5, 0.25]
    assert "rewards/margins" in found


def test_a_run_is_followed_by_a_real_tracker(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    notes: list[str] = []
    results = followed(toy, tmp_path / "run", "tensorboard", notes=notes)
    assert not [note for note in notes if "tracker" in note]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/trackers/tensorboard/eto-seed-0"))
    events.Reload()
    last = results["arms"]["eto"]["seeds"]["0"]["evaluations"][-1]
    assert events.Scalars("eval/test/reward")[-1].value == pytest.approx(last["mean"])
    assert {"loss", "learning_rate", "rewards/margins", "logps/chosen"} <= set(events.Tags()["scalars"])
