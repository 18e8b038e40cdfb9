"""Many callers at once that do everything wrong, and providers that do: at the end every call is
settled, nothing is left open, and no handler has failed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.llm.conftest import http_provider, model
from tests.llm.desk import Desk
from tests.llm.server import Provider
from tests.llm.wire import PATHS, body_of, post, reset

BEHAVIOURS = [
    {},
    {"tokens": 300, "delay": 0.001},
    {"tokens": 5_000, "burst": True},
    {"tokens": 50, "delay": 0.005, "obey": False},
    {"hang": True},
    {"stall_after": 3, "tokens": 9},
    {"reset_after": 0},
    {"reset_after": 2},
    {"close_after": 3},
    {"close_idle": 0.0},
    {"error_after": 0},
    {"error_after": 3},
    {"status": 500},
    {"status": 429, "headers": {"retry-after": "99"}},
    {"raw": "data: {\n\n"},
    {"bytes_at_once": 7},
    {"usage": False},
]


def caller(desk: Desk, seed: int, until: float, served: list[int]) -> None:
    """Ask, and go, until then."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        number = chance.randrange(len(BEHAVIOURS))
        dialect = chance.choice(list(PATHS))
        stream = chance.random() < 0.7
        data = json.dumps(body_of(dialect, f"m{number}", stream=stream)).encode()
        head = f"POST {PATHS[dialect]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        request = head.encode() + data
        if chance.random() < 0.1:
            request = request[: chance.randrange(len(request))]
        with contextlib.suppress(OSError):
            connection = socket.create_connection(desk.address, timeout=chance.choice([0.05, 0.5]))
            connection.sendall(request)
            for _ in range(chance.choice([0, 1, 1_000])):
                if not connection.recv(1 << 16):
                    break
        served.append(number)
        if chance.random() < 0.3:
            reset(connection)
        else:
            connection.close()


def descriptors(desk: Desk) -> int:
    return len(os.listdir(f"/proc/{desk.process.pid}/fd"))


@pytest.mark.parametrize("budget", [None, 200_000])
def test_a_storm_leaves_nothing_behind(
    desks: Callable[..., Desk], provider: Provider, budget: int | None
) -> None:
    slow = {"connect": 5.0, "first_byte": 1.0, "idle": 0.5}
    models = {f"m{n}": model(id=f"m{n}", timeouts=slow) for n in range(len(BEHAVIOURS))}
    models["m12"]["fallbacks"] = ["m0"]
    providers = {"test": http_provider(provider.url, max_in_flight=30, retries=1)}
    desk = desks(providers, models, budget=budget)
    for number, behaviour in enumerate(BEHAVIOURS):
        provider.script(f"m{number}", **behaviour)
    post(desk.address, PATHS["chat"], body_of("chat", "m0"))
    before = descriptors(desk)
    served: list[int] = []
    seed = random.randrange(1 << 32)
    until = time.monotonic() + 2
    threads = [
        threading.Thread(target=caller, args=(desk, seed + n, until, served)) for n in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    desk.over()
    assert len(desk.settled) > 20, seed
    assert desk.logged == [], seed
    provider.wait(lambda log: all(call.over for call in log))
    deadline = time.monotonic() + 60
    while descriptors(desk) > before + 40:  # connections to the provider that are kept
        assert time.monotonic() < deadline, seed
        time.sleep(0.05)
    provider.script("m0")
    if budget is None:
        assert post(desk.address, PATHS["chat"], body_of("chat", "m0")).status == 200, seed
    else:
        assert desk.most_held <= budget, seed
