"""Driving a tree the way the mount does, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentfs.base.errors import KernelError
from agentfs.kernel import Kernel
from agentfs.model.principal import INIT, Kind, Principal
from agentfs.model.process import Process
from agentfs.model.spec import ProcessSpec
from agentfs.providers.tree import build
from agentfs.store.event_log import Record
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change
from agentfs.vfs.node import Directory, File, Handle, Link, Node, StreamHandle

UID, GID = os.geteuid(), os.getegid()
OPERATOR = Caller(Principal(Kind.OPERATOR, INIT, "init", UID, GID), UID, GID, os.getpid())
STRANGER = Caller(Principal(Kind.STRANGER, None, "a stranger", UID, GID), UID, GID, os.getpid())


@contextmanager
def refused(code: str) -> Iterator[None]:
    """The block is refused with this errno, and in words."""
    with pytest.raises(KernelError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    assert caught.value.reason


class World:
    """A kernel's tree, and what was announced in it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.tree = build(kernel)
        self.changes: list[Change] = []
        kernel.events.listen(self._heard)

    def _heard(self, record: Record) -> None:
        self.changes += self.tree.changes(record.event)

    async def spawn(self, name: str, parent: int = INIT, **fields: object) -> Process:
        spec = ProcessSpec.model_validate({"name": name} | fields)
        return await self.kernel.processes.spawn(OPERATOR.principal, parent, spec)

    def pid(self, name: str) -> int:
        process = self.kernel.table.by_name(name)
        assert process is not None
        return process.pid

    def as_agent(self, name: str) -> Caller:
        principal = Principal(Kind.AGENT, self.pid(name), name, UID, GID)
        return Caller(principal, UID, GID, os.getpid())

    # -- system calls ------------------------------------------------------------------------------

    def find(self, path: str) -> Node:
        return self.tree.find(path)

    def directory(self, path: str) -> Directory:
        node = self.find(path)
        assert isinstance(node, Directory)
        return node

    def list(self, path: str, caller: Caller = OPERATOR) -> list[str]:
        directory = self.directory(path)
        directory.enter(caller)
        directory.may_list(caller)
        return [name for name, _ in directory.listing(caller)]

    def open(self, path: str, flags: int = os.O_RDONLY, caller: Caller = OPERATOR) -> Handle:
        node = self.find(path)
        assert isinstance(node, File)
        node.enter(caller)
        return node.open(flags, caller)

    def stream(self, path: str, caller: Caller = OPERATOR) -> StreamHandle:
        handle = self.open(path, os.O_RDONLY, caller)
        assert isinstance(handle, StreamHandle)
        return handle

    def target(self, path: str, caller: Caller = OPERATOR) -> str:
        node = self.find(path)
        assert isinstance(node, Link)
        return node.target(caller)

    async def read(self, path: str, caller: Caller = OPERATOR) -> bytes:
        """cat: everything there is. A stream is read until it would wait."""
        handle = self.open(path, os.O_RDONLY, caller)
        try:
            content, chunk = b"", b"?"
            while chunk:
                if isinstance(handle, StreamHandle):
                    chunk = handle.try_read(4096) or b""
                else:
                    chunk = await handle.read(len(content), 4096)
                content += chunk
            return content
        finally:
            handle.release()

    async def text(self, path: str, caller: Caller = OPERATOR) -> str:
        return (await self.read(path, caller)).decode()

    async def write(
        self, path: str, content: bytes | str, caller: Caller = OPERATOR, *, create: bool = False
    ) -> None:
        """echo > path."""
        data = content.encode() if isinstance(content, str) else content
        flags = os.O_WRONLY | os.O_TRUNC
        handle = self.create(path, caller) if create else self.open(path, flags, caller)
        try:
            assert await handle.write(0, data) == len(data)
            await handle.flush()
        finally:
            handle.release()

    def create(self, path: str, caller: Caller = OPERATOR, mode: int = 0o644) -> Handle:
        folder, _, name = path.rpartition("/")
        directory = self.directory(folder)
        directory.enter(caller)
        return directory.create(name, mode, os.O_WRONLY | os.O_CREAT | os.O_EXCL, caller)[1]

    async def rename(self, old: str, new: str, caller: Caller = OPERATOR, flags: int = 0) -> None:
        (source, _, name), (target, _, new_name) = old.rpartition("/"), new.rpartition("/")
        for folder in (source, target):
            self.directory(folder).enter(caller)
        await self.directory(source).relocate(name, self.directory(target), new_name, flags, caller)

    def unlink(self, path: str, caller: Caller = OPERATOR) -> None:
        folder, _, name = path.rpartition("/")
        self.directory(folder).enter(caller)
        self.directory(folder).unlink(name, caller)

    async def mail(self, sender: str, receiver: str, text: str = "hello") -> None:
        await self.write(f"/agents/{sender}/outbox/{receiver}", text, self.as_agent(sender))
