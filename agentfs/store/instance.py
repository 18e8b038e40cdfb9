"""Which system this is: a copy of a state directory is another one."""

from __future__ import annotations

import logging
import secrets

from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["Instance"]

log = logging.getLogger(__name__)


class Instance(Part):
    """The system's own `name`, made once: control groups of two systems never mix.

    A state directory that was moved is the same system, a copy of it is another: the directory's
    inode tells. Programs that run for the original are not the copy's to take up, or to end.
    """

    def __init__(self, ground: Ground, mountpoint: str) -> None:
        self._store = ground.store
        self._mountpoint = mountpoint
        place = ground.state_dir.stat()
        self._home = f"{place.st_dev}:{place.st_ino}"
        name = self._store.meta("instance")
        self._copied = bool(name) and self._store.meta("home", self._home) != self._home
        self.name = secrets.token_hex(4) if self._copied or not name else name

    def take_up(self) -> None:
        """Keep the name and the place that it is for."""
        with self._store.transaction():
            if self._copied:
                log.warning(
                    "the state directory is a copy: programs of the original are left alone"
                )
                self._store.set_meta("boot_id", "")  # as if the machine had been started again
            self._store.set_meta("instance", self.name)
            self._store.set_meta("home", self._home)
            self._store.set_meta("mountpoint", self._mountpoint)  # for people: `agentfs state`
