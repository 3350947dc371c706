"""What goes wrong in the middle of a run, for real: a disk that is full, files that are torn. One message, and go on.

Words, recipes and models that are refused before anything runs are in `test_cli.py`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from sparring.cli.main import main
from sparring.models.loading import save_model
from tests.command_line import CommandLine, Ended
from tests.test_kill import outcome
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE

NUM_DISKS = 5
PAGE = 4096
IS_ROOT = os.geteuid() == 0
MOUNT = ("unshare", "-m" if IS_ROOT else "-rm", "sh", "-c", 'mount -t tmpfs -o size=4k tmpfs "$0" && exec "$@"')


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on which the command line, and it alone, sees a small disk of its own."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[CommandLine]:
    trial = (*MOUNT, str(disk), "true")
    can_mount = shutil.which("unshare") and subprocess.run(trial, check=False, capture_output=True).returncode == 0
    within = (*MOUNT, str(disk)) if can_mount else ()
    with CommandLine(tmp_path_factory.mktemp("printed"), within=within) as command_line:
        assert command_line.wait_until_ready()
        yield command_line


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    save_model(tiny_model(), tiny_tokenizer(), folder / "model")
    path = folder / "toy.toml"
    one_arm = TOY_RECIPE.replace('[arms.sft]\nmethod = "sft"\n[arms.eto]\nmethod = "eto"\n', "")
    text = one_arm.replace("epochs = 1", "epochs = 2", 1).replace("batch_size = 4", "batch_size = 4\nsave_every_s = 0")
    path.write_text(text.format(model=folder / "model"))
    return path


@pytest.fixture(scope="module", autouse=True)
def _no_bars() -> Iterator[None]:
    """What the command line asks of transformers before it loads it; in this process it is loaded already."""
    disable_progress_bar()
    yield
    enable_progress_bar()


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    ended = run(recipe, out)
    assert ended.code == 0, ended.errors
    return out


@pytest.fixture
def broken(finished: Path, tmp_path: Path) -> Path:
    """A run that is finished but for its end, to be broken and gone on with."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    for name in ("results.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


def called(*words: str) -> Ended:
    """Call the command line in this process, which has torch loaded already."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        main(words)
    return Ended(int(stop.value.code or 0), out.getvalue(), errors.getvalue())


def run(recipe: Path, out: Path, *words: str, through: Callable[..., Ended] = called) -> Ended:
    return through("run", str(recipe), "--out", str(out), "--quiet", *words)


def one_message(ended: Ended, code: int) -> str:
    """Expect the exit code, and on stderr one error after what notes there are; return it."""
    assert (ended.code, ended.out) == (code, ""), ended
    *notes, message = ended.errors.splitlines()
    assert message.startswith("sparring: ")
    assert all(note.startswith(("coevolving_agents: ", "6 demonstrations, ")) for note in notes), notes
    return message


@pytest.mark.slow
def test_a_run_that_outgrows_its_disk_again_and_again_goes_on_once_there_is_space(
    command_line: CommandLine, recipe: Path, finished: Path, disk: Path
) -> None:
    server = str(command_line.server.pid)
    seen = Path(f"/proc/{server}/root{disk}")
    if not (seen.is_dir() and seen.stat().st_dev != disk.stat().st_dev):
        pytest.skip("no small disk can be mounted here (needs `unshare -rm`)")
    enter = ("nsenter", "-t", server, "-m", *(() if IS_ROOT else ("-U", "--preserve-credentials")))
    needed = sum(-(-path.stat().st_size // PAGE) for path in finished.rglob("*") if path.is_file())
    for i in range(NUM_DISKS):
        size = max(1, needed * i // NUM_DISKS) * PAGE
        subprocess.run([*enter, "mount", "-o", f"remount,size={size}", disk], check=True)
        message = one_message(run(recipe, disk / "run", through=command_line.run), 1)
        assert message.startswith(f"sparring: {disk / 'run'}"), message
        assert "no space left on the disk" in message, i
        assert "run the same command again" in message, i
    subprocess.run([*enter, "mount", "-o", f"remount,size={8 * needed * PAGE}", disk], check=True)
    ended = run(recipe, disk / "run", through=command_line.run)
    assert ended.code == 0, ended.errors
    expected, found = outcome(finished), outcome(seen / "run")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_torn_last_line_is_dropped_with_a_notice(recipe: Path, finished: Path, broken: Path) -> None:
    played = broken / "seed-0/coevolving_agents/round-1/evaluate-target"
    (played / "done.json").unlink()
    journal = played / "trajectories.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    ended = called("run", str(recipe), "--out", str(broken))
    assert ended.code == 0, ended.errors
    assert "dropped a torn last line" in ended.errors
    assert outcome(broken) == outcome(finished)


def test_a_run_goes_on_with_fewer_envs_as_its_own_message_advises(recipe: Path, finished: Path, broken: Path) -> None:
    (broken / "seed-0/coevolving_agents/round-1/evaluate-target/done.json").unlink()
    ended = called("run", str(recipe), "--out", str(broken), "--env.num_envs", "4", "--sft.save_every_s", "9")
    assert ended.code == 0, ended.errors
    assert "numbers may differ: arms.coevolving_agents.env.num_envs: 8 → 4" in ended.errors
    found, expected = outcome(broken), outcome(finished)
    assert found.keys() == expected.keys(), "no phase was done under another name"
    assert [name for name in found if "sft" in name and found[name] != expected[name]] == []
    assert json.loads((broken / "config.json").read_text())["arms"]["coevolving_agents"]["env"]["num_envs"] == 4


def test_a_corrupt_line_of_a_run_is_named(recipe: Path, broken: Path) -> None:
    journal = broken / "seed-0/coevolving_agents/round-1/evaluate-target/trajectories.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], lines[1][:40] + "\n", *lines[2:]]))
    assert f"{journal}:2: not JSON" in one_message(run(recipe, broken), 2)


def test_a_tokenizer_without_a_chat_template_is_named(recipe: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(recipe.parent / "model", mute, ignore=shutil.ignore_patterns("chat_template.jinja"))
    settings = json.loads((mute / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (mute / "tokenizer_config.json").write_text(json.dumps(settings))
    message = one_message(run(recipe, tmp_path / "run", "--model.path", str(mute)), 2)
    assert "chat template" in message


def test_torn_weights_are_named(recipe: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(recipe.parent / "model", torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = one_message(run(recipe, tmp_path / "run", "--model.path", str(torn)), 2)
    assert f"can't load {str(torn)!r}" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", "epohcs = 2", "unknown key 'sft.epohcs'. Did you mean 'sft.epochs'?"),
        ("epochs = 2", 'epochs = "2"', "sft.epochs: expected a whole number from 1 to 10,000, found the text '2'."),
        ("[loop]", '[expert]\npath = "none.jsonl"\n[loop]', "none.jsonl: No such file"),
        ("max_new_tokens = 6", "max_new_tokens = 380", "episodes ended by context_limit"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_one_message(
    recipe: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(recipe.read_text().replace(old, new))
    code = 1 if message == "episodes ended by context_limit" else 2
    assert message in one_message(run(path, tmp_path / "run"), code)
