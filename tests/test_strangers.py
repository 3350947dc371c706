"""Other users of the machine get at nothing: files, processes, the simulator's port, the tests' own servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.serving import Answer, ScriptedServer
from tests.strangers import NOBODY, is_private, listening, try_as

POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def test_attempts_on_what_is_open_succeed(tmp_path: Path):
    """Else the other tests here would prove nothing."""
    (tmp_path / "file").write_text("x")
    environment = f"/proc/{os.getpid()}/environ"
    assert try_as(None, paths=[tmp_path, tmp_path / "file", environment]) == [
        f"list {tmp_path}", f"read {tmp_path / 'file'}", f"read {environment}"
    ]  # fmt: skip
    assert is_private(tmp_path / "file") and not is_private(Path("/"))


def test_a_stranger_gets_at_no_temporary_file_and_at_no_environment(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    environment = f"/proc/{os.getpid()}/environ"
    assert try_as(NOBODY, paths=["/proc/self/status", "/", tmp_path, tmp_path / "file", environment]) == [
        "read /proc/self/status", "list /"
    ]  # fmt: skip


@pytest.mark.parametrize("user", [None, NOBODY])
def test_a_server_of_the_tests_answers_its_own_user_alone(user: int | None):
    with ScriptedServer([Answer(body="pressed")]) as server:
        (address,) = [one for one in listening([os.getpid()]) if f":{one[1]}/" in server.base_url]
        assert address[0] == "127.0.0.1"
        got = try_as(user, calls=[((address[0], int(address[1])), POST)])
        assert [one.endswith("pressed") for one in got] == ([True] if user is None else [])
        assert len(server.seen) == len(got)
