"""/etc/secrets: keys of providers and of tools, which are set and never read back."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable, Iterator

from agentfs.base.errors import KernelError
from agentfs.catalog.events import SecretRemoved, SecretSet
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.files import Basics, Document
from agentfs.vfs.node import Handle, Node, Time
from agentfs.vfs.on import on

__all__ = ["SecretsDirectory"]

FINGERPRINT = "user.fingerprint"
"""The extended attribute by which somebody who has the key knows it again."""


class SecretsDirectory(SystemTable):
    """/etc/secrets: each secret is a file NAME (0200) of the operator: `echo KEY > NAME` sets it,
    without the white space around it, and `rm` removes it. Nobody reads one, root neither. The
    attribute `user.fingerprint` has the first 12 digits of its SHA-256."""

    PATH = "/etc/secrets"
    WHAT = "Keys of providers and of tools, a file each: they are set, and never read back."
    key = ("secrets",)
    mode = 0o700

    def changed(self) -> Time:
        secrets = self.kernel.catalog.secrets
        return max(super().changed(), secrets.folder_changed)

    def guard(self, caller: Caller) -> None:
        self.kernel.catalog.secrets.require_operator(caller.principal)

    def find(self, name: str) -> Node | None:
        return SecretFile(self, name) if name in self.kernel.catalog.secrets else None

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self.kernel.catalog.secrets:
            yield name, SecretFile(self, name)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """It is there once its content is, at the close."""
        self.kernel.catalog.secrets.check_name(name)
        made = SecretFile(self, name)
        return made, made.open(flags, caller)

    def unlink(self, name: str, caller: Caller) -> None:
        self.kernel.catalog.secrets.remove(caller.principal, name)

    @on(SecretSet)
    def _set(self, event: SecretSet) -> Iterator[Change]:
        made = SecretFile(self, event.name)
        yield Created(self.key, event.name, made) if event.new else Modified(made.key)

    @on(SecretRemoved)
    def _removed(self, event: SecretRemoved) -> Iterator[Change]:
        yield Removed(self.key, event.name, SecretFile.at(event.name))


class SecretFile(Document):
    """/etc/secrets/NAME. To everybody who looks it is empty."""

    kind = "secret"
    timeout = 0.0  # it is gone again if its writer dies

    def __init__(self, folder: SecretsDirectory, name: str) -> None:
        self._folder = folder
        self._name = name
        self._secrets = folder.kernel.catalog.secrets
        super().__init__(
            Basics(
                self.at(name),
                0o200,
                lambda: folder.owned(self._secrets.changed(name) or folder.changed()),
                folder.guard,
            ),
            bytes,
            self._set,
            check=folder.guard,
        )

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the file of a secret."""
        return ("secret", name)

    async def _set(self, content: bytes, caller: Caller) -> None:
        await self._secrets.set(caller.principal, self._name, content)

    def open(self, flags: int, caller: Caller) -> Handle:
        if flags & os.O_ACCMODE != os.O_WRONLY:
            raise KernelError(errno.EACCES, "a secret is never read back", rule="secret")
        return self.open_successor(flags, caller)

    def getxattr(self, name: str) -> bytes:
        if name == FINGERPRINT and self._name in self._secrets:
            return self._secrets.fingerprint(self._name).encode()
        return super().getxattr(name)

    def listxattr(self) -> list[str]:
        return [*super().listxattr(), *([FINGERPRINT] if self._name in self._secrets else [])]
