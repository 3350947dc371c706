"""Crashes at single file operations, damaged files, copied folders: the same numbers come out, or one clear message."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.phases import Phase, check_checkpoint
from sparring.core.progress import SilentProgress
from sparring.core.types import Task
from sparring.models.loading import save_model
from sparring.report import write_report
from sparring.report.folder import list_phases, read_costs
from sparring.report.text import broken_lines
from sparring.runs.config import Recipe
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe
from tests.crashes import Crash, crash_at
from tests.test_kill import outcome
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE, ToyEnv, ToyWorld

SETTINGS = {
    "env.options": {"size": 2},
    "env.num_envs": 2,
    "rollout.wave_size": 2,
    "rollout.max_new_tokens": 4,
    "rollout.temperature": 1.0,
    "sft.save_every_s": 0.0,
    "dpo.save_every_s": 0.0,
    "dpo.epochs": 2,
}


@dataclass(frozen=True)
class Small:
    """A small recipe of two arms, a run of it that was finished, and what it came to."""

    recipe: Recipe
    out: Path
    outcome: dict[str, bytes]

    def go_on(self, out: Path) -> dict[str, Any]:
        return run_recipe(self.recipe, out, SilentProgress(), with_report=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    save_model(tiny_model(), tiny_tokenizer(), folder / "model")
    text = TOY_RECIPE.format(model=folder / "model") + '[arms.plain]\nmethod = "zero_shot"\n'
    (folder / "toy.toml").write_text(text)
    recipe = load_recipe(folder / "toy.toml", SETTINGS, arms=("sft", "eto"))
    run_recipe(recipe, folder / "run", SilentProgress(), with_report=False)
    return Small(recipe, folder / "run", outcome(folder / "run"))


class _Stopping(SilentProgress):
    """Crashes in a phase after a number of episodes or steps."""

    def __init__(self, phase: str, num: int) -> None:
        super().__init__()
        self._phase, self._left, self._is_here = phase, num, False

    @contextmanager
    def phase(self, name: str, total: float | None = None) -> Iterator[Any]:
        self._is_here = name.endswith(self._phase)
        yield self

    def advance(self, num: float = 1) -> None:
        self._count(int(num))

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._count(1)

    def _count(self, num: int) -> None:
        self._left -= num * self._is_here
        if self._left < 0:
            raise Crash


@pytest.fixture(scope="module")
def halves(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were killed while an agent played, and while it trained."""
    found = {}
    for name, phase, num in (("playing", "rollout-target", 3), ("training", "train-target", 1)):
        out = found[name] = tmp_path_factory.mktemp(name) / "run"
        shutil.copytree(small.out, out, symlinks=True)
        for later in ("round-1/train-target", "round-1/evaluate-target", *(["round-1/rollout-target"] * (num == 3))):
            if (path := out / "seed-0/eto" / later).is_symlink():
                shutil.rmtree(path.resolve())
            else:
                shutil.rmtree(path)
        (out / "results.json").unlink()
        with pytest.raises(Crash):
            run_recipe(small.recipe, out, _Stopping(phase, num), with_report=False)
    return found


# ── Crashes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

STRIDE = 40


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, STRIDE + 1))
def test_a_run_that_crashed_at_a_file_operation_ends_like_one_that_did_not(
    small: Small, tmp_path: Path, first: int
) -> None:
    for number in range(first, sys.maxsize, STRIDE):
        out = tmp_path / str(number)
        if crash_at(number, out, partial(small.go_on, out)) < number:
            return
        small.go_on(out)
        assert outcome(out) == small.outcome, number
        assert not list(out.rglob("state")), number


def test_a_run_that_crashed_as_a_phase_was_finished_ends_like_one_that_did_not(small: Small, tmp_path: Path) -> None:
    """One of the crashes above, from the last phases on: others are slow."""
    for number in (3, 12):
        out = tmp_path / str(number)
        shutil.copytree(small.out, out, symlinks=True)
        for name in ("seed-0/eto/round-1/evaluate-target", "results.json"):
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        assert crash_at(number, out, partial(small.go_on, out)) >= number
        small.go_on(out)
        assert outcome(out) == small.outcome


def test_a_state_that_a_kill_left_behind_a_finished_phase_is_removed(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(small.out, out, symlinks=True)
    state = out / "seed-0/eto/round-1/train-target/state/step-1"
    state.mkdir(parents=True)
    (state / "weights.safetensors").write_bytes(b"old")
    small.go_on(out)
    assert not state.parent.exists() and outcome(out) == small.outcome


# ── Damaged files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(number: int, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes | None]:
    def damage(content: bytes) -> bytes | None:
        lines = content.splitlines(keepends=True)
        return b"".join(change(lines)) if len(lines) > 1 else None

    return damage


def _other_number(content: bytes) -> bytes | None:
    """Change the last digit that stands alone as a value."""
    found = list(re.finditer(rb"[:\[,] ?(\d)[.,\]}\n]", content))
    if not found:
        return None
    at = found[-1].start(1)
    return content[:at] + (b"3" if content[at : at + 1] != b"3" else b"4") + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "shortened": lambda content: content[: len(content) * 2 // 3],
    "without its end": lambda content: content[:-2],
    "flipped in the middle": lambda c: c[: len(c) // 2] + bytes([c[len(c) // 2] ^ 2]) + c[len(c) // 2 + 1 :],
    "flipped at the end": lambda c: c[:-5] + bytes([c[-5] ^ 1]) + c[-4:],
    "a line lost": _line(1, lambda lines: lines[1:]),
    "the last line lost": _line(1, lambda lines: lines[:-1]),
    "a line twice": _line(1, lambda lines: [lines[0], *lines]),
    "lines in another order": _line(1, lambda lines: lines[::-1]),
    "a reward above 1": lambda content: re.sub(rb'"reward": ?[\d.]+', b'"reward":1.5', content),
    "another number": _other_number,
    "empty": lambda _: b"",
    "{}": lambda _: b"{}\n",
    "a list": lambda _: b"[1]\n",
    "a number": lambda _: b"3\n",
    "not text": lambda _: b"\xff\xfe\x00",
}
"""Content → damaged content; none where the damage doesn't apply."""


def damage(path: Path, how: str) -> bool:
    """Damage a file, and say whether that changed it."""
    if how in ("gone", "a dangling link"):
        path.unlink()
        if how == "a dangling link":
            path.symlink_to("nowhere")
        return True
    before = path.read_bytes()
    after = DAMAGES[how](before) if before else None
    if after is None or after == before:
        return False
    path.write_bytes(after)
    return True


def check(small: Small, start: Path, folder: Path, name: str, how: str) -> None:
    """Damage a file of a copy, go on, and expect the same as ever or a message that names the file."""
    out = folder / "run"
    shutil.copytree(start, out, symlinks=True)
    if not damage(out / name, how):
        return
    try:
        small.go_on(out)
    except (DataError, ConfigError) as error:
        message = str(error)
        is_config = name == "config.json" and "made by another config" in message  # which lists what differs
        assert is_config or (Path(name).name in message and "\n" not in message.strip()), message
        assert re.search("delete|Delete|Put it back|Choose another|choose another", message), message
        return
    found = outcome(out)
    differing = [key for key in small.outcome if found.get(key) != small.outcome[key] and key != name]
    real = Path(name)
    differing = [key for key in differing if (out / key).resolve() != (out / real).resolve()]
    assert not differing, "other numbers, without a word"


def files_of(out: Path) -> list[str]:
    names = (str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    return sorted(name for name in names if Path(name).name != ".lock" and not name.endswith(".tmp"))


SFT = "seed-0/shared/sft-target-*"
PLAYED = "seed-0/shared/round-1-rollout-target-*"
TRAINED = "seed-0/eto/round-1/train-target"
SAMPLE = [
    ("finished", "experts.jsonl", "the last line lost"),
    ("finished", "experts.jsonl", "shortened"),
    ("finished", f"{PLAYED}/trajectories.jsonl", "a line twice"),
    ("finished", f"{PLAYED}/trajectories.jsonl", "a reward above 1"),
    ("finished", f"{PLAYED}/done.json", "{}"),
    ("finished", f"{TRAINED}/done.json", "another number"),
    ("finished", f"{TRAINED}/done.json", "a list"),
    ("finished", "phases/experts/done.json", "a number"),
    ("finished", "config.json", "a list"),
    ("finished", "versions.json", "a number"),
    ("finished", "base_models.json", "{}"),
    ("playing", f"{PLAYED}/trajectories.jsonl", "a line lost"),
    ("playing", f"{PLAYED}/trajectories.jsonl", "flipped in the middle"),
    ("playing", f"{SFT}/checkpoint/model.safetensors", "flipped in the middle"),
    ("playing", f"{SFT}/checkpoint/tokenizer_config.json", "a list"),
    ("training", f"{TRAINED}/log.jsonl", "a reward above 1"),
    ("training", f"{TRAINED}/log.jsonl", "empty"),
    ("training", f"{TRAINED}/state/fit.json", "a list"),
    ("training", f"{TRAINED}/state/step-1/state.json", "{}"),
    ("training", f"{PLAYED}/done.json", "a dangling link"),
]


@pytest.mark.parametrize(("stage", "name", "how"), SAMPLE)
def test_a_damaged_file_is_named_or_made_anew(
    small: Small, halves: dict[str, Path], tmp_path: Path, stage: str, name: str, how: str
) -> None:
    start = {"finished": small.out, **halves}[stage]
    (path,) = start.glob(name)
    check(small, start, tmp_path, str(path.relative_to(start)), how)


@pytest.mark.slow
@pytest.mark.parametrize("how", [*DAMAGES, "gone", "a dangling link"])
@pytest.mark.parametrize("stage", ["finished", "playing", "training"])
def test_every_file_damaged_in_every_way(
    small: Small, halves: dict[str, Path], tmp_path: Path, stage: str, how: str
) -> None:
    start = {"finished": small.out, **halves}[stage]
    for number, name in enumerate(files_of(start)):
        try:
            check(small, start, tmp_path / str(number), name, how)
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        shutil.rmtree(tmp_path / str(number))


def test_a_finished_training_of_an_agent_is_not_evaluated_once_its_weights_have_changed(
    small: Small, tmp_path: Path
) -> None:
    """`sparring eval` and a run that begins from it look at a checkpoint as the run itself does."""
    shutil.copytree(small.out, tmp_path / "run", symlinks=True)
    checkpoint = tmp_path / "run" / TRAINED / "checkpoint"
    check_checkpoint(str(checkpoint))
    damage(checkpoint / "model.safetensors", "flipped in the middle")
    with pytest.raises(DataError, match=r"model\.safetensors: has other content than was written\. Delete"):
        check_checkpoint(str(checkpoint))
    check_checkpoint(str(tmp_path / "elsewhere"))


def test_a_phase_that_an_earlier_version_finished_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text('{"num": 4}')
    with pytest.raises(DataError, match=r"done\.json: damaged, or written by another version of Sparring\. Delete"):
        Phase(tmp_path).result()


# ── Copies, links and base models ─────────────────────────────────────────────────────────────────────────────────────


def costs_of(out: Path) -> Any:
    costs = read_costs(out, list_phases(out, ["0"], ["sft", "eto"]))
    return {arm: costs.of(arm) for arm in ("sft", "eto")}


@pytest.mark.parametrize("stage", ["finished", "training"])
def test_a_copy_that_followed_links_goes_on_as_the_run_would(
    small: Small, halves: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    start = {"finished": small.out, **halves}[stage]
    out = tmp_path / "run"
    shutil.copytree(start, out, symlinks=False)
    assert not (out / "seed-0/eto/sft-target").is_symlink()
    assert costs_of(out) == costs_of(start), "a phase that arms share costs each of them what it took"
    small.go_on(out)
    assert outcome(out) == small.outcome
    assert (out / "seed-0/eto/sft-target").is_symlink(), "what is alike is shared again"


def test_links_that_became_files_or_lead_elsewhere_are_made_anew(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(small.out, out, symlinks=True)
    text, lost = out / "seed-0/eto/sft-target", out / "seed-0/eto/round-0/evaluate-target"
    target = text.readlink()
    text.unlink()
    text.write_text(str(target))  # as an archive leaves it that knows no links
    lost.unlink()
    lost.symlink_to("../nowhere")
    small.go_on(out)
    assert outcome(out) == small.outcome


@pytest.mark.slow
def test_a_run_needs_no_links(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    out = tmp_path / "run"
    results = small.go_on(out)
    assert not (out / "seed-0/shared").exists()
    assert results["arms"] == json.loads((small.out / "results.json").read_text())["arms"]


def test_a_base_model_that_was_changed_in_place_is_noticed(small: Small, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(Path(small.recipe.arms["sft"].config.model.path), model)
    recipe = load_recipe(small.out.parent / "toy.toml", {**SETTINGS, "model.path": str(model)}, arms=("plain",))
    run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    (model / "notes.md").write_text("what is no part of the model may change")
    run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
    for name, how, message in (
        ("model.safetensors", "flipped in the middle", "has other content than was written"),
        ("generation_config.json", "gone", "is missing"),
        ("added_tokens.json", "new", "is new"),
    ):
        path = model / name
        before = path.read_bytes() if path.exists() else None
        damage(path, how) if before else path.write_text("{}")
        with pytest.raises(DataError, match=rf"{name}: {message}: the base model was another when the run began"):
            run_recipe(recipe, tmp_path / "run", SilentProgress(), with_report=False)
        path.write_bytes(before) if before else path.unlink()


# ── Episodes that infrastructure broke ────────────────────────────────────────────────────────────────────────────────


class FlakyEnv(ToyEnv):
    """Breaks the episodes of some tasks while the file `broken` lists them."""

    def __init__(self, broken: Path) -> None:
        super().__init__()
        self._broken = broken

    def reset(self, task: Task, seed: int) -> str:
        if self._broken.exists() and task.id in self._broken.read_text().split():
            raise EnvFault("hangs")
        return super().reset(task, seed)


class FlakyWorld(ToyWorld):
    def __init__(self, *, broken: str, size: int = 2) -> None:
        super().__init__(size=size)
        self._broken = Path(broken)

    def make_env(self) -> FlakyEnv:
        return FlakyEnv(self._broken)


def test_too_many_broken_episodes_end_the_phase_which_goes_on_and_few_are_counted(small: Small, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    world = {"env.id": "tests.test_damage:FlakyWorld", "env.options": {"size": 2, "broken": str(broken)}}
    settings = {**SETTINGS, **world, "env.max_retries": 0}

    def go_on(out: str, **changes: object) -> dict[str, Any]:
        recipe = load_recipe(small.out.parent / "toy.toml", {**settings, **changes}, arms=("plain",))
        return run_recipe(recipe, tmp_path / out, SilentProgress(), with_report=False)

    healthy = go_on("healthy")
    assert healthy["broken"] == {"num": 0, "episodes": 2, "share": 0.0, "phases": {}}
    assert broken_lines(healthy) == []

    broken.write_text("short/test-0")
    with pytest.raises(EnvFault, match=r"evaluate-target.*broke 1 of 2 episodes, .*short/test-0 first .*max_broken"):
        go_on("run")
    assert not (tmp_path / "run/results.json").exists()
    broken.unlink()
    assert go_on("run") == healthy, "what was broken is played again"

    broken.write_text("short/test-0")
    few = go_on("few", **{"env.max_broken": 0.5})
    assert few["broken"] == {
        "num": 1,
        "episodes": 2,
        "share": 0.5,
        "phases": {"seed-0/plain/round-0/evaluate-target": 1},
    }
    (line,) = broken_lines(few)
    assert "1 of 2 episodes (50.0 %), which count nowhere: seed-0/plain/round-0/evaluate-target (1)." in line
    assert len(few["arms"]["plain"]["seeds"]["0"]["evaluations"][0]["rewards"]) == 1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("config.json", "a list"),
        ("versions.json", "a number"),
        ("results.json", "a number"),
        ("results.json", "{}"),
        ("timings.jsonl", "{}"),
        (f"{TRAINED}/log.jsonl", "another number"),
        (f"{PLAYED}/trajectories.jsonl", "a line lost"),
        (f"{PLAYED}/done.json", "a list"),
    ],
)
def test_a_report_of_a_damaged_run_is_one_message(small: Small, tmp_path: Path, name: str, how: str) -> None:
    shutil.copytree(small.out, tmp_path / "run", symlinks=True)
    (path,) = (tmp_path / "run").glob(name)
    assert damage(path, how)
    with pytest.raises(DataError, match=path.name):
        write_report(tmp_path / "run")
