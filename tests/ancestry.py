"""Daemons that may make no control groups, as an ordinary user's: a hatchery's `module`. With
`UNTOLD` in the environment Linux does not tell them of forks either, as in most containers."""

from __future__ import annotations

import errno
import os
from typing import Any

from agentfs.machine import cgroups, kin
from agentfs.tools import daemon
from tests import hatchery


def _untold() -> None:
    raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))


def _run(words: list[str], **how: Any) -> int:
    cgroups._hierarchies = lambda: iter(())
    if "UNTOLD" in os.environ:
        kin.Forks = _untold  # type: ignore[assignment,attr-defined,misc]
    return daemon.main(words, **how)


if __name__ == "__main__":
    hatchery.main(_run)
