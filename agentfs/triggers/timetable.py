"""When a schedule is due: once, on a fixed grid, or by cron in a time zone. Pure arithmetic.

A grid is anchored where the schedule was made: what an earlier run took, or how late it began,
moves nothing.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.mail.headers import expiry
from agentfs.reminders.schedule import CORRECTION, MOST_MISSED, ZONE, Schedule, cron_fields

__all__ = ["Timetable"]

SHORTEST = 1.0
"""Seconds between two times of a grid."""

LONGEST = 10 * 366 * 86_400.0
"""Seconds of a grid's step; a longer one is a slip of the finger."""

USAGE = '"30 2 * * *"'


@dataclass(frozen=True, slots=True)
class Timetable:
    """`kind` is `every`, `cron`, `at` or `in`; `anchor` is when it was made (wall clock, seconds),
    `step` the seconds of `every` and `in`, `moment` the time of `at`, `cron` the fields, with their
    zone."""

    kind: str
    anchor: float
    step: float = 0.0
    moment: float = 0.0
    cron: str = ""

    @classmethod
    def every(cls, step: float, now: float) -> Timetable:
        """Every `step` seconds from now on, the first time in `step` seconds. EINVAL."""
        if not SHORTEST <= step <= LONGEST:
            raise KernelError(errno.EINVAL, "every: from 1s to 3660d was expected")
        return cls("every", now, step)

    @classmethod
    def by_cron(cls, fields: str, zone: str, now: float) -> Timetable:
        """By the five fields of crontab(5), in a time zone: UTC if it is empty. EINVAL."""
        made = cls("cron", now, cron=cron_fields(f"{ZONE}{zone or 'UTC'} {fields}", USAGE))
        made._cron.first(now)
        return made

    @classmethod
    def at(cls, time: str, now: float) -> Timetable:
        """Once, at a time of RFC 3339. EINVAL if it is none, or is over."""
        return cls("at", now, moment=expiry(time, now, "at"))

    @classmethod
    def after_delay(cls, seconds: float, now: float) -> Timetable:
        """Once, in so many seconds. EINVAL."""
        if not 0 <= seconds <= LONGEST:
            raise KernelError(errno.EINVAL, "in: at most 3660d was expected")
        return cls("in", now, seconds)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "kind": self.kind,
            "anchor": self.anchor,
            "step": self.step,
            "moment": self.moment,
            "cron": self.cron,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Timetable:
        """The one that gave this record."""
        return cls(**record)

    @property
    def is_once(self) -> bool:
        return self.kind in ("at", "in")

    def first(self) -> float:
        """Its first time."""
        match self.kind:
            case "at":
                return self.moment
            case "in":
                return self.anchor + self.step
            case _:
                return self.after(self.anchor) or math.inf

    def after(self, moment: float) -> float | None:
        """Its first time after `moment`; None if there is none."""
        match self.kind:
            case "every":
                steps = math.floor((moment - self.anchor) / self.step) + 1
                found = self.anchor + steps * self.step
                return found if found > moment else found + self.step  # floats round
            case "cron":
                return self._cron.after(moment)
            case _:
                first = self.first()
                return first if first > moment else None

    def passed(self, since: float, now: float) -> list[float]:
        """Its times from `since`, one of them, to `now`; the first MOST_MISSED."""
        times = [since]
        while len(times) < MOST_MISSED:
            following = self.after(times[-1])
            if following is None or following > now:
                break
            times.append(following)
        return times

    def last_within(self, seconds: float, passed: float, now: float) -> float | None:
        """Its last time of those that are over by less than so many seconds; None if there is none.
        `passed` is one that is over."""
        found, following = None, passed
        if passed <= now - seconds:
            following = self.after(now - seconds) or math.inf
        while following <= now:
            found = following
            following = self.after(found) or math.inf
        return found

    def corrected(self, due: float, now: float) -> float:
        """When it is due if the clock, which says `now`, was ahead when `due` was found: as
        `Schedule.corrected`. A length of time is never longer than it says."""
        match self.kind:
            case "at":
                return due
            case "in":
                return min(due, now + self.step)
            case _:
                following = self.after(now)
                return due if following is None or due - following <= CORRECTION else following

    @property
    def _cron(self) -> Schedule:
        return Schedule("cron", self.cron)
