"""Refused calls: the words for the caller, and an event for everybody else.

The event is a change like any other, so it is a record of the audit. Of equal refusals of one actor
the first is an event, and the others are summed up now and then. So an actor that is refused a
thousand times a second pushes nothing out of the audit, the events and the log. A crash loses at
most the count since the last summary. An error that any disk gives (ENOENT, EEXIST, ENOTEMPTY, …)
is no refusal: the caller can read the words, and nobody else is told.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from agentfs.audit.events import CallRefused, RefusalsRepeated
from agentfs.base.clock import Timer, rfc3339
from agentfs.base.errors import KernelError
from agentfs.base.text import one_line
from agentfs.model.principal import Kind, Principal
from agentfs.process.events import ProcessReaped
from agentfs.rights.gate import Gate
from agentfs.store.event_log import Record
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Refusals"]

OLD = 2
"""Seconds after which a reason says how old it is."""

SOON, SELDOM = 1.0, 60.0
"""Seconds to the first summary of equal refusals, and at most between two summaries. Each wait is
twice the one before. After a wait of `SELDOM` seconds without a refusal the next one counts as
new."""

MOST = 256
"""Different refusals of one actor that are told singly within about two minutes. Beyond that all
with the same errno and rule count as equal, so that an actor which tries another path each time is
bounded too."""

MOST_USERS = 256
"""The users of the machine whose last refusal is kept."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Refusals are equal if all of these are."""

    principal: Principal
    path: str
    code: str
    reason: str
    rule: str


@dataclass(slots=True)
class _Repeats:
    """How often one kind has happened since the last event about it."""

    timer: Timer
    wait: float = SOON
    count: int = 0
    first: float = 0.0
    last: float = 0.0


class Refusals(Part):
    """The last refusal of each process, for `/proc/PID/error`, and how many there were."""

    def __init__(self, ground: Ground, gate: Gate) -> None:
        self._parts = ground.parts
        self._store = ground.store
        self._events = ground.events
        self._timers = ground.timers
        self._gate = gate
        self._texts: dict[int, tuple[float, str]] = {}
        self._users: dict[int, tuple[float, str]] = {}  # by uid, who was refused last at the end
        self._repeats: dict[_Kind, _Repeats] = {}
        self._kinds: Counter[Principal] = Counter()  # of `_repeats`, by actor
        self.count = 0
        ground.events.listen(self._forget, ProcessReaped)

    def record(self, principal: Principal, path: str, refusal: KernelError) -> None:
        """Keep why a call of `principal` on `path` failed. If it was refused, tell the event log;
        or count it, if an equal one was told or it cannot be told now."""
        rule = f" (rule: {refusal.rule})" if refusal.rule else ""
        text = _lines(f"{one_line(path)}: {refusal.code}: {refusal.reason}{rule}")
        if principal.pid is not None:
            self._texts[principal.pid] = (self._events.now(), text)
        elif principal.kind is Kind.USER:
            self._users.pop(principal.uid, None)
            self._users[principal.uid] = (self._events.now(), text)
            if len(self._users) > MOST_USERS:
                del self._users[next(iter(self._users))]
        if not refusal.is_refusal:
            return
        self.count += 1
        told = ("", "") if refusal.discreet else (path, refusal.reason)
        kind = _Kind(principal, told[0], refusal.code, told[1], refusal.rule)
        if kind not in self._repeats and self._kinds[principal] >= MOST:
            kind = _Kind(principal, "", refusal.code, "", refusal.rule)
        repeats = self._repeats.get(kind)
        if repeats is None:
            words = refusal.code if refusal.discreet else one_line(f"{path}: {refusal}")
            log.info("refused to %s: %s", principal.name, words)
            repeats = _Repeats(self._timers.call_later(SOON, lambda: self._tell(kind)))
            self._repeats[kind] = repeats
            self._kinds[principal] += 1
            if self._told(kind):
                return
        repeats.last = self._events.now()
        repeats.first = repeats.first if repeats.count else repeats.last
        repeats.count += 1
        if principal.pid is not None:
            self._parts.tell(
                Part.refusal_repeated, principal.pid, refusal.code, told[1], refusal.rule
            )

    def _told(self, kind: _Kind) -> bool:
        """Tell of a refusal. Returns whether that could be stored; if not, it is counted."""
        who = kind.principal
        try:
            with self._store.transaction():
                self._gate.attribute(who)
                self._events.emit(
                    CallRefused(who.pid, kind.path, kind.code, kind.reason, kind.rule)
                )
        except KernelError as failure:
            log.warning("a refusal is told of later: %s", failure)
            return False
        return True

    def _tell(self, kind: _Kind) -> None:
        """The wait of `kind` is over. Sum up, and wait for more."""
        repeats = self._repeats[kind]
        if not repeats.count and repeats.wait >= SELDOM:
            del self._repeats[kind]
            self._kinds[kind.principal] -= 1
            self._kinds += Counter()  # without those that have none
            return
        repeats.wait = min(2 * repeats.wait, SELDOM)
        repeats.timer = self._timers.call_later(repeats.wait, lambda: self._tell(kind))
        self._sum_up(kind, repeats)

    def _sum_up(self, kind: _Kind, repeats: _Repeats) -> None:
        if not repeats.count:
            return
        times = rfc3339(repeats.first), rfc3339(repeats.last)
        who = kind.principal
        try:
            with self._store.transaction():
                self._gate.attribute(who)
                self._events.emit(
                    RefusalsRepeated(
                        *(who.pid, kind.path, kind.code, kind.reason, kind.rule, repeats.count),
                        *times,
                    )
                )
        except KernelError as failure:  # the count goes into the next summary
            log.warning("%d refusals are told of later: %s", repeats.count, failure)
            return
        log.info("refused to %s %d times more: %s", who.name, repeats.count, kind.code)
        repeats.count = 0

    def flush(self) -> None:
        """Sum up everything now: the system ends."""
        for kind, repeats in self._repeats.items():
            self._sum_up(kind, repeats)

    def text(self, pid: int) -> str:
        """The last refusal of `pid` as a line, of a document with a line more for each fault; empty
        if there was none. From the second second on
        it says how old it is. The daemon does not hear what Linux refuses by the mode bits, and an
        older reason is not to be taken for that of such a refusal."""
        return self._aged(self._texts.get(pid))

    def text_of_user(self, uid: int) -> str:
        """The last refusal of a user of the machine who acts for no agent."""
        return self._aged(self._users.get(uid))

    def _aged(self, kept: tuple[float, str] | None) -> str:
        if kept is None:
            return ""
        when, text = kept
        age = int(self._events.now() - when)
        return f"{text} ({age} s ago)\n" if age >= OLD else f"{text}\n"

    def _forget(self, record: Record) -> None:
        if isinstance(record.event, ProcessReaped):
            self._texts.pop(record.event.pid, None)


def _lines(text: str) -> str:
    """A text whose lines stay lines."""
    return "\n".join(map(one_line, text.split("\n")))
