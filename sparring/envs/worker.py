"""One env in a process of its own: JSON requests, one a line, come in on stdin; JSON answers go out on stdout.

Started by `processes.py` as `python -m sparring.envs.worker FOLDER`, which holds its temporary files, in a group of
processes that is there for it. Before any world is imported, both pipes move to private descriptors, stdin becomes
empty and stdout becomes stderr, so that nothing the world prints or reads can disturb the protocol. When the parent
dies, stdin ends, and the worker removes the folder and kills its group: nothing is left behind.

    {"op": "open", "env_id": …, "options": …, "path": sys.path}   {"ok": true}
    {"op": "reset", "task": {id, kind, data}, "seed": …}           {"observation": …}
    {"op": "step", "action": …}                                    {"observation": …, "reward": …, "is_done": …}
    {"op": "close"}                                                {"ok": true}, and the process ends

In place of any answer: {"fault": …}, a failure that a fresh process may mend, or {"error": class name, "message": …},
something that only the user can mend.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from queue import SimpleQueue
from typing import Any

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.base import Env, EnvStep, load_benchmark
from sparring.envs.faults import checked_observation, checked_step, describe_exception


def serve(request_fd: int, answer_fd: int) -> None:
    """Answer requests until `close`."""
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(request_fd, requests), daemon=True).start()
    env: Env | None = None
    is_open = True
    while is_open:
        request = json.loads(requests.get())
        is_open = request["op"] != "close"
        try:
            env, answer = _answer(env, request)
        except (ConfigError, DataError) as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except (Exception, SystemExit) as error:  # the process boundary: the pool decides what becomes of it
            answer = {"fault": describe_exception(error)}
        line = memoryview(json.dumps(answer).encode() + b"\n")
        while line:
            line = line[os.write(answer_fd, line) :]


def _answer(env: Env | None, request: dict[str, Any]) -> tuple[Env | None, dict[str, Any]]:
    match request["op"]:
        case "open":
            sys.path[:] = [*request["path"], *(entry for entry in sys.path if entry not in request["path"])]
            return load_benchmark(request["env_id"], request["options"]).make_env(), {"ok": True}
        case "reset":
            assert env is not None
            return env, {"observation": checked_observation(env, env.reset(Task(**request["task"]), request["seed"]))}
        case "step":
            assert env is not None
            step = checked_step(env, env.step(request["action"]), EnvStep)
            answer = {"observation": step.observation, "reward": float(step.reward), "is_done": bool(step.is_done)}
            return env, answer
        case _:
            if env is not None:
                env.close()
            return None, {"ok": True}


def _read_requests(fd: int, requests: SimpleQueue[bytes]) -> None:
    """Pass on whole lines; at the end of the stream, which is the parent's death, end everything.

    A thread of its own, so that an env that hangs does not outlive the parent.
    """
    rest = b""
    while block := os.read(fd, 1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            requests.put(line)
    if len(sys.argv) > 1:  # started as above
        shutil.rmtree(sys.argv[1], ignore_errors=True)
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _take_pipes() -> tuple[int, int]:
    """Move stdin and stdout out of the world's reach. `dup` makes descriptors that children don't inherit."""
    request_fd, answer_fd = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    return request_fd, answer_fd


if __name__ == "__main__":
    serve(*_take_pipes())
