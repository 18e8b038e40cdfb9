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

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.catalog.document import SECRET_NAME
from agentfs.catalog.events import SecretRemoved, SecretSet
from agentfs.model.principal import Principal
from agentfs.rights.gate import Gate
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
    """All of them by name."""

    def __init__(self, ground: Ground, gate: Gate) -> None:
        self._gate = gate
        self._store = ground.store
        self._events = ground.events
        self._clock = ground.clock
        self._folder = ground.state_dir / SECRETS
        self._lock = trio.Lock()
        self._changed: dict[str, int] = {}
        self.folder_changed = 0
        """When one came or went last, in ns since 1970; 0: not since the daemon started."""
        for path in self._folder.iterdir():
            if path.name.startswith(MAKING):
                path.unlink()  # the daemon was killed while it wrote it
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

    async def set(self, principal: Principal, name: str, content: bytes) -> None:
        """Have `content`, without the white space around it, as secret `name`; durable once this
        returns. Raises EACCES unless the operator asks, EINVAL, EFBIG, ENOSPC (there are `MOST`),
        and what the disk says. No error quotes the content."""
        self.require_operator(principal)
        self.check_name(name)
        text = _checked(content)
        async with self._lock:
            new = name not in self._changed
            if new and len(self._changed) >= MOST:
                raise KernelError(errno.ENOSPC, f"there are {MOST} secrets: remove one first")
            making = self._folder / f"{MAKING}{name}"
            try:
                await trio.to_thread.run_sync(_write, making, text)
                with self._gate.enter(principal):
                    self._store.on_commit(lambda: self._note(name, new))  # listeners look here
                    self._events.emit(SecretSet(name, new))
                    making.rename(self._folder / name)
                await trio.to_thread.run_sync(_sync, self._folder)
            except OSError as failure:
                raise KernelError.from_os(failure, f"the secret {name} cannot be stored") from None
            finally:
                with suppress(OSError):
                    making.unlink()  # where it was refused

    def remove(self, principal: Principal, name: str) -> None:
        """Have no secret `name` any more. Raises EACCES unless the operator asks, ENOENT, and what
        the disk says."""
        self.require_operator(principal)
        if name not in self._changed:
            raise KernelError(errno.ENOENT, f"there is no secret {name}")
        with self._gate.enter(principal):
            self._store.on_commit(lambda: self._forget(name))
            self._events.emit(SecretRemoved(name))
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as failure:
                raise KernelError.from_os(failure, f"the secret {name} stays") from None

    def check_name(self, name: str) -> None:
        """Raise EINVAL for a name that no secret can have."""
        if not SECRET_NAME.fullmatch(name):
            raise KernelError(
                errno.EINVAL,
                f"{name[:130]!r} is no name of a secret: letters, digits, `.`, `_` and `-` were"
                " expected, a letter or a digit first",
            )

    def require_operator(self, principal: Principal) -> None:
        """Raise EACCES for everybody else: no agent sets a secret, or learns which there are."""
        if not principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator has to do with secrets, and you are {principal.name}",
                rule="operator",
            )

    def _note(self, name: str, new: bool) -> None:
        self._changed[name] = change_time(self._clock.now(), self._changed.get(name, 0))
        if new:
            self._touch()

    def _forget(self, name: str) -> None:
        del self._changed[name]
        self._touch()

    def _touch(self) -> None:
        self.folder_changed = change_time(self._clock.now(), self.folder_changed)


def _checked(content: bytes) -> str:
    if len(content) > LARGEST:
        raise KernelError(errno.EFBIG, f"a secret has {LARGEST} bytes at most")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise KernelError(errno.EINVAL, "a secret is a text, and not empty")
    return text


def _write(path: Path, text: str) -> None:
    """Write a file, which nobody but its owner may read at any moment, to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(found)
    finally:
        os.close(found)
