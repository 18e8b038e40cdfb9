"""A system without a mount and without programs: the real kernel, on a clock that a test moves."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from agentfs.base.clock import ManualClock
from agentfs.check import check
from agentfs.kernel import Kernel
from agentfs.mail.archive import FINISHED
from agentfs.mail.message import Draft, Message
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Limits, Process, Restart, Role, State, Tier
from agentfs.store.event import Event
from agentfs.store.part import Part
from tests.storage import copy_store

UID, GID = os.getuid(), os.getgid()
OPERATOR = Principal(Kind.OPERATOR, INIT, "init", UID, GID)


@functools.cache
def _new_state() -> Path:
    """The state directory of a system that was just set up. To copy it takes half of the time that
    it takes to make one."""
    folder = Path(tempfile.mkdtemp(prefix="agentfs-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kernel = Kernel(folder, "/nowhere", ManualClock())
    kernel.store.close()
    kernel.programs.close()
    return folder


def put_agent(kernel: Kernel, name: str) -> None:
    """Have an agent of that name. Tells nobody."""
    if kernel.agents.find(name) is None:
        kernel.agents.ensure(name, UID, GID, "init", "")


def put_process(
    kernel: Kernel, name: str, ppid: int = INIT, role: Role = Role.AGENT, **limits: int | None
) -> Process:
    """Have an agent and a living process of it, without a program. Tells nobody."""
    with kernel.store.transaction():
        process = Process(
            pid=kernel.table.next_pid(),
            ppid=ppid,
            name=name,
            role=role,
            tier=Tier.TACTICAL,
            model="sonnet",
            uid=UID,
            gid=GID,
            user="me",
            node="here",
            restart=Restart.NEVER,
            started=kernel.clock.now(),
            state=State.RUNNING if role is Role.KERNEL else State.IDLE,
            limits=Limits.none_but(**limits),
        )
        put_agent(kernel, name)
        kernel.table.add(process)
    return process


class World:
    """One kernel, whose node is called `here`, on what is in `state`, if anything is."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.clock = ManualClock()
        self.seen: list[Event] = []
        if not (state / "store.db").exists():
            shutil.copytree(_new_state(), state, dirs_exist_ok=True)
        self._start()

    def _start(self) -> None:
        with patch("platform.node", return_value="here"):
            self.kernel = kernel = Kernel(self.state, "/nowhere", self.clock)
            self.store = kernel.store
            self.events = kernel.events
            self.settings = kernel.settings
            self.timers = kernel.timers
            self.table = kernel.table
            self.gate = kernel.gate
            self.agents = kernel.agents
            self.mail = kernel.mail
            self.asks = kernel.asks
            kernel.load()
            kernel.supervisor.boot()
        self.events.listen(lambda record: self.seen.append(record.event))

    def restart(self) -> None:
        """kill -9 of the daemon and its next start: on what it had written by now."""
        left = self.state.with_name(f"{self.state.name}-killed")
        left.mkdir()
        copy_store(self.state, left)
        self._stop()
        copy_store(left, self.state)
        shutil.rmtree(left)
        assert check(self.state / "store.db") == []
        self._start()

    def _stop(self) -> None:
        self.store.close()
        self.kernel.programs.close()

    def close(self) -> None:
        """Every test ends with the store's own consistency check."""
        self._stop()
        assert check(self.state / "store.db") == []

    # -- who is there ----------------------------------------------------------------------------

    def agent(self, name: str) -> str:
        """An agent without a process."""
        put_agent(self.kernel, name)
        return name

    def process(
        self, name: str, ppid: int = INIT, role: Role = Role.AGENT, **limits: int | None
    ) -> Process:
        """An agent and a process of it. It may have any number of tasks and take any time for
        them, unless `limits` say otherwise."""
        return put_process(self.kernel, name, ppid, role, **limits)

    def end(self, process: Process, code: int, *, restart: bool = False) -> None:
        """Its program ends."""
        if restart:
            with self.store.transaction():
                self.kernel.supervisor.tell_end(process, code)
        else:
            self.kernel.supervisor.finish(process, code, State.ZOMBIE)

    def tell_restart(self, process: Process, reason: str) -> None:
        """As the supervisor does, inside a transaction, before it starts a program again."""
        self.kernel.ground.parts.tell(Part.program_restarts, process, reason)

    def tell_given_up(self, process: Process, parent: Process, reason: str) -> None:
        """As the supervisor does, inside the transaction in which it gives a process up."""
        self.kernel.ground.parts.tell(Part.process_given_up, process, parent, reason)

    def principal(self, name: str) -> Principal:
        process = self.table.by_name(name)
        assert process is not None
        if process.pid == INIT:
            return OPERATOR
        return Principal(Kind.AGENT, process.pid, name, UID, GID)

    # -- the maid --------------------------------------------------------------------------------

    def release_stale(self) -> int:
        """Return what nobody's end returns; how many messages."""
        return self.mail.delivery.tidy() + self.mail.receiving.tidy()

    def sweep(self) -> int:
        """Drop what is kept no longer; how many messages."""
        self.mail.loops.tidy()
        return self.mail.boxes.retention.tidy()

    # -- mail ------------------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, text: str = "hello", **more: object) -> Message:
        """`sender` writes into its outbox, or the operator does where it has no process."""
        principal = self.principal(sender) if self.table.by_name(sender) else OPERATOR
        draft = Draft.parse(text.encode(), now=self.clock.now(), to=receiver)
        for name, value in more.items():
            setattr(draft, name, value)
        return self.mail.send(principal, sender, draft)

    def recv(self, name: str) -> str | None:
        """One `cat recv`: the body, None where it would block."""
        principal = self.principal(name) if self.table.by_name(name) else OPERATOR
        message = self.mail.receiving.claim_next(principal, name)
        return None if message is None else self.body(message)

    def body(self, message: Message) -> str:
        content = self.mail.content(message)
        assert len(content) == self.mail.size(message)
        return content.partition(b"\n\n")[2].decode()

    def header(self, message: Message, name: str) -> str | None:
        for line in self.mail.content(message).partition(b"\n\n")[0].decode().splitlines():
            key, _, text = line.partition(": ")
            if key == name:
                return text
        return None

    def waiting(self, name: str) -> list[str]:
        """The bodies that wait, by file name."""
        return [self.body(message) for _, message in sorted(self.mail.mailbox(name).new.items())]

    def kinds(self) -> list[str]:
        """The types of the events since the last call, of mail only."""
        kinds = [event.type for event in self.seen if event.type.startswith(("message", "copy"))]
        self.seen.clear()
        return kinds

    def memory(self) -> object:
        """Everything the mail has in memory, to compare."""
        return {
            box.name: {
                folder: {
                    file: (message.seq, message.record(), message.folder, message.file)
                    for file, message in sorted(box.folder(folder).items())
                }
                for folder in ("new", "cur", "dead")
            }
            for box in self.mail.boxes
            if box.new or box.cur or box.dead
        } | {
            "stamp": self.mail.boxes.stamp(),
            "claims": {pid: sorted(held) for pid, held in self.mail.boxes.claimed.by_pid.items()},
            "sent": {
                sender: [
                    (seq, m.folder) for seq, m in sorted(self.mail.archive.sent(sender).items())
                ]
                for sender in sorted(m.sender for m in self.mail.archive)
            },
        }

    def stored(self) -> object:
        """Everything the store has of messages, to compare."""
        return list(self.store.messages())

    def unfinished(self) -> list[Any]:
        """What the store has of messages that are in a mailbox."""
        return [row for row in self.store.messages() if row[2] not in FINISHED]
