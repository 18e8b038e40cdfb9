"""`agentfs doctor --repair`: a copy first, then what can be saved of a state directory."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from agentfs.base.errors import KernelError
from agentfs.check import check
from agentfs.kernel import Kernel
from agentfs.salvage import (
    Saved,
    add_lost_agents,
    give_up_processes,
    make_up_length,
    mend_first_page,
    salvage,
)
from agentfs.store.layout import STORE, StateError, lay_out
from agentfs.store.lock import only_daemon
from agentfs.store.opening import require_whole

__all__ = ["repair", "trial"]

MARK = "store.mark"
LOGS = ("-wal", "-log0", "-log1")
"""The files beside a store that have something it may lack, by the ends of their names."""

OF_THE_STORE = (STORE, *(f"{STORE}{log}" for log in LOGS), MARK)
NAMES = {
    "messages": "messages",
    "agents": "agents",
    "processes": "processes",
    "audit": "records of the audit",
    "publications": "records of topics",
}
"""The tables whose rows are counted for people."""


def trial(store: Path, key: Path) -> str:
    """Why a daemon would not start with a store; empty if it would. It is tried with a copy."""
    with tempfile.TemporaryDirectory(prefix="agentfs-") as folder:
        state = Path(folder)
        for source, name in (
            (store, STORE),
            *((store.with_name(f"{store.name}{log}"), f"{STORE}{log}") for log in LOGS),
            (key, "audit.key"),
            (key.with_name(f"{key.name}.checkpoints"), "audit.key.checkpoints"),
        ):
            if source.exists():
                shutil.copy(source, state / name)

        async def start() -> None:
            kernel = Kernel(state, "/nowhere")
            kernel.load()
            kernel.store.close()

        logging.disable()  # what it says there is said here
        try:
            trio.run(start)
        except (StateError, KernelError) as bad:
            words = str(bad).replace(f"{state}/{STORE}", str(store)).replace(str(state), str(store))
            return words.partition("; agentfs doctor")[0]
        finally:
            logging.disable(logging.NOTSET)
    return ""


def repair(state: Path, key: Path, say: Callable[[str], object]) -> None:
    """Make the state directory one that can be mounted. Raises StateError, and changes nothing, if
    that cannot be done; `say` is called with what was done."""
    lay_out(state)
    with only_daemon(state):
        if not _wrong(state, key):
            say(f"{state}: nothing to repair")
            return
        aside = state / time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime())
        try:
            aside.mkdir(mode=0o700)
            for name in (*OF_THE_STORE, "audit.key", "audit.key.checkpoints"):
                if (state / name).exists():
                    shutil.copy2(state / name, aside / name)
            say(f"a copy of the store as it was: {aside}")
            _save(state, aside, key, say)
        except OSError as failed:
            raise StateError(f"{failed.filename}: {os.strerror(failed.errno or 0)}") from None


def _wrong(state: Path, key: Path) -> bool:
    store = state / STORE
    try:
        require_whole(store)
    except StateError:
        return True
    return store.exists() and bool(check(store) or trial(store, key))


def _save(state: Path, aside: Path, key: Path, say: Callable[[str], object]) -> None:
    """Put what can be saved in the place of the store."""
    with tempfile.TemporaryDirectory(prefix="repairing-", dir=state) as folder:
        work = Path(folder)
        for name in (STORE, *(f"{STORE}{log}" for log in LOGS)):
            if (aside / name).exists():
                shutil.copy(aside / name, work / name)
        made = state / "store.repaired"
        made.unlink(missing_ok=True)
        saved = _salvaged(work / STORE, made, say)
        lost = add_lost_agents(made, state / "agents")
        if lost:
            say(f"agents without a definition now: {', '.join(lost)}")
        if check(made) or trial(made, key):
            say("what was under way is given up: no process is left, claimed messages wait again")
            give_up_processes(made)
        for each in saved:
            if each.table in NAMES:
                lacking = "" if each.whole else ", and some are lost"
                say(f"{NAMES[each.table]}: {each.rows} saved{lacking}")
        why = trial(made, key)
        if why:
            made.unlink()
            raise StateError(f"{state}: it cannot be repaired: {why}")
        for name in (*(f"{STORE}{log}" for log in LOGS), f"{STORE}-shm", MARK):
            (state / name).unlink(missing_ok=True)
        os.replace(made, state / STORE)
        for end in (*LOGS, "-shm"):
            (state / f"store.repaired{end}").unlink(missing_ok=True)
        say(f"{state}: it can be mounted")


def _salvaged(store: Path, made: Path, say: Callable[[str], object]) -> list[Saved]:
    """Save what can be read of the store, if need be with a first page that is not its own."""
    try:
        if store.exists():
            make_up_length(store)
        return salvage(store, made)
    except sqlite3.Error as failure:
        say(f"the first page of the store is lost ({failure}); a new one takes its place")
    made.unlink(missing_ok=True)
    store.with_name(f"{store.name}-shm").unlink(missing_ok=True)
    mend_first_page(store)
    try:
        return salvage(store, made)
    except sqlite3.Error as failure:
        made.unlink(missing_ok=True)
        raise StateError(f"{store}: nothing can be read of it: {failure}") from None
