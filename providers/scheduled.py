"""/proc/scheduled: runs and systems that start by themselves, at a time."""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator, Sequence

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.providers.children import pid_of
from agentfs.providers.described import Described
from agentfs.providers.proc import ProcDirectory
from agentfs.providers.system_table import SystemTable
from agentfs.triggers.events import ScheduleChanged, ScheduleMade, ScheduleRemoved
from agentfs.triggers.schedule_table import Scheduled
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Removed
from agentfs.vfs.declare import control, transaction, value
from agentfs.vfs.files import Owner, fields
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Node, Time
from agentfs.vfs.on import on

__all__ = ["ScheduledDirectory"]

SCHEDULE = (ScheduleChanged,)


class ScheduleDirectory(Described, SystemTable):
    """/proc/scheduled/ID: one schedule: what it starts, when it is due, and how that went. Its runs
    are in `/proc/runs/by-ref/schedule/ID` unless it names another `ref`. It is there until it has
    ended for `triggers.retention`."""

    PATH = "/proc/scheduled/ID"

    def __init__(self, folder: SystemTable, schedule: Scheduled) -> None:
        super().__init__(folder)
        self._schedule = schedule
        self.key = self.at(schedule.number)

    @staticmethod
    def at(number: int) -> Hashable:
        """The key of the directory of a schedule."""
        return ("schedule", number)

    def owner(self) -> Owner:
        schedule = self._schedule
        return Owner(schedule.maker.uid, schedule.maker.gid, schedule.changed)

    def private_guard(self, caller: Caller) -> None:
        self.kernel.schedules.may_read(caller.principal, self._schedule)

    def entity_type(self) -> str:
        return "scheduled_task"

    def description(self) -> str:
        spec = self._schedule.spec
        return f"starts {spec.kind.removesuffix('s')} {spec.target}"

    def status(self) -> str:
        return self._schedule.state.value

    def operations(self) -> tuple[str, ...]:
        return ("read", "watch") if self._schedule.state.final else ("read", "watch", "exec")

    def tags(self) -> dict[str, str]:
        spec = self._schedule.spec
        return {spec.kind.removesuffix("s"): spec.target, "owner": self._schedule.maker.owner}

    @value("state", on=SCHEDULE, polled=True, example="pending")
    def state(self) -> str:
        """pending (it waits for its next time), active (what it has started is under way), paused;
        or how it has ended: done, failed (its last run failed, or could not be started),
        cancelled."""
        return self._schedule.state.value

    @value("spec", private=True, on=SCHEDULE, example='{"pipeline": "report", "every": 3600.0}')
    def spec(self) -> str:
        """What was written to `new`, as JSON. For whoever may read its maker's process."""
        return json.dumps(self._schedule.spec.record(), ensure_ascii=False)

    @value("next", on=SCHEDULE, example="2026-12-01T01:30:00.000Z")
    def next_time(self) -> str:
        """When it is due next; empty if nothing is to come."""
        return "" if self._schedule.next is None else rfc3339(self._schedule.next)

    @value("last", on=SCHEDULE, example="214")
    def last(self) -> str:
        """The run, or system, that it has started last: a name in `/proc/runs`, or in
        `/proc/systems`. Empty if there was none."""
        return str(self._schedule.last or "")

    @value("count", on=SCHEDULE, example="12")
    def count(self) -> str:
        """How many runs it has started."""
        return str(self._schedule.count)

    @value("status", on=SCHEDULE, example="Id:\t3\nState:\tactive\nWhat:\tpipeline report\n…")
    def status_file(self) -> str:
        """Id, State, What (`pipeline NAME` or `system NAME`), When, Owner, Made, Next, Last,
        Last-Time, Count, Open (runs under way), Waiting (times that wait for these to end),
        Skipped (times at which one was under way), Missed (times at which nobody could start
        one), Result (how the run that ended last has ended), Error (why the last start was
        refused)."""
        it, spec = self._schedule, self._schedule.spec
        when = ("every", "cron", "at", "in")
        record = spec.record()
        return fields(
            ("Id", it.number),
            ("State", it.state.value),
            ("What", f"{spec.kind.removesuffix('s')} {spec.target}"),
            ("When", next(f"{key} {record[key]}" for key in when if record.get(key) is not None)),
            ("Timezone", spec.timezone or "UTC"),
            ("Owner", it.maker.owner),
            ("Made", rfc3339(it.made)),
            ("Next", "" if it.next is None else rfc3339(it.next)),
            ("Last", it.last or ""),
            ("Last-Time", rfc3339(it.last_time) if it.last_time else ""),
            ("Count", it.count),
            ("Open", " ".join(map(str, it.open))),
            ("Waiting", it.waiting),
            ("Skipped", it.skipped),
            ("Missed", it.missed),
            ("Result", it.result),
            ("Error", it.error),
        )

    @control(
        "ctl",
        0o222,
        example="pause",
        errors={
            "EINVAL": "no such command",
            "EPERM": "you are neither its owner nor the operator, or it has ended",
            "EBUSY": "`run-now` while its run is under way, and its overlap is skip",
        },
    )
    async def ctl(self, command: str, caller: Caller) -> None:
        """Commands: pause, resume (times of a grid that passed meanwhile are left out), cancel
        (what is under way goes on), run-now."""
        self.kernel.schedules.control(caller.principal, self._schedule.number, command)


class ScheduledDirectory(SystemTable):
    """/proc/scheduled: a directory for each schedule, and `new`, which makes one."""

    PATH = "/proc/scheduled"
    WHAT = "What starts by itself, at a time: a directory for each schedule."
    EACH = ScheduleDirectory
    key = ("scheduled",)

    def __init__(self, above: ProcDirectory) -> None:
        super().__init__(above)

    def changed(self) -> Time:
        return self.kernel.schedules.table.changed

    @transaction(
        "new",
        0o666,
        example='{"pipeline": "report", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}',
        errors={
            "EINVAL": "malformed, in the past, or a time that never comes; nothing is made",
            "ENOENT": "there is no such pipeline or system",
            "EACCES": "you may not start it (`spawn` on /etc/pipelines/NAME), or have no"
            " spawn_children",
            "EDQUOT": "your share of triggers.max_schedules is used up",
        },
    )
    async def new(self, request: bytes, caller: Caller) -> str:
        """Make a schedule, of a JSON object: `pipeline` or `system`, `input`; `every` (`90s`,
        `10m`: a fixed grid from now on), `cron` (minute, hour, day of month, month, day of week;
        in `timezone`, or UTC), `at` (a time) or `in` (a duration); `overlap`, for a time at which
        its last run is under way: skip (the default), queue, allow, replace; `missed`, for times
        at which nothing ran here: one (the default: one run for all of them), all, skip;
        `max_runs`, `until`; and, as for a run, `ref`, `environment`, `deadline`, `limits`, `caps`.
        The reply is its id. Its runs are yours, and may no more than you may now."""
        made = self.kernel.schedules.create(caller.principal, as_text(request))
        return f"{made.number}\n"

    def _schedule(self, name: str) -> Scheduled | None:
        return self.kernel.schedules.table.find(pid_of(name))

    def find(self, name: str) -> Node | None:
        schedule = self._schedule(name)
        return None if schedule is None else ScheduleDirectory(self, schedule)

    def more(self) -> Iterator[tuple[str, Node]]:
        for schedule in self.kernel.schedules.table:
            yield str(schedule.number), ScheduleDirectory(self, schedule)

    def concerned(self, event: ScheduleChanged) -> Sequence[Hashable]:
        return [ScheduleDirectory.at(event.schedule)]

    @on(ScheduleMade)
    def _made(self, event: ScheduleMade) -> Iterator[Change]:
        schedule = self.kernel.schedules.table.find(event.schedule)
        if schedule is not None:
            node = ScheduleDirectory(self, schedule)
            yield Created(self.key, str(event.schedule), node)

    @on(ScheduleRemoved)
    def _removed(self, event: ScheduleRemoved) -> Iterator[Change]:
        name, key = str(event.schedule), ScheduleDirectory.at(event.schedule)
        yield Removed(self.key, name, key, is_directory=True)

    def rmdir(self, name: str, caller: Caller) -> None:
        if self._schedule(name) is None:
            raise self.missing(name)
        raise KernelError(
            errno.EPERM, f"a schedule is ended by `cancel` in its ctl, and goes by itself: {name}"
        )
