"""/shared: plain files for all agents, under the rules on files."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentfs.base.errors import KernelError
from agentfs.providers.devices import Devices
from agentfs.providers.host import HostNode, HostTree
from agentfs.rights.policy import Action
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import directory
from agentfs.vfs.node import Directory
from agentfs.vfs.table import AddedRows

if TYPE_CHECKING:
    from agentfs.kernel import Kernel
    from agentfs.providers.root import RootDirectory

__all__ = ["SharedRows", "SharedTree"]

DOCS = "docs"


class SharedTree(HostTree):
    """The tree below /shared. `docs` in it is the operator's."""

    def __init__(self, kernel: Kernel, devices: Devices) -> None:
        folder = kernel.state_dir / "shared"
        (folder / DOCS).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
        super().__init__(folder, devices=devices, counted=kernel.disk.shared)
        self._kernel = kernel

    def may_read(self, caller: Caller, paths: list[str]) -> None:
        self._ask(caller, Action.READ_FILE, "file_read", paths)

    def may_write(self, caller: Caller, paths: list[str]) -> None:
        docs = any(path.split("/", 1)[0] == DOCS for path in paths)
        if docs and not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES, "/shared/docs is read-only for agents", rule="read-only documents"
            )
        self._ask(caller, Action.WRITE_FILE, "file_write", paths)

    def changing(
        self, caller: Caller, *nodes: HostNode | None, made: Iterable[str] = ()
    ) -> list[str]:
        paths = super().changing(caller, *nodes, made=made)
        self._kernel.audit.require_room(caller.principal)
        return paths

    def changed(self, caller: Caller, what: str, path: str, to: str = "") -> None:
        self._kernel.file_changes.add(
            caller.principal, what, _named(path), _named(to) if to else ""
        )

    def may_move(self, caller: Caller, old: str, new: str) -> None:
        self._kernel.rules.move_folder(caller.principal, _named(old), _named(new))

    def _ask(self, caller: Caller, action: Action, capability: str, paths: list[str]) -> None:
        self._kernel.rules.file(caller.principal, action, map(_named, paths))
        self._kernel.capabilities.require(caller.principal, capability)


class SharedRows(AddedRows):
    """The entry of /shared."""

    INTO = "/"

    def __init__(self, root: RootDirectory) -> None:
        super().__init__(root)
        self._tree = SharedTree(root.kernel, root.devices)

    @directory("shared", 0o1777)
    def shared(self) -> Directory:
        """Plain files for all agents, kept on disk, without routing: full POSIX behaviour. `docs`
        in it is read-only for agents. Needs the capability `file_read`, and `file_write` for any
        change."""
        return self._tree.root


def _named(path: str) -> str:
    """As rules name it."""
    return f"/shared/{path}" if path else "/shared"
