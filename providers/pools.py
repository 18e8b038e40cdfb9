"""/dev/pools: where workers take the steps of workflows.

work       a read is a step, a write an answer          length   how many steps wait
status     owner, mode, capabilities, who works         ctl      remove, caps
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from agentfs.base.errors import KernelError
from agentfs.executors.answers import WrittenLines, take_of
from agentfs.executors.events import PoolChanged, PoolCreated, PoolRemoved
from agentfs.executors.line import PoolLine, WorkerProgram
from agentfs.executors.pools import Pool
from agentfs.model.principal import Principal
from agentfs.providers.queue_folders import each
from agentfs.providers.streams import RecordStream
from agentfs.providers.system_table import SystemTable
from agentfs.rights.ownership import Access
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, file, live
from agentfs.vfs.files import Basics, Owner, Stream, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Attributes, Handle, Node, Stat, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry, Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["PoolDirectory", "PoolsDirectory"]


class Work(RecordStream):
    """An open `work`: a program that takes steps, and answers them."""

    def __init__(self, kernel: Kernel, line: PoolLine, principal: Principal, tid: int) -> None:
        super().__init__()
        self._kernel = kernel
        self._desk = kernel.desk
        self._principal = principal
        self._worker = self._desk.join(line, WorkerProgram.of(principal.pid or 0, tid))
        self._worker.wakers.add(self.wake)
        self._steps: list[bytes] = []  # those of the read that is served
        self._may_take = False
        self._lines = WrittenLines()
        self._waited: list[Callable[[], None]] = []

    # -- steps -------------------------------------------------------------------------------------

    def try_read(self, size: int) -> bytes | None:
        self._may_take = not self._steps
        return super().try_read(size)

    def next_record(self) -> bytes | None:
        if self._may_take and not self._rest:
            self._may_take = False
            self._steps = self._desk.take(self._worker)[::-1]
        return self._steps.pop() if self._steps else None

    def ended(self) -> bool:
        return self._worker.line.closed

    def ready(self) -> bool:
        if self._rest or self._steps or self.ended() or self._desk.has(self._worker):
            return True
        self._worker.line.poll(self.wake)
        return False

    def parked(self) -> None:
        self._worker.line.park(self._worker)
        begin, name = self._kernel.why.waits.begin, self._worker.line.name
        self._waited.append(begin(self._principal.pid, "work", f"of pool {name}"))

    def unparked(self) -> None:
        self._worker.line.unpark(self._worker)
        self._waited.pop()()

    # -- answers -----------------------------------------------------------------------------------

    def try_write(self, data: bytes) -> int:
        """Answers, a line each, in one commit; and `take N`: up to N steps at a time. The write is
        a short one if there is no time for all of it."""
        lines, refusal = self._lines.split(data), None
        done = 0
        while done < len(lines):
            line = lines[done][0]
            if not _is_answer(line):
                self._worker.take(take_of(as_text(line)))
                done += 1
                continue
            answers = takewhile(_is_answer, (line for line, _ in lines[done:]))
            count, failure = self._desk.answer(self._worker, [*answers])
            done, refusal = done + count, refusal or failure
            if refusal is None and done < len(lines):
                self._lines.forget()
                return lines[done - 1][1]
        if refusal is not None:
            raise refusal
        return len(data)

    def release(self) -> None:
        self._worker.line.unpoll(self.wake)
        self._worker.wakers.discard(self.wake)
        self._desk.leave(self._worker)


def _is_answer(line: bytes) -> bool:
    return not line.startswith(b"take ")


class WorkFile(Stream):
    """/dev/pools/NAME/work."""

    def __init__(self, basics: Basics, connect: Callable[[Caller], Work]) -> None:
        super().__init__(basics, connect)

    def open(self, flags: int, caller: Caller) -> Handle:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise KernelError(
                errno.EACCES,
                "open it for both: a step that is read here is answered here (exec 3<>FILE)",
                rule="open for both",
            )
        return super().open(flags, caller)


class PoolDirectory(Table):
    """/dev/pools/NAME: a pool. Its mode says who may work (r) and whose runs may give it steps (w):
    the owner, agents with its group, all others."""

    PATH = "/dev/pools/NAME"
    mode = 0o777

    def __init__(self, pools: PoolsDirectory, pool: Pool) -> None:
        self._pools = pools
        self._pool = pool
        self.kernel = pools.kernel
        self.key = self.at(pool.name)

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the directory of a pool."""
        return ("pools", name)

    def owner(self) -> Owner:
        who = self._pool.ownership
        return Owner(who.uid, who.gid, self._pool.changed)

    def stat(self) -> Stat:
        found = super().stat()
        mode = self._pool.ownership.mode
        found.mode = st.S_IFDIR | mode | each(mode, 0o6, 0o1)
        return found

    def guard(self, caller: Caller) -> None:
        who, principal = self._pool.ownership, caller.principal
        if not who.owned_by(principal) and not who.permits(principal, Access.SEND):
            who.require(principal, Access.READ, str(self._pool))

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        super().chattr(caller, replace(wanted, mode=None))
        if wanted.mode is not None:
            self.kernel.pools.chmod(caller.principal, self._pool.name, wanted.mode)

    def node(self, entry: Entry) -> Node:
        made = super().node(entry)
        if entry.name == "work":
            setattr(made, "mode", each(self._pool.ownership.mode, 0o4, 0o6))  # noqa: B010
        return made

    @file(
        "work",
        0o666,
        known_as="stream",
        kind="Stream",
        on=(PoolChanged,),
        example='{"step":"17/sum","attempt":1,"run":17,"node":"sum","kind":"function",…}\n',
        errors={
            "EACCES": "opened for reading alone, or the pool's mode says no; written: the step is"
            " another worker's",
            "EPERM": "the program may do more than the pool's `caps`",
            "EINVAL": "written: no JSON object with step, attempt and one of ok, error, back,"
            " progress; nor `take N`, N from 1 to 1000",
            "EMSGSIZE": "written: a line of more than 1 MiB",
            "ESTALE": "written: that attempt is over; or the pool was removed",
            "EAGAIN": "O_NONBLOCK, and no step waits",
        },
    )
    def work(self) -> Node:
        """Open it for both. A read is the next step, as one line of JSON; from then on the program
        has it. A write is its answer: `{step, attempt, ok: OUTPUT}` or `{step, attempt, error:
        TEXT, again: false}` (no other attempt), in lines; `back: true` puts a step back that was
        not begun, `progress: TEXT` says how far it is. After `take N` a program has up to N steps
        at a time, and a read gives all that there are; without it, to read on is to give the last
        step up. Steps of a program that ends get another attempt. The file ends when the pool is
        removed."""
        return WorkFile(Basics(self.key_of("work"), 0o666, self.owner, self.guard), self._connect)

    def _connect(self, caller: Caller) -> Work:
        self.kernel.pools.check_work(caller.principal, self._pool)
        return Work(self.kernel, self._pool.line, caller.principal, caller.tid)

    @live("length", example="17")
    def length(self) -> str:
        """How many steps wait for a worker."""
        return str(len(self._pool.line))

    @live("status", example="Owner:\talice\nMode:\t0755\nCaps:\tllm memory\nWaiting:\t17\n…")
    def status(self) -> str:
        """Owner, Mode, Caps (the most that a worker may), and how many steps are Waiting and being
        done (Working), by how many Workers."""
        who, line = self._pool.ownership, self._pool.line
        return fields(
            ("Owner", who.owner),
            ("Mode", f"{who.mode:04o}"),
            ("Caps", " ".join(self._pool.caps.lines)),
            ("Waiting", len(line)),
            ("Working", len(line.claims)),
            ("Workers", len(line.workers)),
        )

    @control(
        "ctl",
        0o222,
        example="caps llm memory",
        errors={
            "EINVAL": "unknown command or capability",
            "EPERM": "only the owner agent and the operator, and nobody gives more than it has",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `caps NAME…` lets workers have these capabilities at most; `remove` removes the
        pool, and fails the steps that are in it."""
        pools, name = self.kernel.pools, self._pool.name
        match command.split():
            case ["remove"]:
                pools.remove(caller.principal, name, force=True)
            case ["caps", *names]:
                pools.narrow(caller.principal, name, names)
            case _:
                raise KernelError(errno.EINVAL, f"remove or caps NAME…, not {command!r}")


class PoolsDirectory(SystemTable):
    """/dev/pools: `mkdir` makes a pool, for everybody unless a mode or a tight umask says
    otherwise; `rmdir` removes one without steps."""

    PATH = "/dev/pools"
    WHAT = "Pools of workers: a directory for each."
    EACH = PoolDirectory
    mode = 0o1777
    key = ("pools",)

    def changed(self) -> Time:
        return self.kernel.pools.changed

    def find(self, name: str) -> Node | None:
        pool = self.kernel.pools.find(name)
        return None if pool is None else PoolDirectory(self, pool)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.pools:
            pool = self.kernel.pools.find(name)
            if pool is not None:
                yield name, PoolDirectory(self, pool)

    def mkdir(self, name: str, mode: int, caller: Caller) -> Node:
        mode = caller.unmasked(mode)
        return PoolDirectory(self, self.kernel.pools.create(caller.principal, name, mode))

    def rmdir(self, name: str, caller: Caller) -> None:
        self.kernel.pools.remove(caller.principal, name)

    def each(self, key: Any) -> PoolDirectory:
        pool = self.kernel.pools.find(key[1])
        assert pool is not None
        return PoolDirectory(self, pool)

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (PoolDirectory.at(event.name),)

    @on(PoolCreated)
    def _created(self, event: PoolCreated) -> Iterator[Change]:
        pool = self.kernel.pools.find(event.name)
        if pool is not None:
            yield Created(self.key, event.name, PoolDirectory(self, pool))

    @on(PoolRemoved)
    def _removed(self, event: PoolRemoved) -> Iterator[Change]:
        yield Removed(self.key, event.name, PoolDirectory.at(event.name), is_directory=True)

    @on(PoolChanged)
    def _changed(self, event: PoolChanged) -> Iterator[Change]:
        yield Modified(PoolDirectory.at(event.name))
