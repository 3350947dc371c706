"""The engine's process as seen from outside: episodes opened, code in, what it printed out, all rows on request."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, EnvFault
from sparring.envs.appworld.install import INSIDE, Engine

SIGKILL = -9

Rows = Mapping[str, list[dict[str, Any]]]
"""`app.Table` → its rows, each with its `id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an agent's code may use."""

    cpu_s: float = 5.0
    """CPU seconds an action may take; at twice as many the episode is ended. Well below `env.step_deadline_s`."""
    memory_mb: int = 512
    """Memory beyond what the engine has when an episode begins."""
    file_mb: int = 16
    """Largest file that can be written (into the scratch folder)."""
    observation_chars: int = 3000
    """Characters kept of what an action prints."""


class EpisodeEnded(Exception):
    """The fork that played the episode has ended by itself: the code broke its interpreter, or used up its CPU time."""


class EngineProcess:
    """One engine, loaded once; each episode is played in a fork of it, which is shut in."""

    def __init__(self, engine: Engine, data: Path, limits: Limits, *, unconfined: bool = False) -> None:
        """Start it, in some seconds.

        Args:
            engine: where it is installed.
            data: the data folder: the engine's own, or AppWorld's official one.
            limits: what an agent's code may use.
            unconfined: go on where this machine can't shut a process in.

        Raises:
            ConfigError: this machine can't, and `unconfined` is not set.
            EnvFault: the engine does not come up.
        """
        self.limits = limits
        self.nonce = ""
        self.pid: int | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="sparring-appworld-", ignore_cleanup_errors=True)
        scratch = self._folder.name
        variables = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": scratch,
            "TMPDIR": f"{scratch}/root",
            "OMP_NUM_THREADS": "1",
        }
        self._errors = Path(scratch, "stderr.txt").open("w+b")  # noqa: SIM115 (open as long as the process runs)
        self._process = subprocess.Popen(
            [engine.python, "-X", "utf8", INSIDE / "engine.py", scratch, data, engine.data],
            stdin=subprocess.PIPE,  # its end is the engine's end
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=scratch,
            env={**variables, "PYTHONHASHSEED": "0"},  # nothing of the user's environment; sets in a fixed order
        )
        try:
            problem = self._receive()["ready"]
            if problem and not unconfined:
                raise ConfigError(
                    f"AppWorld runs an agent's code, and this machine can't shut it in: {problem}. Use Linux (a "
                    "virtual machine will do), or accept the risk with `options = { unconfined = true }` under [env]."
                )
        except BaseException:
            self.close()
            raise

    def open(self, *, task: Mapping[str, Any] | None = None, official: str | None = None) -> dict[str, Any]:
        """Begin an episode of a task of ours (`specs` and `rows`) or of an official one; return what it starts from.

        Raises:
            ConfigError: the engine's models refuse the task's rows.
        """
        self.end()
        what = {"task": task} if official is None else {"official": official}
        self._fork({"op": "open", "limits": asdict(self.limits), **what})
        try:
            answer = self._ask()
        except EpisodeEnded as end:
            raise EnvFault(f"The engine could not begin an episode: {end}. {self._last_words()}") from None
        if "refused" in answer:
            self._await_end()
            raise ConfigError(f"AppWorld's engine refuses the task: {answer['refused']}.")
        return answer

    def execute(self, code: str) -> tuple[str, bool]:
        """Run code and return what it printed, or its error, and whether the task is marked complete.

        Raises:
            EpisodeEnded: the code has ended its interpreter.
            EnvFault: something else has.
        """
        answer = self._ask(op="execute", code=code)
        return answer["output"], answer["is_complete"]

    def rows(self) -> Rows:
        """Return all rows as they are now. Raises EpisodeEnded."""
        return self._ask(op="rows")["rows"]

    def grade_official(self, official: str) -> list[dict[str, Any]]:
        """Save the state, end the episode and let a fresh fork run the official task's tests on it."""
        self._ask(op="save")
        self.end()
        self._fork({"op": "grade", "official": official, "limits": asdict(self.limits)})
        try:
            tests = self._ask()["tests"]
        except EpisodeEnded as error:
            raise EnvFault(f"The engine could not grade {official}: {error} {self._last_words()}") from None
        self._await_end()
        return tests

    def end(self) -> None:
        """End the episode, if one is open."""
        if self.pid is not None:
            self._send({"op": "end"})
            self._await_end()

    def kill(self) -> None:
        """Make whoever waits for an answer get an EnvFault; may be called from another thread. `close` follows."""
        self._process.kill()

    def close(self) -> None:
        """End the engine and the episode with it; nothing is left behind."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self.pid = None
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def _fork(self, request: dict[str, Any]) -> None:
        self.nonce = secrets.token_hex(16)
        self._send({**request, "nonce": self.nonce})
        while (answer := self._receive()).get("nonce") != self.nonce:
            pass  # left in the pipe by an episode that was ended
        self.pid = answer["pid"]

    def _ask(self, **request: Any) -> dict[str, Any]:
        if self.pid is None:
            raise EpisodeEnded("No episode is open.")
        if request:
            self._send(request)
        answer = self._receive()
        if "error" in answer:
            self._await_end()
            raise EpisodeEnded(answer["error"])
        if "ended" in answer:
            self.pid = None
            if answer["ended"] == SIGKILL:
                raise EnvFault("The episode's process was killed from outside (out of memory?).")
            raise EpisodeEnded(f"exit status {answer['ended']}")
        return answer

    def _await_end(self) -> None:
        while "ended" not in self._receive():
            pass
        self.pid = None

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise EnvFault(f"The engine's process is gone. {self._last_words()}") from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EnvFault(f"The engine's process is gone. {self._last_words()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EnvFault("The engine's process broke its protocol.")
        return answer

    def _last_words(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-500:].decode(errors="replace").strip()
