"""The command line, in a process of its own: what it prints, what it refuses and how, and its exit codes."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparring.core.convert import type_hints
from sparring.runs.config import Config
from tests.command_line import ENVIRONMENT, ROOT
from tests.toy_world import TOY_RECIPE


def sparring(*words: str, cwd: Path = ROOT, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line; `prelude` is Python that is run before it, in its process."""
    code = f"{prelude}\nfrom sparring.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, *words] if prelude else [sys.executable, "-m", "sparring", *words]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=False, capture_output=True, text=True, timeout=300)


def refused(*words: str, code: int = 2, prelude: str = "") -> str:
    """Run the command line, expect one message and the exit code, and return the message."""
    done = sparring(*words, prelude=prelude)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("sparring: ")]
    return message


def refused_here(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Call the command line in this process, expect one message and nothing else, and return the message."""
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    (message,) = errors.splitlines()
    assert message.startswith("sparring: ")
    return message


def called(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Call the command line in this process, which is faster: exit code, output, errors."""
    from sparring.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(words)
    out, errors = capsys.readouterr()
    return int(stop.value.code or 0), out, errors


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model's folder."""
    from tests.tiny_models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(TOY_RECIPE.format(model=model))
    return path


# ── What it prints ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_overview_and_version() -> None:
    import sparring as package

    for words in ([], ["--help"], ["help"]):
        done = sparring(*words)
        assert done.returncode == 0
        for command in ("quickstart", "recipes", "run", "eval", "rollout", "report", "merge", "envs"):
            assert f"\n  {command} " in done.stdout
    assert sparring("--version").stdout == f"sparring {package.__version__}\n"


def test_help_of_run_shows_every_key_and_its_default() -> None:
    text = sparring("run", "--help").stdout
    for section in dataclasses.fields(Config):
        for key in type_hints(type(getattr(Config(), section.name))):
            assert f"--{section.name}.{key} " in text
    assert "--dpo.lr FLOAT" in text
    assert "(default: 1e-06; above 0, at most 10)" in text
    assert "Seconds within which an env must have answered an action. (default:" in text
    untold = re.findall(r"(--[a-z_.]+) [^\n]*\n[│ ]*\(default:", text)
    assert not untold, "every key says what it is for"


def test_options_besides_the_config_are_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    own = {
        "quickstart": {"out", "seeds", "arms", "jobs", "quiet", "no_quiet"},
        "recipes": set(),
        "run": {"out", "seeds", "arms", "jobs", "quiet", "no_quiet"},
        "eval": {"policy", "recipe", "out", "quiet", "no_quiet"},
        "rollout": {"out", "policy", "split", "num_tasks", "seed", "recipe", "quiet", "no_quiet"},
        "report": {"compare", "out", "format", "table", "watch", "every"},
        "merge": {"base"},
        "envs": set(),
    }
    for command, expected in own.items():
        _, text, _ = called([command, "--help"], capsys)
        assert set(re.findall(r"(?<=--)[a-z_]+(?=[ ,\n])", text)) == {*expected, "help"}, command


def test_help_loads_no_model_library() -> None:
    done = sparring(
        "run", "--help", prelude="import atexit, sys\natexit.register(lambda: print('LOADED', *sys.modules))"
    )
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "sparring.runs.config" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "safetensors", "scienceworld", "py4j"}


def test_envs_lists_the_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(["envs"], capsys)
    assert code == 0
    assert "scienceworld" in out


# ── Words that are refused ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runn"], "unknown command 'runn'. Did you mean 'run'?"),
        (["run", "x.toml", "--dpo.lrr", "1"], "unknown option '--dpo.lrr'. Did you mean --dpo.lr?"),
        (["run", "x.toml", "--dop.lr=1"], "unknown option '--dop.lr'. Did you mean --dpo.lr?"),
        (["run", "x.toml", "--dpo.beta", "1"], "unknown option '--dpo.beta'. Here it is --loss.beta, --grpo.kl_weight"),
        (["run", "x.toml", "--dpo.learning_rate", "1"], "'--dpo.learning_rate'. Here it is --dpo.lr.\n"),
        (["run", "x.toml", "--learning-rate=1"], "'--learning-rate'. Here it is --sft.lr, --dpo.lr or --rl.lr.\n"),
        (["run", "x.toml", "--sft.per_device_train_batch_size", "1"], "Here it is --sft.batch_size. It is what one"),
        (["run", "x.toml", "--max_length", "9"], "Here it is --chat.max_context. It counts a whole episode in tokens."),
        (["run", "x.toml", "--output_dir", "x"], "unknown option '--output_dir'. It is --out, on the command line.\n"),
        (["run", "none.toml"], "none.toml: no such recipe."),
        (["run", "recipes"], "recipes: is a folder, not a recipe: name a TOML file."),
        (["run", "recipes/quickstart.toml", "--arms", "etoo"], "has no arm 'etoo'. Did you mean 'eto'?"),
        (["run", "recipes/quickstart.toml", "--seeds", "-1"], "--seeds[0]: expected a whole number from 0"),
        (["eval"], "name at least one model"),
        (["eval", "x", "--recipe", "tests"], "config.json: no such file."),
        (["report", "recipes"], "recipes: is no run's folder"),
        (["rollout", "--out", "README.md"], "--out README.md: exists already."),
    ],
)
def test_wrong_words_get_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    assert errors.startswith("sparring: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_runs_folder_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    code, _, errors = called(["run", str(tmp_path)], capsys)
    assert code == 2
    assert "is a run's folder, not a recipe. To go on with it" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "x.toml", "--dpo.lr", "high"], "--dpo.lr"),
        (["run", "x.toml", "--dpo.shuffle", "maybe"], "expected true or false, found 'maybe'"),
        (["run", "x.toml", "--dpo.schedule", "linear"], "--dpo.schedule"),
        (["run", "recipes/quickstart.toml", "--dpo.epochs", "0"], "dpo.epochs: expected a whole number from 1"),
        (["run", "x.toml", "--env.options", "[1]"], "expected a table like {key = 1}"),
        (["run"], "PATH"),
        (["run", "x.toml", "--sed", "3"], "--seeds"),
    ],
)
def test_words_that_do_not_parse_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    assert message in errors


def test_unknown_key_wrong_type_and_missing_file_in_a_process_of_their_own() -> None:
    assert "Did you mean --dpo.lr?" in refused("run", "recipes/quickstart.toml", "--dpo.lrr", "1")
    assert "none.toml: no such recipe" in refused("run", "none.toml")
    done = sparring("run", "recipes/quickstart.toml", "--dpo.lr", "high")
    assert done.returncode == 2
    assert "Error parsing --dpo.lr" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('method = "eto"\n[dpo]\nlrr = 1', "trial.toml: unknown key 'dpo.lrr'. Did you mean 'dpo.lr'?"),
        (
            'method = "eto"\n[dpo]\nlr = "high"',
            "dpo.lr: expected a finite number above 0, at most 10, found the text 'high'.",
        ),
        ('method = "eto"\n[dpo\n', "trial.toml:2: not TOML"),
        ('method = "eto"\n[env]\nid = "webshopp"', "env.id: unknown world 'webshopp'"),
        (
            'method = "eto"\n[expert]\npath = "none.jsonl"\n[env]\nid = "tests.toy_world:ToyWorld"',
            "none.jsonl: No such file",
        ),
    ],
)
def test_wrong_recipes_get_one_message(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trial.toml"
    path.write_text(text)
    code, out, errors = called(["run", str(path), "--out", str(tmp_path / "run"), "--quiet"], capsys)
    assert (code, out) == (2, "")
    assert errors.startswith("sparring: ")
    assert message in errors


def test_overrides_reach_every_arm_and_tables_are_read(tmp_path: Path) -> None:
    """What was typed wins, in whatever spelling; what was not typed leaves the recipe alone."""
    from sparring.cli.run import Options
    from sparring.cli.words import parse
    from sparring.runs.recipe_files import load_recipe

    words = ["x", "--dpo.batch-size=3", "--env.kinds", "a", "b", "--dpo.shuffle", "FALSE", "--env.num_train", "None"]
    words += ["--env.options", '{depth = "x"}', "--chat.template_kwargs", '{"enable_thinking": false}']
    _, overrides = parse(Options, "sparring run", words)
    assert overrides == {
        "dpo.batch_size": 3,
        "env.kinds": ("a", "b"),
        "dpo.shuffle": False,
        "env.num_train": None,
        "env.options": {"depth": "x"},
        "chat.template_kwargs": {"enable_thinking": False},
    }
    path = tmp_path / "r.toml"
    path.write_text('[dpo]\nlr = 0.5\n[arms.a]\nmethod = "eto"\ndpo.batch_size = 9\n[arms.b]\nmethod = "sft"\n')
    for arm in load_recipe(path, overrides).arms.values():
        assert (arm.config.dpo.batch_size, arm.config.dpo.lr, arm.config.env.kinds) == (3, 0.5, ("a", "b"))


@pytest.mark.parametrize("word", ["none", "None"])
def test_what_may_be_left_out_is_none_as_the_help_says(word: str) -> None:
    from sparring.cli.run import Options
    from sparring.cli.words import parse

    words = ["x", "--expert.num_tasks", word, "--expert.path", word, "--env.reward", word, "--lora.alpha", word]
    _, overrides = parse(Options, "sparring run", words)
    expected: dict[str, object] = dict.fromkeys(("expert.num_tasks", "expert.path", "env.reward", "lora.alpha"))
    assert overrides == expected


@pytest.mark.parametrize(
    ("key", "word", "said"),
    [
        ("expert.num_tasks", "1.5", "expected a whole number, found '1.5'"),
        ("dpo.lr", "fast", "expected a number, found 'fast'"),
        ("env.reward", "mean", "expected none or one of so_far, sum, last, found 'mean'"),
    ],
)
def test_a_word_that_is_no_value_is_named_in_plain_words(
    key: str, word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparring.cli.run import Options
    from sparring.cli.words import parse

    with pytest.raises(SystemExit):
        parse(Options, "sparring run", ["x", f"--{key}", word])
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in shown
    assert "Annotated" not in shown


# ── Bad data, bad models, bad luck ────────────────────────────────────────────────────────────────────────────────────


def test_corrupt_demonstrations_are_named_by_line(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstrations = tmp_path / "d.jsonl"
    demonstrations.write_text(
        '{"task_id": "short/train-0", "reward": 1, "turns": [{"observation": "", "action": "a"}]}\n{"tas\n'
    )
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "--expert.path", str(demonstrations)]
    message = refused_here(words, capsys)
    assert f"{demonstrations}:2: not JSON" in message


def test_thoughts_are_not_invented(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run"), "--chat.format", "react"]
    assert "no thoughts, and none are invented" in refused_here(["run", str(recipe), *out], capsys)


def test_split_file_with_an_unknown_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"eto_{split}_indices.json").write_text('[["find-animal", 0], ["find-unicorn", 3]]')
    words = ["rollout", "--policy", "random", "--out", str(tmp_path / "t.jsonl"), "--env.path", str(tmp_path)]
    message = refused_here(words, capsys)
    assert "find-unicorn" in message
    assert "eto_train_indices.json" in message


def test_folder_without_weights_is_named(
    recipe: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((model / "config.json").read_text())
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "--model.path", str(bare)]
    message = refused_here(words, capsys)
    assert f"{str(bare)!r} has no weights" in message


def test_full_disk_is_one_message(recipe: Path, tmp_path: Path) -> None:
    prelude = (
        "import os, errno\n"
        "def full(descriptor): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.fsync = full"
    )
    message = refused("run", str(recipe), "--out", str(tmp_path / "run"), code=1, prelude=prelude)
    assert "no space left on the disk" in message
    assert "run the same command again" in message


def test_full_disk_inside_a_library_is_one_message(recipe: Path, tmp_path: Path) -> None:
    prelude = (
        "import sparring.runs.recipe\n"
        "def full(*_, **__): raise RuntimeError('I/O error: No space left on device (os error 28)')\n"
        "sparring.runs.recipe.run_recipe = full"
    )
    message = refused("run", str(recipe), "--out", str(tmp_path / "run"), code=1, prelude=prelude)
    assert "no space left on the disk" in message


@pytest.mark.slow
def test_interrupted_run_says_how_to_go_on_and_does(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "sparring", "run", str(recipe), "--out", str(out)]
    child = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("seed-0/**/trajectories.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert f"goes on where it stopped: sparring run {recipe} --out {out}" in errors
    assert "Traceback" not in errors

    code, printed, errors = called(["run", str(recipe), "--out", str(out)], capsys)
    assert code == 0, errors
    assert "mean reward" in printed
    assert "Co-Evolving Agents" in printed
    assert f"Report: {out / 'report.html'}" in printed
    assert (out / "report.html").is_file()

    code, _, errors = called(["run", str(recipe), "--out", str(out), "--dpo.lr", "0.5"], capsys)
    assert code == 2
    assert "made by another config" in errors
    checkpoint = next(out.glob("seed-0/eto/round-1/train-target/checkpoint"))
    code, printed, errors = called(["eval", str(checkpoint), "--eval.num_tasks", "2", "--quiet"], capsys)
    assert code == 0, errors
    assert f"Settings: {out}" in printed


def test_rollout_writes_what_report_and_python_can_read(recipe: Path, tmp_path: Path) -> None:
    from sparring.core.records import read_trajectories

    out = tmp_path / "expert.jsonl"
    done = sparring("rollout", "--recipe", str(recipe), "--policy", "expert", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"6 trajectories, mean reward 1.000: {out}\n"
    assert [trajectory.reward for trajectory in read_trajectories(out)] == [1.0] * 6
