"""A vLLM server as a child of the run: started, watched, put to sleep while agents train, and ended with the run.

The server listens on the loopback alone and takes an API key that only the run has. Between it and the run stands a
warden (`vllm_warden.py`), which ends it even where the run is killed.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from sparring.core.errors import EnvFault
from sparring.engines.vllm_command import HOST, Served, command_of, environment_of, sleeps
from sparring.engines.vllm_log import PORT_TAKEN, failure, obituary, read_end, telling_line
from sparring.policies.vllm.config import KEY_VARIABLE

if TYPE_CHECKING:
    from sparring.policies.vllm.config import VllmConfig

__all__ = ["Served", "VllmServer"]

log = logging.getLogger(__name__)

WARDEN = Path(__file__).with_name("vllm_warden.py")
WARDEN_S = 20.0
"""Seconds that a warden has to end its server, which is more than it takes."""
LOOK_S = 0.2
"""Seconds between two looks at a server that starts."""
ANSWER_S = 5.0
"""Seconds that one such look waits."""
HEALTH_S = 30.0
"""Seconds within which a server that works says so; it may be busy."""
PORT_TRIES = 2
"""Ports that are tried: another program may take a free one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    """A server's processes."""

    warden: subprocess.Popen[bytes]
    group: int
    """Process group of the server; 0: it could not be started."""
    port: int
    log_start: int
    """Bytes that the log had before."""


class VllmServer:
    """Starts `vllm serve` and ends it. Its methods may be called from several threads."""

    def __init__(self, config: VllmConfig, served: Served, log_file: Path) -> None:
        """Args:
        config: where vLLM is, and what it may take of the machine.
        served: what it serves at first.
        log_file: gets what it writes; what stands there stays.
        """
        self._config, self._served, self._log_file = config, served, log_file
        self.api_key = os.environ.get(KEY_VARIABLE) or secrets.token_hex(16)
        """The key that requests need; the user's own where the environment has one."""
        self._child: _Child | None = None
        self._is_asleep = False
        self._lock = threading.RLock()

    @property
    def base_url(self) -> str:
        """The address of the server that was started last."""
        if self._child is None:
            raise EnvFault("The vLLM server is not running.")
        return f"http://{HOST}:{self._child.port}"

    @property
    def served(self) -> Served:
        """What the server serves."""
        return self._served

    def start(self) -> None:
        """Start the server and wait until it answers. Whatever goes wrong, Ctrl-C included, nothing stays behind.

        Raises:
            ConfigError: there is no vLLM, or it refuses the model, a flag or the memory that it may take.
            EnvFault: it died, or did not answer in time.
        """
        began = time.monotonic()
        log.info("vLLM starts on %s, which may take minutes; its log is %s", self._served.model, self._log_file)
        for _ in range(PORT_TRIES):
            with self._lock:
                self.stop()
                child = self._child = self._launch()
            try:
                if self._wait(child, began + self._config.startup_s):
                    log.info("vLLM answers at %s after %.0f s", self.base_url, time.monotonic() - began)
                    return
            except BaseException:
                self._end(child)
                raise
        raise EnvFault(f"The vLLM server found its port taken, twice. Start the run again. Its log: {self._log_file}.")

    def restart(self, served: Served | None = None) -> None:
        """End the server where it runs, and start it; see `start`.

        Args:
            served: what it serves from now on, for instance a new folder of weights; none: the same.
        """
        self._served = served or self._served
        self.start()

    def is_alive(self) -> bool:
        """Say whether the server runs and answers: one that hangs, or whose engine died, is as good as dead."""
        child = self._child
        return (
            child is not None
            and child.warden.poll() is None
            and self._ask(child.port, "GET", "/health", HEALTH_S) == 200
        )

    def why_dead(self) -> str:
        """Say in a line how the server ended, with the telling line of its log."""
        child = self._child
        if child is None:
            return f"it is not running. Its log: {self._log_file}."
        code = child.warden.poll()
        how = "does not answer" if code is None else obituary(code, read_end(self._log_file, child.log_start))
        return f"it {how}. Its log: {self._log_file}."

    def sleep(self) -> None:
        """Let the server give its GPU memory back until `wake`; a server that can't goes on as it is.

        Raises:
            EnvFault: it failed.
        """
        self._nod("/sleep?level=1", is_asleep=True)

    def wake(self) -> None:
        """Let the server take its GPU memory again; see `sleep`."""
        self._nod("/wake_up", is_asleep=False)

    def stop(self) -> None:
        """End the server and all of its processes. A start that is under way in another thread fails."""
        with self._lock:
            child, self._child, self._is_asleep = self._child, None, False
        if child is not None:
            self._end(child)

    def _launch(self) -> _Child:
        """Start a warden with a server on a free port."""
        port = _free_port()
        command = command_of(self._config, self._served, port)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log_file:
            log_file.write(f"$ {shlex.join(command)}\n".encode())
            log_file.flush()
            start = log_file.tell()
            warden = subprocess.Popen(
                [sys.executable, "-I", str(WARDEN), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,  # Ctrl-C reaches the run alone, which ends the server in order
                env=environment_of(self._config, self._served, self.api_key),
            )
        group = int(cast(BinaryIO, warden.stdout).readline() or 0)
        return _Child(warden=warden, group=group, port=port, log_start=start)

    def _wait(self, child: _Child, until: float) -> bool:
        """Wait until a server answers; false: its port was taken."""
        while child.warden.poll() is None:
            if self._ask(child.port, "GET", "/health", ANSWER_S) == 200 and child.warden.poll() is None:
                return True
            if time.monotonic() > until:
                line = telling_line(read_end(self._log_file, child.log_start))
                raise EnvFault(
                    f"The vLLM server did not answer within {self._config.startup_s:g} s. A large model takes longer: "
                    f"raise vllm.startup_s. It wrote {line!r}; its log: {self._log_file}."
                )
            time.sleep(LOOK_S)
        if self._child is not child:
            raise EnvFault("The vLLM server was stopped while it started.")
        text = read_end(self._log_file, child.log_start)
        if PORT_TAKEN.search(text):
            return False
        raise failure(child.warden.returncode, text, self._log_file)

    def _nod(self, path: str, *, is_asleep: bool) -> None:
        with self._lock:
            child = self._child
            if child is None or self._is_asleep == is_asleep or not sleeps(self._config, self._served):
                return
            if self._ask(child.port, "POST", path, self._config.timeout_s) != 200:
                raise EnvFault(
                    f"The vLLM server refused {path}. Set vllm.sleep = false, which leaves it its share of the GPU's "
                    f"memory, or see its log: {self._log_file}."
                )
            self._is_asleep = is_asleep

    def _ask(self, port: int, method: str, path: str, timeout_s: float) -> int:
        """Return the status of a request; 0: there was no answer. No proxy is asked: it is this machine."""
        connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
        try:
            key = {} if path == "/health" else {"Authorization": f"Bearer {self.api_key}"}
            connection.request(method, path, headers=key)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _end(self, child: _Child) -> None:
        """End a server's processes; a second time does nothing."""
        warden = child.warden
        if cast(BinaryIO, warden.stdout).closed:
            return
        with contextlib.suppress(OSError):
            cast(BinaryIO, warden.stdin).close()
        try:
            warden.wait(WARDEN_S)
        except subprocess.TimeoutExpired:
            warden.kill()
            warden.wait()
        cast(BinaryIO, warden.stdout).close()
        if warden.returncode < 0 and child.group:  # somebody killed the warden before it could do its work
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.group, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
