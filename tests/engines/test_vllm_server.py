"""vLLM as a child process: what it is started with, each way to fail, and that nothing of it outlives the run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sparring.core.errors import ConfigError, EnvFault
from sparring.engines import vllm_server
from sparring.engines.vllm_command import GUARD, command_of, environment_of
from sparring.engines.vllm_log import telling_line
from sparring.engines.vllm_server import Served, VllmServer
from sparring.policies.vllm.config import VllmConfig
from tests.processes import is_alive, wait_until

SERVED = Served(
    model="org/base",
    name="base",
    dtype="float32",
    max_model_len=512,
    max_lora_rank=12,
    deterministic=False,
    on_gpu=False,
)
CONFIG = VllmConfig(launch=True, python=sys.executable, startup_s=60.0)
DRIVER = """
import sys, time
from pathlib import Path
from sparring.engines.vllm_server import Served, VllmServer
from sparring.policies.vllm.config import VllmConfig

served = Served(
    model="m", name="m", dtype="float32", max_model_len=512, max_lora_rank=None, deterministic=False, on_gpu=False
)
VllmServer(VllmConfig(launch=True, python=sys.executable), served, Path(sys.argv[1])).start()
print("up", flush=True)
time.sleep(600)
"""


class Fake:
    """An environment whose vLLM behaves as told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts_file, self.log_file = folder / "starts", folder / "run" / "vllm.log"
        self._monkeypatch = monkeypatch
        package = folder / "packages" / "vllm" / "entrypoints" / "cli"
        package.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("fake_vllm.py"), package / "main.py")
        monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))
        monkeypatch.setenv("FAKE_STARTS", str(self.starts_file))
        monkeypatch.delenv("VLLM_API_KEY", raising=False)

    def behaves(self, **behaviour: Any) -> None:
        self._monkeypatch.setenv("FAKE_VLLM", json.dumps(behaviour))

    def server(self, config: VllmConfig = CONFIG, served: Served = SERVED) -> VllmServer:
        return VllmServer(config, served, self.log_file)

    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.starts_file.read_text().splitlines()]

    def pids(self) -> list[int]:
        return [pid for start in self.starts() for pid in start["pids"]]

    def drive(self) -> subprocess.Popen[str]:
        """Start a process of its own that starts a server, as a run does."""
        path = os.pathsep.join([str(Path(vllm_server.__file__).parents[2]), os.environ["PYTHONPATH"]])
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.log_file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake(tmp_path, monkeypatch)
    yield fake
    if fake.starts_file.exists():
        left = [pid for pid in fake.pids() if is_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, "every test ends its servers"


# ── What is started ───────────────────────────────────────────────────────────────────────────────────────────────────


def flags_of(command: list[str]) -> dict[str, str | None]:
    flags: dict[str, str | None] = {}
    for word, following in zip(command, [*command[1:], "--"], strict=True):
        if word.startswith("--"):
            flags[word] = None if following.startswith("--") else following
    return flags


def test_a_cpu_server_takes_adapters_and_nobodys_memory_but_its_cache(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    flags = flags_of(command_of(CONFIG, SERVED, 1234))
    assert flags["--max-lora-rank"] == "16", "the next of those that vLLM takes"
    assert flags["--host"] == "127.0.0.1"
    assert {"--enable-lora", "--enforce-eager"} <= flags.keys()
    assert not {"--gpu-memory-utilization", "--enable-sleep-mode", "--max-num-seqs"} & flags.keys()
    environment = environment_of(CONFIG, SERVED, "key")
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-1", "what the user has set stays"
    assert "VLLM_SERVER_DEV_MODE" not in environment


def test_a_gpu_server_sleeps_unless_told_otherwise():
    served = replace(SERVED, on_gpu=True, max_lora_rank=None, deterministic=True)
    config = replace(CONFIG, gpu_memory_utilization=0.3, tensor_parallel=2)
    flags = flags_of(command_of(config, served, 1234))
    assert flags["--gpu-memory-utilization"] == "0.3"
    assert flags["--tensor-parallel-size"] == "2"
    assert flags["--max-num-seqs"] == "1"
    assert {"--no-enable-prefix-caching", "--enable-sleep-mode"} <= flags.keys()
    assert not {"--enable-lora", "--enforce-eager"} & flags.keys()
    assert environment_of(config, served, "key")["VLLM_SERVER_DEV_MODE"] == "1"
    awake = replace(config, sleep=False)
    assert "--enable-sleep-mode" not in command_of(awake, served, 1234)
    assert "VLLM_SERVER_DEV_MODE" not in environment_of(awake, served, "key")


def test_a_folder_is_served_offline_and_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    served = replace(SERVED, model="weights")
    assert str(tmp_path / "weights") in command_of(CONFIG, served, 1)
    assert environment_of(CONFIG, served, "key")["HF_HUB_OFFLINE"] == "1"
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "HF_HUB_OFFLINE" not in environment_of(CONFIG, SERVED, "key")


def test_further_words_stand_last_so_that_they_win():
    command = command_of(replace(CONFIG, extra_args=("--max-loras", "5")), SERVED, 1)
    assert command[-2:] == ["--max-loras", "5"]


def test_a_rank_that_vllm_does_not_take_is_refused():
    with pytest.raises(ConfigError, match=r"lora\.rank: .* 512 at most, and this is 513"):
        command_of(CONFIG, replace(SERVED, max_lora_rank=513), 1)


# ── A life ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_server_starts_serves_other_weights_and_stops(fake):
    server = fake.server()
    assert not server.is_alive()
    server.start()
    try:
        assert server.is_alive()
        first = server.base_url
        assert httpx.get(f"{first}/health", trust_env=False).status_code == 200
        server.sleep()  # nothing to give back on a CPU
        server.restart(replace(SERVED, model="org/other"))
        assert server.served.model == "org/other"
        assert [start["argv"][1] for start in fake.starts()] == ["org/base", "org/other"]
        assert not is_alive(fake.starts()[0]["pids"][0])
        assert server.is_alive()
    finally:
        server.stop()
    assert not server.is_alive()
    assert "asked" not in fake.log_file.read_text()
    server.stop()


def test_the_key_is_random_known_to_both_and_nowhere_to_be_read(fake):
    server = fake.server()
    assert len(server.api_key) == 32
    assert fake.server().api_key != server.api_key
    server.start()
    (start,) = fake.starts()
    commands = [psutil.Process(pid).cmdline() for pid in (start["pids"][0], psutil.Process(start["pids"][0]).ppid())]
    server.stop()
    assert start["env"]["VLLM_API_KEY"] == server.api_key
    assert server.api_key not in fake.log_file.read_text() + repr(commands)


def test_the_users_own_key_is_taken(fake, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "of-the-user")
    assert fake.server().api_key == "of-the-user"


def test_a_folder_named_vllm_where_the_run_starts_is_not_imported(fake, tmp_path, monkeypatch):
    (tmp_path / "here" / "vllm").mkdir(parents=True)
    (tmp_path / "here" / "vllm" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path / "here")
    server = fake.server()
    server.start()
    server.stop()


def test_a_server_on_a_gpu_sleeps_and_wakes_once_each(fake):
    server = fake.server(served=replace(SERVED, on_gpu=True))
    server.start()
    try:
        for nod in (server.wake, server.sleep, server.sleep, server.wake, server.wake):
            nod()
        asked = [line for line in fake.log_file.read_text().splitlines() if line.startswith("asked")]
        assert asked == ["asked /sleep?level=1", "asked /wake_up"]
        server.api_key = "another"  # stands for a server that refuses
        with pytest.raises(EnvFault, match=r"refused /sleep.*vllm\.sleep = false"):
            server.sleep()
    finally:
        server.stop()


def test_a_server_that_hangs_counts_as_dead(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server, "HEALTH_S", 0.3)
    fake.behaves(hangs=str(tmp_path / "hang"))
    server = fake.server()
    server.start()
    try:
        assert server.is_alive()
        (tmp_path / "hang").touch()
        assert not server.is_alive()
        assert server.why_dead() == f"it does not answer. Its log: {fake.log_file}."
        (tmp_path / "hang").unlink()
        server.restart()
        assert server.is_alive()
    finally:
        server.stop()


def test_a_taken_port_costs_another_try(fake, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = vllm_server._free_port()
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(vllm_server, "_free_port", lambda: next(ports))
        server = fake.server()
        server.start()
        assert server.base_url == f"http://127.0.0.1:{free}"
        assert server.is_alive()
        server.stop()
        monkeypatch.setattr(vllm_server, "_free_port", lambda: taken.getsockname()[1])
        with pytest.raises(EnvFault, match="port taken, twice"):
            server.start()


# ── Ways to fail ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_such_python(fake):
    server = fake.server(replace(CONFIG, python="nowhere/bin/python"))
    with pytest.raises(ConfigError, match=r"vllm\.python: there is no program 'nowhere/bin/python'.*make setup-vllm"):
        server.start()


def test_a_file_that_is_no_program(fake, tmp_path):
    python = tmp_path / "python"
    python.write_text("\x00 no program")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"error: .*Exec format error.*vllm\.log"):
        fake.server(replace(CONFIG, python=str(python))).start()


def test_vllm_is_not_installed(fake, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(ConfigError, match=r"No module named 'vllm'.*make setup-vllm.*vllm\.python"):
        fake.server().start()


REFUSALS = {
    "main.py: error: unrecognized arguments: --bogus 3": r"--bogus 3\. Check vllm\.extra_args",
    "(EngineCore pid=7) ERROR 11-29 02:00:03 [core.py:9] ValueError: Free memory on device cuda:0 (3/24 GiB) on "
    "startup is less than desired GPU memory utilization (0.5, 12 GiB). Decrease it.\n"
    "(APIServer pid=5) RuntimeError: Engine core initialization failed. See root cause above.": (
        r"Free memory on device cuda:0 .*\. Lower vllm\.gpu_memory_utilization"
    ),
    "ValueError: To serve at least one request with the models's max seq len (4096), (0.5 GiB KV cache is needed": (
        r"KV cache is needed\. Raise vllm\.gpu_memory_utilization.*VLLM_CPU_KVCACHE_SPACE.*chat\.max_context"
    ),
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
    "  Value error, User-specified max_model_len (9) is greater than the derived max_model_len (4)\n"
    "    For further information visit https://errors.pydantic.dev": r"max_model_len \(9\).*Lower chat\.max_context",
    "Traceback (most recent call last):\n  File x\nOSError: \x1b[31mweights\nnanobind: leaked 4 instances!": (
        r"OSError: ␛\[31mweights\. Its log"
    ),
    "gone without a reason": r"ended with code 1: gone without a reason\. Its log",
}


@pytest.mark.parametrize("says", REFUSALS)
def test_vllm_refuses(fake, says):
    fake.behaves(says=says, code=1)
    server = fake.server()
    with pytest.raises(ConfigError, match=REFUSALS[says]) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert str(fake.log_file) in str(caught.value)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (signal.SIGILL, "died by SIGILL.*for another processor.*make setup-vllm"),
        (signal.SIGKILL, "died by SIGKILL.*memory was full"),
    ],
)
def test_vllm_dies_by_a_signal_while_it_starts(fake, number, remedy):
    fake.behaves(signal=number)
    with pytest.raises(EnvFault, match=remedy):
        fake.server().start()


def test_an_engine_that_meets_an_illegal_instruction_is_told_apart(fake):
    fake.behaves(
        says="Fatal Python error: Illegal instruction\n\nRuntimeError: Engine core initialization failed.", code=1
    )
    with pytest.raises(EnvFault, match=r"Fatal Python error: Illegal instruction.*another processor"):
        fake.server().start()


def test_a_server_that_is_too_slow_is_ended(fake):
    fake.behaves(waits_s=600, has_child=True)
    with pytest.raises(EnvFault, match=r"did not answer within 2 s.*raise vllm\.startup_s"):
        fake.server(replace(CONFIG, startup_s=2.0)).start()
    assert not any(map(is_alive, fake.pids()))


def test_a_server_that_dies_in_mid_run_says_why_and_starts_again(fake):
    server = fake.server()
    server.start()
    try:
        os.kill(fake.pids()[0], signal.SIGSEGV)
        wait_until(lambda: not server.is_alive(), 10)
        wait_until(lambda: "SIGSEGV" in server.why_dead(), 10)
        assert "Fatal Python error: Segmentation fault" in server.why_dead()
        assert str(fake.log_file) in server.why_dead()
        server.restart()
        assert server.is_alive()
    finally:
        server.stop()
    assert "not running" in server.why_dead()


def test_an_earlier_servers_log_is_not_told_again(fake):
    fake.behaves(first={"says": "ValueError: the first", "code": 1}, says="the second", code=1)
    with pytest.raises(ConfigError, match="the first"):
        fake.server().start()
    with pytest.raises(ConfigError, match="the second"):
        fake.server().start()
    assert "the first" in fake.log_file.read_text(), "but it stays"


def test_the_telling_line_is_short_and_any_text_has_one():
    assert telling_line("") == ""
    assert telling_line("\n\n") == ""
    assert len(telling_line("ValueError: " + "x" * 10_000)) == 301
    assert telling_line("RuntimeError: Engine core initialization failed") != "", "second hand is better than nothing"


# ── Ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stubborn_server_and_its_child_are_killed(fake):
    fake.behaves(is_stubborn=True, has_child=True)
    server = fake.server()
    server.start()
    assert all(map(is_alive, fake.pids()))
    server.stop()
    assert not any(map(is_alive, fake.pids()))


def test_a_child_that_outlives_its_server_is_killed(fake):
    fake.behaves(has_child=True)
    server = fake.server()
    server.start()
    os.kill(fake.pids()[0], signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, fake.pids())), 10)
    server.stop()


def test_a_server_ends_though_its_warden_was_killed(fake):
    fake.behaves(has_child=True)
    server = fake.server()
    server.start()
    psutil.Process(fake.pids()[0]).parent().kill()
    wait_until(lambda: not server.is_alive(), 10)
    server.restart()
    first, second = fake.starts()
    wait_until(lambda: not any(map(is_alive, first["pids"])), 10)
    assert all(map(is_alive, second["pids"]))
    server.stop()


def test_a_start_fails_where_another_thread_stops_the_server(fake):
    fake.behaves(waits_s=600)
    server = fake.server()
    with ThreadPoolExecutor(1) as another:
        starting = another.submit(server.start)
        wait_until(lambda: fake.starts_file.exists() and bool(fake.starts()), 20)
        server.stop()
        with pytest.raises(EnvFault, match="stopped while it started"):
            starting.result(10)
    assert not any(map(is_alive, fake.pids()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_run_that_is_killed(fake, number):
    fake.behaves(has_child=True)
    with fake.drive() as run:
        assert run.stdout.readline() == "up\n"
        pids = fake.pids()
        assert all(map(is_alive, pids))
        began = time.monotonic()
        run.send_signal(number)
        wait_until(lambda: not any(map(is_alive, pids)), 5)
        assert time.monotonic() - began < 5


def test_a_forked_child_that_outlives_the_run_does_not_keep_the_server(fake, monkeypatch):
    """It holds the pipe whose end tells of the run's death."""
    driver = DRIVER.replace('print("up"', 'import os\nif os.fork() == 0:\n    time.sleep(600)\nprint("up"')
    monkeypatch.setattr(sys.modules[__name__], "DRIVER", driver)
    with fake.drive() as run:
        assert run.stdout.readline() == "up\n"
        children = [child for child in psutil.Process(run.pid).children() if "-c" in child.cmdline()]
        run.kill()
        wait_until(lambda: not any(map(is_alive, fake.pids())), 5)
        for child in children:
            child.kill()


def test_ctrl_c_while_it_starts_leaves_nothing(fake):
    fake.behaves(waits_s=600, has_child=True)
    with fake.drive() as run:
        wait_until(fake.starts_file.exists, 20)
        wait_until(lambda: bool(fake.starts()), 10)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=10)
    assert "KeyboardInterrupt" in said
    assert not any(map(is_alive, fake.pids())), "before the run itself has ended"


# ── The real one ──────────────────────────────────────────────────────────────────────────────────────────────────────


def group_of(server: VllmServer) -> list[psutil.Process]:
    assert server._child is not None
    group = server._child.group
    return [one for one in psutil.process_iter() if os.getpgid(one.pid) == group]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tiny_model(head_dim=32).save_pretrained(folder)
    tiny_tokenizer("qwen3").save_pretrained(folder)
    return folder


@pytest.mark.vllm
def test_a_real_server_answers_whom_it_should_and_goes(vllm_python, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    config = VllmConfig(launch=True, python=vllm_python)
    server = VllmServer(config, replace(SERVED, model=str(tiny), name="tiny"), tmp_path / "vllm.log")
    server.start()
    try:
        group = group_of(server)
        assert len(group) >= 3, "the server, its engine and a worker"
        assert server.is_alive()
        body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "logprobs": 0, "return_token_ids": True}
        with httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as client:
            for path in ("/v1/completions", "/invocations", "/adapters", "/tokenize"):
                assert client.post(path, json=body).status_code == 401, path
            assert client.get("/metrics").status_code == 401
            client.headers["Authorization"] = f"Bearer {server.api_key}"
            answer = client.post("/v1/completions", json=body).json()
            assert client.post("/invocations", json=body).status_code == 200
        assert len(answer["choices"][0]["token_ids"]) == 4
        server.sleep()
        assert server.is_alive()
    finally:
        server.stop()
    assert not any(map(is_alive, group))
    assert server.api_key not in (tmp_path / "vllm.log").read_text()


@pytest.mark.vllm
def test_a_real_server_and_its_engine_end_with_a_run_that_is_killed(vllm_python, tiny, tmp_path):
    script = DRIVER.replace("sys.executable", repr(vllm_python)).replace('"m"', repr(str(tiny)), 1)
    driver = [sys.executable, "-c", script, str(tmp_path / "vllm.log")]
    root = str(Path(vllm_server.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "VLLM_CPU_KVCACHE_SPACE": "1"}
    with subprocess.Popen(driver, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout.readline() == "up\n"
        below = psutil.Process(run.pid).children(recursive=True)
        assert len(below) >= 4, "a warden, and those of the server"
        run.kill()
        wait_until(lambda: not any(map(is_alive, below)), 15)


@pytest.mark.vllm
def test_a_real_server_that_refuses_says_so(vllm_python, tiny, tmp_path):
    config = VllmConfig(launch=True, python=vllm_python, extra_args=("--bogus", "3"))
    served = replace(SERVED, model=str(tiny), max_model_len=100_000)
    with pytest.raises(ConfigError, match=r"unrecognized arguments: --bogus 3\. Check vllm\.extra_args"):
        VllmServer(config, served, tmp_path / "vllm.log").start()
    with pytest.raises(ConfigError, match=r"max_model_len \(100000\).*Lower chat\.max_context"):
        VllmServer(replace(config, extra_args=()), served, tmp_path / "vllm.log").start()


# ── The guard ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/health", b"", 200),
        ("/invocations", b"", 401),
        ("/adapters", b"Bearer wrong", 401),
        ("/healthy", b"", 401),
        ("/v1/models", b"Bearer right", 200),
    ],
)
def test_the_guard_lets_only_the_key_pass(monkeypatch, path, header, status):
    monkeypatch.syspath_prepend(str(GUARD))
    monkeypatch.setenv("VLLM_API_KEY", "right")
    from sparring_guard import Guard  # pyright: ignore[reportMissingImports]

    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", header)] if header else []
    asyncio.run(Guard(app)({"type": "http", "path": path, "headers": headers}, None, send))
    assert sent[0]["status"] == status
