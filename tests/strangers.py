"""What another user of this machine gets at. As root it is tried, as that user; else it is told from file modes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

NOBODY = 65534

TRYING = """
import json, os, socket, sys

wanted = json.load(sys.stdin)
if wanted["user"] is not None:
    os.setgroups([])
    os.setgid(wanted["user"])
    os.setuid(wanted["user"])
got = []
for path in wanted["paths"]:
    for what, look in (("list", os.listdir), ("read", lambda path: open(path, "rb").read(1))):
        try:
            look(path)
            got.append(f"{what} {path}")
        except OSError:
            pass
for address, text in wanted["calls"]:
    try:
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as one:
            one.settimeout(wanted["patience_s"])
            one.connect(address if isinstance(address, str) else tuple(address))
            one.sendall(text.encode())
            answer = b""
            while block := one.recv(4096):
                answer += block
    except OSError:
        pass
    if answer := locals().pop("answer", b""):
        got.append(f"call {address}: {answer.decode(errors='replace')}")
print(json.dumps(got))
"""

Address = tuple[str, int] | str


def try_as(
    user: int | None, *, paths: Iterable[Path | str] = (), calls: Iterable[tuple[Address, str]] = ()
) -> list[str]:
    """Return what a user (None: this one) gets of files and folders, and what is answered to texts sent to addresses.

    Only root can become another user; else the test is skipped.
    """
    if user is not None and os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    wanted = {"user": user, "paths": [str(path) for path in paths], "calls": list(calls), "patience_s": 0.3}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRYING], input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def listening(pids: Iterable[int]) -> list[Address]:
    """Return the addresses at which processes can be reached: ports, and local sockets with a name."""
    found: list[Address] = []
    for pid in pids:
        for one in psutil.Process(pid).net_connections(kind="all"):
            if isinstance(one.laddr, str):
                found += [one.laddr] if one.laddr else []
            elif one.status == psutil.CONN_LISTEN or (one.status == psutil.CONN_NONE and one.laddr):
                found.append((one.laddr.ip, one.laddr.port))
    return found


def secrets_of(pids: Iterable[int]) -> list[str]:
    """Return where the kernel shows what processes know."""
    return [f"/proc/{pid}/{name}" for pid in pids for name in ("environ", "mem", "fd", "maps", "cwd/")]


def is_private(path: Path) -> bool:
    """Say whether a file or folder, or a folder above it that is ours, is closed to all other users."""
    for one in (path, *path.parents):
        entry = one.stat()
        if entry.st_uid == os.geteuid() and stat.S_ISDIR(entry.st_mode) and not entry.st_mode & 0o077:
            return True
    return not path.stat().st_mode & 0o077


def below(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]
