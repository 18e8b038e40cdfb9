"""An agent's program that does in eight processes at once what holds everybody else up, until it is
killed. It is run by neighbour.py, and imports nothing of AgentFS.

`rogue.py attack` does all of it, `rogue.py spin` nothing but to keep the processors busy.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial

TREE = os.environ["AGENTFS"]
NAME, ME = os.environ["AGENT_NAME"], os.environ["AGENT_PID"]
GIVEN = json.loads(sys.argv[1])
MEMORY = f"agents/{NAME}/memory"
HOST = os.path.join(GIVEN["state"], MEMORY)

WORK = []


def work(function):
    """One of the eight: called again and again."""
    WORK.append(function)
    return function


def at(path):
    return os.path.join(TREE, path)


def write(path, content, flags=0):
    descriptor = os.open(at(path), os.O_WRONLY | flags, 0o644)
    try:
        return os.write(descriptor, content)
    finally:
        os.close(descriptor)


def ask(path, request):
    descriptor = os.open(at(path), os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(descriptor, request)
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def read(path):
    descriptor = os.open(at(path), os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def each(*calls):
    """Make every call, refused or not."""
    for call in calls:
        with suppress(OSError):
            call()


def bomb():
    """YAML of 600 bytes that says very much."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    return "\n".join(lines).encode()


@work
def definitions():
    """What takes long to read, and what hangs when it is started."""
    each(
        lambda: ask(f"proc/{ME}/spawn", bomb()),
        lambda: ask(f"proc/{ME}/spawn", b"{name: k, env: {" + b"a: b, " * 4000 + b"}}"),
        lambda: ask(f"proc/{ME}/spawn", b"exec: [" + b"a," * 60_000 + b"a]"),
        lambda: ask(f"proc/{ME}/spawn", b"[" * 60_000),
        lambda: write(f"agents/{NAME}/spec.yaml", bomb()),
    )


@work
def launches():
    """Programs that hang when they are started, because their file is leased, or end at once."""
    slow = f"{HOST}/slow"
    with suppress(OSError), open(os.open(slow, os.O_CREAT | os.O_WRONLY, 0o755), "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    with suppress(OSError), open(slow) as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        request = b"{name: %s, exec: ['./slow'], restart: never}"
        hanging = [
            threading.Thread(target=each, args=(partial(ask, f"proc/{ME}/spawn", request % name),))
            for name in (b"slow1", b"slow2", b"slow3", b"slow4")
        ]
        for thread in hanging:
            thread.start()
        for _ in range(20):
            each(
                lambda: ask(f"proc/{ME}/spawn", b"{name: quick, exec: ['true'], restart: never}"),
                lambda: os.rmdir(at("agents/quick")),
            )
        for thread in hanging:
            thread.join()


@work
def streams():
    """Everything that happened, read whole by many threads."""

    def read():
        for name in ("events.all", "kmsg"):
            with suppress(OSError):
                descriptor = os.open(at(f"dev/{name}"), os.O_RDONLY | os.O_NONBLOCK)
                with suppress(OSError):
                    while os.read(descriptor, 1 << 20):
                        pass
                os.close(descriptor)

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@work
def folders():
    """A directory of many files, made and listed; the whole tree walked."""
    folder = at(f"{MEMORY}/many")
    with suppress(OSError):
        os.mkdir(folder)
    for number in range(200):
        with suppress(OSError):
            os.close(os.open(f"{HOST}/many/{time.monotonic_ns()}-{number}", os.O_CREAT, 0o644))
    each(lambda: os.listdir(folder))
    for _, _, names in os.walk(at("proc")):
        names.clear()


@work
def leases():
    """A lease on a file of one's own memory, which is then opened and cut through the tree."""
    with suppress(OSError), open(f"{HOST}/leased-{os.getpid()}", "w+") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        each(
            lambda: write(f"{MEMORY}/leased-{os.getpid()}", b"x", os.O_NONBLOCK),
            lambda: os.stat(at(f"{MEMORY}/leased-{os.getpid()}")),
        )


@work
def letters():
    """Open letters, open files, and reads that wait until their program is killed."""
    waiting = os.fork()
    if waiting == 0:
        for _ in range(50):
            threading.Thread(target=each, args=(partial(read, f"proc/{ME}/signals"),)).start()
        time.sleep(1000)
    opened = []
    with suppress(OSError):
        for _ in range(200):
            opened.append(os.open(at(f"agents/{NAME}/outbox/{NAME}"), os.O_WRONLY))
            os.write(opened[-1], bytes(1 << 16))
    with suppress(OSError):
        for _ in range(300):
            opened.append(os.open(at(f"agents/{NAME}/state"), os.O_RDONLY))
    for descriptor in opened:
        with suppress(OSError):
            os.close(descriptor)
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)


@work
def things():
    """Messages to everybody, queues, topics, reminders, artifacts, refusals."""
    number = time.monotonic_ns()
    each(
        lambda: write("agents/init/inbox/new/x", b"x"),
        lambda: write(f"agents/{NAME}/outbox/init", b"x" * 4096),
        lambda: write(f"agents/{NAME}/outbox/victim", b"x" * 4096),
        lambda: os.mkdir(at(f"dev/queues/q{number}")),
        lambda: write(f"dev/topics/t{number}", b"x", os.O_CREAT),
        lambda: write(f"dev/shm/private/a{number}", b"x" * 4096, os.O_CREAT),
        lambda: ask(f"agents/{NAME}/reminders/new", b"in 1h x"),
        lambda: os.mkdir(at(f"agents/d{number}")),
        lambda: write(f"proc/{ME}/budget/ctl", b"report 1000000000000"),
        *[lambda: write("etc/acl.yaml", b"x")] * 20,
        *[lambda: os.open(at("agents/victim/recv"), os.O_RDONLY)] * 20,
    )


@work
def output():
    """A log that is written faster than anybody reads it, and files that fill the disk."""
    os.write(1, b"x" * 4095 + b"\n")
    each(lambda: write(f"{MEMORY}/big-{os.getpid()}", bytes(1 << 18), os.O_CREAT | os.O_TRUNC))
    time.sleep(0.001)


def repeat(function):
    while True:
        function()


def main():
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody wants a leased file
    tasks = WORK if GIVEN["what"] == "attack" else [lambda: sum(range(10_000))] * len(WORK)
    for task in tasks:
        if os.fork() == 0:
            repeat(task)
    with open(os.path.join(HOST, "ready"), "w") as file:
        file.write(str(len(tasks)))
    while True:
        time.sleep(1000)


main()
