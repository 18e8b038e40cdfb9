"""How systems of runs go that `agentfs up` has started."""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from dataclasses import dataclass, field

import click

from agentfs.tools.terminal import shown
from agentfs.tools.tree import Tree, TreeError, encoded

__all__ = ["SystemProgress", "start_system"]

POLL = 0.1
"""Seconds between two looks."""

FINAL = frozenset({"completed", "failed", "cancelled", "timed_out", "done"})
GOOD = frozenset({"completed", "done"})


@dataclass(slots=True)
class SystemProgress:
    """A system that runs, or whose schedule does, and what was said of it last. `folder`: where it
    is in the tree."""

    tree: Tree
    name: str
    folder: str
    told: dict[str, str] = field(default_factory=dict)

    def follow(self) -> int:
        """Say what changes until it has ended; 0 if it was completed. Raises TreeError."""
        while True:
            state = self._read("state")
            self._tell_parts()
            if state in FINAL:
                click.echo(f"{self.name} {state}{self._why()}", err=True)
                return 0 if state in GOOD else 1
            if not state:
                click.echo(f"{self.name} is gone", err=True)
                return 1
            time.sleep(POLL)

    def cancel(self) -> None:
        """Let it end."""
        with suppress(TreeError):
            self.tree.write(f"{self.folder}/ctl", b"cancel\n")

    def _tell_parts(self) -> None:
        try:
            names = self.tree.names(f"{self.folder}/processes")
        except TreeError:
            return
        for name in sorted(names):
            state = self._read(f"processes/{name}/state")
            if state and state != self.told.get(name, "pending"):
                error = self._read(f"processes/{name}/error") if state == "failed" else ""
                click.echo(f"{name} {state}{f': {shown(error)}' if error else ''}", err=True)
            self.told[name] = state

    def _why(self) -> str:
        reason = self._read("reason")
        return f": {shown(reason)}" if reason else ""

    def _read(self, name: str) -> str:
        """A value of it; empty if that is not there."""
        try:
            return self.tree.read(f"{self.folder}/{name}")
        except TreeError as failed:
            if failed.errno in (errno.ENOENT, errno.ESTALE, errno.EACCES):
                return ""
            raise


def start_system(tree: Tree, name: str, given: str, *, scheduled: bool) -> SystemProgress:
    """Start the system /etc/systems/NAME, with JSON as its input. Raises TreeError."""
    number = tree.ask(f"etc/systems/{name}/run", encoded(given))
    return SystemProgress(tree, name, f"proc/{'scheduled' if scheduled else 'systems'}/{number}")
