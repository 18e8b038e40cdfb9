"""/etc: the documents that are in effect, and room for the files that editors write beside them.

`sed -i` writes a new file and renames it onto the old one; vim also tries whether it can make files
(4913), keeps a swap file, and renames the old file away before it writes the new one. All of that
works: a file renamed onto a document is written into it, and a document renamed away leaves a copy
there and stays.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from agentfs.clock import change_time
from agentfs.documents import LiveDocument
from agentfs.errors import KernelError
from agentfs.events import ConfigChanged, Event, Record
from agentfs.providers.drafts import MemoryFile, MemoryHandle
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Modified
from agentfs.vfs.declare import file
from agentfs.vfs.files import Document, Owner
from agentfs.vfs.handles import MAX_DOCUMENT, as_text
from agentfs.vfs.node import Directory, Handle, Node, Time
from agentfs.vfs.table import Table

if TYPE_CHECKING:
    from agentfs.kernel import Kernel

__all__ = ["EtcDirectory"]

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


Method = Callable[[Any], Any]


def live_document(name: str, example: str) -> Callable[[Method], Method]:
    """A document that only the operator writes: the method gives the node, through `document`."""
    return file(
        name,
        0o644,
        kind="Document",
        on=(ConfigChanged,),
        example=example,
        errors={
            "EINVAL": "not valid: the reason names every fault; the old one stays",
            "EACCES": "only the operator may change it",
        },
    )


class EtcDirectory(Table):
    """/etc: documents. Editors may make files of their own beside them; they are not kept."""

    PATH = "/etc"

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.key = ("etc",)
        self._scratch: dict[str, Scratch] = {}
        self._entries_changed = int(kernel.started * 1e9)
        self._changed: dict[str, Time] = {}
        self._documents: dict[str, LiveDocument[Any]] = {
            document.name: document for document in kernel.documents
        }
        kernel.events.listen(self._heard, ConfigChanged)

    def _heard(self, record: Record) -> None:
        if isinstance(record.event, ConfigChanged):
            path = record.event.path
            self._changed[path] = self._after(self._time(path))

    def _time(self, path: str) -> Time:
        return self._changed.get(path, int(self.kernel.started * 1e9))

    def _after(self, time: Time) -> Time:
        return change_time(self.kernel.clock.now(), time)

    def _touch(self) -> None:
        self._entries_changed = self._after(self._entries_changed)

    def owner(self) -> Owner:
        return Owner(*self.kernel.owner, self._entries_changed)

    def only_operator(self, caller: Caller) -> None:
        """Raise EACCES for everybody else: agents of the same user pass the mode."""
        if not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may change the configuration, and you are "
                f"{caller.principal.name}",
                rule="operator",
            )

    def document(self, document: LiveDocument[Any]) -> Node:
        """The node of a document: its time is its own, so that no editor of another is alarmed."""

        async def write(content: bytes, caller: Caller) -> None:
            self._write(document, content, caller)

        return Document(
            (self.key, document.name),
            0o644,
            lambda: Owner(*self.kernel.owner, self._time(document.path)),
            self.guard,
            lambda: document.text.encode(),
            write,
            self.kernel.store.sync,
            self.only_operator,
        )

    def _write(self, document: LiveDocument[Any], content: bytes, caller: Caller) -> None:
        self.only_operator(caller)
        with self.kernel.gate.enter(caller.principal):
            document.replace(as_text(content))

    @live_document(
        "agentfs.yaml", "processes:\n  grace_period: 5s\nmessages:\n  max_waiting: 1000\n"
    )
    def config(self) -> Node:
        """The configuration (YAML), every number with its default. A valid write takes effect when
        the file is closed. What is left out has its default."""
        return self.document(self.kernel.settings)

    @live_document("roles.yaml", "roles:\n  worker:\n    actions: {spawn: '-', kill: deny}\n")
    def roles(self) -> Node:
        """What each role may do (`allow`, `deny`, `-`: only if a rule of acl.yaml allows it), the
        capabilities that it has at most and the tiers it can be of; and the model of each tier. A
        valid write takes effect when the file is closed. What is left out has its default."""
        return self.document(self.kernel.roles)

    @live_document("acl.yaml", "rules:\n- {effect: deny, role: worker, path: /agents/boss/**}\n")
    def acl(self) -> Node:
        """Rules on top of the roles, each with an `effect` (allow, deny) and any of user, role,
        agent, action, path, approval. The most specific one that matches decides; of equals, the
        one that denies."""
        return self.document(self.kernel.acl)

    @live_document(
        "models.yaml",
        "models:\n  opus: {tier: strategic, input: 15, output: 75, context: 200000}\n",
    )
    def models(self) -> Node:
        """The models and what they cost (YAML): for each its tier, US dollars a million tokens of
        input and of output (0 if left out), and its context, in tokens."""
        return self.document(self.kernel.models)

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
        content = self._content(name)
        if new_name in self._documents:
            if new_name != name:
                self._write(self._documents[new_name], content, caller)
        elif name in self._documents:
            copy = self._scratch[new_name] = Scratch(self, 0o644, caller)
            copy.content.extend(content)
        else:
            self._scratch[new_name] = self._scratch[name]
        if new_name != name:
            self._scratch.pop(name, None)
        self._touch()

    def _content(self, name: str) -> bytes:
        if name in self._documents:
            return self._documents[name].text.encode()
        if name not in self._scratch:
            raise self.missing(name)
        return bytes(self._scratch[name].content)

    def changes(self, event: Event) -> Iterable[Change]:
        """What an event changes in here."""
        if isinstance(event, ConfigChanged):
            folder, _, name = event.path.rpartition("/")
            if folder == self.PATH:
                yield Modified((self.key, name))
