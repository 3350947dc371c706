"""The ranks of a `torchrun` as one group: the first sends calls to all, all do them, and the first gets the answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sparring.core import errors
from sparring.core.errors import ConfigError, SparringError, TrainingError
from sparring.engines.fsdp.codec import Message, pack, unpack
from sparring.engines.fsdp.watch import Watch
from sparring.models.folders import one_line

FOREVER = timedelta(days=300)
"""How long ranks wait for the next call: the first may play for hours. Who is dead is found out otherwise."""
TOGETHER = timedelta(minutes=30)
"""How long ranks wait for each other within a call, at the very most."""
END = "end"
"""The call that ends the others."""
_TORCHRUN = ("TORCHELASTIC_", "TORCH_NCCL_ASYNC", "GROUP_", "ROLE_")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Do = Callable[[str, Message], Message]
"""Does a call on this rank: from its name and arguments to its answer."""


class Group:
    """This rank's place among the ranks."""

    def __init__(self) -> None:
        """Meet the others."""
        self._local, host = int(os.environ["LOCAL_RANK"]), os.environ["MASTER_ADDR"]
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TOGETHER)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        calls = dist.new_group(backend="gloo", timeout=FOREVER)
        assert isinstance(calls, dist.ProcessGroup), "every rank is in it"
        self._calls = calls
        self.watch = self._start_watch(host)
        for name in [*os.environ]:  # what is started here (a server) is no rank
            if name in _RANKS or name.startswith(_TORCHRUN):
                del os.environ[name]
        self._is_interrupted = False
        if self.rank == 0:
            signal.signal(signal.SIGINT, self._interrupt)

    def place(self, kind: str) -> tuple[DeviceMesh, torch.device]:
        """Return all ranks as a mesh of CPUs or GPUs, and this rank's device.

        Raises:
            ConfigError: there are fewer GPUs on this machine than ranks.
        """
        if kind == "cpu":
            return init_device_mesh("cpu", (self.world,)), torch.device("cpu")
        num = torch.cuda.device_count()
        if self._local >= num:
            raise ConfigError(
                f"engine.kind: rank {self.rank} has no GPU of its own; its machine has {num}. Start torchrun with "
                f"--nproc-per-node {num}, or set model.device to 'cpu'."
            )
        torch.cuda.set_device(self._local)
        return init_device_mesh("cuda", (self.world,)), torch.device("cuda", self._local)

    def _start_watch(self, host: str) -> Watch:
        watch = Watch(0, self.world, host) if self.rank == 0 else None
        port = torch.tensor([watch.port if watch else 0])
        dist.broadcast(port, 0, group=self._calls)
        watch = watch or Watch(self.rank, self.world, host, int(port))
        dist.barrier(group=self._calls)
        watch.start()
        return watch

    # ── The first rank ────────────────────────────────────────────────────────────────────────────────────────────────

    def call(self, do: Do, name: str, message: Message) -> list[Message]:
        """Let all ranks do something, and return their answers.

        Args:
            do: does it on this rank.
            name: of the call.
            message: its arguments.

        Raises:
            SparringError: what a rank has raised.
            KeyboardInterrupt: the user has asked for the end meanwhile.
        """
        own: BaseException | None = None
        answer = Message()
        pulse = self.watch.pulse
        pulse.call, pulse.tick, pulse.error, pulse.is_working = pulse.call + 1, 0, "", True
        try:
            self._broadcast(name.encode())
            self._broadcast(pack(message))
            try:
                answer = do(name, message)
            except Exception as error:
                pulse.error = one_line(error)
                own = error
                if _is_lost(error):
                    self.watch.lost(error)
            answers = [answer, *(unpack(self._receive(rank)) for rank in range(1, self.world))]
        except RuntimeError as error:
            self.watch.lost(error)
        finally:
            pulse.is_working, pulse.error = False, ""
        if own is not None:
            raise own
        for rank, one in enumerate(answers):
            if "error" in one.values:
                raise _error_of(rank, one.values["error"])
        if self._is_interrupted:
            self._is_interrupted = False
            raise KeyboardInterrupt
        return answers

    def end(self) -> None:
        """Let the others go."""
        self.call(lambda *_: Message(), END, Message())
        self.watch.stop()
        dist.destroy_process_group()

    def _interrupt(self, *_: Any) -> None:
        """Take Ctrl-C: what ranks do together is done to its end."""
        if not self.watch.pulse.is_working:
            raise KeyboardInterrupt
        self._is_interrupted = True

    # ── The others ────────────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, do: Do) -> None:
        """Do what the first rank says, until it says that it is over."""
        pulse, is_over = self.watch.pulse, False
        while not is_over:
            try:
                name, message = self._broadcast().decode(), unpack(self._broadcast())
            except RuntimeError:
                self.watch.abandoned()
            pulse.call, pulse.tick, pulse.error, pulse.is_working = pulse.call + 1, 0, "", True
            is_over = name == END
            answer = Message() if is_over else self._answer(do, name, message)
            if is_over:
                self.watch.stop()
            pulse.is_working = False
            self._send(pack(answer))
        dist.destroy_process_group()

    def _answer(self, do: Do, name: str, message: Message) -> Message:
        try:
            return do(name, message)
        except Exception as error:
            if _is_lost(error):  # the fault is another rank's
                self.watch.abandoned()
            said = self.watch.pulse.error = one_line(error)
            return Message({"error": {"kind": type(error).__name__, "text": str(error) or said}})

    # ── Bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _broadcast(self, data: bytes = b"") -> bytes:
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self._calls)
        buffer = _tensor_of(data) if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(buffer, 0, group=self._calls)
        return data if self.rank == 0 else buffer.numpy().tobytes()

    def _send(self, data: bytes) -> None:
        dist.send(torch.tensor([len(data)]), 0, group=self._calls)
        dist.send(_tensor_of(data), 0, group=self._calls)

    def _receive(self, rank: int) -> bytes:
        size = torch.zeros(1, dtype=torch.int64)
        dist.recv(size, rank, group=self._calls)
        buffer = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(buffer, rank, group=self._calls)
        return buffer.numpy().tobytes()


def _tensor_of(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _is_lost(error: Exception) -> bool:
    """Say whether an error is that of a connection between ranks."""
    said = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in said for sign in ("gloo", "Connection closed by peer", "NCCL", "Connection reset", "Broken pipe")
    )


def _error_of(rank: int, said: dict[str, str]) -> SparringError:
    """Return a rank's error as what it was, where it is one of ours."""
    kind = getattr(errors, said["kind"], None)
    if isinstance(kind, type) and issubclass(kind, SparringError):
        return kind(said["text"])
    return TrainingError(f"rank {rank}: {said['kind']}: {said['text']}")
