"""Queries of the audit: `agent=NAME type=TYPE since=WHEN until=WHEN limit=N`, any of them.

A query is answered in a thread, on a connection of its own.
"""

from __future__ import annotations

import errno
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfs.audit.audit_table import beside, matching
from agentfs.audit.records import canonical, stamp
from agentfs.base.errors import KernelError
from agentfs.model.moment import count, moment

__all__ = ["MAX_LIMIT", "Query", "line"]

LIMIT = 100
MAX_LIMIT = 10_000
"""The records of one answer, which are about 4 MB."""

# A number beyond that of every record; texts before and after every time.
NEWEST = 2**63 - 1
EARLIEST, LATEST = "0", "A"


def line(record: bytes, digest: bytes) -> bytes:
    """A record as a line of the log: its JSON, with its hash at the end."""
    return record[:-1] + b',"hash":"%s"}\n' % digest.hex().encode()


@dataclass(frozen=True, slots=True)
class Query:
    """Asks for the newest `limit` records. `agent` has acted, or one of the changes names it;
    `type` is that of one of the changes; empty means any. `since` and `until` are times as records
    have them."""

    agent: str = ""
    type: str = ""
    since: str = EARLIEST
    until: str = LATEST
    limit: int = LIMIT

    @classmethod
    def parse(cls, text: str, now: float) -> Query:
        """Read a query. A time is a date (RFC 3339), or a duration: so long ago. Raises EINVAL."""
        given: dict[str, Any] = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in cls.__dataclass_fields__ or not value or name in given:
                raise KernelError(
                    errno.EINVAL,
                    "a query is agent=NAME type=TYPE since=WHEN until=WHEN limit=N, each at most"
                    f" once, not {word[:100]!r}",
                )
            given[name] = value
        for name in {"since", "until"} & given.keys():
            given[name] = _stamp(name, given[name], now)
        if "limit" in given:
            given["limit"] = count(given["limit"], MAX_LIMIT)
        return cls(**given)

    def answer(self, store: Path) -> bytes:
        """The records that match, oldest first, a line each. Waits for the disk: call it in a
        thread. Raises sqlite3.Error."""
        agent = canonical(self.agent) if self.agent else ""
        kind = f'"type":{canonical(self.type)}' if self.type else ""
        found: list[bytes] = []
        before = NEWEST
        with closing(beside(store)) as connection:
            while len(found) < self.limit:
                rows = matching(
                    connection, before, (agent, kind), (self.since, self.until), self.limit
                )
                found += [line(record, digest) for _, record, digest in rows if self._is(record)]
                if len(rows) < self.limit:
                    break
                before = rows[-1][0]
        return b"".join(reversed(found[: self.limit]))

    def _is(self, text: bytes) -> bool:
        try:
            record = json.loads(text)
            changes = record["changes"]
            if self.type and all(change["type"] != self.type for change in changes):
                return False
            return (
                not self.agent
                or record["actor"]["name"] == self.agent
                or any(self.agent in change.values() for change in changes)
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            return True  # somebody tampered with it, and it had better be seen


def _stamp(name: str, text: str, now: float) -> str:
    """A time as records have it. Raises EINVAL, also for one that no calendar has."""
    try:
        return stamp(moment(name, text, now))
    except (ValueError, OverflowError, OSError):
        raise KernelError(errno.EINVAL, f"{name}: there is no such date: {text[:64]!r}") from None
