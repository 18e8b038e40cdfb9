"""The cost of rules, limits, groups, budgets and shares for a message: the same agent sends with
all of them in force and with none, in turns."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.setting import Setting
from bench.table import Row

__all__ = ["measure"]

SENDER = """
import os, socket, sys, time
send = os.open(os.environ["AGENTFS"] + "/agents/self/send", os.O_WRONLY)
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
for order in line.makefile("r"):
    receiver, receivers, count = order.split()
    receivers = int(receivers)
    letters = [f"To: {receiver}{n}\\n\\nhello".encode() for n in range(receivers)]
    started = time.perf_counter_ns()
    for n in range(int(count)):
        os.write(send, letters[n % receivers])
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


RECEIVERS = 30
"""So many that each gets, in one round, fewer messages than everybody may have in an inbox whatever
others do (`agentfs.quota.shares.FLOOR`): in an inbox that was empty no share is asked for."""


def measure(setting: Setting) -> Iterator[Row]:
    """The time of one send with everything in force, and with nothing; and what it takes where the
    sender's share of each inbox is asked for, and where it is not."""
    rounds, sends, waiting = setting.size(15, 1), setting.size(300, 5), setting.size(6000, 600)
    with setting.tree() as tree:
        tree.configure(processes={"max_children_of_init": 1000})
        tree.spawn("bench-receiver0")
        for number in range(RECEIVERS):
            tree.spawn(f"bench-full{number}")
            tree.spawn(f"bench-empty{number}")
        path = str(setting.folder / "sender.sock")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(1)
            command = [sys.executable, "-c", SENDER, path]
            pid = tree.spawn("bench-sender", exec=command, restart="never")
            line, _ = listening.accept()
        group = tree / "sys/cgroup/bench"
        group.mkdir()
        (group / "pids.max").write_text("1000")
        (group / "tokens.max").write_text("1000000")
        (group / "cgroup.procs").write_text(str(pid))
        with line, line.makefile("rw") as wire:

            def send(receiver: str, receivers: int, count: int) -> float:
                """How long one of so many sends took, in µs."""
                print(receiver, receivers, count, file=wire, flush=True)
                return int(wire.readline()) / 1e3 / count

            def ruled(in_force: bool) -> float:
                rules = {"rules": RULES} if in_force else NO_RULES
                (tree / "etc/acl.yaml").write_text(json.dumps(rules))
                limit = "1000000" if in_force else "max"
                (tree / f"proc/{pid}/limits/messages_per_minute").write_text(limit)
                took = send("bench-receiver", 1, sends)
                _empty(tree / "agents/bench-receiver0/inbox/new")
                return took

            def shared(in_force: bool) -> float:
                if in_force:
                    return send("bench-full", RECEIVERS, sends)
                took = send("bench-empty", RECEIVERS, sends)
                for number in range(RECEIVERS):
                    _empty(tree / f"agents/bench-empty{number}/inbox/new")
                return took

            of_rules = _best(ruled, rounds)
            ruled(in_force=False)
            send("bench-full", RECEIVERS, waiting)
            of_shares = _best(shared, rounds)
    beside = "a send without"
    yield Row("checks", "send, all rules active", of_rules[0], "µs", beside, of_rules[1], 1.3)
    yield Row("checks", "send, all shares in force", of_shares[0], "µs", beside, of_shares[1], 1.1)


def _best(measured: Callable[[bool], float], rounds: int) -> tuple[float, float]:
    """The least of so many turns with all in force, and without."""
    pairs = [(measured(True), measured(False)) for _ in range(rounds)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _empty(folder: Path) -> None:
    for name in os.listdir(folder):
        (folder / name).unlink()
