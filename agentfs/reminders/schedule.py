"""When a reminder is due: `in 10m`, `at 2026-12-01T09:00Z`, `cron "0 9 * * 1"`. All times are UTC.

Cron is the five fields of Debian's crontab(5): names, ranges, lists and steps. Where day of month
and day of week are both restricted either will do, unless one of them begins with a star. Before
the fields `CRON_TZ=Europe/Berlin` may name their time zone, as in cronie's crontab(5). Where its
clocks are set forward or back, a time of day comes once, as in Debian's cron(8): one that is left
out comes right after the gap. Fields that begin with a star go by real time.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from agentfs.base.errors import KernelError
from agentfs.mail.headers import expiry

__all__ = ["CORRECTION", "MOST_MISSED", "ZONE", "Schedule", "cron_fields", "parse"]

MOST_MISSED = 100
"""Missed times are counted up to here: a cron reminder of every minute misses half a million a
year, and counting those would hold everybody up for seconds."""

CORRECTION = 3 * 3600.0
"""Seconds by which a clock is set back for other reasons than that it was wrong."""

# Bytes that the time of a reminder may have, `in` and `cron` with it. Real ones have 30.
LONGEST = 256

FIELD = re.compile(r"(?:[0-9*,/-]|[A-Z]{3})+", re.IGNORECASE | re.ASCII)
"""A cron field of the standard. The library knows L and # beyond it; with them an
expression can be written that never comes true, and 35 ms are spent on finding that out."""

ZONE = "CRON_TZ="
"""Before the name of a time zone, at the beginning of a cron expression."""

ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")

USAGE = 'in 10m TEXT, at 2026-12-01T09:00Z TEXT, or cron "0 9 * * 1" TEXT'


@dataclass(frozen=True, slots=True)
class Schedule:
    """`kind` is `in`, `at` or `cron`, `expression` what was written for it."""

    kind: str
    expression: str

    def __str__(self) -> str:
        quote = '"' if self.kind == "cron" else ""
        return f"{self.kind} {quote}{self.expression}{quote}"

    def first(self, now: float) -> float:
        """When it is due the first time, on the wall clock. EINVAL if that cannot be."""
        if self.kind == "cron":
            found = self.after(now)
            if found is None:
                raise KernelError(errno.EINVAL, f"{self} is at no time within 50 years")
            return found
        return expiry(self.expression, now, self.kind)

    def after(self, moment: float) -> float | None:
        """The next time after `moment`; None if there is none."""
        if self.kind != "cron":
            return None
        return next(self._times(moment), None)

    def corrected(self, due: float, now: float) -> float:
        """When it is due if the clock, which says `now`, was ahead when `due` was found.

        A clock that was set back by less than CORRECTION makes no `cron` reminder come twice for
        one of its times; beyond that the new time counts, as in Debian's cron(8). `in` is a length
        of time, and never longer than it says.
        """
        if self.kind == "cron":
            following = self.after(now)
            return due if following is None or due - following <= CORRECTION else following
        return due if self.kind == "at" else min(due, expiry(self.expression, now, self.kind))

    def missed(self, since: float, now: float) -> int:
        """How many of its times there are from `since`, one of them, to `now`; at most
        MOST_MISSED."""
        count = 1
        if self.kind == "cron":
            for time in islice(self._times(since), MOST_MISSED - 1):
                if time > now:
                    break
                count += 1
        return count

    def _times(self, moment: float) -> Iterator[float]:
        """All times after `moment`. The library begins in the hour that comes twice with a time of
        its first pass, which is over: that one is left out."""
        zone, fields = _split_zone(self.expression)
        try:
            found = CronSim(fields, datetime.fromtimestamp(moment, _zone(zone)))
        except CronSimError as bad:
            raise KernelError(errno.EINVAL, f"{self}: {str(bad).lower()}") from None
        return (time for each in found if (time := each.timestamp()) > moment)


def parse(line: str) -> tuple[Schedule, str]:
    """A line as it is written to `reminders/new`: when, and the text. EINVAL."""
    kind, rest = _first_word(line)
    match kind:
        case "in" | "at":
            expression, text = _first_word(rest)
            _check_word(kind, expression)
        case "cron":
            expression, text = _split_cron(rest)
        case _:
            raise KernelError(errno.EINVAL, f"a reminder is {USAGE}; not {line.strip()[:64]!r}")
    if len(expression.encode()) > LONGEST:
        raise KernelError(errno.EINVAL, f"{kind}: at most {LONGEST} bytes say when")
    if not text.strip():
        raise KernelError(errno.EINVAL, f"what is to be said is missing: {USAGE}")
    return Schedule(kind, expression), text.strip()


def _first_word(line: str) -> tuple[str, str]:
    word, *rest = line.split(None, 1) or [""]
    return word, "".join(rest)


def _check_word(kind: str, expression: str) -> None:
    """A duration begins with a digit, and a time has a T in it: `at 2026-12-01 09:00 call` would be
    midnight, with a wrong text."""
    if kind == "in" and not re.fullmatch(r"[0-9.]+(ms|s|m|h|d)?", expression):
        raise KernelError(errno.EINVAL, f"in takes a duration (90s, 10m, 2h, 7d): {USAGE}")
    if kind == "at" and not re.match(r"\d{4}-\d\d-\d\dT\d", expression):
        raise KernelError(errno.EINVAL, f"at takes a time (2026-12-01T09:00Z): {USAGE}")


def _split_cron(rest: str) -> tuple[str, str]:
    """Five fields in quotes, or as they are in a crontab, and the text."""
    if rest[:1] in ("'", '"'):
        expression, closed, text = rest[1:].partition(rest[0])
        if not closed:
            raise KernelError(errno.EINVAL, f"the closing {rest[0]} is missing: {USAGE}")
    else:
        count = 6 if rest.startswith(ZONE) else 5
        words = rest.split(None, count)
        expression, text = " ".join(words[:count]), "".join(words[count:])
    return cron_fields(expression, USAGE), text


def cron_fields(expression: str, usage: str) -> str:
    """A cron expression as it is kept: its zone, if it names one, and five fields. EINVAL, with
    `usage` where there are more or fewer."""
    zone, rest = _split_zone(expression.strip())
    fields = rest.split()
    if len(fields) != 5:
        raise KernelError(
            errno.EINVAL,
            f"cron takes five fields (minute, hour, day of month, month, day of week),"
            f" not {len(fields)}: {usage}",
        )
    for field in fields:
        if not FIELD.fullmatch(field):
            raise KernelError(
                errno.EINVAL, f"cron: {field[:64]!r} is no field: numbers, names, * , - / make one"
            )
    if not zone:
        return " ".join(fields)
    _zone(zone)
    return " ".join([f"{ZONE}{zone}", *fields])


def _split_zone(expression: str) -> tuple[str, str]:
    """The name of the time zone, empty for UTC, and the fields."""
    if not expression.startswith(ZONE):
        return "", expression
    zone, _, fields = expression.removeprefix(ZONE).partition(" ")
    return zone, fields


def _zone(name: str) -> tzinfo:
    """EINVAL if this machine knows no such time zone."""
    if name in ("", "UTC"):
        return UTC
    try:
        if len(name) <= LONGEST and ZONE_NAME.fullmatch(name):
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise KernelError(
        errno.EINVAL, f"there is no time zone {name[:64]!r}: a name like Europe/Berlin was expected"
    )
