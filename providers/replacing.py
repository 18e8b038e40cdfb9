"""Directories with documents that programs replace, and room for the files that they put beside.

`sed -i`, rsync and every other careful program write a new file and rename it onto the old one: its
content is applied then, and what is not valid is refused by rename(2). `cp --remove-destination`,
install and git remove the old one first, `cp --backup` and vim rename it away: it is in force all
the same until its successor is whole, and it is back if none comes. Modes, owners and attributes
are taken from files on their way, and those of a document are fixed.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from agentfs.base.clock import Clock, change_time
from agentfs.base.errors import KernelError
from agentfs.providers.drafts import MemoryFile, MemoryHandle, writer_of
from agentfs.vfs.caller import Caller
from agentfs.vfs.files import Document
from agentfs.vfs.handles import MAX_DOCUMENT
from agentfs.vfs.node import Attributes, Directory, Handle, Node, Time
from agentfs.vfs.table import Entry, Table

__all__ = ["AWAY", "Desk", "Replacing", "Scratch", "SharedDesk"]

AWAY = 30.0
"""Seconds that a document which was removed or renamed away is not seen for. Its successor comes at
once; if whoever should have written it died, the document is seen again."""

# Bytes that the extended attributes of one file may have: that `rsync -X` and `cp -a` have it easy.
MAX_ATTRIBUTES = 4096

MOST_EACH = 16
"""So many of the files beside the documents of everybody may be one writer's: an editor has 4."""

STALE_SCRATCH = 86_400.0
"""Seconds after which such a file that nobody wrote to makes room for others."""

RENAME_NOREPLACE = 1


class Scratch(MemoryFile):
    """A file that a program keeps beside a document; gone when the daemon ends."""

    def __init__(self, desk: Desk, mode: int, caller: Caller) -> None:
        super().__init__("scratch", mode & ~caller.umask, caller, desk.clock, lambda: MAX_DOCUMENT)
        self.writer = writer_of(caller)
        self._desk = desk
        self._xattrs: dict[str, bytes] = {}

    def enter(self, caller: Caller) -> None:
        self._desk.require_user(self, caller)

    def chattr(self, caller: Caller, wanted: Attributes) -> None:
        self.uid = self.uid if wanted.uid is None else wanted.uid
        self.gid = self.gid if wanted.gid is None else wanted.gid
        super().chattr(caller, wanted)

    def getxattr(self, name: str) -> bytes:
        return self._xattrs[name] if name in self._xattrs else super().getxattr(name)

    def listxattr(self) -> list[str]:
        return list(self._xattrs)

    def setxattr(self, name: str, value: bytes, caller: Caller) -> None:
        sizes = sum(len(key) + len(each) for key, each in self._xattrs.items())
        if sizes + len(name) + len(value) > MAX_ATTRIBUTES:
            raise KernelError(errno.ENOSPC, f"at most {MAX_ATTRIBUTES} bytes of attributes")
        self._xattrs[name] = value

    def removexattr(self, name: str, caller: Caller) -> None:
        if self._xattrs.pop(name, None) is None:
            raise KernelError(errno.ENODATA, f"no attribute {name!r}")


class Desk:
    """The files beside the documents of one directory, and which of these are away.

    `require_writer` raises EACCES for whoever may not write the documents. `most` files.
    """

    def __init__(self, clock: Clock, require_writer: Callable[[Caller], object], most: int) -> None:
        self.clock = clock
        self.require_writer = require_writer
        self.files: dict[str, Scratch] = {}
        self.changed: Time = 0
        self._most = most
        self._away: dict[str, float] = {}

    def require_user(self, file: Scratch, caller: Caller) -> None:
        """Raise EACCES for whoever may not use a file that is kept here."""
        self.require_writer(caller)

    def is_away(self, name: str) -> bool:
        return self._away.get(name, 0.0) > self.clock.monotonic()

    def away(self, name: str) -> None:
        """It is not seen until its successor comes, or for some time."""
        self._away[name] = self.clock.monotonic() + AWAY
        self.touch()

    def back(self, name: str) -> None:
        self._away.pop(name, None)
        self.touch()

    def put(self, name: str, mode: int, caller: Caller) -> Scratch:
        """A new file."""
        if len(self.files) >= self._most:
            raise KernelError(errno.ENOSPC, f"at most {self._most} files beside the documents")
        made = self.files[name] = Scratch(self, mode, caller)
        self.touch()
        return made

    def touch(self) -> None:
        self.changed = change_time(self.clock.now(), self.changed)


class SharedDesk(Desk):
    """The desk of a directory where everybody may write: a file is its writer's alone. Nobody has
    more than `MOST_EACH`, and those that nobody touched for `STALE_SCRATCH` make room."""

    def require_user(self, file: Scratch, caller: Caller) -> None:
        if not caller.principal.is_operator and writer_of(caller) != file.writer:
            raise KernelError(
                errno.EACCES, f"this file is {file.writer[1]}'s, who writes it", rule="owner"
            )

    def put(self, name: str, mode: int, caller: Caller) -> Scratch:
        old = int((self.clock.now() - STALE_SCRATCH) * 1e9)
        for stale in [n for n, file in self.files.items() if file.mtime < old and not file.opened]:
            self.files.pop(stale).drop()
        if sum(file.writer == writer_of(caller) for file in self.files.values()) >= MOST_EACH:
            raise KernelError(errno.ENOSPC, f"at most {MOST_EACH} files of yours beside these")
        return super().put(name, mode, caller)


class Replacing(Table, ABC):
    """A directory whose documents can be replaced: those named `REPLACED`, where the names are
    known; else subclasses say which names are documents, and which of these are there."""

    REPLACED: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def desk(self) -> Desk:
        """The files beside its documents."""

    @property
    def used_desk(self) -> Desk | None:
        """The desk if anything was ever put there."""
        return self.desk

    @abstractmethod
    async def replace(self, name: str, content: bytes, caller: Caller) -> None:
        """Put `content` in the place of the document `name`. Raises EINVAL, EACCES."""

    def is_document(self, name: str) -> bool:
        """Whether a file of this name is a document, be it there or not."""
        return name in self.REPLACED

    def is_fixed(self, name: str) -> bool:
        """Whether what has this name is neither a document nor a file beside them."""
        return name in self.TABLE and not self.is_document(name)

    def is_there(self, name: str) -> bool:
        """Whether there is a document or a fixed entry `name`."""
        entry = self.TABLE.get(name)
        return entry is not None and self.exists(entry)

    def document_at(self, name: str, caller: Caller) -> Document:
        """The node of the document `name`. Where there is none, `caller` is about to make it."""
        node = self.node(self.TABLE[name])
        assert isinstance(node, Document)
        return node

    def require_writer(self, name: str, caller: Caller) -> None:
        """Raise EACCES for whoever may not write, remove or rename the file `name`."""
        self.desk.require_writer(caller)

    def retire(self, name: str, caller: Caller) -> None:
        """The document `name` is removed: its successor comes soon, or it is back."""
        self.desk.away(name)

    def dropped(self, name: str) -> None:
        """The file `name` beside the documents is there no more."""

    def exists(self, entry: Entry) -> bool:
        desk = self.used_desk
        return (desk is None or not desk.is_away(entry.name)) and super().exists(entry)

    def find(self, name: str) -> Node | None:
        desk = self.used_desk
        return None if desk is None else desk.files.get(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        desk = self.used_desk
        if desk is not None:
            yield from list(desk.files.items())

    def _there(self, name: str) -> bool:
        return name in self.desk.files or self.is_there(name)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        self.require_writer(name, caller)
        if self._there(name):
            raise KernelError(errno.EEXIST, f"{name} is there already")
        if self.is_document(name):
            node = self.document_at(name, caller)
            handle = node.open_successor(flags, caller)
            self.desk.back(name)
            return node, handle
        if self.is_fixed(name):
            raise self._fixed("create that")
        made = self.desk.put(name, mode, caller)
        return made, MemoryHandle(made)

    def unlink(self, name: str, caller: Caller) -> None:
        self.require_writer(name, caller)
        if not self._there(name):
            raise self.missing(name)
        if self.is_document(name):
            self.retire(name, caller)
        elif self.is_fixed(name):
            raise KernelError(errno.EPERM, f"{name} is always there")
        else:
            self._drop(name)

    def _drop(self, name: str) -> None:
        dropped = self._take(name)
        if dropped is not None:
            dropped.drop()

    def _take(self, name: str) -> Scratch | None:
        """Take the file `name` away, which may get another name."""
        taken = self.desk.files.pop(name, None)
        if taken is not None:
            self.dropped(name)
        self.desk.touch()
        return taken

    async def relocate(
        self, name: str, target: Directory, new_name: str, flags: int, caller: Caller
    ) -> None:
        desk = self.desk
        for each in (name, new_name):
            self.require_writer(each, caller)
        if target.key != self.key:
            raise KernelError(errno.EXDEV, f"{name} cannot move into another file system")
        if flags & ~RENAME_NOREPLACE:
            raise KernelError(errno.EINVAL, "files cannot be exchanged here")
        if not self._there(name):
            raise self.missing(name)
        if flags and self._there(new_name):
            raise KernelError(errno.EEXIST, f"{new_name} is there already")
        if self.is_fixed(name) or self.is_fixed(new_name):
            raise self._fixed("rename that")
        if name == new_name:
            return
        source = self._content(name, caller)
        if self.is_document(new_name):
            await self.replace(new_name, source, caller)
            desk.back(new_name)
            if self.is_document(name):
                self.retire(name, caller)
            else:
                self._drop(name)
        elif self.is_document(name):
            desk.put(new_name, 0o644, caller).content.replace_by(source)
            desk.away(name)
        else:
            self._drop(new_name)
            moved = self._take(name)
            assert moved is not None
            desk.files[new_name] = moved

    def _content(self, name: str, caller: Caller) -> bytes:
        """The bytes of a document, or of a file beside it."""
        if name in self.desk.files:
            return bytes(self.desk.files[name].content)
        return self.document_at(name, caller).content()
