"""Shut the calling process in, for good: no files but those named, no network, no other processes, bounded resources.

Linux only, through Landlock (files) and seccomp (system calls), both called by number, since Python has no names for
them. Nothing here imports anything but the standard library: it runs in the engine's own Python.

Source: the kernel's documentation of Landlock (userspace-api/landlock) and of seccomp filters (seccomp(2)).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

EPERM, ENOSYS = 1, 38

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIGKILL = 9

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # the same on every machine
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FS_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Landlock version → all rights over files that it knows; the versions between add none."""
FILE_ONLY_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
NET_RIGHTS = 0b11  # bind and connect, TCP; since version 4
SCOPES = 0b11  # abstract Unix sockets and signals; since version 6

SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
BPF_LOAD_WORD, BPF_JUMP_EQUAL, BPF_JUMP_GREATER_EQUAL, BPF_JUMP_SET, BPF_RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_FIRST_ARGUMENT = 0, 4, 16
CLONE_THREAD = 0x00010000
X32_SYSCALLS = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the numbers of system calls are on a kind of processor."""

    audit_arch: int
    seccomp: int
    clone: int
    tgkill: int
    prlimit64: int
    forbidden: tuple[int, ...]
    """Calls that are refused whatever their arguments: they start programs or processes, open sockets, signal, trace or
    limit other processes, change a file's owner, mode or times, mount, or give another way around a filter."""


CLONE3 = 435  # the same on every machine, as are the late calls in `LATE_CALLS`
LATE_CALLS = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 448, 452, 463)
"""pidfd_send_signal, io_uring_*, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, pidfd_open, pidfd_getfd,
process_madvise, mount_setattr, process_mrelease, fchmodat2, setxattrat."""

MACHINES = {
    "x86_64": Machine(
        audit_arch=0xC000003E,
        seccomp=317,
        clone=56,
        tgkill=234,
        prlimit64=302,
        forbidden=(
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(41, 42, 43, 49, 50, 288),  # socket, connect, accept, bind, listen, accept4
            *(62, 129, 200, 297),  # kill, rt_sigqueueinfo, tkill, rt_tgsigqueueinfo
            *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
            *(90, 91, 92, 93, 94, 260, 268),  # chmod, fchmod, chown, fchown, lchown, fchownat, fchmodat
            *(132, 235, 261, 280, 188, 189, 190, 197, 198, 199),  # utime…, setxattr…, removexattr…
            *(161, 165, 166, 155, 272, 308),  # chroot, mount, umount2, pivot_root, unshare, setns
            *(163, 169),  # acct, reboot
            *(29, 30, 31, 68, 64, 240),  # shmget, shmat, shmctl, msgget, semget, mq_open
            *(248, 249, 250, 298, 321, 323, 141, 144, 203, 251),  # keys, perf, bpf, userfaultfd, others' priorities
        ),
    ),
    "aarch64": Machine(
        audit_arch=0xC00000B7,
        seccomp=277,
        clone=220,
        tgkill=131,
        prlimit64=261,
        forbidden=(
            *(221, 281),
            *(198, 203, 202, 200, 201, 242),
            *(129, 138, 130, 240),
            *(117, 270, 271, 272),
            *(52, 53, 54, 55),
            *(88, 5, 6, 7, 14, 15, 16),
            *(51, 40, 39, 41, 97, 268, 89, 142),
            *(194, 196, 195, 186, 190, 180),
            *(217, 218, 219, 241, 280, 282, 140, 119, 122, 30),
        ),
    ),
}


def problem() -> str:
    """Return why this machine can't shut a process in; empty where it can."""
    if not sys.platform.startswith("linux"):
        return f"{platform.system()} has neither Landlock nor seccomp; Linux has"
    if platform.machine() not in MACHINES:
        return f"the numbers of system calls on {platform.machine()} are not known here"
    if landlock_version() < 1:
        return (
            "this kernel has no Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and `landlock` among its modules)"
        )
    return ""


def landlock_version() -> int:
    """Return the kernel's version of Landlock; 0 or less: none."""
    return _libc().syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that forked it ends."""
    _libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def limit_resources(*, memory_bytes: int, file_bytes: int) -> None:
    """Bound what this process may use from here on: address space beyond today's, size of a written file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        most = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def shut_in(*, readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Close everything but reading below `readable` and anything below `writable`. There is no way back.

    Raises:
        OSError: the kernel refuses.
    """
    _check(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _restrict_files(readable, writable)
    _filter_calls(MACHINES[platform.machine()])


def _restrict_files(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    libc, version = _libc(), landlock_version()
    rights = FS_RIGHTS_BY_ABI[max(known for known in FS_RIGHTS_BY_ABI if known <= version)]
    attributes = struct.pack("=QQQ", rights, NET_RIGHTS, SCOPES)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    _check(ruleset, "landlock_create_ruleset")
    for paths, allowed in ((readable, READ_FILE | READ_DIR), (writable, rights)):
        for path in filter(Path.exists, paths):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed if path.is_dir() else allowed & FILE_ONLY_RIGHTS, fd)
            _check(libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0), f"rule for {path}")
            os.close(fd)
    _check(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _filter_calls(machine: Machine) -> None:
    refuse, allow = SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW

    def only_if(number: int, jump: int, value: int) -> list[bytes]:
        """Allow a call if its first argument passes, else refuse it; other calls go on behind these four lines."""
        return [
            _instruction(BPF_JUMP_EQUAL, number, 0, 4),
            _instruction(BPF_LOAD_WORD, OFFSET_FIRST_ARGUMENT),
            _instruction(jump, value, 0, 1),
            _instruction(BPF_RETURN, allow),
            _instruction(BPF_RETURN, refuse),
        ]

    def always(number: int, answer: int) -> list[bytes]:
        return [_instruction(BPF_JUMP_EQUAL, number, 0, 1), _instruction(BPF_RETURN, answer)]

    program = [
        _instruction(BPF_LOAD_WORD, OFFSET_ARCH),
        _instruction(BPF_JUMP_EQUAL, machine.audit_arch, 1, 0),
        _instruction(BPF_RETURN, SECCOMP_RET_KILL_PROCESS),
        _instruction(BPF_LOAD_WORD, OFFSET_NUMBER),
        _instruction(BPF_JUMP_GREATER_EQUAL, X32_SYSCALLS, 0, 1),
        _instruction(BPF_RETURN, refuse),
        *only_if(machine.clone, BPF_JUMP_SET, CLONE_THREAD),
        *only_if(machine.tgkill, BPF_JUMP_EQUAL, os.getpid()),
        *only_if(machine.prlimit64, BPF_JUMP_EQUAL, 0),
        *always(CLONE3, SECCOMP_RET_ERRNO | ENOSYS),  # its flags lie in memory, where no filter sees them: use clone
    ]
    for number in (*machine.forbidden, *LATE_CALLS):
        program += always(number, refuse)
    program.append(_instruction(BPF_RETURN, allow))
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    done = _libc().syscall(machine.seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header)
    _check(done, "seccomp")


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _check(answer: int, what: str) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
