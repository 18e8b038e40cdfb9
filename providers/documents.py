"""Folders of manifests: a file NAME.yaml for each, and a directory NAME beside it.

A file is a document: what was written takes effect when it is closed, or renamed onto it, and a
text with faults changes nothing. Files of other names beside the documents are programs' own: see
`replacing`. The directories NAME are in `manifests`.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from agentfs.base.errors import KernelError
from agentfs.library.events import ManifestChanged, ManifestRemoved
from agentfs.providers.manifests import (
    ManifestDirectory,
    PipelineDirectory,
    SystemDirectory,
)
from agentfs.providers.replacing import AWAY, Replacing, SharedDesk
from agentfs.providers.system_table import SystemTable
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.declare import transaction
from agentfs.vfs.files import Basics, Document, Owner
from agentfs.vfs.handles import WHOLE_WRITE, as_text
from agentfs.vfs.node import Node, Time
from agentfs.vfs.on import on
from agentfs.workflow.events import RunRemoved, RunStarted

if TYPE_CHECKING:
    from agentfs.library.library import Edition as Manifest

__all__ = [
    "AdaptersDirectory",
    "ConfigsDirectory",
    "DocumentFolder",
    "MacrosDirectory",
    "PipelinesDirectory",
    "PoliciesDirectory",
    "PromptsDirectory",
    "SystemsDirectory",
]

MAX_SCRATCH = 64
"""Files beside the documents of one folder."""


class ManifestDocument(Document):
    """A text that is checked whole: one that is too large is as invalid as any other."""

    EXCESS = errno.EINVAL


class DocumentFolder(Replacing, SystemTable):
    """One folder of documents. `KIND` is its name, as the library calls it, `WORD` says what each
    of them is, and `SUFFIX` is the end of their names."""

    KIND: ClassVar[str]
    WORD: ClassVar[str]
    SUFFIX: ClassVar[str] = ".yaml"
    EACH: ClassVar[type[ManifestDirectory]]
    stepwise = True

    def __init__(self, above: SystemTable) -> None:
        super().__init__(above)
        self.library = self.kernel.library
        self._desk = SharedDesk(self.kernel.clock, self._may_put, MAX_SCRATCH)
        self._desk.changed = super().changed()
        self._announced = set(self.library.names(self.KIND))
        self._back: dict[str, tuple[str, float]] = {}  # texts, and until when they may be back

    @property
    def desk(self) -> SharedDesk:
        return self._desk

    def changed(self) -> Time:
        return self._desk.changed

    # -- names -------------------------------------------------------------------------------------

    def is_document(self, name: str) -> bool:
        return name.endswith(self.SUFFIX) and not name.startswith(".")

    def stem(self, name: str) -> str:
        """The name of the manifest whose document has this file name."""
        return name.removesuffix(self.SUFFIX)

    def is_fixed(self, name: str) -> bool:
        return name in self.TABLE or self._has(name)

    def is_there(self, name: str) -> bool:
        if not self.is_document(name):
            return self.is_fixed(name)
        return self._has(self.stem(name)) and not self._desk.is_away(name)

    def _has(self, manifest: str) -> bool:
        return bool(self.library.versions(self.KIND, manifest))

    def find(self, name: str) -> Node | None:
        if self.is_document(name):
            return self._node(self.stem(name)) if self.is_there(name) else None
        return self.each(self.key_of(name)) if self._has(name) else super().find(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for manifest in self.library.names(self.KIND):
            if not self._desk.is_away(f"{manifest}{self.SUFFIX}"):
                yield f"{manifest}{self.SUFFIX}", self._node(manifest)
            yield manifest, self.each(self.key_of(manifest))
        yield from super().more()

    def names_now(self, caller: Caller) -> Iterator[str]:
        yield from self.TABLE
        for manifest in self.library.names(self.KIND):
            yield f"{manifest}{self.SUFFIX}"
            yield manifest
        yield from tuple(self._desk.files)

    def each(self, key: Any) -> ManifestDirectory:
        return self.EACH(self, key[-1])

    # -- documents ---------------------------------------------------------------------------------

    def document_at(self, name: str, caller: Caller) -> Document:
        return self._node(self.stem(name), caller)

    def document(self, manifest: str) -> Manifest:
        """A manifest as it is now. ENOENT."""
        found = self.library.find(self.KIND, manifest)
        if found is None:
            raise KernelError(errno.ENOENT, f"{manifest}{self.SUFFIX} was removed")
        return found

    @staticmethod
    def owned_by(manifest: Manifest) -> Owner:
        """The owner of what belongs to a manifest."""
        return Owner(manifest.uid, manifest.gid, int(manifest.created * 1e9))

    def _node(self, manifest: str, maker: Caller | None = None) -> Document:
        """The node of a document; of one that `maker` is about to make, where there is none."""

        def owner() -> Owner:
            if maker is None or self._has(manifest):
                return self.owned_by(self.document(manifest))
            return Owner(maker.uid, maker.gid, int(self.kernel.clock.now() * 1e9))

        def text() -> bytes:
            found = self.library.find(self.KIND, manifest)
            return b"" if found is None else found.text.encode()

        def may_write(caller: Caller) -> None:
            self.library.may_write(caller.principal, self.KIND, manifest)

        async def write(content: bytes, caller: Caller) -> None:
            await self._put(manifest, content, caller)

        key = self.key_of(f"{manifest}{self.SUFFIX}")
        basics = Basics(key, 0o644, owner, self.guard)
        node = ManifestDocument(basics, text, write, self.kernel.store.sync, may_write)
        if not self._has(manifest):
            node.timeout = 0.0  # it is there once its writer closes it, or never
        return node

    async def _put(self, manifest: str, content: bytes, caller: Caller) -> None:
        text = as_text(content)
        try:
            await self.library.put(caller.principal, self.KIND, manifest, text)
        except KernelError as refusal:
            await self._bring_back(manifest, caller)
            faults = refusal.reason.count("\n") + 1
            if refusal.errno != errno.EINVAL or faults == 1:
                raise
            words = f"{faults} faults, and nothing is changed\n{refusal.reason}"
            raise KernelError(errno.EINVAL, words, rule=refusal.rule) from None

    async def _bring_back(self, manifest: str, caller: Caller) -> None:
        """The successor of a document was refused: if it was removed for that, it is there again.
        install(1), git and `cp --remove-destination` remove a file before they write it anew."""
        text, until = self._back.pop(manifest, ("", 0.0))
        if until > self.kernel.clock.monotonic() and not self._has(manifest):
            await self.library.put(caller.principal, self.KIND, manifest, text)

    async def replace(self, name: str, content: bytes, caller: Caller) -> None:
        await self._put(self.stem(name), content, caller)

    def retire(self, name: str, caller: Caller) -> None:
        manifest = self.stem(name)
        text = self.document(manifest).text
        self.library.remove(caller.principal, self.KIND, manifest)
        now = self.kernel.clock.monotonic()
        self._back = {each: kept for each, kept in self._back.items() if kept[1] > now}
        self._back[manifest] = text, now + AWAY

    def require_writer(self, name: str, caller: Caller) -> None:
        if self.is_document(name):
            manifest = self.stem(name)
            if manifest in self.TABLE or manifest.endswith(self.SUFFIX):
                raise KernelError(
                    errno.EINVAL, f"{manifest} has a meaning here: choose another name", rule="name"
                )
            self.library.may_write(caller.principal, self.KIND, manifest)
            return
        if name.endswith(".yml"):
            raise KernelError(
                errno.EINVAL, f"a document ends in .yaml: {name.removesuffix('.yml')}{self.SUFFIX}"
            )
        there = self._desk.files.get(name)
        if there is not None:
            self._desk.require_user(there, caller)
        else:
            self._may_put(caller)

    def _may_put(self, caller: Caller) -> None:
        """Raise EACCES for whoever may put nothing here: strangers, and where the mode says so all
        but the operator."""
        self.kernel.gate.actor(caller.principal)
        if not self.mode & 0o002 and not caller.principal.is_operator:
            raise KernelError(
                errno.EACCES,
                f"only the operator may change {self.PATH}, and you are {caller.principal.name}",
                rule="operator",
            )

    @transaction(
        "check",
        0o666,
        limit="check_limit",
        example="kind: Pipelne\nmetadata: {name: review}\n…",
        errors={"EMSGSIZE": "more than a megabyte", "EINVAL": "not UTF-8"},
    )
    async def check(self, request: bytes, caller: Caller) -> str:
        """Write a draft, read what is wrong with it, one JSON object a line: file, line, column,
        code, severity (error, warning, info), message, hint. Nothing if it is right. It is not
        kept."""
        found = await self.library.check(self.KIND, as_text(request))
        return "".join(f"{json.dumps(each.record(), ensure_ascii=False)}\n" for each in found)

    def check_limit(self) -> int:
        return WHOLE_WRITE

    # -- news --------------------------------------------------------------------------------------

    def concerned(self, event: Any) -> Sequence[Hashable]:
        return (self.key_of(event.name),) if event.kind == self.KIND else ()

    @on(ManifestChanged)
    def _changed(self, event: ManifestChanged) -> Iterator[Change]:
        if event.kind != self.KIND:
            return
        document = self._node(event.name)
        if event.name in self._announced:
            yield Modified(document.key)
            return
        self._announced.add(event.name)
        self._desk.touch()
        directory = self.each(self.key_of(event.name))
        directory.remember()
        yield Created(self.key, f"{event.name}{self.SUFFIX}", document)
        yield Created(self.key, event.name, directory)

    @on(ManifestRemoved)
    def _removed(self, event: ManifestRemoved) -> Iterator[Change]:
        if event.kind != self.KIND:
            return
        self._announced.discard(event.name)
        self._desk.touch()
        name = event.name
        yield Removed(self.key, f"{name}{self.SUFFIX}", self.key_of(f"{name}{self.SUFFIX}"))
        yield Removed(self.key, name, self.key_of(name), is_directory=True)


class PipelinesDirectory(DocumentFolder):
    """/etc/pipelines: NAME.yaml is a pipeline, and whoever writes it first owns it; NAME/run starts
    it. A text with faults, or of more than a megabyte, is refused (**EINVAL**): /proc/self/error
    has all faults with line and column, and nothing changes. **EACCES**: it is another's. A
    document that is renamed away is back after 30 s if no successor comes."""

    PATH = "/etc/pipelines"
    WHAT = "Pipelines: what can be run."
    KIND = "pipelines"
    WORD = "pipeline"
    EACH = PipelineDirectory
    mode = 0o1777
    key = ("etc", "pipelines")

    def concerned(self, event: Any) -> Sequence[Hashable]:
        if isinstance(event, RunStarted | RunRemoved):
            return (self.key_of(event.pipeline),)
        return super().concerned(event)


class SystemsDirectory(DocumentFolder):
    """/etc/systems: NAME.yaml is a system: processes and pipelines, and the pipes between them.
    Written as in /etc/pipelines."""

    PATH = "/etc/systems"
    WHAT = "Systems: pipelines and programs that work together."
    KIND = "systems"
    WORD = "system"
    EACH = SystemDirectory
    mode = 0o1777
    key = ("etc", "systems")


class MacrosDirectory(DocumentFolder):
    """/etc/macros: NAME.yaml is a macro, nodes that pipelines have expanded. Written as in
    /etc/pipelines."""

    PATH = "/etc/macros"
    WHAT = "Macros: nodes that pipelines use by name."
    KIND = "macros"
    WORD = "macro"
    EACH = ManifestDirectory
    mode = 0o1777
    key = ("etc", "macros")


class AdaptersDirectory(DocumentFolder):
    """/etc/adapters: NAME.yaml says what stands behind a port. Only the operator writes it."""

    PATH = "/etc/adapters"
    WHAT = "Adapters: what stands behind the ports of pipelines."
    KIND = "adapters"
    WORD = "adapter"
    EACH = ManifestDirectory
    key = ("etc", "adapters")


class PoliciesDirectory(DocumentFolder):
    """/etc/policies: NAME.yaml is a policy: retry, timeout, rate limit, circuit breaker. Only the
    operator writes it."""

    PATH = "/etc/policies"
    WHAT = "Policies: how nodes are tried again, timed and held back."
    KIND = "policies"
    WORD = "policy"
    EACH = ManifestDirectory
    key = ("etc", "policies")


class ConfigsDirectory(DocumentFolder):
    """/etc/configs: NAME.yaml has settings, limits and capabilities for all pipelines below it.
    Only the operator writes it."""

    PATH = "/etc/configs"
    WHAT = "Settings, limits and capabilities that pipelines inherit."
    KIND = "configs"
    WORD = "config"
    EACH = ManifestDirectory
    key = ("etc", "configs")


class PromptsDirectory(DocumentFolder):
    """/lib/prompts: NAME.md is a prompt that pipelines use: where a node says
    `prompt: /lib/prompts/NAME.md`, its text is meant, templates and all. It belongs to the agent
    that writes it first. Written as documents of /etc/pipelines; a run keeps the text that it began
    with."""

    PATH = "/lib/prompts"
    WHAT = "Prompts that nodes use by their path."
    KIND = "prompts"
    WORD = "prompt"
    SUFFIX = ".md"
    EACH = ManifestDirectory
    mode = 0o1777
    key = ("lib", "prompts")
