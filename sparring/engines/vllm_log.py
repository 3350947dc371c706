"""Why a vLLM server ended, as its log tells it: one line that says so, and what helps."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from sparring.core.errors import ConfigError, EnvFault
from sparring.core.text import printable

MAX_READ = 2**18
"""Bytes at the end of a log that are looked at."""
MAX_LINE = 300
"""Characters of a line that are shown."""
SIGNALLED = 128
"""A code above this is a signal's number and this."""

_PREFIX = re.compile(r"^(?:\(\w+(?: pid=\d+)?\) )*(?:(?:ERROR|CRITICAL) \S+ \S+ \[[^]]*\] *)?")
"""What vLLM puts before a line: the process, then level, date, time and place."""
_TELLING = re.compile(
    r"^(?:[\w.]*(?:Error|Exception): |Value error, |Fatal Python error: |error: |"
    r"\S+: (?:error: |Error while |No module named ))"
)
"""How the last line of an exception, a crash or a refused command line begins."""
_SECONDHAND = re.compile(
    r"Engine core initialization failed|EngineCore encountered an issue|EngineDeadError|root cause"
)
"""Errors that only pass on that another process failed."""

PORT_TAKEN = re.compile(r"address already in use", re.IGNORECASE)
_REMEDIES = (
    (
        r"No module named '?vllm",
        "Run `make setup-vllm`, or let vllm.python name the Python of an environment that has vLLM.",
    ),
    (
        r"Free memory on device|out of memory|OutOfMemory",
        "Lower vllm.gpu_memory_utilization, or end what else uses the GPU.",
    ),
    (
        r"KV cache|cache blocks|gpu_memory_utilization",
        "Raise vllm.gpu_memory_utilization (on a CPU the environment variable VLLM_CPU_KVCACHE_SPACE, in GiB), or "
        "lower chat.max_context.",
    ),
    (r"trust.remote.code", "Set model.trust_remote_code if you have read the model's code."),
    (r"unrecognized arguments|invalid choice|: error: ", "Check vllm.extra_args; the flags are vLLM 0.32's."),
    (r"max_model_len", "Lower chat.max_context."),
)
"""What a log says, and what to do about it; the first that fits."""
_SIGNAL_REMEDIES = {
    signal.SIGILL: "This build of vLLM is for another processor. Run `make setup-vllm`, which makes one that fits.",
    signal.SIGKILL: "As a rule the machine's memory was full: a smaller model or a lower chat.max_context takes less.",
}


def read_end(log_file: Path, start: int = 0) -> str:
    """Return the end of a log, of bounded length.

    Args:
        log_file: the log.
        start: bytes that are older than the server.
    """
    try:
        with log_file.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(start, size - MAX_READ))
            return log.read(MAX_READ).decode("utf-8", "replace")
    except OSError:
        return ""


def telling_line(text: str) -> str:
    """Return the line of a log that says best what went wrong; empty: the log is.

    That is its last error at first hand, or else its last error, or its last line.
    """
    lines = [line for raw in text.splitlines() if (line := _PREFIX.sub("", raw, count=1).strip())]
    errors = [line for line in lines if _TELLING.match(line)]
    firsthand = [line for line in errors if not _SECONDHAND.search(line)]
    line = (firsthand or errors or lines or [""])[-1]
    line = printable(line).rstrip(".")
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…"


def obituary(code: int | None, text: str) -> str:
    """Say how a server ended: its code or its signal, and the telling line of its log."""
    killer = _signal(code)
    how = f"died by {killer.name}" if killer else f"ended with code {code}"
    line = telling_line(text)
    return f"{how}: {line}" if line else how


def failure(code: int | None, text: str, log_file: Path) -> ConfigError | EnvFault:
    """Return the error for a server that ended before it answered.

    Args:
        code: what its process ended with.
        text: the end of its log.
        log_file: the log, for the message.
    """
    line = telling_line(text)
    killer = _signal(code)
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, line, re.IGNORECASE)), "")
    if "Illegal instruction" in text:
        killer = signal.SIGILL
    if killer and not remedy:
        remedy = _SIGNAL_REMEDIES.get(killer, "Is this build of vLLM made for this machine?")
    said = (f"The vLLM server did not start; it {obituary(code, text)}.", remedy, f"Its log: {log_file}.")
    message = " ".join(filter(None, said))
    return EnvFault(message) if killer else ConfigError(message)


def _signal(code: int | None) -> signal.Signals | None:
    try:
        return signal.Signals((code or 0) - SIGNALLED)
    except ValueError:
        return None
