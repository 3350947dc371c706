"""Code that tries to get out, hang, grow, or cheat; each line says what it is after."""

from __future__ import annotations

from textwrap import dedent

REFUSED = {
    "files, by open": "print(open('/etc/passwd').read())",
    "files, by pathlib": "import pathlib; print(pathlib.Path('/etc/passwd').read_text())",
    "a program, by os": "import os; os.system('id')",
    "a program, by subprocess": "import subprocess; print(subprocess.run(['id']))",
    "a program, by a replaced import": "__import__('os').execv('/bin/sh', ['sh'])",
    "a program, by the shell": "get_ipython().system('id')",
    "the engine's models": "from appworld.apps.venmo.models import User",
    "the engine's requester": "requester.request('admin', 'x')",
    "a second requester": "Requester('a', 'b')",
    "builtins, by module": "builtins.exec('1')",
    "builtins, by eval": "eval('1+1')",
    "modules, by a module": "print(calendar.sys.modules)",
    "modules, by json": "print(json.codecs)",
    "classes of object": "print(().__class__.__mro__[1].__subclasses__())",
    "a function's globals": "print(apis.venmo.login.__globals__)",
    "a frame": "g = (g.gi_frame for _ in [1])",
    "an attribute by its name": "print(getattr(apis, '_requester'))",
    "a private attribute": "print(apis._requester)",
    "an attribute by operator": "import operator; print(operator.attrgetter('__class__')(1))",
    "an attribute by a string": "print('__globals__')",
    "the network": "import socket; socket.create_connection(('1.1.1.1', 80))",
    "a library": "import ctypes; ctypes.string_at(0)",
    "signals": "import signal; signal.alarm(0)",
    "limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "threads": "import threading; threading.Thread(target=print).start()",
    "nesting": "x = " + "-" * 5000 + "1",
    "a long text": "x = '" + "a" * 30_000 + "'",
}
"""What the rule of the game refuses before it is run."""

SURVIVED = {
    "a loop": "while True: pass",
    "a loop that catches everything": "while True:\n    try:\n        while True: pass\n    except: pass",
    "memory, at once": "x = 'a' * 10**11",
    "memory, bit by bit": "x = []\nwhile True: x.append('a' * 10**6 + str(len(x)))",
    "output": "while True: print('spam' * 1000)",
    "recursion": "def f(): return f()\nf()",
    "deep data": "x = []\nfor _ in range(10**5): x = [x]\nprint(x)",
    "an exit": "raise SystemExit(1)",
    "an interrupt": "raise KeyboardInterrupt",
    "a base exception": "raise BaseException('x')",
    "its print": "def print(*a): pass\njson = None",
    "its apis": "apis = None",
    "a class with a hostile text": "class A:\n    def __repr__(self): return 1 / 0\nraise Exception(A())",
    "sleep": "time.sleep(10**6)",
    "a number of a billion digits": "x = 10 ** 10 ** 9",
    "a pattern that never ends": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "a shell's magic": "!ls",
    "another magic": "%run x.py",
    "a nonlocal world": "del apis",
}
"""What is run, and must leave an engine that plays the next episode as ever."""

ENDED = {
    "one endless call": "sum(range(10**13))",
    "a loop that catches even its end": "while True:\n"
    "    try:\n        while True: sum(range(100))\n    except BaseException: pass",
}
"""What never gives the processor back: the kernel ends it, and the episode."""

BREAKOUTS = dedent(
    """
    import os, pathlib, resource, shutil, signal, socket, subprocess, sys, tempfile, threading

    sys.path.insert(0, {inside!r})
    import confine

    scratch = pathlib.Path(tempfile.mkdtemp())
    outside = pathlib.Path({outside!r})
    confine.limit_resources(memory_bytes=256 << 20, file_bytes=1 << 20)
    system = [pathlib.Path(p) for p in (sys.prefix, sys.base_prefix, "/usr/lib", "/lib")]
    confine.shut_in(readable=system, writable=[scratch])

    def thread():
        worker = threading.Thread(target=lambda: None)
        worker.start()
        worker.join()

    allowed = {{
        "write scratch": lambda: (scratch / "x").write_text("hi"),
        "a thread": thread,
        "a pair of sockets": socket.socketpair,
        "a signal to itself": lambda: signal.pthread_kill(threading.get_ident(), 0),
        "its own limits": lambda: resource.getrlimit(resource.RLIMIT_AS),
        "read the library": lambda: pathlib.Path(os.__file__).read_text(),
    }}
    forbidden = {{
        "read outside": lambda: (outside / "secret").read_text(),
        "write outside": lambda: (outside / "new").write_text("x"),
        "delete outside": lambda: (outside / "secret").unlink(),
        "rename outside": lambda: os.rename(outside / "secret", scratch / "secret"),
        "link outside": lambda: os.link(outside / "secret", scratch / "secret"),
        "list outside": lambda: os.listdir(outside),
        "through a link": lambda: (os.symlink(outside, scratch / "link"), (scratch / "link" / "secret").read_text()),
        "truncate outside": lambda: os.truncate(outside / "secret", 0),
        "modes": lambda: os.chmod(outside / "secret", 0o777),
        "owners": lambda: os.chown(outside / "secret", 1, 1),
        "times": lambda: os.utime(outside / "secret"),
        "attributes": lambda: os.setxattr(outside / "secret", "user.a", b"b"),
        "processes": lambda: os.listdir("/proc"),
        "its memory": lambda: open("/proc/self/mem", "rb"),
        "passwords": lambda: open("/etc/passwd"),
        "a fork": os.fork,
        "a forkpty": os.forkpty,
        "a program": lambda: subprocess.run(["/bin/true"]),
        "a spawned program": lambda: os.posix_spawn("/bin/true", ["true"], {{}}),
        "this process's program": lambda: os.execv("/bin/true", ["true"]),
        "the network": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "local sockets": lambda: socket.socket(socket.AF_UNIX),
        "a signal to the parent": lambda: os.kill(os.getppid(), 0),
        "the parent's priority": lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
        "the parent's limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU),
        "more memory": lambda: bytearray(1 << 30),
        "a large file": lambda: (scratch / "big").write_bytes(bytes(2 << 20)),
        "a new root": lambda: os.chroot("/"),
    }}
    out = lambda text: os.write(1, (text + chr(10)).encode())
    for name, act in (allowed | forbidden).items():
        try:
            act()
            out(("" if name in allowed else "OUT ") + name)
        except (OSError, MemoryError) as error:
            out(("SHUT " if name in allowed else "") + name)
    """
)
"""A program that shuts itself in and tries to get out. It prints OUT before what it should not have managed, SHUT
before what it should have."""
