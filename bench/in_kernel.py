"""A kernel that makes the calls it is told to, for `bench.instructions`. It has a tree, whose
listeners hear of each event and ask the mount's inodes for what it changes. It has no mount.

Usage: in_kernel.py STATE. It reads lines `CALL TIMES` and answers each with `done`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from agentfs.kernel import Kernel
from agentfs.mail.message import Draft
from agentfs.mail.readers import Reader
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import State
from agentfs.model.spec import parse_spec
from agentfs.mount.announcer import Announcer
from agentfs.mount.coherence import Coherence
from agentfs.mount.inodes import Inodes
from agentfs.providers.tree import build

__all__ = ["CALLS"]

CALLS = (
    "spawn",
    "two state changes",
    "send",
    "receive and acknowledge",
    "send to a recv",
    "receive, which acknowledges the one before",
)
OPERATOR = Principal(Kind.OPERATOR, INIT, "init", 0, 0)
RECEIVER, RECEIVER_PID = "bench-2", 2


class Calls:
    """Each of CALLS, once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._last = INIT
        self._receiver = Principal(Kind.AGENT, RECEIVER_PID, RECEIVER, 0, 0)
        self._reader = Reader(RECEIVER)

    async def spawn(self) -> None:
        spec = parse_spec(f"name: bench-{self._last + 1}")
        self._last = (await self._kernel.processes.spawn(OPERATOR, INIT, spec)).pid

    async def change(self) -> None:
        words = ("running", "idle")
        state = self._kernel.table.get(RECEIVER_PID).state
        for word in words if state is not State.RUNNING else reversed(words):  # it has a message
            self._kernel.processes.command(OPERATOR, RECEIVER_PID, word)

    async def send(self) -> None:
        text = f"To: {RECEIVER}\n\nhello".encode()
        draft = Draft.parse(text, now=self._kernel.clock.now())
        self._kernel.mail.send(OPERATOR, OPERATOR.name, draft)

    async def receive_next(self) -> None:
        """As an open `recv` does."""
        message = self._kernel.mail.receiving.claim_next(self._receiver, RECEIVER, self._reader)
        assert message is not None, "there are as many messages as were sent"
        self._kernel.mail.receiving.received(message)

    async def receive(self) -> None:
        message = self._kernel.mail.receiving.claim_next(OPERATOR, RECEIVER)
        assert message is not None, "there are as many messages as were sent"
        self._kernel.mail.receiving.received(message)
        self._kernel.mail.delivery.acknowledge(OPERATOR, RECEIVER, "cur", message.file)


def _follow(kernel: Kernel, mountpoint: str) -> None:
    """What a mount does of which Linux knows nothing but the root."""
    tree = build(kernel)
    coherence = Coherence(Inodes(tree.root), Announcer(mountpoint, 1))
    kernel.events.listen(lambda record: coherence.apply(tree.changes(record.event)))


async def _main() -> None:
    mountpoint = str(Path(sys.argv[1]) / "mnt")
    kernel = Kernel(Path(sys.argv[1]), mountpoint)
    kernel.load()
    kernel.supervisor.boot()
    _follow(kernel, mountpoint)
    calls = Calls(kernel)
    made: dict[str, Callable[[], Awaitable[None]]] = dict(
        zip(
            CALLS,
            (
                calls.spawn,
                calls.change,
                calls.send,
                calls.receive,
                calls.send,
                calls.receive_next,
            ),
            strict=True,
        )
    )
    gc.disable()  # when it comes round depends on all that was made before
    print("ready", flush=True)
    for line in sys.stdin:  # nothing else runs in this loop
        name, times = line.rsplit(" ", 1)
        for _ in range(int(times)):
            await made[name]()
        print("done", flush=True)
    kernel.store.close()


if __name__ == "__main__":
    trio.run(_main)
