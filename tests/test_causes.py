"""Errors name true causes: the world's exception with its line, how most episodes ended, what the disk refused."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparring.analysis.endings import describe_endings, is_nothing_played, why_no_pairs
from sparring.core.convert import adjustable_keys, decisive
from sparring.core.errors import ConfigError
from sparring.core.folder import Run
from sparring.core.progress import SilentProgress
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.envs.base import load_benchmark, select_tasks, tasks_of
from sparring.learning.trainer import TrainConfig
from sparring.runs.config import Config
from sparring.runs.keeping import RunConfig
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import completed, find_config, load_recipe, recipe_from_dict
from sparring.runs.seeds import digest
from tests.command_line import ENVIRONMENT, ROOT
from tests.test_cli import called, model, recipe  # noqa: F401

WORLD = """
class World:
    instruction, env_per_process = "", False
    def __init__(self, **options): {init}
    def tasks(self, split): {tasks}
    def turn_limit(self, task): return 3
    def make_env(self): ...
    def expert_actions(self, tasks): return {{}}
"""


@pytest.mark.parametrize(
    ("kind", "cause", "per_process"),
    [
        ("raising", "KeyError: 'goal' (tests/broken_worlds.py:24, in step)", False),
        ("raising", "KeyError: 'goal' (tests/broken_worlds.py:24, in step)", True),
        ("exiting", "SystemExit: 3 (tests/broken_worlds.py:31, in reset)", False),
    ],
)
def test_a_rollout_in_which_all_broke_fails_and_names_the_worlds_line(
    kind: str, cause: str, per_process: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = ["--env.id", "tests.broken_worlds:BrokenWorld", "--env.num_envs", "2", "--env.max_retries", "0"]
    world += ["--env.options", json.dumps({"kind": kind, "per_process": per_process})]
    words = ["rollout", "--policy", "expert", "--out", str(tmp_path / "t.jsonl"), "-q", *world]
    code, out, errors = called(words, capsys)
    assert (code, out) == (1, "")
    assert errors.startswith("sparring: 2 of 2 episodes ended by env_fault")
    assert cause in errors, errors
    assert errors.count("\n") == 1
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2


def test_an_eval_in_which_all_broke_fails(
    model: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--env.id", "tests.broken_worlds:BrokenWorld", "--env.options", '{"kind": "raising"}', "-q"]
    words += ["--chat.format", "action", "--chat.max_context", "512", "--rollout.max_new_tokens", "2"]
    code, out, errors = called(["eval", str(model), *words], capsys)
    assert code == 1
    assert "broken" in out
    assert f"sparring: {model}: 2 of 2 episodes ended by env_fault" in errors
    assert "KeyError: 'goal'" in errors


@pytest.mark.parametrize(
    ("answer", "cause", "remedy"),
    [
        ("five", "gave a tuple of 5 (str, float, bool, bool, dict), not an EnvStep", 'env.id = "gymnasium"'),
        ("four", "gave a tuple of 4 (str, float, bool, dict), not an EnvStep", "Return sparring.EnvStep(observation=…"),
        ("two", "gave a tuple of 2 (bool, dict), not an EnvStep", 'env.id = "textarena"'),
        ("dict", "gave a dict with the keys observation, reward, not an EnvStep", "Return sparring.EnvStep("),
        ("result", "gave a StepResult, not an EnvStep", 'env.id = "openenv"'),
        ("none", "gave None, not an EnvStep", "Return sparring.EnvStep("),
        ("nan", "gave nan as the reward, not a finite number", "its reward is 0"),
        ("no reward", "gave None as the reward, not a finite number", "its reward is 0"),
        ("text reward", "gave '1' as the reward, not a finite number", "float(…)"),
        ("no observation", "gave None as the observation, not text", 'nothing to say, ""'),
        ("list", "gave a list of 1 (str) as the observation, not text", "as a str"),
        ("no end", "gave None as is_done", "True or False"),
        ("reset pair", "gave a tuple of 2 (str, dict), not text", 'env.id = "gymnasium"'),
        ("five/process", "gave a tuple of 5 (str, float, bool, bool, dict), not an EnvStep", 'env.id = "gymnasium"'),
        ("nan/process", "gave nan as the reward, not a finite number", "its reward is 0"),
        ("reset pair/process", "gave a tuple of 2 (str, dict), not text", 'env.id = "gymnasium"'),
    ],
)
def test_an_answer_of_another_shape_ends_the_command_and_names_what_mends_it(
    answer: str, cause: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rollout", "--policy", "expert", "--out", str(tmp_path / "t.jsonl"), "-q", "--env.num_envs", "2"]
    words += ["--env.id", "tests.broken_worlds:ShapeWorld"]
    answer, _, place = answer.partition("/")
    words += ["--env.options", json.dumps({"answer": answer, "per_process": place == "process"})]
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    assert errors.startswith("sparring: env.id: ShapeEnv.") and "tests/broken_worlds.py:" in errors
    assert cause in errors and remedy in errors, errors
    assert "broken" not in errors.replace("broken_worlds", "") and errors.count("\n") == 1


def test_a_context_that_nothing_fits_into_is_named(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["rollout", "--recipe", str(recipe), "--out", str(tmp_path / "t.jsonl"), "-q"]
    code, _, errors = called([*words, "--chat.max_context", "20", "--rollout.max_new_tokens", "10"], capsys)
    assert code == 0
    assert "6 of 6 episodes ended by context_limit, 6 before any action: raise chat.max_context" in errors


def ended(stop: StopReason, *, num_turns: int = 0, error: str = "") -> Trajectory:
    turns = (Turn(observation="", text="", action="", reward=0.0),) * num_turns
    task = Task(id="t", kind="k")
    return Trajectory(
        id="e", task=task, agent="target", turns=turns, final_observation="", reward=0, stop=stop, error=error
    )


def test_most_decide_what_is_said_of_endings() -> None:
    full, tied = ended(StopReason.CONTEXT_LIMIT), ended(StopReason.TURN_LIMIT, num_turns=2)
    broken = ended(StopReason.ENV_FAULT, error="EnvFault: KeyError: 'x' (mine.py:3, in step)")
    assert describe_endings([tied, full, full]).startswith("2 of 3 episodes ended by context_limit, 2 before any")
    assert describe_endings([tied, broken, broken]).endswith("the first: EnvFault: KeyError: 'x' (mine.py:3, in step)")
    assert "temperature" in why_no_pairs([tied, tied, full])
    assert "temperature" not in why_no_pairs([full, full]) and "raise chat.max_context" in why_no_pairs([full, full])
    assert why_no_pairs([]) == "no episode was played"
    assert is_nothing_played([full, broken]) and not is_nothing_played([full, tied]) and not is_nothing_played([])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('boom')", "raised RuntimeError: boom ("),
        ("import sys\nsys.exit(3)", "raised SystemExit: 3 ("),
        ("x = = 1", "raised SyntaxError: "),
        ("raise KeyError('k' * 10**6)", "raised KeyError: 'kkk"),
        ("World = None", "has no class 'World'"),
        ("class World:\n  def __init__(self, **_): pass", "is no Benchmark: it lacks tasks, turn_limit, make_env"),
        (WORLD.format(init="raise OSError('no file')", tasks="[]"), "class World raised OSError: no file ("),
        (WORLD.format(init="exit(2)", tasks="[]"), "class World raised SystemExit: 2 ("),
        (WORLD.format(init="pass", tasks="return [1]"), "tasks('train') are not all of type sparring.Task"),
        (WORLD.format(init="pass", tasks="return None"), "tasks('train') raised TypeError"),
        (WORLD.format(init="pass", tasks="raise LookupError(split)"), "tasks('train') raised LookupError: train ("),
        (
            "from sparring.core.types import Task\n"
            + WORLD.format(init="pass", tasks="return [Task(id='a', kind='k'), Task(id='a', kind='k')]"),
            "hold the id 'a' twice",
        ),
    ],
    ids=lambda value: value[-25:].replace("\n", " "),
)
def test_a_world_that_raises_or_exits_is_one_message(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_world.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_world", raising=False)
    with pytest.raises(ConfigError) as refused:
        tasks_of(load_benchmark("their_world:World"), "train")
    assert message in str(refused.value)
    assert str(refused.value).startswith("env.id: ") and len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("os:system", {"command": "touch MARK"}, "is no class"),
        ("subprocess:run", {"args": ["touch", "MARK"]}, "is no class"),
        ("subprocess:Popen", {"args": ["touch", "MARK"]}, "is no Benchmark: it lacks tasks"),
        ("gymnasium", {"env": "subprocess:Popen", "kwargs": {"args": ["touch", "MARK"]}}, "is no gymnasium.Env"),
    ],
)
def test_a_recipe_runs_no_function_that_is_no_world(
    name: str, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "gymnasium":
        pytest.importorskip("gymnasium", reason="pip install gymnasium")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_benchmark(name, options).make_env()
    assert not (tmp_path / "MARK").exists()


def test_a_recipe_file_gives_no_command_for_a_server(tmp_path: Path) -> None:
    path = tmp_path / "theirs.toml"
    options = '{ server = ["touch", "MARK"], tasks = {}, scorer = "x:y" }'
    path.write_text(f'method = "sft"\n[env]\nid = "mcp"\noptions = {options}\n')
    with pytest.raises(ConfigError, match=r"env\.options\.server: a recipe must not choose what is run"):
        load_recipe(path)


@pytest.mark.parametrize("name", [":World", "..:World", "x" * 150 + ":World", "os:path:x", "json:"])
def test_a_worlds_name_that_is_none_is_one_message(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^env\.id: "):
        load_benchmark(name)


def test_a_negative_number_of_tasks_ends_at_once() -> None:
    with pytest.raises(ConfigError, match="can't be negative"):
        select_tasks([Task(id="a", kind="k"), Task(id="b", kind="k")], num=-1)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{torn", '[{"arms": 1}]', '{"arms": 1}', "[" * 3000, "9" * 5000])
def test_an_ancestors_own_config_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert find_config(tmp_path / "deep" / "model") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "recipes/quickstart.toml", "--out", "a\0b"], "--out: expected a path, found one with a NUL"),
        (["run", "recipes/quickstart.toml", "--out", "a\ud800"], "--out: expected a path, found one with a lone"),
        (["run", "recipes/quickstart.toml", "--out", "a" * 300], "--out: expected a path, found one with a name of"),
        (["run", "recipes/quickstart.toml", "--out", "abc/" * 900 + "x"], "--out: expected a path, found one of"),
        (["run", "recipes/quickstart.toml", "--out", "README.md/x"], "--out README.md/x: is a file, or lies under one"),
        (["run", "recipes/quickstart.toml", "--env.num_envs", "1000000000"], "env.num_envs: expected a whole number"),
        (
            ["run", "recipes/quickstart.toml", "--model.device", "cuda:977"],
            "model.device: torch has no 'cuda:977'",
        ),
        (
            ["run", "recipes/quickstart.toml", "--chat.max_context", "1000000"],
            "chat.max_context is 1000000, but the model has",
        ),
        (["rollout", "--out", "x", "--num-tasks", "-3"], "--num_tasks: expected a whole number from 1"),
        (["rollout", "--out", "x", "--seed", "-3"], "--seed: expected a whole number from 0"),
        (["rollout", "--out", "README.md/x"], "--out README.md: is a file, or lies under one"),
    ],
    ids=lambda value: "",
)
def test_words_are_refused_before_anything_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, errors = called(words, capsys)
    assert (code, out) == (2, "")
    assert message in errors and errors.startswith("sparring: ")
    assert len(errors) < 1000


@pytest.mark.parametrize("word", ["--dpo.lr=" + "x" * 100_000, "--dpo.schedule=" + "y" * 100_000, "z" * 200_000])
def test_no_message_echoes_a_long_word(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = called(["run", "recipes/quickstart.toml", word], capsys)
    assert code == 2
    assert len(errors) < 10_000


def test_a_file_that_may_not_grow_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.jsonl"
    words = ["rollout", "--policy", "expert", "--out", str(out), "-q", "--env.id", "tests.toy_world:ToyWorld"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        code, _, errors = called(words, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert errors.startswith(f"sparring: {out}: the file would be larger than this system or `ulimit -f` allows.")
    assert "run the same command again" in errors


def test_a_read_only_disk_is_one_message(tmp_path: Path) -> None:
    mount = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"', str(tmp_path))
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no read-only disk can be mounted here (needs `unshare -rm`)")
    code = (
        "import pathlib, sys\nfrom sparring.core.folder import Run\nfrom sparring.core.journal import Journal\n"
        "from sparring.core.errors import SparringError\nfolder = pathlib.Path(sys.argv[1])\n"
        "for write in (lambda: Run.open(folder / 'run', {}, {}), lambda: Journal(folder / 'j').append([{'a': 1}])):\n"
        "    try:\n        write()\n    except SparringError as error:\n        print(error)"
    )
    done = subprocess.run(
        [*mount, sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
    )
    opened, appended = done.stdout.splitlines()
    assert "no permission to write there" in opened
    assert "the file system is read-only" in appended


# ── What a started run may change ─────────────────────────────────────────────────────────────────────────────────────


def test_keys_that_change_no_numbers_may_differ_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def config(**sections: Any) -> dict[str, Any]:
        return recipe_from_dict({"name": "r", "arms": {"v1.2": {"method": "eto", **sections}}}).to_dict()

    keys = adjustable_keys(Config)
    Run.open(tmp_path, config(), {"torch": "2"}, keys).close()
    (tmp_path / "seed-0").mkdir()
    quiet = config(env={"step_deadline_s": 99, "max_retries": 0}, sft={"save_every_s": 0}, openai={"timeout_s": 3})
    Run.open(tmp_path, quiet, {"torch": "2"}, keys).close()
    assert not caplog.records
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(quiet))
    fewer = config(env={"num_envs": 2}, dpo={"max_tokens_per_batch": 64})
    Run.open(tmp_path, fewer, {"torch": "2"}, keys).close()
    assert "numbers may differ: arms.v1.2.env.num_envs: 16 → 2" in caplog.text
    assert "max_tokens_per_batch: 8192 → 64" in str(json.loads((tmp_path / "versions.json").read_text())["adjusted"])
    with pytest.raises(ConfigError, match=r"another config(.|\n)*arms\.v1\.2\.dpo\.lr: 1e-06 → 0\.5$"):
        Run.open(tmp_path, config(dpo={"lr": 0.5, "save_every_s": 1}), {"torch": "2"}, keys)
    Run.open(tmp_path, fewer, {"torch": "3"}, keys).close()
    assert {"adjusted", "resumed_with"} <= set(json.loads((tmp_path / "versions.json").read_text()))


def test_a_run_of_a_version_that_lacked_a_key_goes_on_with_its_default(tmp_path: Path) -> None:
    config = recipe_from_dict({"name": "r", "arms": {"a": {"method": "eto", "dpo": {"lr": 0.5}}}}).to_dict()
    earlier = json.loads(json.dumps(config))
    del earlier["arms"]["a"]["dpo"]["lr"], earlier["arms"]["a"]["dpo"]["epochs"], earlier["arms"]["a"]["pivot"]
    Run.open(tmp_path, earlier, {"torch": "2"}).close()
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(ConfigError, match=r"what differs:\n  arms\.a\.dpo\.lr: 1e-06 → 0\.5$"):
        Run.open(tmp_path, config, {"torch": "2"}, completed=completed)
    config["arms"]["a"]["dpo"]["lr"] = 1e-6
    Run.open(tmp_path, config, {"torch": "2"}, completed=completed).close()
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(config))


def test_a_key_at_its_default_makes_no_other_phase() -> None:
    assert decisive(TrainConfig(lr=0.1, save_every_s=0)) == {"lr": 0.1}
    assert decisive(recipe_from_dict({"method": "eto", "loss": {"beta": 0.7}}).arms["eto"].config) == {
        "loss": {"beta": 0.7}
    }


def test_what_may_differ_makes_no_other_phase() -> None:
    assert decisive(Config(run=RunConfig(tracker=("wandb",)))) == {}
    assert digest(TrainConfig(save_every_s=0, max_tokens_per_batch=7)) == digest(TrainConfig())
    assert digest(TrainConfig(lr=0.1)) != digest(TrainConfig())
    keys = adjustable_keys(Config)
    assert {"env.num_envs", "env.max_retries", "rl.save_every_s", "openai.timeout_s", "model.device"} <= set(keys)
    assert not {"env.num_train", "dpo.lr", "rollout.wave_size", "loop.rounds", "model.path"} & set(keys)
    assert keys["env.max_retries"].is_exact and not keys["env.num_envs"].is_exact


@pytest.mark.parametrize("lr", [None, 1e-3])
def test_a_small_model_that_is_cloned_at_the_default_rate_is_told_of(tmp_path: Path, lr: float | None) -> None:
    values = {
        "method": "sft",
        "env": {"id": "tests.toy_world:ToyWorld", "num_train": 4},
        "chat": {"format": "action", "max_context": 256},
        "rollout": {"max_new_tokens": 8},
        "sft": {"epochs": 1, **({"lr": lr} if lr else {})},
        "eval": {"num_tasks": 1},
    }
    notes: list[str] = []
    run_recipe(recipe_from_dict(values), tmp_path, SilentProgress(notes.append), with_report=False)
    assert any("at sft.lr 2e-05 it learns next to nothing" in note for note in notes) == (lr is None)


@pytest.mark.parametrize(("epochs", "is_told"), [(29, True), (30, False)])
def test_imitation_of_few_steps_is_told_of(tmp_path: Path, epochs: int, is_told: bool) -> None:
    values = {
        "method": "sft",
        "env": {"id": "tests.toy_world:ToyWorld", "num_train": 4},
        "chat": {"format": "action", "max_context": 256},
        "rollout": {"max_new_tokens": 8},
        "sft": {"epochs": epochs, "batch_size": 4, "lr": 1e-3},
        "eval": {"num_tasks": 1},
    }
    notes: list[str] = []
    run_recipe(recipe_from_dict(values), tmp_path, SilentProgress(notes.append), with_report=False)
    assert any("4 demonstrations, sft.epochs 29 and sft.batch_size 4 are 29" in note for note in notes) == is_told
