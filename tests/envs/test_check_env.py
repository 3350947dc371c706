"""What each check of a world catches, and how it is told: one flaw, one failed check with its remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.envs.base import EnvConfig
from sparring.envs.conformance import CHECKS, check
from sparring.envs.subject import Subject
from tests.test_cli import called, model, recipe  # noqa: F401

FLAWED, SCORED = "tests.broken_worlds:FlawedWorld", "tests.broken_worlds:ScoredWorld"


def failures(config: EnvConfig) -> dict[str, str]:
    subject = Subject.of(config, num_tasks=2)
    try:
        return {one.check: f"{one.said} → {one.remedy}" for one in check(subject) if one.verdict == "fail"}
    finally:
        subject.close()


@pytest.mark.parametrize(
    ("flaw", "failed", "said"),
    [
        ("leaky", "forgetting", "the text that was shown included"),
        ("moody", "determinism", "Draw chance from the task and reset's seed alone"),
        ("global state", "side by side", "Keep an episode's state on the env"),
        ("raises", "any text", "The action '打开门' breaks the env: ValueError: no such word (tests/broken_worlds.py:"),
        ("silent", "any text", "The action '' is answered with nothing. → Say that nothing happens."),
        ("another process", "own process", "another process"),
        ("leaves a process", "closing", "After close 1 processes went on"),
        ("leaves a thread", "closing", "After close the thread 'left over' went on"),
        ("any split", "tasks", "tasks('no-such-split') gives tasks. → Refuse an unknown split"),
        ("one split", "tasks", "There are no held-out tasks."),
        ("same tasks", "tasks", "is in train and in dev. → Give every task one split."),
        ("no JSON", "tasks", "are no JSON values"),
        ("no limit", "tasks", "turn_limit gives 0"),
        ("short", "experts", "the expert's 4 actions exceed the turn limit of 1"),
    ],
)
def test_a_flaw_fails_its_own_check(flaw: str, failed: str, said: str) -> None:
    found = failures(EnvConfig(id=FLAWED, options={"flaw": flaw}))
    assert said in found[failed], found
    alone = {"leaky", "raises", "silent", "leaves a process", "leaves a thread", "global state", "short"}
    assert flaw not in alone or set(found) == {failed}, found


@pytest.mark.parametrize(
    ("rewards", "reward", "failed", "said"),
    [
        ([0.25], None, "experts", "comes to 0.25, not 1. → The experts' rewards stay below 1"),
        ([0.25], "sum", None, ""),
        ([0, 0, 0, 100], None, "rewards", "env.reward_range = [low, high]"),
        ([0.5, 0.25, 0.75, 1], None, "rewards", "The reward fell from 0.5 to 0.25"),
        ([0.5, 0.25, 0.75, 1], "so_far", None, ""),
    ],
)
def test_rewards_are_read_by_the_rule_of_a_run(
    rewards: list[float], reward: str | None, failed: str | None, said: str
) -> None:
    found = failures(EnvConfig(id=SCORED, options={"rewards": rewards}, reward=reward))  # type: ignore[arg-type]
    assert set(found) == ({failed} if failed else set())
    assert said in found.get(failed or "", "")


def test_in_processes_of_their_own_the_same_is_found() -> None:
    found = failures(EnvConfig(id=FLAWED, options={"flaw": "leaky", "per_process": True}))
    assert set(found) == {"forgetting"}
    assert failures(EnvConfig(id=FLAWED, options={"flaw": "global state", "per_process": True})) == {}


def test_the_command_names_every_check_and_ends_with_1_where_one_fails(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check-env", FLAWED, "--env.options"]
    code, out, errors = called([*words, '{"flaw": ""}'], capsys)
    assert (code, errors) == (0, ""), out
    assert [line.split("  ")[1].strip() for line in out.splitlines()[:-1]] == list(CHECKS)
    assert out.endswith(f"{FLAWED}: of {len(CHECKS)} checks {len(CHECKS)} pass.\n")
    code, out, errors = called([*words, '{"flaw": "leaky"}'], capsys)
    assert (code, errors) == (1, "")
    assert "FAIL  forgetting" in out and "→ Begin anew in reset" in out
    assert out.endswith(f"{FLAWED}: of {len(CHECKS)} checks {len(CHECKS) - 1} pass, 1 fail.\n")
    code, out, _ = called(
        ["check-env", "tests.broken_worlds:ShapeWorld", "--env.options", '{"answer": "five"}'], capsys
    )
    assert code == 1 and out.count("gave a tuple of 5") == 1 and out.count("First `answers` must pass.") == 7


def test_a_recipes_demonstrations_are_played_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = called(["check-env", "examples/treasure.toml"], capsys)
    assert code == 0, errors
    assert "pass  experts       3 experts reach their rewards within the turn limit." in out
    worse = tmp_path / "worse.jsonl"
    lines = [json.loads(line) for line in Path("examples/treasure.jsonl").read_text().splitlines()]
    for line in lines:
        line["turns"][-1]["action"] = "go left"
    worse.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = called(["check-env", "examples/treasure.toml", "--expert.path", str(worse)], capsys)
    assert code == 1 and "the expert comes to 0, not 1." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "env.id: unknown world 'nowhere'"),
        ([FLAWED, "--only", "speed"], "--only: there is no check 'speed'. Checks: tasks, answers,"),
        ([FLAWED, "--env.options", '{"flaw": ""}', "--tasks", "x"], "no training task is called 'x'"),
    ],
)
def test_what_can_not_be_checked_is_one_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, errors = called(["check-env", *words], capsys)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert message in errors


def test_a_run_does_not_begin_in_a_world_that_does_not_forget(
    recipe: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["run", str(recipe), "--out", str(tmp_path / "run"), "-q", "--arms", "sft", "--env.id", FLAWED]
    words += ["--env.options", '{"flaw": "leaky"}']
    code, _, errors = called(words, capsys)
    assert code == 2 and errors.count("\n") == 1
    assert f"{FLAWED} fails the check 'forgetting'" in errors and 'env.check = "warn" goes on' in errors
    assert not (tmp_path / "run/experts.jsonl").exists()
    code, _, errors = called([*words, "--env.check", "warn", "--chat.max_context", "640"], capsys)
    assert code == 0 or "context_limit" in errors, errors
    assert "fails the check 'forgetting'" in errors and (tmp_path / "run/experts.jsonl").exists()


def test_rollout_with_experts_names_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rollout", "--policy", "expert", "--out", str(tmp_path / "t.jsonl"), "-q", "--env.id", FLAWED]
    code, _, errors = called([*words, "--env.options", '{"flaw": "leaky"}'], capsys)
    assert code == 2 and "fails the check 'forgetting'" in errors
    code, out, errors = called([*words, "--env.options", '{"flaw": ""}'], capsys)
    assert code == 0 and "mean reward 1.000" in out and not errors
