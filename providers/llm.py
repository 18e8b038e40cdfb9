"""/dev/llm: a file for each model. A prompt is written to it, and the answer read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import partial

from agentfs.base.clock import change_time
from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.events import KeyRenewed, SecretRemoved, SecretSet
from agentfs.process.events import CapabilityDropped
from agentfs.providers.system_table import HasKernel, SystemTable
from agentfs.store.event import Event
from agentfs.store.events import ConfigChanged
from agentfs.vfs.caller import Caller
from agentfs.vfs.changes import Change, Created, Modified, Removed
from agentfs.vfs.exchange import Answerer
from agentfs.vfs.files import Basics, Exchange
from agentfs.vfs.node import Handle, Node, Time
from agentfs.vfs.on import When, on

__all__ = ["LlmDirectory"]


class LlmDirectory(SystemTable):
    """/dev/llm: a file for each model (0666, an Exchange). `ls` shows those that the caller may ask
    at the moment. The prompt is everything written before the first read, which sends it and gives
    the answer as it comes, in the model's own words, and then the end of the file. Writing again
    goes on with the conversation, which ends with the open file, and so does an answer that is
    under way. A write in the midst of an answer gives up its rest. A prompt that is never read for
    is never sent, and costs nothing: so it is opened for both (`exec 3<>/dev/llm/NAME; echo PROMPT
    >&3; cat <&3`), and for one alone EACCES says so. A request that begins with `{` is one of a
    dialect (chat completions, responses, messages, embeddings), and no part of the conversation;
    its answer is the provider's own bytes. A failure, also in the midst of an answer, is the error
    of a read, told by every read until something is written. **EACCES**: the capability `llm`; a
    key that is not set. **EPERM**: a model above your tier; that capability is denied. **ENOENT**:
    no such model, or nobody answers for it. **EDQUOT**: a budget or limit, also if that ends in the
    midst of the answer. **EAGAIN**: a rate; the next read tries again. **EMSGSIZE**: more than the
    model, `max_context_tokens` or `chats.max_conversation` allows. **EINVAL**: an empty prompt, or
    one that is no UTF-8. **ENODATA**: nothing was asked. **ETIMEDOUT**, **EREMOTEIO**: the
    provider, whose words are in `/proc/self/error`. **ENODEV**: the gateway cannot be started at
    the moment."""

    PATH = "/dev/llm"
    WHAT = "A file for each model: write a prompt, read the answer."
    key = ("dev", "llm")

    def __init__(self, above: HasKernel) -> None:
        super().__init__(above)
        self._catalog: Catalog = self.kernel.catalog
        self._shown = self._usable()
        self._changed = super().changed()

    def changed(self) -> Time:
        return self._changed

    def _usable(self) -> list[str]:
        """The names of the models that can be asked, by whomever."""
        return [model.name for model in self._catalog.usable()]

    def _file(self, name: str) -> Node:
        basics = Basics(self.at(name), 0o666, self.owner, self.guard)
        return Exchange(basics, partial(self._open, name))

    def _open(self, name: str, caller: Caller) -> Answerer:
        return self.kernel.chats.converse(caller.principal, name, caller.memory())

    @staticmethod
    def at(name: str) -> Hashable:
        """The key of the file of a model."""
        return ("llm", name)

    def find(self, name: str) -> Node | None:
        model = self._catalog.find(name)
        return None if model is None or model.provider is None else self._file(name)

    def missing(self, name: str) -> KernelError:
        try:
            self._catalog.require(name)
        except KernelError as why:
            return why
        return super().missing(name)

    def more(self) -> Iterator[tuple[str, Node]]:
        for name in self._usable():
            yield name, self._file(name)

    def listing(self, caller: Caller) -> Iterable[tuple[str, Node]]:
        for model in self.kernel.chats.offered(caller.principal):
            yield model.name, self._file(model.name)

    def create(self, name: str, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """A shell's `<>` would make a file that is not there."""
        raise self.missing(name)

    @on(
        *(When(ConfigChanged, path=f"/etc/{name}.yaml") for name in ("models", "roles", "acl")),
        *(SecretSet, SecretRemoved, KeyRenewed, CapabilityDropped),
    )
    def _changes(self, event: Event) -> Iterator[Change]:
        """Another model can be asked, or somebody may ask another one."""
        before, self._shown = self._shown, self._usable()
        if before == self._shown:
            yield Modified(self.key)
            return
        self._changed = change_time(self.kernel.clock.now(), self._changed)
        for name in before:
            if name not in self._shown:
                yield Removed(self.key, name, self.at(name))
        for name in self._shown:
            if name not in before:
                yield Created(self.key, name, self._file(name))
