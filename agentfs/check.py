"""The consistency check of a store: what must hold in it whenever no transaction is under way.

Read only; works beside a running daemon and on what a killed one left.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from agentfs.approvals.check_approvals import approval_faults
from agentfs.asks.check_asks import ask_faults
from agentfs.audit.check_audit import audit_faults
from agentfs.base.errors import KernelError
from agentfs.mail.archive import FINISHED
from agentfs.mail.check_broadcasts import broadcast_faults
from agentfs.mail.tally import EVERYBODY
from agentfs.model.principal import INIT
from agentfs.model.process import Agent, Process, Role
from agentfs.process.check_capabilities import capability_faults
from agentfs.quota import models
from agentfs.quota.check_budgets import budget_faults
from agentfs.quota.check_groups import group_faults
from agentfs.quota.check_limits import limit_faults
from agentfs.quota.check_usage import usage_faults
from agentfs.reminders.check_reminders import reminder_faults
from agentfs.rights import acl, roles
from agentfs.sections import SECTIONS
from agentfs.shared.check_artifacts import artifact_faults, content_faults
from agentfs.shared.check_queues import queue_faults
from agentfs.store.migrations import LATEST
from agentfs.store.settings import configuration

__all__ = ["check"]

Record = dict[str, Any]


def check(path: Path) -> list[str]:
    """Every fault of the store at `path`, in words; an empty list if it is sound."""
    if not path.exists():
        return [f"there is no store at {path}"]
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            connection.execute("BEGIN")  # one snapshot for all that follows
            faults = list(_faults(connection))
        return faults or content_faults(path)
    except sqlite3.Error as failure:
        return [f"the store cannot be read: {failure}"]


def _faults(connection: sqlite3.Connection) -> Iterator[str]:
    broken = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if broken != ["ok"]:
        yield from (f"the database is damaged: {line}" for line in broken)
        return
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != LATEST:
        yield f"the schema is number {schema}, this release has {LATEST}"
        return
    store = _Contents(connection)
    yield from store.faults
    yield from _meta_faults(store)
    yield from _process_faults(store)
    yield from capability_faults(store.processes.values())
    yield from _agent_faults(store)
    yield from _message_faults(store, connection)
    yield from broadcast_faults(connection)
    yield from ask_faults(connection, store.agents)
    yield from reminder_faults(connection, store.agents, store.number("event_seq"))
    yield from queue_faults(connection, store.agents)
    yield from budget_faults(connection, store.processes, store.number("last_call"))
    yield from _publication_faults(store, connection)
    yield from artifact_faults(connection, store.agents)
    yield from audit_faults(connection, store.meta)
    yield from group_faults(connection, store.processes)
    yield from usage_faults(connection)
    yield from limit_faults(connection, store.processes)
    yield from approval_faults(connection, store.number("last_approval"))


class _Contents:
    """What the store says, read into the kernel's own types; what cannot be read is a fault."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.faults: list[str] = []
        self.meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
        self.agents: dict[str, Agent] = {}
        self.processes: dict[int, Process] = {}
        for name, text in connection.execute("SELECT name, record FROM agents"):
            record = self.record(f"agent {name}", text)
            try:
                self.agents[name] = Agent(**record)
            except TypeError as bad:
                self.faults.append(f"agent {name}: {bad}")
        for pid, text in connection.execute("SELECT pid, record FROM processes"):
            record = self.record(f"process {pid}", text)
            try:
                self.processes[pid] = Process.from_record(record)
            except (TypeError, KeyError, ValueError, AttributeError) as bad:
                self.faults.append(f"process {pid}: {bad!r}")

    def record(self, what: str, text: str) -> Record:
        try:
            record = json.loads(text)
        except ValueError as bad:
            record = bad
        if not isinstance(record, dict):
            self.faults.append(f"{what}: the record is no JSON object")
            return {}
        return record

    def number(self, key: str) -> int | None:
        """A counter among the meta values, None if it is no number."""
        text = self.meta.get(key, "0")
        return int(text) if text.isascii() and text.isdigit() else None


DOCUMENTS: dict[str, tuple[str, Callable[[str], object]]] = {
    "config": ("the configuration", configuration(*SECTIONS).parse),
    roles.FILE: (f"/etc/{roles.FILE}", roles.Roles.parse),
    acl.FILE: (f"/etc/{acl.FILE}", acl.Acl.parse),
    models.FILE: (f"/etc/{models.FILE}", models.parse),
}
"""The documents of /etc by the key of their text."""


def _meta_faults(store: _Contents) -> Iterator[str]:
    for key in ("event_seq", "last_pid", "last_call", "last_approval", "last_agent"):
        if store.number(key) is None:
            yield f"meta: {key} is {store.meta[key]!r}, no number"
    last = store.number("last_pid")
    if store.processes and last is not None and max(store.processes) > last:
        yield f"meta: last_pid is {last}, but there is a process {max(store.processes)}"
    for key, (document, parse) in DOCUMENTS.items():
        try:
            parse(store.meta.get(key, ""))
        except KernelError as bad:
            yield f"meta: {document} is wrong: {bad.reason}"


def _process_faults(store: _Contents) -> Iterator[str]:
    for pid, process in store.processes.items():
        if process.pid != pid:
            yield f"process {pid}: its record says pid {process.pid}"
        if process.state.alive and process.name not in store.agents:
            yield f"process {pid}: there is no agent {process.name}"
        if not {"network", "write", "exec", "read"}.issuperset(process.confined):
            yield f"process {pid}: it is said to be confined from {process.confined}"
        if (process.role is Role.KERNEL) != (pid == INIT):
            yield f"process {pid} has role {process.role.value}"
        yield from _line_faults(store, process)
    living = Counter(p.name for p in store.processes.values() if p.state.alive)
    yield from (
        f"{count} living processes are named {name}" for name, count in living.items() if count > 1
    )


def _line_faults(store: _Contents, process: Process) -> Iterator[str]:
    """Whether the line of parents ends at process 1."""
    seen = {process.pid}
    current = process
    while current.pid != INIT:
        parent = store.processes.get(current.ppid)
        if parent is None:
            if current is process:
                yield f"process {process.pid}: its parent {process.ppid} does not exist"
            return
        if parent.pid in seen:
            yield f"process {process.pid}: its line of parents is a circle"
            return
        seen.add(parent.pid)
        current = parent
    parent = store.processes.get(process.ppid)
    if process.pid != INIT and process.state.alive and parent and not parent.state.alive:
        yield f"process {process.pid} lives and its parent {parent.pid} does not"


def _agent_faults(store: _Contents) -> Iterator[str]:
    numbers = Counter(agent.id for agent in store.agents.values() if agent.id)
    yield from (
        f"{times} agents have number {each}" for each, times in numbers.items() if times > 1
    )
    last = store.number("last_agent")
    if numbers and last is not None and max(numbers) > last:
        yield f"meta: last_agent is {last}, but there is an agent of number {max(numbers)}"
    for name, agent in store.agents.items():
        if agent.name != name:
            yield f"agent {name}: its record says {agent.name}"
        process = None if agent.pid is None else store.processes.get(agent.pid)
        if agent.pid is not None and (process is None or process.name != name):
            yield f"agent {name}: there is no process {agent.pid} of it"


def _message_faults(store: _Contents, connection: sqlite3.Connection) -> Iterator[str]:
    last = store.number("event_seq")  # see Store.last_message
    taken: Counter[tuple[str, str, str]] = Counter()
    query = (
        "SELECT seq, mailbox, state, filename, record,"
        " substr(coalesce(long_contents.content, messages.content), 1, 400),"
        " long_contents.seq IS NOT NULL AND length(messages.content)"
        " FROM messages LEFT JOIN long_contents USING (seq) ORDER BY seq"
    )
    for seq, mailbox, state, filename, text, start, twice in connection.execute(query):
        what = f"message {seq:012d} in {state}/ of {mailbox}"
        if state not in FINISHED:
            taken[mailbox, state, filename] += 1
        elif filename:
            yield f"{what}: it has a file name, {filename}"
        known = mailbox in store.agents or mailbox == EVERYBODY or "/" in mailbox
        if not known and state not in FINISHED:
            yield f"{what}: there is no such agent"
        if last is not None and seq > last:
            yield f"{what}: the last event has number {last} only"
        if twice:
            yield f"{what}: its content is there twice"
        before = len(store.faults)
        record = store.record(what, text)
        yield from store.faults[before:]
        if record:
            yield from (
                f"{what}: {fault}"
                for fault in _record_faults(store, seq, mailbox, state, record, start or b"")
            )
    yield from (
        f"{count} messages are {state}/{file} of {mailbox}"
        for (mailbox, state, file), count in taken.items()
        if count > 1
    )
    query = "SELECT seq FROM long_contents WHERE seq NOT IN (SELECT seq FROM messages)"
    yield from (f"a content is left of message {seq:012d}" for (seq,) in connection.execute(query))


def _record_faults(
    store: _Contents, seq: int, mailbox: str, state: str, record: Record, start: bytes
) -> Iterator[str]:
    sender, pid = record.get("sender"), record.get("claimed_by")
    if not start.startswith(f"Message-ID: <{seq:012d}@".encode()):
        yield "its content has another number"
    if f"\nFrom: {sender}\n".encode() not in start:
        yield f"its content is not from {sender}"
    attempt = record.get("attempt", 1)
    if not isinstance(attempt, int) or attempt < 1:
        yield f"its attempt is number {attempt}"
    elif record.get("revived", 0) >= attempt:
        yield f"it was put back after attempt {record['revived']}, and this is number {attempt}"
    if state == "dead" and not record.get("reason"):
        yield "it is a dead letter without a reason"
    if pid is None:
        return
    process = store.processes.get(pid)
    if state != "cur":
        yield f"process {pid} has claimed it, though it is not in cur/"
    elif process is None or not process.state.alive:
        yield f"process {pid}, which has claimed it, is no living process"
    elif "/" not in mailbox and process.name != mailbox:
        yield f"process {pid}, which has claimed it, is none of {mailbox}"


def _publication_faults(store: _Contents, connection: sqlite3.Connection) -> Iterator[str]:
    """Whether what topics keep is theirs, and in numbers without a gap."""
    topics = set()
    for name, text in connection.execute("SELECT key, record FROM records WHERE kind = 'topic'"):
        what = f"topic {name}"
        before = len(store.faults)
        record = store.record(what, text)
        yield from store.faults[before:]
        if record.get("owner") not in store.agents:
            yield f"{what}: there is no agent {record.get('owner')}, who owns it"
        topics.add(name)
    last: dict[str, int] = {}
    query = "SELECT topic, seq, record FROM publications ORDER BY topic, seq"
    for name, seq, text in connection.execute(query):
        what = f"record {seq} of topic {name}"
        before = len(store.faults)
        record = store.record(what, text)
        yield from store.faults[before:]
        if not (isinstance(record.get("time"), float) and record.get("from")):
            yield f"{what}: it does not say when and by whom it was published"
        if name not in topics:
            yield f"{what}: there is no such topic"
        if seq < 1 or last.get(name, seq - 1) != seq - 1:
            yield f"{what}: the one before it has number {last.get(name, 0)}"
        last[name] = seq
