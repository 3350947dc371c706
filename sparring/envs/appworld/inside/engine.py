"""The engine's process: JSON requests, one a line, come in on stdin; JSON answers go out on stdout.

It loads the engine once and runs no agent's code itself: each episode is played in a fork of it, which is shut in (see
`confine`) before it builds its world, and which ends with the episode. So no episode can spoil another one, and a new
one costs a fork instead of a start.

    {"op": "open", "nonce", "limits", "task": {…}}         {"nonce", "pid"}, then from the fork {"rows"}
    {"op": "open", "nonce", "limits", "official": id}      {"nonce", "pid"}, {"instruction", "supervisor"}
    {"op": "execute", "code"}                              {"output", "is_complete"}
    {"op": "rows"}                                         {"rows"}
    {"op": "save"}                                         {"ok": true}
    {"op": "end"}                                          {"ended": exit status; negative: a signal}
    {"op": "grade", "nonce", "limits", "official": id}     {"nonce", "pid"}, {"tests"}, {"ended"}

In place of the rows at first: {"refused": what is wrong with the task}. In place of any answer: {"error": text}. When a
fork dies by itself, `ended` comes unasked. The `nonce` tells the answers to this episode from whatever an earlier one
may have left in the pipe.

Arguments: a scratch folder (in it `root`, which is all that an episode can write to, and which is emptied before the
next), the data folder (read only) for official tasks, and that which the engine came with, for ours.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The engine's packages are in its own environment alone.

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chance
import confine

MEGABYTE = 1 << 20

read, write = os.read, os.write  # AppWorld's guard puts others in their place while an agent's code runs


class Pipe:
    """Lines in and lines out, unbuffered, so that a fork can take the conversation over and hand it back."""

    def __init__(self, request_fd: int, answer_fd: int) -> None:
        self.request_fd, self.answer_fd = request_fd, answer_fd
        self.rest = b""

    def receive(self) -> dict[str, Any]:
        while b"\n" not in self.rest:
            block = read(self.request_fd, 1 << 16)
            if not block:
                os._exit(0)
            self.rest += block
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def send(self, answer: dict[str, Any]) -> None:
        line = memoryview(json.dumps(answer, default=str).encode() + b"\n")
        while line:
            line = line[write(self.answer_fd, line) :]


def serve(pipe: Pipe, scratch: Path, data: Path, own_data: Path) -> None:
    """Fork for each `open` and `grade`, and wait for the fork's end."""
    root = scratch / "root"
    root.mkdir()
    _load(root, own_data)
    pipe.send({"ready": confine.problem()})
    while True:
        request = pipe.receive()
        work = {"open": play, "grade": grade}.get(request["op"])
        if work is None:  # meant for a fork that died before it could read it
            continue
        if request["op"] == "open":
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
        pid = os.fork()
        if not pid:
            place = own_data if "official" not in request else data
            _work_and_exit(lambda work=work, request=request, place=place: work(pipe, request, root, place), pipe)
        pipe.send({"nonce": request["nonce"], "pid": pid})
        os.write(_go[1], b"\n")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        pipe.send({"ended": status})


def _work_and_exit(work: Callable[[], None], pipe: Pipe) -> None:
    status = 1
    try:
        confine.die_with_parent()
        os.read(_go[0], 1)  # the nonce goes out first
        work()
        status = 0
    except BaseException as error:  # the boundary of the process
        traceback.print_exc()
        with contextlib.suppress(BaseException):
            pipe.send({"error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(status)


def play(pipe: Pipe, request: dict[str, Any], root: Path, data: Path) -> None:
    """Play one episode, shut in."""
    import world as worlds

    limits, official = request["limits"], request.get("official")
    visible = [data / "api_docs", data / "base_dbs"]
    if official is None:
        worlds.prepare_own_task(root, data, request["task"]["specs"])
        visible.append(data / "tasks" / worlds.OWN_TASK)
    else:
        prepare_official(root, data, official)
        visible += [data / "tasks" / official / "specs.json", data / "tasks" / official / "dbs"]
    _shut_in(limits, readable=visible, root=root)
    if official is None:
        try:
            world = worlds.open_own_world(request["task"]["rows"])
        except ValueError as error:
            pipe.send({"refused": str(error)})
            return
        pipe.send({"rows": worlds.all_rows()})
    else:
        world = worlds.World(official, load_ground_truth=False, timeout_seconds=None, max_interactions=10_000)
        supervisor = {
            name: world.task.supervisor[name] for name in ("first_name", "last_name", "email", "phone_number")
        }
        pipe.send({"instruction": world.task.instruction, "supervisor": supervisor})
    chance.take_out(world.shell.user_ns)
    while True:
        request = pipe.receive()
        match request["op"]:
            case "execute":
                output = worlds.execute(world, request["code"], limits["cpu_s"], limits["observation_chars"])
                pipe.send({"output": output, "is_complete": bool(world.task_completed())})
            case "rows":
                pipe.send({"rows": worlds.all_rows()})
            case "save":
                world.is_saving = True
                world._save_state(world.output_db_home_path_on_disk)
                pipe.send({"ok": True})
            case _:
                return


def grade(pipe: Pipe, request: dict[str, Any], root: Path, data: Path) -> None:
    """Let the engine judge the state that an official task was left in. No agent's code has run in this fork."""
    from appworld.evaluator import evaluate_task

    official = request["official"]
    folder = prepare_official(root, data, official)
    (folder / "ground_truth").symlink_to(data / "tasks" / official / "ground_truth")
    _shut_in(request["limits"], readable=[data], root=root)
    tracker = evaluate_task(task_id=official, experiment_name="default")
    results = [
        (test, is_passed) for tests, is_passed in ((tracker.passes, True), (tracker.failures, False)) for test in tests
    ]
    tests = [
        {"name": test["requirement"], "passes_idle": test["label"] == "no_op_pass", "is_passed": is_passed}
        for test, is_passed in results
    ]
    pipe.send({"tests": tests})


def prepare_official(root: Path, data: Path, official: str) -> Path:
    """Lay out an official task below `root`, without its ground truth."""
    shutil.rmtree(root / "data", ignore_errors=True)
    folder = root / "data" / "tasks" / official
    folder.mkdir(parents=True)
    for name in ("specs.json", "dbs"):
        (folder / name).symlink_to(data / "tasks" / official / name)
    for name in ("api_docs", "base_dbs"):
        (root / "data" / name).symlink_to(data / name)
    return folder


def _shut_in(limits: dict[str, Any], *, readable: list[Path], root: Path) -> None:
    confine.limit_resources(
        memory_bytes=limits["memory_mb"] * MEGABYTE,
        file_bytes=limits["file_mb"] * MEGABYTE,
    )
    if confine.problem():
        return  # the user has allowed it (`ready` told)
    system = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/usr/share/zoneinfo")]
    system += [Path(__file__).parent, root.parent / ".ipython"]  # tracebacks quote the first
    devices = [Path("/dev/null"), Path("/dev/urandom")]
    confine.shut_in(readable=[*system, *devices, *(path.resolve() for path in readable)], writable=[root])


def _load(root: Path, own_data: Path) -> None:
    """Import and build all that an episode needs: forks share it."""
    import appworld.evaluator  # noqa: F401
    import world as worlds
    from appworld.apps import get_all_apps
    from appworld.common.utils import import_apis_module, import_models_module
    from IPython.core.profiledir import ProfileDir
    from IPython.paths import get_ipython_dir

    ProfileDir.create_profile_dir_by_name(get_ipython_dir(), "default")  # the shell would copy files, modes and all
    worlds.rehearse(root, own_data)
    gc.freeze()  # nor touch these objects again in a fork: a page that is only read is shared

    for app in get_all_apps():
        import_models_module(app)
        import_apis_module(app)


def _take_pipes() -> Pipe:
    """Move stdin and stdout out of the engine's reach: what it prints goes to stderr."""
    pipe = Pipe(os.dup(0), os.dup(1))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    return pipe


if __name__ == "__main__":
    chance.fix_addresses()
    os.environ["APPWORLD_ROOT"] = str(Path(sys.argv[1]) / "root")
    os.environ["APPWORLD_CACHE"] = str(Path(sys.argv[1]) / "cache")
    _go = os.pipe()
    serve(_take_pipes(), *map(Path, sys.argv[1:4]))
