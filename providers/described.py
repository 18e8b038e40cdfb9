"""Directories that say in extended attributes what they are, for programs that ask with stat(2)
before they read: `getfattr -d -m user.agentfs PATH`."""

from __future__ import annotations

import errno
import json

from agentfs.base.errors import KernelError
from agentfs.vfs.node import KIND
from agentfs.vfs.table import Table

__all__ = ["Described"]

PREFIX = "user.agentfs."


class Described(Table):
    """`user.agentfs.entity_type` (pipeline, run, node, …), `description` (one line), `status`,
    `capabilities` (of read, write, exec, watch) and `tags` (a JSON object of texts); without those
    that are empty."""

    def entity_type(self) -> str:
        """The word for what it stands for."""
        return ""

    def description(self) -> str:
        """One line for people and models."""
        return ""

    def status(self) -> str:
        """The state of what it stands for."""
        return ""

    def operations(self) -> tuple[str, ...]:
        """What can be done with it."""
        return ("read",)

    def tags(self) -> dict[str, str]:
        """More about it, by name."""
        return {}

    def _attributes(self) -> dict[str, str]:
        tags = {name: value for name, value in self.tags().items() if value}
        found = {
            "entity_type": self.entity_type(),
            "description": self.description(),
            "status": self.status(),
            "capabilities": " ".join(self.operations()),
            "tags": json.dumps(tags, ensure_ascii=False) if tags else "",
        }
        return {f"{PREFIX}{name}": value for name, value in found.items() if value}

    def getxattr(self, name: str) -> bytes:
        if name == KIND:
            return super().getxattr(name)
        found = self._attributes().get(name)
        if found is None:
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")
        return found.encode()

    def listxattr(self) -> list[str]:
        return [KIND, *self._attributes()]
