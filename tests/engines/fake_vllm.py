"""Stands in for `vllm.entrypoints.cli.main`: the same command line, `/health` and sleeping; and the ways to fail.

`FAKE_VLLM` (JSON) says how it behaves, and each start leaves a line in the file `FAKE_STARTS`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers `/health`, and other paths where the key is right."""

    behaviour: dict[str, Any]

    def do_GET(self) -> None:
        if self.behaviour.get("hangs") and Path(self.behaviour["hangs"]).exists():
            time.sleep(60)
        is_known = self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        self.send_response(200 if is_known or self.path == "/health" else 401)
        self.end_headers()

    def do_POST(self) -> None:
        print("asked", self.path, flush=True)
        self.do_GET()


def main() -> None:
    """Behave as told."""
    starts = Path(os.environ["FAKE_STARTS"])
    num_before = len(starts.read_text().splitlines()) if starts.exists() else 0
    behaviour = json.loads(os.environ.get("FAKE_VLLM", "{}"))
    behaviour |= behaviour.get("first", {}) if num_before == 0 else {}
    pids = [os.getpid()]
    if behaviour.get("is_stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour.get("has_child"):
        pids.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    start = {"pids": pids, "argv": sys.argv[1:], "env": dict(os.environ), "path": sys.path[0]}
    with starts.open("a") as file:
        file.write(json.dumps(start) + "\n")
    time.sleep(behaviour.get("waits_s", 0))
    print(behaviour.get("says", "INFO 11-29 02:00:03 [launcher.py:1] all is well"), file=sys.stderr, flush=True)
    if "signal" in behaviour:
        os.kill(os.getpid(), behaviour["signal"])
    if "code" in behaviour:
        sys.exit(behaviour["code"])
    Handler.behaviour = behaviour
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
