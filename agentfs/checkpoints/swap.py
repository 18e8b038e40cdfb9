"""The way back, on the disk: the state as it is gives way to a copy of a checkpoint, by renames.

    STATE/rollback/new      the copy, made while the system still works
    STATE/rollback/plan     to which checkpoint; from here on the way back is decided
    STATE/rollback/old      what it takes the place of, one by one

A crash before there is a plan leaves nothing but a folder that is removed. After that, the next
start goes on where it ended: what lies in `new` has not yet taken its place. Nothing here needs a
kernel, and `finish` runs while there is none.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentfs.checkpoints import copies, inventory, lasting
from agentfs.checkpoints.making import (
    CHECKPOINTS,
    FILES,
    FOLDERS,
    LISTED,
    mounted_below,
    remove_tree,
)
from agentfs.store.layout import STORE, StateError
from agentfs.store.opening import UNREADABLE
from agentfs.store.store import Store

__all__ = ["begin", "decide", "finish", "give_up", "pending"]

ROLLBACK = "rollback"
NEW, OLD, PLAN = "new", "old", "plan"

LOGS = (f"{STORE}-wal", f"{STORE}-shm", f"{STORE}-log0", f"{STORE}-log1")

DERIVED = ("recall.db", "recall.db-wal", "recall.db-shm")
"""Files of the state directory that are made anew from others."""


def begin(state: Path, checkpoint: Path) -> None:
    """Make the copy, for `decide`. For a thread. Raises OSError, ValueError; then `give_up`."""
    place = state / ROLLBACK
    remove_tree(place)
    place.mkdir(mode=0o700)
    new = place / NEW
    new.mkdir(mode=0o700)
    found = inventory.read(checkpoint / LISTED)
    for folder in FOLDERS:
        if folder not in found:
            (new / folder).mkdir(mode=0o700)
    for entry in found.values():
        if entry.same:
            os.link(new / entry.same, new / entry.path)
        else:
            copies.copy(entry, checkpoint / FILES / entry.path, new / entry.path)
    for entry in reversed(found.values()):  # what is in a directory changes its times
        if not entry.same:
            copies.dress(entry, new / entry.path)
    size = (checkpoint / STORE).stat().st_size
    copies.require_room(new, size)
    copies.duplicate(checkpoint / STORE, new / STORE)
    copies.sync_disk(place)


def pending(state: Path) -> str | None:
    """The checkpoint to which the state is on its way; None if there is no way back."""
    try:
        return str(json.loads((state / ROLLBACK / PLAN).read_text("ascii"))["name"])
    except (OSError, ValueError, LookupError):
        return None


def give_up(state: Path) -> None:
    """Have nothing of a copy that was not decided on."""
    if not (state / ROLLBACK / PLAN).exists():
        remove_tree(state / ROLLBACK)


def decide(state: Path, plan: dict[str, Any]) -> None:
    """From here on the state is rolled back, whatever happens. Raises OSError."""
    place = state / ROLLBACK
    unfinished = place / f".{PLAN}"
    unfinished.write_text(json.dumps(plan), "ascii")
    copies.sync(unfinished)
    unfinished.rename(place / PLAN)
    copies.sync(place)


def finish(state: Path) -> None:
    """If a way back was decided on, go it to its end. No store of this state is open. Raises
    StateError, and then can be called again."""
    place = state / ROLLBACK
    if not place.is_dir():
        return
    if not (place / PLAN).exists():
        remove_tree(place)
        return
    try:
        plan = json.loads((place / PLAN).read_text("ascii"))
        if mounted := sorted(mounted_below(state)):
            raise StateError(
                f"{state / mounted[0]}: something is mounted there, and the state is being rolled"
                f" back to checkpoint {plan['name']}: unmount it and start again"
            )
        _prepare(state, plan)
        _swap(state, place)
    except (OSError, sqlite3.Error, *UNREADABLE) as failure:
        raise StateError(
            f"{place}: the rollback cannot be completed ({failure}); put that right and start"
            " again, or remove the folder's `plan` if nothing of it was moved to `old`"
        ) from failure


def _prepare(state: Path, plan: dict[str, Any]) -> None:
    """Complete the store of the copy with what never goes back. Raises sqlite3.Error."""
    new = state / ROLLBACK / NEW / STORE
    if not new.exists():
        return  # it has taken its place
    if (state / STORE).exists():
        Store(state / STORE).close()  # with everything in it, and without a log
        lasting.carry(state / STORE, new, plan)
        copies.sync(new)


def _swap(state: Path, place: Path) -> None:
    old, new = place / OLD, place / NEW
    old.mkdir(mode=0o700, exist_ok=True)
    if (new / STORE).exists():
        for name in (*LOGS, *DERIVED):
            (state / name).unlink(missing_ok=True)
        copies.sync(state)  # no log of the old store is ever beside the new one
    for name in (*FOLDERS, STORE):
        if not os.path.lexists(new / name):
            continue
        if os.path.lexists(old / name):
            remove_tree(state / name)  # a start made it anew, empty, before it came here
        elif os.path.lexists(state / name):
            (state / name).rename(old / name)
        (new / name).rename(state / name)
    copies.sync_disk(state)
    (place / PLAN).unlink()
    copies.sync(place)
    with suppress(OSError):  # it is removed by and by; if not from there, by the next start
        place.rename(state / CHECKPOINTS / f".old-{os.getpid()}")
