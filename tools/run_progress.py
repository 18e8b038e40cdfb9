"""How a run goes, on standard error: a line for each node that ends, and on a terminal a last line
for what is at work. Ctrl-C ends the watching and not the run, unless that is wished."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from agentfs.tools.exits import INTERRUPTED
from agentfs.tools.mounts import condition
from agentfs.tools.silent import SilentError, silence
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import Tree

__all__ = ["NODE_COLOURS", "RUN_COLOURS", "exit_code", "follow"]

RUN_COLOURS = {
    "running": "green",
    "queued": "dim",
    "suspended": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "red",
    "timed_out": "red",
}

NODE_COLOURS = {
    "running": "green",
    "waiting": "yellow",
    "backoff": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "red",
    "skipped": "dim",
    "pending": "dim",
}

CODES = {"completed": 0, "failed": 1, "timed_out": 124, "cancelled": INTERRUPTED}
"""Exit codes: as `timeout` says it, and shells say of what was interrupted."""


def exit_code(state: str) -> int:
    """The exit code for a run that ended in this state."""
    return CODES.get(state, 1)


def follow(tree: Tree, run: str) -> dict[str, Any]:
    """Show how a run goes until it has ended; what its `wait` gives then. After Ctrl-C a person at
    a terminal is asked whether to cancel it. Raises ToolError; SystemExit if it is left running."""
    screen = _Screen()
    while True:
        try:
            with _events(tree, run) as lines:
                for line in lines:
                    screen.event(json.loads(line))
            screen.clear()
            ended: dict[str, Any] = json.loads(tree.read(f"proc/runs/{run}/wait"))
            return ended
        except KeyboardInterrupt:
            screen.clear()
            _interrupted(tree, run)


class _events:  # noqa: N801  # read as words: `with _events(…)`
    """The lines of a run's events. Another program reads them: it can be left behind if the daemon
    stands still, and Ctrl-C, which is for us, does not reach it."""

    def __init__(self, tree: Tree, run: str) -> None:
        self._tree = tree
        self._name = f"proc/runs/{run}/events"

    def __enter__(self) -> Iterator[bytes]:
        os.close(self._tree.open(self._name, os.O_RDONLY))  # says why it may not be read
        self._cat = subprocess.Popen(
            ["cat", self._tree.path(self._name)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._cat.stdout is not None
        return iter(self._cat.stdout)

    def __exit__(self, *failure: object) -> None:
        assert self._cat.stdout is not None
        self._cat.stdout.close()
        self._cat.kill()
        with suppress(subprocess.TimeoutExpired):
            self._cat.wait(1.0)


def _interrupted(tree: Tree, run: str) -> None:
    """Cancel it if a person says so, else leave it running and say how to go on with it."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            click.echo("", err=True)
            cancel = click.confirm(f"Cancel run {run}? Otherwise it goes on", err=True)
        except (click.Abort, KeyboardInterrupt):
            cancel = False
        if cancel:
            if condition(tree.root) == "hung":
                raise SilentError(silence(tree.root))
            tree.write(f"proc/runs/{run}/ctl", b"cancel interrupted\n")
            return
    click.echo(f"agentfs: run {run} goes on", err=True)
    for words in ("wait", "cancel"):
        click.echo(f"  agentfs runs {words} {shlex.quote(run)}", err=True)
    raise SystemExit(INTERRUPTED)


class _Screen:
    """What a person sees of a run."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began: dict[str, float] = {}
        self._ended = 0

    def event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        node: str = event.get("node", "")
        match event["type"]:
            case "NodeStarted":
                self._began[node] = time.monotonic()
            case "NodeCompleted":
                self._node(node, "completed", "")
            case "NodeFailed":
                self._node(node, "failed", event.get("error", ""))
            case "NodeSkipped":
                self._node(node, "skipped", event.get("reason", ""))
            case "NodeCancelled":
                self._node(node, "cancelled", "")
            case "NodeWaiting":
                self._say("waiting", node, event.get("key", ""))
            case "NodeRetrying":
                self._say("backoff", node, event.get("error", ""))
        self._bottom()

    def _node(self, node: str, state: str, words: str) -> None:
        began = self._began.pop(node, None)
        self._ended += 1
        spent = "" if began is None else f" {time.monotonic() - began:.1f} s"
        self._say(state, f"{node}{spent}", words)

    def _say(self, state: str, what: str, words: str) -> None:
        self.clear()
        told = f": {beginning(words, 120)}" if words else ""
        click.echo(f"{paint(f'{state:9}', NODE_COLOURS[state])} {shown(what)}{told}", err=True)

    def _bottom(self) -> None:
        if self._terminal:
            at_work = ", ".join(self._began) or "…"
            room = shutil.get_terminal_size().columns - 2
            text = beginning(f"{self._ended} done, at work: {at_work}", room)
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the last line away."""
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
