"""The pool: what a fault costs, what it does not, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from sparring.core.errors import ConfigError, DataError, EnvFault
from sparring.core.types import Task
from sparring.envs.pool import EnvPool
from sparring.envs.pool import EnvPool as LocalPool
from sparring.envs.processes import LocalWorkers
from tests.envs.faulty_world import FaultyWorld
from tests.processes import command_of, is_alive, wait_until
from tests.strangers import NOBODY, is_private, listening, secrets_of, try_as

WORLD = "tests.envs.faulty_world:FaultyWorld"
TASK = Task(id="short/0", kind="short", data={"goal": ["red", "blue"]})
NUM_RETRIES = 2

pytestmark = pytest.mark.usefixtures("each_pool")


@pytest.fixture
def make_pool(tmp_path: Path):
    pools = []

    def make(num_envs: int = 1, **options) -> EnvPool:
        options = {"folder": str(tmp_path), **options}
        pool = EnvPool(WORLD, options, num_envs=num_envs, step_deadline_s=1.0, max_retries=NUM_RETRIES)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()
    assert not alive_descendants()


def alive_descendants(pid: int | None = None) -> list[psutil.Process]:
    """Return the env processes and their children, wherever below a process they are."""
    words = ["-P", "-m", "sparring.envs.worker"]
    workers = [one for one in alive_below(psutil.Process(pid)) if command_of(one)[1:4] == words]
    return [*workers, *(child for worker in workers for child in alive_below(worker))]


def alive_below(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


def test_an_episode_in_processes_equals_one_in_this_process(make_pool):
    task = FaultyWorld().tasks("train")[-1]
    actions = ["look", *(f"press {colour}" for colour in task.data["goal"])]
    answers = []
    with EnvPool("tests.toy_world:ToyWorld", {}, num_envs=1) as other:
        for pool in (make_pool(), other):
            answers.append([pool.reset(0, task, 0).result(), *(pool.step(0, action).result() for action in actions)])
    assert answers[0] == answers[1]
    assert answers[0][-1].is_done and answers[0][-1].reward == 1.0


def test_calls_for_a_slot_are_played_in_order_without_waiting_for_each_other(make_pool):
    pool = make_pool(num_envs=3)
    first = [pool.reset(slot, TASK, 0) for slot in range(3)]
    later = [[pool.step(slot, f"press {colour}") for colour in ("red", "blue")] for slot in range(3)]
    assert all(future.result().startswith("Press in this order: red blue.") for future in first)
    assert [[future.result().reward for future in futures] for futures in later] == [[0.5, 1.0]] * 3


@pytest.mark.parametrize("fault", ["die", "hang", "raise", "complain"])
def test_one_fault_costs_one_fresh_start_and_nothing_else(make_pool, fault):
    pool = make_pool(num_envs=2)
    for slot in range(2):
        pool.reset(slot, TASK, 0).result()
        assert pool.step(slot, "press red").result().reward == 0.5
    assert pool.step(0, f"{fault} once").result().observation == "Nothing happens."
    assert pool.retries(0) == 1
    assert pool.retries(1) == 0
    assert pool.step(0, "press blue").result().is_done  # the red press was replayed
    assert pool.step(1, "press blue").result().is_done
    pool.reset(0, TASK, 0).result()
    assert pool.retries(0) == 0


def test_an_episode_that_always_fails_is_given_up_and_the_slot_lives_on(make_pool):
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    with pytest.raises(EnvFault, match=r"code 3: out of luck \(given up after 2 fresh starts\)"):
        pool.step(0, "complain always").result()
    assert pool.retries(0) == NUM_RETRIES
    with pytest.raises(EnvFault, match="Reset it first"):
        pool.step(0, "look").result()
    pool.reset(0, TASK, 0).result()
    assert pool.step(0, "press red").result().reward == 0.5


def test_a_reset_that_hangs_is_cut_at_its_deadline():
    broken = Task(id="broken", kind="short", data={"goal": ["red"], "is_broken": True})
    with EnvPool(WORLD, {}, num_envs=1, reset_deadline_s=3.0, max_retries=0) as pool:
        pool.reset(0, TASK, 0).result()
        started = time.monotonic()
        with pytest.raises(EnvFault, match="did not answer reset within 3 s"):
            pool.reset(0, broken, 0).result()
        assert time.monotonic() - started < 20


def test_a_world_that_is_not_the_same_after_a_restart_is_a_fault(make_pool):
    pool = make_pool(tells_pid=True)
    pool.reset(0, TASK, 0).result()
    with pytest.raises(EnvFault, match="can't be restored: its first observation is another one"):
        pool.step(0, "die once").result()


def test_what_the_world_prints_or_reads_does_not_disturb_the_protocol(make_pool):
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    assert pool.step(0, "print").result().observation == "stdin gave ''"
    assert pool.step(0, "press red").result().observation == "The red button clicks."


@pytest.mark.parametrize(
    "action", ["", "a" * 1_000_000, "\x00\x01\x1b[2J\r\n\n", "打开门 \U0001f600", "\ud800", '"}\n{"']
)
def test_any_text_travels(make_pool, action):
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    assert pool.step(0, action).result().observation == "Nothing happens."
    assert pool.retries(0) == 0


def test_what_the_user_can_mend_is_not_retried(make_pool):
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    with pytest.raises(DataError, match=r"catalogue\.json: torn"):
        pool.step(0, "refuse always").result()
    assert pool.retries(0) == 0
    with pytest.raises(ConfigError, match="no such catalogue"):
        make_pool(is_refused=True).reset(0, TASK, 0).result()
    with pytest.raises(ConfigError, match="num_envs"):
        EnvPool(WORLD, {}, num_envs=0)


def test_an_env_process_gets_no_keys_and_what_it_needs_by_name(make_pool, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "SOME_API_KEY": "sk-1",
        "WORLD_URL": "here",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    got = set(pool.step(0, "variables").result().observation.split())
    assert {"PATH", "LC_ALL", "OMP_NUM_THREADS", "TMPDIR", "PYTHONPATH"} <= got
    assert not got & {"SOME_API_KEY", "WORLD_URL"}
    with pytest.raises(EnvFault, match=r"'WORLD_URL'.*variables = \[\"WORLD_URL\"\] under \[env\]"):
        pool.step(0, "need WORLD_URL").result()
    with EnvPool(WORLD, {}, num_envs=1, variables=["WORLD_URL"]) as other:
        other.reset(0, TASK, 0).result()
        assert other.step(0, "need WORLD_URL").result().observation == "here"
        assert "SOME_API_KEY" not in other.step(0, "variables").result().observation.split()


def test_a_stranger_gets_at_nothing_of_an_env_process(make_pool):
    pool = make_pool()
    pool.reset(0, TASK, 0).result()
    (process,) = alive_descendants()
    worker, folder = process.pid, Path(process.cmdline()[-1])
    assert not listening([worker])
    (folder / "file").write_text("x")
    assert folder.parent == Path(tempfile.gettempdir()) and is_private(folder / "file")
    assert not try_as(NOBODY, paths=[folder, folder / "file", *secrets_of([worker])])


def test_no_env_is_started_before_it_is_needed(make_pool):
    pool = make_pool(num_envs=4)
    assert not alive_descendants()
    pool.reset(2, TASK, 0).result()
    assert len(alive_descendants()) == 1


def test_close_ends_envs_that_hang_and_their_children(make_pool):
    pool = make_pool(num_envs=2)
    pool.reset(0, TASK, 0).result()
    child = int(pool.step(0, "child").result().observation)
    assert is_alive(child)
    pool.reset(1, TASK, 0).result()
    hanging = pool.step(1, "hang always")
    wait_until(hanging.running)
    pool.close()
    with pytest.raises(EnvFault):
        hanging.result(timeout=5)
    wait_until(lambda: not is_alive(child))
    with pytest.raises(RuntimeError):
        pool.step(0, "look")


def test_workers_and_their_children_die_with_the_parent(tmp_path):
    script = f"""
        import sys, time
        from {EnvPool.__module__} import {EnvPool.__name__}
        from sparring.core.types import Task
        pool = {EnvPool.__name__}({WORLD!r}, {{}}, num_envs=2)
        task = Task(id="t", kind="short", data={{"goal": ["red"]}})
        for slot in range(2):
            pool.reset(slot, task, 0).result()
        print(pool.step(0, "child").result().observation, flush=True)
        pool.step(1, "hang always")
        time.sleep(600)
    """
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    workers = {process.pid for process in alive_descendants(parent.pid)} - {child}
    assert len(workers) == len(list(tmp_path.glob("sparring-env-*"))) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in [child, *workers]))
    assert not list(tmp_path.glob("sparring-env-*"))


def test_cpu_time_of_the_processes_is_counted(make_pool):
    pool = make_pool(2)
    assert pool.cpu_seconds() == 0
    for future in [pool.reset(slot, TASK, 0) for slot in range(2)]:
        future.result()
    counted = pool.cpu_seconds()
    measured = sum(sum(child.cpu_times()[:2]) for child in alive_descendants())
    assert 0 < counted <= measured + 0.02 and measured - counted < 0.2


class OneByOne(LocalWorkers):
    """Starts one env process at a time, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.num_starting = 1
        self.num_started, self.may_go_on = 0, threading.Event()

    def start(self):
        self.num_started += 1
        assert self.may_go_on.wait(30)
        return super().start()


def test_a_pool_that_is_closed_while_envs_start_starts_no_more():
    """Else Ctrl-C would wait for each of them, which takes minutes on a busy cluster."""
    workers = OneByOne()

    class Pool(LocalPool):
        def _choose_workers(self, *_):
            return workers

    pool = Pool(WORLD, {}, num_envs=3)
    for slot in range(3):
        pool.reset(slot, TASK, 0)
    wait_until(lambda: workers.num_started == 1)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_until(lambda: all(slot.is_closed for slot in pool._slots))
    workers.may_go_on.set()
    closing.join(30)
    assert not closing.is_alive() and workers.num_started == 1
