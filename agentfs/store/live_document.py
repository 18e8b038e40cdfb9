"""A document of /etc that is in effect: its text as it was written, and what that says."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from agentfs.base.errors import KernelError
from agentfs.base.yaml_document import DocumentError, YamlDocument
from agentfs.store.event_log import EventLog
from agentfs.store.events import ConfigChanged, DocumentRefused
from agentfs.store.part import Part
from agentfs.store.store import Store

__all__ = ["Form", "LiveDocument", "checked"]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How a document is read. `parse` makes of a text what it says, or raises EINVAL that names
    every fault. `default()` is its text until somebody writes another; `meant()` is what that says,
    where it is known without reading it. `kept_as` is its key in the store: its name, if it is left
    out."""

    name: str
    parse: Callable[[str], T]
    default: Callable[[], str]
    meant: Callable[[], T] | None = None
    kept_as: str = ""

    @property
    def key(self) -> str:
        """The key of its text in the store."""
        return self.kept_as or self.name


@cache
def _standard(form: Form[T]) -> T:
    """What the default of a form says: read once, as documents in effect are never changed."""
    return form.parse(form.default()) if form.meant is None else form.meant()


class LiveDocument(Part, Generic[T]):
    """A document of a form: its `text`, and what that says, `now`.

    If the stored text cannot be read (by another release, say), the default is in effect: that must
    not keep the system from starting. `use(now)` is called with what is in effect: at once, and
    with each change, before anybody is told of it.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        form: Form[T],
        use: Callable[[T], object] = lambda now: None,
    ) -> None:
        self.name = form.name
        self.path = f"/etc/{form.name}"
        self._store = store
        self._events = events
        self._form = form
        self._in_use = use
        self._key = form.key
        self._checks: list[Callable[[T], object]] = []
        self._refusal = ""  # why the text in the store is not in effect
        self._use(*self._stored())

    def _stored(self) -> tuple[str | None, T]:
        """The text in the store, and what it says. If there is none, or it is refused, None, and
        what the default says."""
        text = self._store.meta(self._key)
        if text:
            try:
                return text, self._form.parse(text)
            except KernelError as bad:
                log.error("%s is refused, its default is in effect: %s", self.path, bad.reason)
                self._refusal = bad.reason
        return None, _standard(self._form)

    @property
    def text(self) -> str:
        """The text that is in effect. That of a default is made when somebody asks for it: nobody
        reads most of them, and to write all settings down takes as long as a tenth of a start."""
        return self._form.default() if self._text is None else self._text

    @property
    def shown(self) -> str:
        """The content of its file."""
        return self.text

    @property
    def refused(self) -> str:
        """A text that was in effect until a release refused it; empty if there is none."""
        return self._store.meta(f"{self._key}.refused")

    def take_up(self) -> None:
        """Keep the text that could not be put in effect at the start, beside its default."""
        if self._refusal:
            with self._store.transaction():
                self._store.set_meta(f"{self._key}.refused", self._store.meta(self._key))
                self._store.set_meta(self._key, "")
                self._events.emit(DocumentRefused(self.path, self._refusal))
            self._refusal = ""

    def drop_refused(self) -> None:
        """Forget the refused text."""
        with self._store.transaction():
            self._store.set_meta(f"{self._key}.refused", "")

    def add_check(self, check: Callable[[T], object]) -> None:
        """Have `check` look at everything that is about to be put in effect. It raises EINVAL if
        the rest of the system does not allow that."""
        self._checks.append(check)

    def replace(self, text: str) -> None:
        """Put a new text in effect. Raises EINVAL and changes nothing if it is wrong."""
        now, before = self._form.parse(text), (self._text, self.now)
        for check in self._checks:
            check(now)
        with self._store.transaction():
            self._store.on_rollback(lambda: self._use(*before))
            self._store.set_meta(self._key, text)
            self._use(text, now)  # before the event goes out: listeners look here
            self._events.emit(ConfigChanged(self.path))

    def _use(self, text: str | None, now: T) -> None:
        self._text, self.now = text, now
        self._in_use(now)


def checked(text: str, file: str, read: Callable[[YamlDocument], T]) -> T:
    """What `read` makes of a YAML document. Raises EINVAL with every fault that was found, each as
    `file:line: what was expected`."""
    try:
        with YamlDocument(text, file) as document:
            found = read(document)
            if not document.sound:
                raise document.refusal()
            return found
    except DocumentError as bad:
        raise KernelError(errno.EINVAL, "; ".join(bad.faults)) from None
