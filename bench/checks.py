"""What the rules, limits, groups and budgets cost a message: the same agent sends with all of them
in force and with none, in turns."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator

from bench.setting import Setting
from bench.table import Row

__all__ = ["measure"]

SENDER = """
import os, socket, sys, time
send = os.open(os.environ["AGENTFS"] + "/agents/self/send", os.O_WRONLY)
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
for count in line.makefile("r"):
    started = time.perf_counter_ns()
    for _ in range(int(count)):
        os.write(send, b"To: bench-receiver\\n\\nhello")
    line.sendall(f"{time.perf_counter_ns() - started}\\n".encode())
"""

# Rules that do not match come before the one that does: each is of another kind.
RULES = [
    *({"effect": "deny", "agent": f"other-{n}", "action": "send"} for n in range(20)),
    *({"effect": "deny", "user": f"nobody-{n}", "path": f"/agents/x{n}/**"} for n in range(10)),
    *({"effect": "allow", "role": "task", "path": f"/agents/*-{n}/inbox"} for n in range(20)),
    {"effect": "deny", "action": "send", "path": "/agents/*/outbox"},
    {"effect": "allow", "agent": "bench-s*", "action": "send", "path": "/agents/bench-*/inbox"},
]

NO_RULES: dict[str, list[object]] = {"rules": []}


def measure(setting: Setting) -> Iterator[Row]:
    """What one send takes with everything in force, and with nothing."""
    rounds, sends = setting.size(15, 1), setting.size(300, 5)
    with setting.tree() as tree:
        tree.configure(messages={"max_waiting": 1_000_000})
        path = str(setting.folder / "sender.sock")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(1)
            tree.spawn("bench-receiver")
            command = [sys.executable, "-c", SENDER, path]
            pid = tree.spawn("bench-sender", exec=command, restart="never")
            line, _ = listening.accept()
        group = tree / "sys/cgroup/bench"
        group.mkdir()
        (group / "pids.max").write_text("1000")
        (group / "tokens.max").write_text("1000000")
        (group / "cgroup.procs").write_text(str(pid))
        best = {True: float("inf"), False: float("inf")}
        with line, line.makefile("rw") as wire:
            for _ in range(rounds):
                for in_force in (True, False):
                    rules = {"rules": RULES} if in_force else NO_RULES
                    (tree / "etc/acl.yaml").write_text(json.dumps(rules))
                    limit = "1000000" if in_force else "max"
                    (tree / f"proc/{pid}/limits/messages_per_minute").write_text(limit)
                    print(sends, file=wire, flush=True)
                    best[in_force] = min(best[in_force], int(wire.readline()) / 1e3 / sends)
    beside = "a send without"
    yield Row("checks", "send, all rules active", best[True], "µs", beside, best[False], 1.3)
