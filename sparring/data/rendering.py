"""Chat templates are rendered in a process of their own, which has limits: messages go there, text comes back.

One process serves all templates of this one. It costs no more time than rendering here, since the template's program
is what takes long. Where it exceeds a limit it is ended, the template is refused, and the next one gets a new process.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from sparring.core.errors import ModelError

PROGRAM = Path(__file__).with_name("rendering_process.py")
WAIT_S = 120.0
"""Longest wait for a text, however busy the machine."""
MAX_TEMPLATE = 1_000_000
"""Most characters of a template, which goes to the process with every request."""
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL")
"""Environment variables that the process gets; no keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What rendering a conversation may take."""

    seconds: int = 5
    """Of processor time."""
    bytes: int = 2**29
    """Address space of the process."""
    chars: int = 4_000_000
    """Of the text: more than fits into any context."""


class Rendering:
    """One template with its variables, ready to render."""

    def __init__(self, template: str, variables: Mapping[str, Any], limits: Limits | None = None) -> None:
        """`variables` are for the template, the tokenizer's special tokens among them.

        Raises:
            ModelError: the template itself is too long.
        """
        if len(template) > MAX_TEMPLATE:
            raise ModelError(f"The chat template has {len(template)} characters, more than {MAX_TEMPLATE}.")
        self._limits = limits or Limits()
        request = (template, dict(variables), asdict(self._limits))
        self._header = json.dumps(request, default=lambda value: f"<{type(value).__name__}>").encode() + b"\n"

    def __call__(self, messages: Sequence[Mapping[str, Any]], *, is_asked: bool) -> str:
        """Return the text of messages, with the generation prompt if an answer is asked for.

        Raises:
            ModelError: the template refuses the messages, fails, or exceeds a limit.
        """
        body = json.dumps([[dict(message) for message in messages], is_asked]).encode() + b"\n"
        kind, text = _PROCESS.ask(self._header + body, self._limits)
        if kind == "text":
            return text
        if kind == "refused":
            raise ModelError(f"The chat template refuses user and assistant turns: {text}")
        raise ModelError(
            f"The chat template fails on user and assistant turns: {text}. Do the chat.template_kwargs suit it?"
        )


class _Process:
    """The rendering process, started when it is first needed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Know of no process: a fork must not write into its parent's."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def ask(self, request: bytes, limits: Limits) -> tuple[str, str]:
        """Send a request and return the answer's kind and text."""
        with self._lock:
            process = self._running()
            try:
                cast("IO[bytes]", process.stdin).write(request)
                cast("IO[bytes]", process.stdin).flush()
                line = _read_line(cast("IO[bytes]", process.stdout), most=12 * limits.chars + 2**16)
            except BrokenPipeError:
                line = b""
            except BaseException:  # an interrupt: the answer would be taken for that to the next request
                self.end()
                raise
            if line:
                kind, text = json.loads(line)
                return kind, text
            self.end()
        return "failed", f"it was ended after {limits.seconds} s of processor time, or by the system"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # an interrupt from the keyboard is not for it
            )
        return self._process


def _read_line(stream: IO[bytes], *, most: int) -> bytes:
    """Read up to the end of a line; nothing where it doesn't come in time, ends before, or is longer than `most`."""
    parts: list[bytes] = []
    size = 0
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    while poll.poll(WAIT_S * 1000):
        part = os.read(stream.fileno(), 2**20)
        parts.append(part)
        size += len(part)
        if not part or size > most:
            return b""
        if part.endswith(b"\n"):
            return b"".join(parts)
    return b""


_PROCESS = _Process()
atexit.register(_PROCESS.end)
os.register_at_fork(after_in_child=_PROCESS.forget)
