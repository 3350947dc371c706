"""The toy world in a process per env, with actions that break its infrastructure: always, or once per marker file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.base import EnvStep
from tests.toy_world import ToyEnv, ToyWorld


class FaultyEnv(ToyEnv):
    def __init__(self, world: FaultyWorld) -> None:
        super().__init__()
        self.world = world

    def reset(self, task: Task, seed: int) -> str:
        if task.data.get("is_broken"):
            self._break("hang")
        return super().reset(task, seed) + f" pid {os.getpid()}" * self.world.tells_pid

    def step(self, action: str) -> EnvStep:
        word, _, rest = action.partition(" ")
        if rest == "once":
            marker = Path(self.world.folder) / word
            is_broken = not marker.exists()
            marker.touch()
        else:
            is_broken = rest == "always"
        if is_broken:
            self._break(word)
        if word == "print":
            print("noise\n" * 3, flush=True)
            os.write(1, b'{"observation": "noise"}\n')
            return self._answer(f"stdin gave {sys.stdin.read()!r}")
        if word == "variables":
            return self._answer(" ".join(sorted(os.environ)))
        if word == "need":
            return self._answer(os.environ[rest])
        if word == "child":
            return self._answer(str(subprocess.Popen(["sleep", "600"]).pid))
        return super().step(action)

    def _break(self, how: str) -> None:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "complain":
            os.write(2, b"out of luck\n")
            os._exit(3)
        if how == "hang":
            time.sleep(600)
        if how == "raise":
            raise RuntimeError("broken")
        if how == "refuse":
            raise DataError("catalogue.json: torn. Fetch it again.")


class FaultyWorld(ToyWorld):
    def __init__(self, *, folder: str = "", tells_pid: bool = False, is_refused: bool = False) -> None:
        super().__init__(size=2, per_process=True)
        self.folder, self.tells_pid, self.is_refused = folder, tells_pid, is_refused

    def make_env(self) -> FaultyEnv:
        if self.is_refused:
            raise ConfigError("env.options: no such catalogue.")
        return FaultyEnv(self)
