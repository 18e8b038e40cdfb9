"""Daemons that may make no control groups, as an ordinary user's: a hatchery's `module`."""

from __future__ import annotations

from typing import Any

from agentfs.process import cgroups
from agentfs.tools import daemon
from tests import hatchery


def _run(words: list[str], **how: Any) -> int:
    cgroups._hierarchies = lambda: iter(())
    return daemon.main(words, **how)


if __name__ == "__main__":
    hatchery.main(_run)
