"""Secrets: the keys of providers, and others that tools need. They are set, and never read back.

Each is a file of its own below `secrets` in the state directory, with mode 0600, and not in the
store: so it is in no event, no record of the audit, no backup and no checkpoint. Nothing here keeps
one in memory, either: it is read when it is handed to the gateway.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import trio

from agentfs.base.errors import KernelError
from agentfs.catalog.document import SECRET_NAME
from agentfs.catalog.events import SecretRemoved, SecretSet
from agentfs.store.ground import Ground
from agentfs.store.layout import SECRETS

__all__ = ["LARGEST", "Secrets"]

LARGEST = 16 * 1024
"""Bytes of the longest secret: a key of a service account, which is a document, has 2,400."""

MOST = 1000
"""Secrets that there may be: each is asked about with every reading of /etc/models.yaml."""

DIGITS = 12
"""Hexadecimal digits of a fingerprint: enough to tell one's own keys apart."""

MAKING = "."
"""The first letter of a file that is being written: no secret is called so."""


class Secrets:
    """All of them by name. Writing is for callers that have made sure who asks."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._folder = ground.state_dir / SECRETS
        self._lock = trio.Lock()
        self._changed: dict[str, int] = {}
        with suppress(FileNotFoundError):
            self._take_up()

    def _take_up(self) -> None:
        for path in self._folder.iterdir():
            if path.name.startswith(MAKING):
                path.unlink()  # a daemon that was killed was writing it
            elif SECRET_NAME.fullmatch(path.name):
                self._changed[path.name] = path.stat().st_mtime_ns

    # -- what may be known -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(sorted(self._changed))

    def __contains__(self, name: object) -> bool:
        return name in self._changed

    def changed(self, name: str) -> int | None:
        """When it was set, in ns since 1970; None if there is none."""
        return self._changed.get(name)

    def fingerprint(self, name: str) -> str:
        """The first digits of its SHA-256: `printf %s "$KEY" | sha256sum | cut -c1-12` says the
        same of the same key. Raises ENOENT."""
        return hashlib.sha256(self.get(name).encode()).hexdigest()[:DIGITS]

    # -- the value ---------------------------------------------------------------------------------

    def get(self, name: str) -> str:
        """The secret itself: for who hands it to a provider, and for nobody else. Raises ENOENT;
        EIO if its file cannot be read."""
        if name not in self._changed:
            raise KernelError(errno.ENOENT, f"there is no secret {name}: agentfs secret set {name}")
        try:
            return (self._folder / name).read_text()
        except (OSError, UnicodeDecodeError) as failure:
            words = f"the secret {name} cannot be read from {self._folder / name}"
            raise KernelError(getattr(failure, "errno", None) or errno.EIO, words) from None

    async def set(self, name: str, content: bytes) -> None:
        """Have `content`, without the white space around it, as secret `name`; durable once this
        returns. Raises EINVAL, EFBIG, ENOSPC (there are `MOST`), and what the disk says. No error
        quotes the content."""
        text = _checked(name, content)
        async with self._lock:
            new = name not in self._changed
            if new and len(self._changed) >= MOST:
                raise KernelError(errno.ENOSPC, f"there are {MOST} secrets: remove one first")
            await self._on_disk(_write, name, text)
            with self._store.transaction():
                self._events.emit(SecretSet(name, new))
                self._store.on_commit(lambda: self._note(name))

    async def remove(self, name: str) -> None:
        """Have no secret `name` any more. Raises ENOENT."""
        async with self._lock:
            if name not in self._changed:
                raise KernelError(errno.ENOENT, f"there is no secret {name}")
            await self._on_disk(_remove, name, "")
            with self._store.transaction():
                self._events.emit(SecretRemoved(name))
                self._store.on_commit(lambda: self._changed.pop(name))

    def _note(self, name: str) -> None:
        now = int(self._clock.now() * 1e9)
        self._changed[name] = max(now, self._changed.get(name, 0) + 1)

    async def _on_disk(self, work: object, name: str, text: str) -> None:
        """Do it in a thread: the disk is waited for, by this call and by no other."""
        try:
            await trio.to_thread.run_sync(work, self._folder, name, text)  # type: ignore[arg-type]
        except OSError as failure:
            raise KernelError.from_os(failure, f"the secret {name} cannot be stored") from None


def _checked(name: str, content: bytes) -> str:
    if not SECRET_NAME.fullmatch(name):
        raise KernelError(
            errno.EINVAL,
            f"{name[:130]!r} is no name of a secret: letters, digits, `.`, `_` and `-` were"
            " expected, a letter or a digit first",
        )
    if len(content) > LARGEST:
        raise KernelError(errno.EFBIG, f"a secret has {LARGEST} bytes at most")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise KernelError(errno.EINVAL, "a secret is a text, and not empty")
    return text


def _write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    making = folder / f"{MAKING}{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(making, flags, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    making.rename(folder / name)
    _sync(folder)


def _remove(folder: Path, name: str, text: str) -> None:
    (folder / name).unlink(missing_ok=True)
    _sync(folder)


def _sync(folder: Path) -> None:
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(found)
    finally:
        os.close(found)
