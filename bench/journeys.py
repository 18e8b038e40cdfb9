"""The functions of ours that one message goes through, and one check of a budget.

Usage: python -m bench.journeys [--calls]: how many calls each takes and in how many modules, and
with --calls the calls themselves. Counted are functions of agentfs, and properties and
comprehensions, which are functions too: of a message from the flush of its file to the last
listener, of a check from its write. The mount's own way to the file and back is not counted.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import trio

from agentfs.kernel import Kernel
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.providers.tree import build
from agentfs.vfs.caller import Caller
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.node import Handle

__all__ = ["JOURNEYS", "Journey", "take"]

UID, GID = os.geteuid(), os.getegid()
OPERATOR = Principal(Kind.OPERATOR, INIT, "init", UID, GID)


class Journey:
    """The calls of one, in their order, each as its module and the name of the function."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __str__(self) -> str:
        return f"{len(self.calls)} calls in {len(self.modules)} modules"

    @property
    def modules(self) -> Counter[str]:
        """How many calls go into each module."""
        return Counter(module for module, _ in self.calls)

    def watch(self, frame: FrameType, event: str, argument: object) -> None:
        """What `sys.setprofile` calls."""
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("agentfs."):
            self.calls.append((module.removeprefix("agentfs."), frame.f_code.co_qualname))


def travel(step: Callable[[], object]) -> Journey:
    """What `step` calls; it waits for nothing. It is made once before, unseen: then nothing is read
    or built for the first time."""
    step()
    journey = Journey()
    gc.collect()
    gc.disable()  # garbage of others is none of its calls
    sys.setprofile(journey.watch)
    try:
        step()
    finally:
        sys.setprofile(None)
        gc.enable()
    return journey


def at_once(step: Callable[[], object]) -> None:
    """Go through a coroutine that waits for nothing."""
    try:
        step().send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return
    raise RuntimeError("it waits")


class _Tree:
    """A kernel and its tree, of which a listener asks what each event changes, as a mount does."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.namespace: Namespace = build(kernel)
        kernel.events.listen(lambda record: [*self.namespace.changes(record.event)])

    async def spawn(self, name: str, parent: int = INIT) -> Process:
        spec = ProcessSpec(name=name, tier="tactical")
        return await self.kernel.processes.spawn(OPERATOR, parent, spec)

    def open(self, path: str, process: Process) -> Handle:
        """As a program of `process`."""
        principal = Principal(Kind.AGENT, process.pid, process.name, UID, GID)
        caller = Caller(principal, UID, GID, os.getpid())
        node = self.namespace.find(path)
        node.enter(caller)
        return node.open(os.O_RDWR | os.O_TRUNC, caller)  # type: ignore[attr-defined,no-any-return]


async def message(tree: _Tree) -> Journey:
    """alice writes to bob, her brother: their parent overhears it."""
    lead = await tree.spawn("lead")
    alice = await tree.spawn("alice", lead.pid)
    await tree.spawn("bob", lead.pid)
    handles = []
    for _ in range(2):
        handles.append(tree.open("/agents/alice/outbox/bob", alice))
        at_once(lambda: handles[-1].write(0, b"hello\n"))
    return travel(lambda: at_once(handles.pop().flush))


async def check_of_a_budget(tree: _Tree) -> Journey:
    """An agent below another asks whether it may use 4,000 tokens of sonnet."""
    above = await tree.spawn("above")
    below = await tree.spawn("below", above.pid)
    handles = [tree.open(f"/proc/{below.pid}/call", below) for _ in range(2)]
    return travel(lambda: at_once(lambda: handles.pop().write(0, b"llm sonnet 4000\n")))


JOURNEYS = (message, check_of_a_budget)


async def take(journey: Callable[[_Tree], Awaitable[Journey]]) -> Journey:
    """One of JOURNEYS, in a system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(Path(folder), f"{folder}/mnt")
        kernel.load()
        kernel.supervisor.boot()
        try:
            return await journey(_Tree(kernel))
        finally:
            kernel.store.close()
            kernel.programs.close()


async def _main(*, calls: bool) -> None:
    for journey in JOURNEYS:
        taken = await take(journey)
        print(f"{journey.__name__.replace('_', ' ')}: {taken}")
        for module, function in taken.calls if calls else ():
            print(f"  {module} {function}")


if __name__ == "__main__":
    trio.run(lambda: _main(calls="--calls" in sys.argv))
