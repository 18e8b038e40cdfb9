"""Gaps in the audit: refusals that were dropped to make room, and the records that stand for them.

One record stands for a run of refusals, and has the number and the hash of the last of them. It is
signed together with the hash before it. So the chain holds over the gap, and nobody without the key
can take a record out in this way. Such a record is no refusal and is never dropped itself; two that
touch are made one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from agentfs.audit import records
from agentfs.audit.events import RefusalsDropped
from agentfs.audit.seal import Seal

__all__ = ["MARK", "Gap", "first_of", "is_gap"]

MARK = '"type":"refusals_dropped"'
"""The text that each such record has, and no other: in a string of JSON the quotes are escaped."""

_SIGNATURE = re.compile(rb'"signature":"([0-9a-f]{64})"')


def is_gap(record: bytes) -> bool:
    return MARK.encode() in record


def first_of(record: bytes) -> int:
    """The number of the first record that such a `record` stands for; 0 if it does not say."""
    try:
        return int(json.loads(record)["changes"][0]["first"])
    except (ValueError, LookupError, TypeError):
        return 0


@dataclass(frozen=True, slots=True)
class Gap:
    """The records from `first` to `last` were `count` refusals and are not kept. `time` is the time
    of the last one, `before` the hash before the first, `digest` the hash of the last."""

    first: int
    last: int
    count: int
    time: str
    before: bytes
    digest: bytes

    def text(self, seal: Seal) -> str:
        """The record that stands for the gap, as the table has it."""
        signature = seal.gap(self.before, self.digest, self._unsigned().encode())
        return self._said(signature)

    def _unsigned(self) -> str:
        return self._said("")

    def _said(self, signature: str) -> str:
        told = RefusalsDropped(self.count, self.first, signature)
        return records.record(self.last, self.time, records.actor(None), [told])

    @classmethod
    def read(cls, seal: Seal, record: bytes, before: bytes, digest: bytes) -> Gap:
        """Read such a record between these hashes. Raises ValueError if it is not by this key."""
        found = _SIGNATURE.search(record)
        unsigned = _SIGNATURE.sub(b'"signature":""', record, count=1)
        if found is None or not seal.is_gap(found[1].decode(), before, digest, unsigned):
            raise ValueError("its signature is not by this key")
        said = json.loads(record)
        told = said["changes"][0]
        return cls(told["first"], said["seq"], told["count"], said["time"], before, digest)
