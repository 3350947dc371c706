"""What `sparring envs` tells."""

from __future__ import annotations

import pytest

from sparring.envs.base import BENCHMARKS
from sparring.envs.scienceworld import jvm as scienceworld_jvm
from sparring.envs.status import STATUSES, status_table, world_statuses


def test_every_known_world_has_a_status():
    assert list(STATUSES) == list(BENCHMARKS)
    for status in world_statuses():
        assert status.is_ready == (not status.problem)
        assert status.data
        assert status.command


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(scienceworld_jvm.importlib.util, "find_spec", lambda name: None)
    status = next(status for status in world_statuses() if status.id == "scienceworld")
    assert not status.is_ready
    assert status.parts == {"simulator": "", "java": ""}
    assert status.command == "pip install 'sparring[scienceworld]'"


def test_the_table_leaves_commands_whole():
    from rich.console import Console

    console = Console(width=60)
    with console.capture() as capture:
        console.print(status_table(), soft_wrap=True)
    shown = [status for status in world_statuses() if status.problem or status.more]
    assert shown and all(status.command in capture.get() for status in shown)
