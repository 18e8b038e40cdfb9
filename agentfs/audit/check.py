"""Faults of the tables of the audit, as far as they can be told without the key. Whether the kernel
wrote them is told by `agentfs.audit.verify`."""

from __future__ import annotations

from collections.abc import Iterator

from agentfs.audit.audit_table import DROPPED, HEAD
from agentfs.store.rows import StoreRows, read_record

__all__ = ["GAPS", "NUMBERS", "faults"]

NUMBERS = (DROPPED,)
"""Meta values that are numbers."""

GAPS = 'SELECT seq, record FROM audit WHERE instr(record, \'"type":"refusals_dropped"\')'
"""The records that stand for dropped refusals: each for those from its `first` to its own
number."""


def faults(rows: StoreRows) -> Iterator[str]:
    """Whether the records have numbers without a gap, and end where the head says."""
    first, last, count = next(rows.read("SELECT min(seq), max(seq), count(*) FROM audit"))
    dropped = 0
    for seq, text in rows.read(GAPS):
        begins = read_record(text).get("changes", [{}])[0].get("first", seq)
        first, dropped = min(first, begins), dropped + seq - begins
    head = rows.meta.get(HEAD, "").split(" ")[0]
    if head != ("" if last is None else str(last)):
        yield f"audit: the head is record {head or 'none'}, and the last one is {last}"
    if count and last - first + 1 != count + dropped:
        yield f"audit: there are {count} records from {first} to {last}"
    cut = 0
    for seq, text in rows.read("SELECT seq, record FROM checkpoints ORDER BY seq"):
        record = read_record(text)
        if record.get("seq") != seq:
            yield f"audit: checkpoint {seq} is that of record {record.get('seq')}"
        if record.get("cut"):
            cut = seq
    if count and first != cut + 1:
        yield f"audit: the first record is {first}, and {cut} were cut off"
