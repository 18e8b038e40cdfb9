"""Limits on calls by the minute: how many of each kind each process and each group has made.

Counting costs every call something. So a window begins when there is a limit, and calls of a kind
on which nobody has a limit are not counted.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator

from agentfs.base.errors import KernelError
from agentfs.base.windows import MINUTE, Window
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.process.events import ProcessExited, ProcessReaped, ProcessSpawned
from agentfs.process.settings import LimitSettings
from agentfs.process.table import ProcessTable
from agentfs.quota.events import GroupLimitSet, GroupRemoved, LimitChanged
from agentfs.quota.group_table import Group, GroupTable
from agentfs.rights.gate import ALL_CALLS, KINDS, MESSAGES
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import add_to

__all__ = ["KIND_OF", "Rates", "limit_name"]

EVERYBODY = 0
"""No process: the configuration has a limit for all of them."""


def limit_name(kind: str) -> str:
    """The name of the limit on calls of a kind."""
    return f"{kind}_per_minute"


KIND_OF = {limit_name(kind): kind for kind in KINDS}


class Rates(Part):
    """Counts calls while there is a limit on their kind. A window lasts as long as its process or
    group."""

    def __init__(
        self, ground: Ground, table: ProcessTable, ceilings: Ceilings, groups: GroupTable
    ) -> None:
        self._store = ground.store
        self._clock = ground.clock
        self._settings = ground.settings
        self._table = table
        self._ceilings = ceilings
        self._groups = groups
        self._windows: dict[int | Group, dict[str, Window]] = {}
        self._limited: dict[str, set[int | Group]] = {kind: set() for kind in KINDS}
        self._counts_messages = self._counts_calls = False
        for process in table:
            self._look_at(process.pid)
        self._look_at(EVERYBODY)
        for group in groups:
            self._look_at_group(group)
        ground.events.listen(
            self._heard,
            ProcessSpawned,
            LimitChanged,
            ProcessExited,
            ProcessReaped,
            ConfigChanged,
            GroupLimitSet,
            GroupRemoved,
        )

    def sizes(self) -> dict[str, int]:
        """How many entries each table has, for tests."""
        return {
            "rate windows": sum(map(len, self._windows.values())),
            "rate limits": sum(map(len, self._limited.values())),
        }

    def made(self, whose: int | Group, kind: str) -> int:
        """How many calls of a kind a process or group has made within the last 60 s, since there
        is a limit on them."""
        window = self._windows.get(whose, {}).get(kind)
        return 0 if window is None else window.sum(self._clock.monotonic())

    def usage(self, process: Process, limit: str) -> float | None:
        """The calls that it has made within the minute, of the kind that the limit is on."""
        return self.made(process.pid, KIND_OF[limit]) if limit in KIND_OF else None

    def count_message(self, sender: Process, messages: int = 1) -> None:
        """Count so many messages, inside the transaction that accepts them. EAGAIN if one more is
        more than `sender` may send: that counts nothing."""
        if self._counts_messages:
            self._count(sender, MESSAGES, messages)

    def count_call(self, caller: Process, kind: str) -> None:
        """The same for a call of any other kind."""
        if self._counts_calls:
            self._count(caller, kind, 1)

    def _count(self, process: Process, kind: str, calls: int) -> None:
        bounds = [*self._bounds(process, kind), *self._bounds(process, ALL_CALLS)]
        now = self._clock.monotonic()
        for whose, name, limit, words in bounds:
            window = self._windows.setdefault(whose, {}).setdefault(name, Window(MINUTE))
            if window.sum(now) + max(1, calls) > limit:
                seconds = window.wait(now)
                wait = f"; the next one may be {_done(kind)} in {seconds:.3g} s"
                what = "calls" if name == ALL_CALLS else name.replace("_", " ")
                raise KernelError(
                    errno.EAGAIN,
                    f"{words} {limit} {what} a minute{wait if limit else ''}",
                    rule=limit_name(name),
                    retry_after=seconds if limit else None,
                )
        for whose, name, _, _ in bounds if calls else ():
            add_to(self._store, self._windows[whose][name], now, calls)

    def _bounds(self, process: Process, kind: str) -> Iterator[tuple[int | Group, str, int, str]]:
        """The bounds on calls of this kind: (whose window, kind, calls, words for a refusal)."""
        if not self._limited[kind]:
            return
        for each in self._table.accounts(process):
            limit = self._ceilings.whole(each, limit_name(kind))
            if limit is not None:
                verb = "send" if kind == MESSAGES else "make"
                yield each.pid, kind, limit, f"{each.name} may {verb}"
            else:
                self._windows.get(each.pid, {}).pop(kind, None)
        for group in self._groups.line(process.group):
            most = group.rates.get(kind)
            if most is not None:
                yield group, kind, most, f"group {group.path} may make"

    # -- who has a limit ---------------------------------------------------------------------------

    def _look_at(self, pid: int, kinds: Iterable[str] = KINDS) -> None:
        for kind in kinds:
            if pid == EVERYBODY:
                found = getattr(self._settings.of(LimitSettings), limit_name(kind)) is not None
            else:
                process = self._table.find(pid)
                found = (
                    process is not None
                    and process.state.alive
                    and getattr(process.limits, limit_name(kind)) is not None
                )
            self._mark(pid, kind, found)
        self._look_for_limits()

    def _look_at_group(self, group: Group) -> None:
        for kind in KINDS:
            self._mark(group, kind, not group.removed and kind in group.rates)
            if kind not in group.rates:
                self._windows.get(group, {}).pop(kind, None)
        if group.removed:
            self._windows.pop(group, None)
        self._look_for_limits()

    def _mark(self, whose: int | Group, kind: str, limited: bool) -> None:
        limits = self._limited[kind]
        (limits.add if limited else limits.discard)(whose)

    def _look_for_limits(self) -> None:
        limited = {kind for kind, whose in self._limited.items() if whose}
        self._counts_messages = bool(limited & {MESSAGES, ALL_CALLS})
        self._counts_calls = bool(limited - {MESSAGES})
        if not limited:
            self._windows.clear()

    def _heard(self, record: Record) -> None:
        match record.event:
            case ProcessSpawned(pid=pid):
                self._look_at(pid)
            case LimitChanged(pid=pid, limit=name) if name in KIND_OF:
                self._look_at(pid, (KIND_OF[name],))
            case ProcessExited(pid=pid) | ProcessReaped(pid=pid):
                self._windows.pop(pid, None)
                self._look_at(pid)
            case ConfigChanged():
                self._look_at(EVERYBODY)
            case GroupLimitSet(path=path):
                group = self._groups.find(path)
                if group is not None:
                    self._look_at_group(group)
            case GroupRemoved():
                known = {*self._windows, *itertools.chain(*self._limited.values())}
                for each in known:
                    if isinstance(each, Group) and each.removed:
                        self._look_at_group(each)


def _done(kind: str) -> str:
    return "sent" if kind == MESSAGES else "made"
