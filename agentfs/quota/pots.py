"""The pots there are: what all have together. One row for each, in the order in which they are
shown."""

from __future__ import annotations

import errno
from dataclasses import dataclass

__all__ = ["FLOOR", "POTS", "PotKind"]

FLOOR = 16
"""Things that everybody may hold of a pot, whatever others hold, if they are counted one by one."""

MEBIBYTE = 1024 * 1024
"""The same of bytes: a message of the usual size, or a few files."""


@dataclass(frozen=True, slots=True)
class PotKind:
    """One pot. `unit` names its things, in the plural. `setting` is the number that the operator
    changes to have more of them; it says how many there are where nothing else does. `floor` is how
    many everybody may hold, whatever others hold. The errno of a refusal is `scarce` if nothing is
    left, `excess` if it is more than the share; the refusal names `rule`, or `shares.NAME`."""

    name: str
    unit: str
    setting: str
    floor: int = FLOOR
    scarce: int = errno.ENOSPC
    excess: int = errno.EDQUOT
    rule: str = ""


def _again(name: str, unit: str, setting: str) -> PotKind:
    """A pot of things that are soon given back."""
    return PotKind(name, unit, setting, scarce=errno.EAGAIN, excess=errno.EAGAIN)


def _bytes(name: str, unit: str) -> PotKind:
    return PotKind(name, unit, f"shares.{name}", MEBIBYTE)


_KINDS = (
    _again("parked", "waiting reads and writes", "mount.max_parked"),
    _bytes("unsent", "bytes that are being written"),
    _bytes("contents", "bytes that are kept for readers"),
    PotKind(
        "handles",
        "files and directories open",
        "shares.handles",
        scarce=errno.ENFILE,
        excess=errno.EMFILE,
    ),
    _bytes("memory", "bytes of memory/"),
    _bytes("artifacts", "bytes of artifacts"),
    _bytes("shared", "bytes of /shared"),
    _again("launches", "programs started within a minute", "shares.launches"),
    PotKind("definitions", "definitions", "shares.definitions"),
    PotKind("queues", "queues", "queues.max_queues"),
    PotKind("topics", "topics", "topics.max_topics"),
    PotKind("locks", "locks", "locks.max_locks"),
    PotKind("manifests", "documents", "workflows.max_documents"),
    PotKind("pools", "pools", "pools.max_pools"),
    PotKind("projects", "projects", "projects.max_projects"),
    PotKind("agent_groups", "groups of agents", "projects.max_groups"),
    _again("groups", "groups", "groups.max_groups"),
    PotKind("tasks", "open tasks", "tasks.max_tasks"),
    PotKind("workers", "workers", "workers.max_workers"),
    PotKind("reminders", "reminders", "shares.reminders"),
    PotKind("schedules", "schedules", "triggers.max_schedules"),
    PotKind("systems", "systems", "triggers.max_systems"),
    PotKind("entity_types", "types of entities", "triggers.max_entity_types"),
    PotKind("entities", "entities", "triggers.max_entities"),
    PotKind("seeds", "seeds that are open", "projects.max_seeds"),
    _again("asks", "questions that wait for an answer", "shares.asks"),
    _again("approvals", "requests that wait for approval", "shares.approvals"),
)

POTS = {kind.name: kind for kind in _KINDS}
