"""Text that is shown or stored: no terminal obeys what a world or a model wrote, and no encoder stumbles over it."""

from __future__ import annotations

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from sparring.cli.main import main
from sparring.core.errors import ConfigError, DataError
from sparring.core.progress import LineProgress, RichProgress
from sparring.core.terminal import open_console, write
from sparring.core.text import encodable, printable
from sparring.core.types import Task
from sparring.envs.base import select_tasks
from sparring.models.loading import save_model
from sparring.rollouts.demonstrations import read_demonstrations
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import ToyEnv, ToyWorld

EVIL = "\x1b[2J\x9b31m\u202egnp.exe\u2066\r\x07\ud800"
SHOWN = "␛[2J\\u009b31m\\u202egnp.exe\\u2066␍␇\\ud800"


class LoudEnv(ToyEnv):
    def reset(self, task, seed):
        return EVIL + super().reset(task, seed)

    def step(self, action):
        raise RuntimeError(f"it burns {EVIL}")


class LoudWorld(ToyWorld):
    instruction = f"Listen. {EVIL}"

    def make_env(self):
        return LoudEnv()

    def expert_actions(self, tasks):
        raise ConfigError(f"no experts {EVIL}")


def test_text_can_be_encoded_and_is_otherwise_left_alone():
    assert encodable("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert encodable("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"
    for text in ("", "plain", "é 你 \U0001f600 \u2060", "\x1b[0m\n"):
        assert encodable(text) is text


def test_control_characters_are_shown_not_obeyed():
    assert printable(EVIL) == SHOWN
    text = "two lines\n\tand é 你 \U0001f600 \u2060 → ✓"
    assert printable(text) == text
    assert printable("\x7f\x00") == "␡␀"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_consoles_show_texts_and_keep_their_own_styles(is_terminal):
    console = open_console(on_stderr=True)
    console.file, console._force_terminal, console._color_system = io.StringIO(), is_terminal, None
    table = Table(EVIL)
    table.add_row(Text(EVIL))
    console.print(table)
    progress = RichProgress(console) if is_terminal else LineProgress(lambda line: console.print(line, markup=False))
    with progress, progress.phase(f"plays {EVIL}", total=2) as bar:
        bar.update(1, 2, f"loss {EVIL}")
        progress.note(EVIL)
    text = console.file.getvalue()
    assert text.count("␛[2J") >= 4
    assert ("\x1b" in text) == is_terminal  # rich's own
    assert not [one for one in ("\x1b[2J", "\x9b", "\u202e", "\x07", "\ud800") if one in text]


def test_a_command_shows_what_a_world_says_and_goes_on(tmp_path, capsys):
    """Worlds' text in the prompt, in the trajectories and in errors."""
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer)), tokenizer, tmp_path / "model")
    out = tmp_path / "played.jsonl"
    options = ["--env.id", "tests.test_terminal:LoudWorld", "--env.num_envs", "2", "--chat.max_context", "512"]
    options += ["--model.path", str(tmp_path / "model"), "--rollout.max_new_tokens", "4", "--out", str(out)]
    with pytest.raises(SystemExit):
        main(["rollout", "--num_tasks", "2", *options])
    said = capsys.readouterr()
    assert "\x1b[2J" not in said.out + said.err
    for line in out.read_bytes().splitlines():
        record = json.loads(line)
        assert "\ufffd" in record["final_observation"] and "it burns" in record["error"]
        json.dumps(record, ensure_ascii=False).encode()
    out.unlink()
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "--policy", "expert", *options])
    assert ended.value.code == 2
    assert f"sparring: no experts {SHOWN}" in capsys.readouterr().err


def test_a_crash_shows_what_a_world_says(monkeypatch, capsys):
    def crash(words):
        raise RuntimeError(EVIL)

    monkeypatch.setattr("sparring.cli.main._dispatch", crash)
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and f"RuntimeError: {SHOWN}" in error


def test_a_message_goes_where_it_should(capsys):
    write(EVIL)
    write(EVIL, on_stderr=True)
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")


def test_demonstrations_can_be_encoded(tmp_path):
    (task,) = ToyWorld(size=1).tasks("dev")[:1]
    turn = {"observation": "\ud800", "action": "press \ud83d\ude00"}
    line = {"task_id": task.id, "reward": 1.0, "turns": [turn], "final_observation": "\udfff"}
    (tmp_path / "demos.jsonl").write_text(json.dumps(line) + "\n")
    (read,) = read_demonstrations(tmp_path / "demos.jsonl", [task], "action")
    assert (read.turns[0].observation, read.turns[0].action) == ("\ufffd", "press \U0001f600")
    assert read.final_observation == "\ufffd"


@pytest.mark.parametrize("names", [{"id": "a\ud800", "kind": "k"}, {"id": "a", "kind": "\udfff"}])
def test_a_task_whose_name_no_file_can_hold_is_refused(names):
    with pytest.raises(DataError, match="has a name that no file can hold"):
        select_tasks([Task(**names)])
