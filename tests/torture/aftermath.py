"""What must hold of a state directory whenever no daemon is at work in it, and beside one that is:
the store's invariants, and an audit that is what the kernel wrote. And no program without a
process."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from agentfs.audit.verify import verify
from agentfs.check import check
from agentfs.machine.cgroups import ControlGroups
from tests.tree import Tree

__all__ = ["faults_of", "strays_of"]


LEFTOVER = "the next start removes it"
"""What the check says of a content that was written and not yet, or no more, anybody's."""


def faults_of(state: Path, *, after_crash: bool = False, new: bool = False) -> list[str]:
    """Everything that is wrong, in words: what `agentfs doctor --state` says, without the machine.

    `after_crash`: files may lie there that the next start removes. Of a `new` store, whose daemon
    died before it was complete, only damage counts.
    """
    faults = check(state / "store.db")
    if after_crash:
        faults = [fault for fault in faults if not fault.endswith(LEFTOVER)]
    if new:
        return [fault for fault in faults if "damaged" in fault]
    verdict = verify(state / "store.db", state / "audit.key")
    return [*faults, *([f"audit: {verdict.fault}"] if verdict.fault else [])]


def strays_of(tree: Tree) -> list[str]:
    """Programs of the tree whose process has ended, or was never there. Empty where the machine
    gives no control groups: a program that was started and not recorded cannot be found there."""
    if not _groups():
        return []
    mark = f"AGENTFS={tree.path}"
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{name}/environ").read_bytes().decode(errors="replace")
            words = text.split("\0")
            pid = next((word[10:] for word in words if word.startswith("AGENT_PID=")), "")
            if mark in words and pid and not _lives(tree, pid):
                found.append(f"program {name} runs for process {pid}, which does not")
    return found


def _lives(tree: Tree, pid: str) -> bool:
    try:
        return tree.read(f"proc/{pid}/state").strip() not in ("zombie", "dead")
    except FileNotFoundError:
        return False


@functools.cache
def _groups() -> bool:
    """Whether there are control groups; see `agentfs doctor`."""
    groups = ControlGroups("torture")
    if groups.available:
        groups.close()
    return groups.available
