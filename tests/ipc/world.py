"""A system without FUSE and without programs: the real kernel parts around the mail, on a clock
that a test moves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from agentfs.base.clock import ManualClock, Timers
from agentfs.check import check
from agentfs.machine.proc import boot_id
from agentfs.mail.archive import FINISHED
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Message
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Limits, Process, Restart, Role, State, Tier
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.gate import Gate
from agentfs.rights.policy import Policy
from agentfs.sections import SECTIONS
from agentfs.store.event import Event
from agentfs.store.event_log import EventLog
from agentfs.store.settings import Settings
from agentfs.store.store import Store

UID, GID = os.getuid(), os.getgid()
OPERATOR = Principal(Kind.OPERATOR, INIT, "init", UID, GID)


class World:
    """One kernel's mail."""

    def __init__(self, state: Path) -> None:
        self.clock = ManualClock()
        self.seen: list[Event] = []
        self._start(state)

    def _start(self, state: Path) -> None:
        self.state = state
        self.store = Store(state / "store.db")
        self.events = EventLog(self.store, self.clock)
        self.settings = Settings(self.store, self.events, SECTIONS)
        self.timers = Timers(self.clock)
        self.table = ProcessTable(self.store, self.events, self.clock)
        self.gate = Gate(self.store, Policy(self.table.find), self.table.find)
        self.agents = Agents(self.store, self.events, self.clock, self.gate, self.table, state)
        self.mail = Mail(
            self.gate,
            self.table,
            self.agents,
            self.store,
            self.events,
            self.clock,
            self.timers,
            self.settings,
            "here",
        )
        self.agents.on_remove.append(self.mail.agent_removed)
        self.mail.load()
        with self.store.transaction():
            self.store.set_meta("boot_id", boot_id())
        self.events.listen(lambda record: self.seen.append(record.event))
        if self.table.find(INIT) is None:
            self.process("init", 0, Role.KERNEL)

    def restart(self) -> None:
        """kill -9 of the daemon and its next start: on what it had written by now."""
        left = self.state / "killed"
        left.mkdir()
        for name in ("store.db", "store.db-wal"):
            shutil.copy(self.state / name, left / name)
        assert check(left / "store.db") == []
        self.store.close()
        self._start(left)

    def close(self) -> None:
        """Every test ends with the store's own consistency check."""
        self.store.close()
        assert check(self.state / "store.db") == []

    # -- who is there ----------------------------------------------------------------------------

    def agent(self, name: str) -> str:
        """An agent without a process."""
        if self.agents.find(name) is None:
            self.agents.ensure(name, UID, GID, "init", "")
        return name

    def process(
        self, name: str, ppid: int = INIT, role: Role = Role.AGENT, **limits: int | None
    ) -> Process:
        """An agent and a process of it. It may have any number of tasks and take any time for
        them, unless `limits` say otherwise."""
        with self.store.transaction():
            pid = self.table.next_pid()
            process = Process(
                pid=pid,
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
                started=self.clock.now(),
                state=State.RUNNING if role is Role.KERNEL else State.IDLE,
                limits=Limits.none_but(**limits),
            )
            self.agent(name)
            self.table.add(process)
        return process

    def end(self, process: Process, code: int, *, restart: bool = False) -> None:
        """Its program ends, as the supervisor has it."""
        with self.store.transaction():
            self.mail.process_ended(process, code)
            if not restart:
                self.table.set_state(process, State.ZOMBIE)

    def principal(self, name: str) -> Principal:
        process = self.table.by_name(name)
        assert process is not None
        if process.pid == INIT:
            return OPERATOR
        return Principal(Kind.AGENT, process.pid, name, UID, GID)

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
        message = self.mail.claim_next(principal, name)
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
            | {"claims": sorted((str(pid), len(box.claims(pid))) for pid in box.claimants)}
            for box in self.mail._boxes
            if box.new or box.cur or box.dead
        } | {
            "stamp": self.mail._boxes.stamp(),
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
