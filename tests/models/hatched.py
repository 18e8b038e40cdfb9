"""Daemons whose gateway says who calls (`whoami`): a hatchery's `module`. With `UNGROUPED` in the
environment they may make no control groups."""

from __future__ import annotations

import os
import sys
from typing import Any

from agentfs.machine import cgroups
from agentfs.models import worker
from agentfs.tools import daemon
from tests import hatchery


def _run(words: list[str], **how: Any) -> int:
    if "UNGROUPED" in os.environ:
        cgroups._hierarchies = lambda *kinds: iter(())  # type: ignore[assignment]
    worker.COMMAND = (sys.executable, "-P", "-m", "tests.models.whoami", "-")  # type: ignore[misc]
    os.environ["PYTHONPATH"] = hatchery.__file__.rpartition("/tests/")[0]
    return daemon.main(words, **how)


if __name__ == "__main__":
    hatchery.main(_run)
