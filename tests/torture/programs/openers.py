"""Sends payloads through open files that several have: `openers.py NOTES STOP TARGET COUNT`.

Threads, duplicates, children that inherit, orphans, descriptors that travel, sandboxes that have
the tree elsewhere. Every payload is written in two pieces, so that half a message is one that was
never tried; and some writers are killed before they close, which must send nothing at all.
"""

import contextlib
import errno
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from notes import Notes

path, stop, target, count = sys.argv[1:]
tree, me = os.environ["AGENTFS"], os.environ["AGENT_NAME"]
notes = Notes(path)
number = sum(line[0] in ("try", "dropped") for line in notes.lines())
outbox, new = f"{tree}/agents/{me}/outbox/{target}", f"{tree}/agents/{target}/inbox/new"


def open_patiently(payload: str) -> int:
    """Nothing is sent by opening, so it may be tried again while the daemon is away."""
    maildir = random.random() < 0.3
    while True:
        try:
            if maildir:
                name = payload.partition(":")[2]
                return os.open(f"{new}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            return os.open(outbox, os.O_WRONLY)
        except OSError as failure:
            if failure.errno in (errno.EEXIST, errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(0.01)


def halves(payload: str) -> tuple[bytes, bytes]:
    middle = len(payload) - 3
    return payload[:middle].encode(), payload[middle:].encode()


def told(payload: str, send: Callable[[], None]) -> None:
    """Note what `send()` was told at the close that ends the file."""
    try:
        send()
    except OSError as failure:
        notes.write("cut", payload, failure.errno)
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            time.sleep(0.1)
    else:
        notes.write("ok", payload)


def child(work: Callable[[], None]) -> int:
    """A child that does its work and ends without closing anything."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def in_threads(payload: str) -> None:
    def write(own: str) -> None:
        def send() -> None:
            file = open_patiently(own)
            try:
                for half in halves(own):
                    os.write(file, half)
            finally:
                os.close(file)

        told(own, send)

    others = [f"{payload}-{thread}" for thread in range(3)]
    for own in others:
        notes.write("try", own)
    threads = [threading.Thread(target=write, args=(own,)) for own in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def through_a_duplicate(payload: str) -> None:
    first, second = halves(payload)
    file = open_patiently(payload)
    other = os.dup(file)
    try:
        os.write(file, first)
        os.close(file)
        os.write(other, second)
    finally:
        os.close(other)


def with_a_child(payload: str) -> None:
    first, second = halves(payload)
    file = open_patiently(payload)
    try:
        os.write(file, first)
        subprocess.run(["printf", "%s", second.decode()], stdout=file, check=False)
    finally:
        os.close(file)


def through_a_socket(payload: str) -> None:
    """What a close has accepted is kept to, whoever still has the file and whatever becomes of it:
    so the first one writes it all."""
    file = open_patiently(payload)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            for half in halves(payload):
                os.write(file, half)
            socket.send_fds(ours, [b"x"], [file])
        finally:
            os.close(file)
        _, received, _, _ = socket.recv_fds(theirs, 10, 1)
        for descriptor in received:
            with contextlib.suppress(OSError):  # the daemon is away: it was accepted before
                os.close(descriptor)


def by_an_orphan(payload: str) -> None:
    """Its opener ends by itself, and the child of that writes on. Where the child is killed before
    that, or while it happens, the half is what the opener left when it ended well."""
    first, second = halves(payload)
    notes.write("half", first.decode())
    reader, writer = os.pipe()

    def begin() -> None:
        opener, file = os.getpid(), open_patiently(payload)
        os.write(file, first)
        child(lambda: finish(opener, file))

    def finish(opener: int, file: int) -> None:
        while os.getppid() == opener:
            time.sleep(0.002)
        os.write(file, second)
        os.close(file)
        os.write(writer, b"ok")

    pid = child(begin)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, "rb") as answer:
        if answer.read() != b"ok":
            raise OSError(errno.EIO, "the orphan was told something else, or nothing")


def in_a_sandbox(payload: str) -> None:
    """Programs that have the tree at another place write one message together."""
    first, second = halves(payload)
    with tempfile.TemporaryDirectory() as place:
        script = (
            f"mount --bind '{tree}' '{place}' && exec 3> '{place}/agents/{me}/outbox/{target}' && "
            f"printf %s '{first.decode()}' >&3 && (printf %s '{second.decode()}' >&3)"
        )
        subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True)
    raise OSError(errno.EIO, "a shell does not tell what its last close was told")


def killed(payload: str) -> None:
    """All of it is written, by the writer or a child of it, and nobody lives to close it."""
    notes.write("dropped", payload)

    def die() -> None:
        try:
            file = open_patiently(payload)
            first, second = halves(payload)
            os.write(file, first)
            if random.random() < 0.5:
                os.waitpid(child(lambda: os.kill(os.getpid(), signal.SIGKILL)), 0)
            os.write(file, second)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(die), 0)


WAYS = (through_a_duplicate, with_a_child, through_a_socket, by_an_orphan, in_a_sandbox)

while number < int(count) and not os.path.exists(stop):
    payload = f"{target}:{me}-{number}-end"
    number += 1
    chosen = random.random()
    if chosen < 0.15:
        killed(payload)
    elif chosen < 0.3:
        notes.write("try", payload)  # so that the numbers go on
        in_threads(payload)
    else:
        notes.write("try", payload)
        way = random.choice(WAYS)
        told(payload, functools.partial(way, payload))
