"""Keys that a command prints: of a key store, or of a service that gives one for an hour.

They are in memory only. A command runs when the daemon starts, when /etc/models.yaml changes, and
from time to time; its output is in no log and no error.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Collection

import trio

from agentfs.catalog.events import KeyRenewed
from agentfs.store.ground import Ground

__all__ = ["Command", "KeyCommands"]

log = logging.getLogger(__name__)

Command = tuple[str, ...]

RENEWED_EVERY, AGAIN_AFTER = 600.0, 30.0
"""Seconds until a command is run again, and until one that failed is: keys that services give are
good for an hour, as a rule."""

PATIENCE = 30.0
"""Seconds that a command may take."""

LARGEST = 16 * 1024
"""Bytes that a key may have."""


class KeyCommands:
    """The key of each command that is `asked()` for."""

    def __init__(self, ground: Ground, asked: Callable[[], Collection[Command]]) -> None:
        self._store = ground.store
        self._events = ground.events
        self._asked = asked
        self._keys: dict[Command, str] = {}
        self._troubles: dict[Command, str] = {}
        self._changed = trio.Event()

    def key(self, command: Command) -> str | None:
        """The key that a command has printed; None if it has not."""
        return self._keys.get(command)

    def trouble(self, command: Command) -> str:
        """Why there is no key, in words."""
        return self._troubles.get(command, "its command has not ended yet")

    def look_again(self) -> None:
        """There may be other commands."""
        self._changed.set()

    async def run(self) -> None:
        """Run them again and again, until cancelled."""
        while True:
            self._changed = trio.Event()
            asked = set(self._asked())
            for gone in self._keys.keys() - asked:
                del self._keys[gone]
            async with trio.open_nursery() as nursery:
                for command in asked:
                    nursery.start_soon(self._ask, command)
            failed = asked - self._keys.keys()
            with trio.move_on_after(AGAIN_AFTER if failed else RENEWED_EVERY):
                await self._changed.wait()

    async def _ask(self, command: Command) -> None:
        key, trouble = await _output(command)
        if trouble:
            log.error("the key that `%s` is to print: %s", command[0], trouble)
        self._troubles[command] = trouble
        if key is None or key == self._keys.get(command):
            return  # one that was good a while ago may still be
        self._keys[command] = key
        with self._store.transaction():
            self._events.emit(KeyRenewed(command[0]))


async def _output(command: Command) -> tuple[str | None, str]:
    """What a command prints, without the white space around it; or None, and why not."""
    done = None
    try:
        with trio.move_on_after(PATIENCE):
            done = await trio.run_process(
                command,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
            )
    except (OSError, ValueError) as failure:
        return None, f"it cannot be started: {getattr(failure, 'strerror', None) or 'wrong words'}"
    if done is None:
        return None, f"it took more than {PATIENCE:g} s"
    if done.returncode:
        return None, f"it ended with code {done.returncode}"
    try:
        key = done.stdout[: LARGEST + 1].decode().strip()
    except UnicodeDecodeError:
        key = ""
    if not key or "\0" in key or len(key) > LARGEST:
        return None, "what it prints is no key"
    return key, ""
