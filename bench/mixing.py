"""The program of an agent that does a mix of calls when it is told to, for `bench.clients`.

Usage: mixing.py SOCKET NUMBER. It reads lines `BEGIN END CLIENTS` (seconds of the monotonic clock)
and answers each with what every call took: {"stat": [microseconds, …], …}. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable

__all__ = ["MIX"]

MIX = {"stat": 4, "read": 3, "list": 1, "send": 1, "receive": 1}
"""How often each call is made, of ten."""


def main() -> None:
    path, number = sys.argv[1], int(sys.argv[2])
    tree = os.environ["AGENTFS"]
    me = f"{tree}/agents/self"
    send = os.open(f"{me}/send", os.O_WRONLY)
    receive = os.open(f"{me}/recv", os.O_RDWR | os.O_NONBLOCK)
    chance = random.Random(number)
    peers = 1  # as many as take part this time

    def peer() -> str:
        return f"client-{chance.randrange(peers)}"

    def read() -> None:
        descriptor = os.open(f"{tree}/agents/{peer()}/state", os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)

    def take() -> None:
        with contextlib.suppress(BlockingIOError):  # nothing waits
            while os.read(receive, 4096):  # to its end; asking for the next one acknowledges it
                pass

    calls: dict[str, Callable[[], object]] = {
        "stat": lambda: os.stat(f"{tree}/agents/{peer()}/pid"),
        "read": read,
        "list": lambda: os.listdir(f"{tree}/agents/{peer()}"),
        "send": lambda: os.write(send, f"To: {peer()}\n\nhello".encode()),
        "receive": take,
    }
    kinds = [kind for kind, times in MIX.items() for _ in range(times)]
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    with line, line.makefile("rw") as wire:
        for text in wire:
            begin, end, peers = float(text.split()[0]), float(text.split()[1]), int(text.split()[2])
            took: dict[str, list[int]] = {kind: [] for kind in MIX}
            time.sleep(max(0.0, begin - time.monotonic()))
            before = time.monotonic()
            while before < end:
                kind = chance.choice(kinds)
                calls[kind]()
                after = time.monotonic()
                took[kind].append(round((after - before) * 1e6))
                before = after
            print(json.dumps(took), file=wire, flush=True)


if __name__ == "__main__":
    main()
