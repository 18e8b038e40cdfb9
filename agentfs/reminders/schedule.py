"""When a reminder is due: `in 10m`, `at 2026-12-01T09:00Z`, `cron "0 9 * * 1"`. All times are UTC.

Cron is the five fields of Debian's crontab(5): names, ranges, lists and steps. Where day of month
and day of week are both restricted either will do, unless one of them begins with a star.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from cronsim import CronSim, CronSimError

from agentfs.base.errors import KernelError
from agentfs.mail.headers import expiry

__all__ = ["CORRECTION", "MOST_MISSED", "Schedule", "parse"]

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
        found = next(self._times(moment), None)
        return None if found is None else found.timestamp()

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
                if time.timestamp() > now:
                    break
                count += 1
        return count

    def _times(self, moment: float) -> CronSim:
        try:
            return CronSim(self.expression, datetime.fromtimestamp(moment, UTC))
        except CronSimError as bad:
            raise KernelError(errno.EINVAL, f"{self}: {str(bad).lower()}") from None


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
        fields = expression.split()
    else:
        words = rest.split(None, 5)
        fields, text = words[:5], "".join(words[5:])
    if len(fields) != 5:
        raise KernelError(
            errno.EINVAL,
            f"cron takes five fields (minute, hour, day of month, month, day of week),"
            f" not {len(fields)}: {USAGE}",
        )
    for field in fields:
        if not FIELD.fullmatch(field):
            raise KernelError(
                errno.EINVAL, f"cron: {field[:64]!r} is no field: numbers, names, * , - / make one"
            )
    return " ".join(fields), text
