"""Names of agents: none is the name of another party of the system, or looks like one."""

from __future__ import annotations

import errno
import re

from agentfs.base.errors import KernelError
from agentfs.model.spec import NAME

__all__ = [
    "INIT_NAME",
    "RESERVED",
    "alike",
    "check_name",
    "check_reserved",
    "is_kernels",
    "misshapen",
    "reserved",
]

INIT_NAME = "init"

RESERVED = ("operator", "kernel", "user", "nobody", "all", INIT_NAME, "self")
"""Parties that decide something, that files and records name, or that mean something else in a
path."""

KERNELS = ("guardian", "mind")
"""Agents that the kernel makes to judge and to choose; those for tools begin with `tool-`."""

NUMBERED = re.compile(r"[A-Za-z][0-9]+")

NUMBER = re.compile(r"[0-9]+([._-]+[0-9]+)*[._-]*|0[xX][0-9A-Fa-f]+")

_LOOKS = str.maketrans({"0": "o", "1": "l", "i": "l", ".": None, "-": None, "_": None})


def alike(name: str) -> str:
    """The same text for names that look the same. Case makes no difference, nor do `0` and `o`,
    `1`, `i` and `l`, `rn` and `m`, `vv` and `w`, dots and dashes. A letter with a number behind it,
    as programs count (`a11`), looks like nothing else."""
    if NUMBERED.fullmatch(name):
        return name.lower()
    return name.lower().translate(_LOOKS).replace("rn", "m").replace("vv", "w")


_TAKEN = {alike(name): name for name in RESERVED}


def reserved(name: str) -> str:
    """The reserved name that `name` is or looks like; empty if there is none."""
    return _TAKEN.get(alike(name), "")


def is_kernels(name: str) -> bool:
    """Whether the kernel makes an agent of this name, or of one that looks the same. Where an agent
    could make it first, nobody would be judged, and a tool would not start."""
    return name.startswith("tool-") or alike(name) in map(alike, KERNELS)


def misshapen(name: str) -> str:
    """Why a text is no name although all its letters may be in one; empty if it is a name."""
    if not name[:1].isalnum():
        return "a name begins with a letter or a digit"
    return "a number is no name: pids are numbers" if NUMBER.fullmatch(name) else ""


def check_name(name: str) -> None:
    """Raise EINVAL unless a new agent may be called `name`."""
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise KernelError(
            errno.EINVAL,
            f"{name!r} is no name for an agent: 1 to 64 of A-Z a-z 0-9 . _ - were expected",
            rule="name",
        )
    if why := misshapen(name):
        raise KernelError(errno.EINVAL, f"{name!r}: {why}", rule="name")
    check_reserved(name)


def check_reserved(name: str) -> None:
    """Raise EINVAL if the name stands for somebody else."""
    meant = reserved(name)
    if meant:
        looks = "is" if name == meant else f"looks like {meant!r}, which is"
        raise KernelError(errno.EINVAL, f"the name {name!r} {looks} reserved", rule="name")
