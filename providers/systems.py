"""/proc/systems: systems that were started: their processes, and what goes from one to another."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Hashable, Iterator, Sequence

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.manifests.system_plan import SystemPipe
from agentfs.providers.children import pid_of
from agentfs.providers.described import Described
from agentfs.providers.proc import ProcDirectory
from agentfs.providers.system_table import SystemTable
from agentfs.triggers.events import SystemChanged, SystemPipeChanged, SystemRemoved, SystemStarted
from agentfs.triggers.schedule_spec import read_json
from agentfs.triggers.system_table import SystemPart, SystemRun
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import control, directory, link, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.node import Directory, Node, Time
from agentfs.vfs.on import on
from agentfs.vfs.table import Entry, key_in

__all__ = ["SystemRunsDirectory"]

SYSTEM = (SystemChanged,)


class _OfSystem(SystemTable):
    """A directory of one system, or in it."""

    def __init__(self, above: SystemTable, system: SystemRun) -> None:
        super().__init__(above)
        self.system = system

    def owner(self) -> Owner:
        maker = self.system.maker
        return Owner(maker.uid, maker.gid, self.system.changed)

    def private_guard(self, caller: Caller) -> None:
        self.kernel.systems.may_read(caller.principal, self.system)


class SystemProcessDirectory(_OfSystem):
    """/proc/systems/ID/processes/NAME: one process, in the pass under way."""

    PATH = "/proc/systems/ID/processes/NAME"

    def __init__(self, above: SystemTable, system: SystemRun, name: str) -> None:
        super().__init__(above, system)
        self._name = name
        self.key = self.at(system.id, name)

    @staticmethod
    def at(number: int, name: str) -> Hashable:
        """The key of the directory of a process."""
        return ("system-process", number, name)

    @property
    def part(self) -> SystemPart:
        return self.system.parts.get(self._name, SystemPart())

    @value("state", on=SYSTEM, polled=True, example="running")
    def state(self) -> str:
        """pending, running, completed, failed, cancelled, or skipped (the pass ended before it
        began)."""
        return self.part.state.value

    @value("error", on=SYSTEM, private=True, example="run 214 failed: fetch: no such host")
    def error(self) -> str:
        """Why it failed; empty if it has not."""
        return self.part.error

    @link("run", example="../../../../runs/214")
    def run(self, caller: Caller) -> str:
        """Its run; of a program, its process. ENOENT before it has begun."""
        if not self.exists(self.TABLE["run"]):
            raise self.missing("run")
        process = self.system.plan.process(self._name)
        program = process is not None and process.program is not None
        return (
            f"../../../../{self.part.number}"
            if program
            else (f"../../../../runs/{self.part.number}")
        )

    def exists(self, entry: Entry) -> bool:
        return entry.name != "run" or bool(self.part.number)


class PipeDirectory(_OfSystem):
    """/proc/systems/ID/pipes/PIPE: what process B gets of process A, by the pipe A-B."""

    PATH = "/proc/systems/ID/pipes/PIPE"

    def __init__(self, above: SystemTable, system: SystemRun, pipe: SystemPipe) -> None:
        super().__init__(above, system)
        self._pipe = pipe
        self.key = self.at(system.id, pipe.name)

    @staticmethod
    def at(number: int, name: str) -> Hashable:
        """The key of the directory of a pipe."""
        return ("system-pipe", number, name)

    @value("mapping", private=True, example='{"pages": "{{ fetch.output.pages }}"}')
    def mapping(self) -> str:
        """Fields of B's input, each with its template, as JSON."""
        return json.dumps(self._pipe.mapping, ensure_ascii=False)

    @value(
        "value",
        0o666,
        write="put",
        private=True,
        on=(SystemPipeChanged, SystemChanged),
        example='{"pages": ["https://example.org"]}',
        errors={
            "EINVAL": "no JSON object",
            "EPERM": "B has begun, or you are neither the system's owner nor the operator",
            "EFBIG": "more than 1 MiB",
        },
    )
    def value(self) -> str:
        """What it gives, as JSON: from the end of A on. Until B begins, another object can be
        written: B gets that."""
        given = self.system.values.get(self._pipe.name)
        return "" if given is None else json.dumps(given, ensure_ascii=False)

    async def put(self, text: str, caller: Caller) -> None:
        given = read_json(text)
        system, pipe = self.system, self._pipe.name
        self.kernel.systems.set_value(caller.principal, system.id, pipe, given)


class _Parts(_OfSystem):
    """A directory with one for each of several things of a system."""

    def __init__(
        self,
        above: SystemTable,
        system: SystemRun,
        name: str,
        parts: Callable[[], dict[str, Callable[[], Node]]],
    ) -> None:
        super().__init__(above, system)
        self.key = (("system", system.id), name)
        self._made = parts

    def find(self, name: str) -> Node | None:
        make = self._made().get(name)
        return None if make is None else make()

    def more(self) -> Iterator[tuple[str, Node]]:
        for name, make in self._made().items():
            yield name, make()


class SystemRunDirectory(Described, _OfSystem):
    """/proc/systems/ID: one system. Its id is the pid of its lead, and what runs for it is below
    that process, within its limits. It is there until it has ended for `triggers.retention`."""

    PATH = "/proc/systems/ID"

    def __init__(self, folder: SystemTable, system: SystemRun) -> None:
        super().__init__(folder, system)
        self.key = self.at(system.id)

    @staticmethod
    def at(number: int) -> Hashable:
        """The key of the directory of a system."""
        return ("system", number)

    def entity_type(self) -> str:
        return "system"

    def description(self) -> str:
        return f"{self.system.name}, version {self.system.plan.version}"

    def status(self) -> str:
        return self.system.state.value

    def operations(self) -> tuple[str, ...]:
        return ("read", "watch") if self.system.state.final else ("read", "watch", "exec")

    def tags(self) -> dict[str, str]:
        return {"init": self.system.plan.init.type, "owner": self.system.maker.owner}

    @value("state", on=SYSTEM, polled=True, example="running")
    def state(self) -> str:
        """running, waiting (for a record of its topic, or until it begins again), suspended
        (somebody paused it); or how it has ended: completed, failed, cancelled."""
        return self.system.state.value

    @value("status", on=SYSTEM, example="Id:\t41\nName:\tresearch\nState:\trunning\n…")
    def status_file(self) -> str:
        """Id, Name, Version (of the document), State, Owner, Init, Ref, Key, Created, Ended, Passes
        (times that its processes began), Failed (passes that failed), Next (when the next pass
        begins), Topic, Cursor (the number of the last record that has begun a pass), Lost (records
        that fell out of the topic before), Error."""
        it = self.system
        return fields(
            ("Id", it.id),
            ("Name", it.name),
            ("Version", it.plan.version),
            ("State", it.state.value),
            ("Owner", it.maker.owner),
            ("Init", it.plan.init.type),
            ("Ref", it.ref),
            ("Key", it.key),
            ("Created", rfc3339(it.created)),
            ("Ended", rfc3339(it.ended) if it.ended else ""),
            ("Passes", it.passes),
            ("Failed", it.failed),
            ("Next", rfc3339(it.due) if it.due else ""),
            ("Topic", it.plan.init.topic),
            ("Cursor", it.cursor),
            ("Lost", it.lost),
            ("Error", it.error),
        )

    @control(
        "ctl",
        0o222,
        example="cancel not today",
        errors={
            "EINVAL": "no such command",
            "EPERM": "you are neither its owner nor the operator, or it has ended",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: `cancel [WHY]`, pause (nothing of it begins any more), resume."""
        self.kernel.systems.control(caller.principal, self.system.id, command)

    @directory("processes")
    def processes(self) -> Directory:
        """Its processes: for each a directory with `state`, `error` and `run`."""
        return _Parts(self, self.system, "processes", self._processes)

    def _processes(self) -> dict[str, Callable[[], Node]]:
        names = [process.name for process in self.system.plan.processes]
        return {
            name: lambda name=name: SystemProcessDirectory(self, self.system, name)  # type: ignore[misc]
            for name in names
        }

    @directory("pipes")
    def pipes(self) -> Directory:
        """Its pipes: for each, `A-B`, a directory with `mapping` and `value`."""
        return _Parts(self, self.system, "pipes", self._pipes)

    def _pipes(self) -> dict[str, Callable[[], Node]]:
        return {
            pipe.name: lambda pipe=pipe: PipeDirectory(self, self.system, pipe)  # type: ignore[misc]
            for pipe in self.system.plan.pipes
        }


class SystemRunsDirectory(SystemTable):
    """/proc/systems: a directory for each system that was started: by `run` beside its document, or
    by a schedule."""

    PATH = "/proc/systems"
    WHAT = "Systems that were started: a directory for each."
    EACH = SystemRunDirectory
    key = ("systems",)

    def __init__(self, above: ProcDirectory) -> None:
        super().__init__(above)

    def changed(self) -> Time:
        return self.kernel.systems.table.changed

    def find(self, name: str) -> Node | None:
        system = self.kernel.systems.table.find(pid_of(name))
        return None if system is None else SystemRunDirectory(self, system)

    def more(self) -> Iterator[tuple[str, Node]]:
        for system in self.kernel.systems.table:
            yield str(system.id), SystemRunDirectory(self, system)

    def concerned(self, event: SystemChanged) -> Sequence[Hashable]:
        return [SystemRunDirectory.at(event.system)]

    @on(SystemStarted)
    def _started(self, event: SystemStarted) -> Iterator[Change]:
        system = self.kernel.systems.table.find(event.system)
        if system is not None:
            yield Created(self.key, str(event.system), SystemRunDirectory(self, system))

    @on(SystemRemoved)
    def _removed(self, event: SystemRemoved) -> Iterator[Change]:
        name, key = str(event.system), SystemRunDirectory.at(event.system)
        yield Removed(self.key, name, key, is_directory=True)

    @on(SystemChanged)
    def _moved(self, event: SystemChanged) -> Iterator[Change]:
        system = self.kernel.systems.table.find(event.system)
        names = system.plan.processes if system is not None and not event.process else ()
        for name in [event.process, *(process.name for process in names)]:
            if name and system is not None:
                folder = SystemProcessDirectory(self, system, name)
                yield Modified(folder.key_of("state"))
                yield Modified(folder.key_of("error"))
                if event.process and event.run:
                    yield Created(folder.key, "run", folder.node(folder.TABLE["run"]))
        for pipe in system.plan.pipes if system is not None else ():
            yield Modified(key_in(PipeDirectory.at(event.system, pipe.name), "value"))

    @on(SystemPipeChanged)
    def _piped(self, event: SystemPipeChanged) -> Iterator[Change]:
        yield Modified(key_in(PipeDirectory.at(event.system, event.pipe), "value"))

    def rmdir(self, name: str, caller: Caller) -> None:
        if self.find(name) is None:
            raise self.missing(name)
        raise KernelError(
            errno.EPERM, f"a system is ended by `cancel` in its ctl, and goes by itself: {name}"
        )
