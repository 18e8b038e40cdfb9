"""Confinement: what the programs of a process are kept from, by the machine and not by their word.

A process without `network_access` has no network, or, with `llm`, one of its own with nothing in it
but the gateway of models (`agentfs.machine.network`); one without `file_write` has a read-only view
of the host, one without `shell_exec` executes nothing but its own program, one without `host_read`
reads nothing of the host but what it needs to run. `Confinement` says what is to hold, `mechanisms`
what this machine has, `Cell` is made for one program, whose child enters it
(`agentfs.machine.fork_server`).

What cannot be kept from a program: asking somebody who is not confined, through a UNIX socket or
with files that others execute.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from agentfs.machine import landlock, seccomp

__all__ = ["FREE", "Cell", "Confinement", "Mechanisms", "described", "mechanisms"]

CAPABILITIES = {
    "network": "network_access",
    "write": "file_write",
    "exec": "shell_exec",
    "read": "host_read",
}
"""What a program can be kept from, and the capability that lets it."""

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
"""Those in /dev that anybody may write to."""

# linux/capability.h and prctl.h. Of root's privileges those over files are left to a program that
# may write (CHOWN, DAC_OVERRIDE, FOWNER, FSETID), and ports below 1024 to one that has the network.
# None that makes it another user (SETUID, SETGID), or that reaches other users' programs (KILL,
# SYS_PTRACE, SYS_RESOURCE), others' traffic (NET_RAW), the machine or its disks. A program that
# may write nothing has no use for the first four but to read what other users keep to themselves.
OVER_FILES = (0, 1, 3, 4)
OF_THE_NETWORK = (10,)
DAC_OVERRIDE = 1

OF_FILES = landlock.DEVICE | landlock.READ_FILE
"""The rights that can be had on what is no folder."""

Place = str | int
"""A path, or a descriptor."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a program may do."""

    network: bool = True
    write: bool = True
    execute: bool = True
    read: bool = True
    models: bool = False
    """Instead of the network it has one of its own, in which there is the gateway of models."""

    @classmethod
    def of(cls, allows: Callable[[str], bool]) -> Confinement:
        """For a process whose capabilities `allows` knows by name."""
        held = cls(*(allows(capability) for capability in CAPABILITIES.values()))
        return replace(held, models=not held.network and allows("llm"))

    @property
    def kept_from(self) -> tuple[str, ...]:
        """What it is to be kept from, of `network`, `write`, `exec` and `read`; `models` is the
        network but for the models."""
        allowed = (self.network, self.write, self.execute, self.read)
        names = ("models" if self.models else "network", *tuple(CAPABILITIES)[1:])
        return tuple(name for name, may in zip(names, allowed, strict=True) if not may)


FREE = Confinement()
"""Kept from nothing."""


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """What a machine has: the version of Landlock (0: none), filters of system calls (seccomp),
    filters that can ask about one."""

    landlock: int
    seccomp: bool
    listener: bool

    def lacks(self, name: str) -> str:
        """What keeps this machine from holding a program from `network` (or `models`), `write`,
        `exec` or `read`, in words; empty if nothing does."""
        if not self.seccomp:
            return "libseccomp (apt-get install libseccomp2) and a Linux with seccomp"
        least, linux = (3, "6.2") if name == "write" else (1, "5.13")
        if self.landlock < least:
            return f"Landlock, version {least} (Linux {linux}, enabled with lsm=landlock)"
        if name == "exec" and not self.listener:
            return "seccomp with listeners (Linux 5.5)"
        return ""

    @property
    def lacks_signals(self) -> str:
        """What keeps this machine from keeping the signals of a confined program to itself."""
        return "" if self.landlock >= 6 else "Landlock, version 6 (Linux 6.12)"

    def holds(self, wanted: Confinement) -> Confinement:
        """The part of `wanted` that this machine can hold."""
        held = {name for name in wanted.kept_from if not self.lacks(name)}
        return Confinement(
            network=held.isdisjoint(("network", "models")),
            write="write" not in held,
            execute="exec" not in held,
            read="read" not in held,
            models="models" in held,
        )


@functools.cache
def mechanisms() -> Mechanisms:
    """What this machine has."""
    return Mechanisms(landlock.abi(), seccomp.available(), seccomp.can_listen())


def described(wanted: Confinement, held: Iterable[str], here: Mechanisms | None = None) -> str:
    """What a program that is to be confined as `wanted` really is, `held` being what the machine,
    `here`, keeps it from: `network write; advisory: exec`; `no` if nothing is wanted or held.
    `advisory: signals` where a confined one can send them to others of its user. One that was to
    have the models alone, `models`, and has no network at all is `network`."""
    really = tuple(held)
    known = {"network" if name == "models" else name for name in really}
    missing = [
        name
        for name in ("network" if name == "models" else name for name in wanted.kept_from)
        if name not in known
    ]
    if really and (here or mechanisms()).lacks_signals:
        missing.append("signals")
    parts = [" ".join(really)] if really else []
    if missing:
        parts.append(f"advisory: {' '.join(missing)}")
    return "; ".join(parts) or "no"


class Cell:
    """The confinement of one program that is being started: the privileges of root that are `kept`,
    the descriptor of its `ruleset`, the filter of its `calls`. `close` it when the program
    executes, or has failed to."""

    def __init__(
        self,
        held: Confinement,
        folders: Collection[Place],
        files: Collection[Place],
        readable: Iterable[str] = (),
    ):
        """`folders` and `files` are what a program without `write` may write to all the same, and
        read, by path or descriptor; `readable` what one without `read` may read besides. A path
        that there is not is passed over. Raises OSError."""
        self.held = held
        self._one = None if held.execute else seccomp.OneExec()
        try:
            self.calls = seccomp.program(
                network=held.network, models=held.models, write=held.write, execute=held.execute
            )
            self.kept = _kept(held, folders)
            self.ruleset = _ruleset(held, folders, files, readable)
        except BaseException:
            self._end_one()
            raise

    @property
    def asks(self) -> int | None:
        """Where the child sends the listener of the filter, if that has one."""
        return None if self._one is None else self._one.childs

    def close(self) -> None:
        os.close(self.ruleset)
        self._end_one()

    def _end_one(self) -> None:
        if self._one is not None:
            self._one.close()


def _ruleset(
    held: Confinement,
    folders: Collection[Place],
    files: Collection[Place],
    readable: Iterable[str],
) -> int:
    opened: list[int] = []

    def all_of(
        places: Iterable[Place], rights: int, ignored: type[OSError] = FileNotFoundError
    ) -> list[tuple[int, int]]:
        found = []
        for place in places:
            if isinstance(place, int):
                found.append((place, rights))
                continue
            with suppress(ignored):
                opened.append(os.open(place, os.O_PATH | os.O_CLOEXEC))
                is_folder = stat.S_ISDIR(os.fstat(opened[-1]).st_mode)
                found.append((opened[-1], rights if is_folder else rights & OF_FILES))
        return found

    devices = [f"/dev/{name}" for name in DEVICES]
    changed = looked_at = None
    try:
        if not held.write:
            changed = all_of(folders, landlock.FOLDER) + all_of(files, landlock.FILE)
            changed += all_of(devices, landlock.DEVICE)
        if not held.read:
            looked_at = all_of(folders, landlock.LOOK | landlock.REFER)
            looked_at += all_of((*files, *devices), landlock.LOOK)
            looked_at += all_of(readable, landlock.LOOK, OSError)
        return landlock.ruleset(changed, looked_at, tcp=held.network or held.models)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _kept(held: Confinement, folders: Iterable[Place]) -> int:
    """The privileges that root keeps. One that cannot come to `folders` without it, as they lie in
    the closed home of somebody else, may still pass by the modes of files."""
    kept = (OVER_FILES if held.write else ()) + (OF_THE_NETWORK if held.network else ())
    if not all(_is_reachable(folder) for folder in folders if isinstance(folder, str)):
        kept += (DAC_OVERRIDE,)
    return sum(1 << number for number in set(kept))


def _is_reachable(folder: str) -> bool:
    """Whether root, without privileges, may pass the folders above `folder`."""
    above = os.path.dirname(folder)
    while True:
        status = os.stat(above)
        if not status.st_mode & (
            0o100 if status.st_uid == 0 else 0o010 if not status.st_gid else 1
        ):
            return False
        if above == "/":
            return True
        above = os.path.dirname(above)
