"""Progress says what is going on, seldom enough for a log, and never breaks what it shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sparring.core.progress import LineProgress, RichProgress, SilentProgress, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_most_every_ten_seconds_and_once_at_the_end() -> None:
    clock, lines = Clock(), []
    progress = LineProgress(lines.append, clock=clock)
    with progress.phase("rollout", total=100) as bar:
        for _ in range(100):
            clock.now += 0.25
            bar.advance()
    assert lines == [
        "rollout: 40/100, about 15 s left",
        "rollout: 80/100, about 5 s left",
        "rollout (100): done in 25 s",
    ]


def test_nested_phases_are_indented_and_share_the_interval() -> None:
    clock, lines = Clock(), []
    progress = LineProgress(lines.append, clock=clock)
    with progress.phase("round 1", total=2) as outer:
        with progress.phase("train") as inner:
            clock.now += 11
            inner.update(3, 12, "loss 0.41")
            outer.advance()
        progress.note("careful")
    assert lines == [
        "  train: 3/12, about 33 s left, loss 0.41",
        "  train (3): done in 11 s",
        "careful",
        "round 1 (1): done in 11 s",
    ]


def test_a_phase_left_by_an_error_is_not_called_done() -> None:
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt), LineProgress(lines.append).phase("train"):
        raise KeyboardInterrupt
    assert lines == []


def test_rich_shows_text_as_it_is_and_clears_its_bars() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with RichProgress(console) as progress, progress.phase("eto · [red]round-1[/red]", total=2) as bar:
        bar.update(1, note="[b]loss[/b]")
        bar.update(2, 2)
        progress.note("odd [bold] text")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "✓ eto · [red]round-1[/red] (2)" in text
    assert "! odd [bold] text" in text


def test_silence_takes_everything() -> None:
    with SilentProgress() as progress, progress.phase("x", total=1) as bar:
        bar.advance()
        bar.update(1, 1, "note")
        progress.note("y")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (8.4, "8 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
