"""/etc: the configuration, and room for the files that editors write beside it.

`sed -i` writes a new file and renames it onto the old one; vim also tries whether it can make files
(4913), keeps a swap file, and renames the old file away before it writes the new one. All of that
works: a file renamed onto agentfs.yaml is written into it, and agentfs.yaml renamed away leaves a
copy there and stays.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from agentfs.clock import change_time
from agentfs.errors import KernelError
from agentfs.events import ConfigChanged, Event, Record
from agentfs.providers.drafts import MemoryFile, MemoryHandle
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.declare import document
from agentfs.vfs.files import Owner
from agentfs.vfs.handles import MAX_DOCUMENT, as_text
from agentfs.vfs.node import Directory, Handle, Node, Stat, Time
from agentfs.vfs.table import Table, modified

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["EtcDirectory"]

CONFIG = "agentfs.yaml"

# Files beside the documents: an editor has three or four at a time.
MAX_SCRATCH = 64

RENAME_NOREPLACE = 1


class Scratch(MemoryFile):
    """A file that an editor keeps beside a document; gone when the daemon ends."""

    def __init__(self, etc: EtcDirectory, mode: int, caller: Caller) -> None:
        self._etc = etc
        super().__init__("scratch", mode & ~caller.umask, caller, self.now())

    def limit(self) -> int:
        return MAX_DOCUMENT

    def now(self) -> Time:
        return int(self._etc.kernel.clock.now() * 1e9)

    def enter(self, caller: Caller) -> None:
        self._etc.only_operator(caller)


class EtcDirectory(Table):
    """/etc: documents. Editors may make files of their own beside them; they are not kept."""

    PATH = "/etc"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.key = ("etc",)
        self._scratch: dict[str, Scratch] = {}
        self._entries_changed = self._config_changed = int(kernel.started * 1e9)
        kernel.events.listen(self._heard)

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            self._config_changed = self._after(self._config_changed)
            self.kernel.settings.changed = self._config_changed

    def _after(self, time: Time) -> Time:
        return change_time(self.kernel.clock.now(), time)

    def _touch(self) -> None:
        self._entries_changed = self._after(self._entries_changed)

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, self._config_changed)

    def stat(self) -> Stat:
        # Not the configuration's time: vim makes files here and then asks whether that moved.
        stat = super().stat()
        stat.mtime = stat.ctime = self._entries_changed
        return stat

    def only_operator(self, caller: Caller) -> None:
        """Raise EACCES for everybody else: agents of the same user pass the mode."""
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may change the configuration, and you are "
                f"{caller.principal.name}",
                rule="operator",
            )

    @document(
        CONFIG,
        0o644,
        write="configure",
        sync="sync",
        check="only_operator",
        on=(ConfigChanged,),
        example="processes:\n  grace_period: 5s\nmessages:\n  max_waiting: 1000\n",
        errors={
            "EINVAL": "not a valid configuration: the reason names every fault; the old one stays",
            "EACCES": "only the operator may change it",
        },
    )
    def config(self) -> str:
        """The configuration (YAML), every number with its default. A valid write takes effect when
        the file is closed. What is left out has its default."""
        return self.kernel.settings.text

    async def configure(self, content: bytes, caller: Caller) -> None:
        self._configure(content, caller)

    def _configure(self, content: bytes, caller: Caller) -> None:
        self.only_operator(caller)
        self.kernel.settings.replace(as_text(content))

    async def sync(self) -> None:
        await self.kernel.store.sync()

    def find(self, name: str) -> Node | None:
        return self._scratch.get(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        yield from self._scratch.items()

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self.only_operator(caller)
        if name in self.TABLE or name in self._scratch:
            raise KernelError(errno.EEXIST, f"{name} is there already")
        if len(self._scratch) >= MAX_SCRATCH:
            raise KernelError(errno.ENOSPC, f"at most {MAX_SCRATCH} files beside the documents")
        made = self._scratch[name] = Scratch(self, mode, caller)
        self._touch()
        return made, MemoryHandle(made)

    def unlink(self, name: str, caller: Caller) -> None:
        self.only_operator(caller)
        if name in self.TABLE:
            raise KernelError(errno.EPERM, f"{name} is always there; write into it")
        if self._scratch.pop(name, None) is None:
            raise self.missing(name)
        self._touch()

    def rename(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        self.only_operator(caller)
        if target.key != self.key:
            raise KernelError(errno.EXDEV, f"{name} cannot move into another file system")
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, "files cannot be exchanged here")
        if flags and (new_name in self.TABLE or new_name in self._scratch):
            raise KernelError(errno.EEXIST, f"{new_name} is there already")
        if name == CONFIG:
            if new_name != CONFIG:
                self._scratch[new_name] = self._copy(caller)
        elif name not in self._scratch:
            raise self.missing(name)
        elif new_name == CONFIG:
            self._configure(bytes(self._scratch[name].content), caller)
            del self._scratch[name]
        else:
            self._scratch[new_name] = self._scratch.pop(name)
        self._touch()

    def _copy(self, caller: Caller) -> Scratch:
        copy = Scratch(self, 0o644, caller)
        copy.content.extend(self.kernel.settings.text.encode())
        return copy

    def changes(self, event: Event) -> Iterable[Change]:
        """What an event changes in here."""
        if isinstance(event, ConfigChanged):
            yield from modified(EtcDirectory, self.key, event)
