"""Crashes at single file operations, damaged files, copied folders: the same numbers come out, or one clear message."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparring.config import Recipe, load_recipe
from sparring.engine import run_recipe
from sparring.errors import ConfigError, DataError
from sparring.policies.local import save_model
from sparring.progress import SilentProgress
from tests.crashes import Crash, crash_at
from tests.test_kill import outcome
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE

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
    (folder / "toy.toml").write_text(TOY_RECIPE.format(model=folder / "model"))
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

STRIDE = 150


@pytest.mark.parametrize("part", [60, *(pytest.param(i, marks=pytest.mark.slow) for i in range(STRIDE) if i != 60)])
def test_a_run_that_crashed_at_a_file_operation_ends_like_one_that_did_not(
    small: Small, tmp_path: Path, part: int
) -> None:
    """One operation in 150 by default, all of them if slow tests run."""
    num = 1 + part
    while True:
        out = tmp_path / str(num)
        if crash_at(num, out, lambda out=out: small.go_on(out)) < num:
            break
        small.go_on(out)
        assert outcome(out) == small.outcome, num
        assert not list(out.rglob("state")), num
        num += STRIDE


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
