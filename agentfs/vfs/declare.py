"""The decorators with which a provider's directory reads like a table of what is in it.

    class ProcessDirectory(Table):
        @value("state", on=(StateChanged,))
        def state(self) -> str:
            \"\"\"What it does: idle, running, blocked, sleeping, zombie or dead.\"\"\"
            return self.process.state.value

One declaration gives the node, the argument check, the change notices and the reference page.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from inspect import iscoroutinefunction
from typing import Any

from agentfs.vfs.caller import Caller
from agentfs.vfs.files import (
    Basics,
    Control,
    Document,
    Exchange,
    Live,
    Owner,
    Stream,
    Transaction,
    Value,
)
from agentfs.vfs.handles import as_text
from agentfs.vfs.node import Link, Node, Stat
from agentfs.vfs.on import Cause
from agentfs.vfs.table import ATTRIBUTE, Entry, Table

__all__ = [
    "control",
    "directory",
    "document",
    "exchange",
    "fifo",
    "file",
    "link",
    "live",
    "message",
    "stream",
    "transaction",
    "value",
]


Method = Callable[..., Any]


def _declare(
    kind: str,
    name: str,
    mode: int,
    build: Callable[[Any, Hashable, Entry, Method], Node],
    *,
    on: tuple[Cause, ...] = (),
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
    known_as: str = "",
) -> Callable[[Method], Method]:
    def decorate(method: Method) -> Method:
        doc = " ".join((method.__doc__ or "").split())
        entry = Entry(
            kind,
            name,
            mode,
            doc,
            on,
            private,
            example,
            tuple((errors or {}).items()),
            lambda table, key, entry: build(table, key, entry, method),
            known_as,
        )
        setattr(method, ATTRIBUTE, entry)
        return method

    return decorate


def _render(table: Any, method: Method) -> Callable[[], bytes]:
    def render() -> bytes:
        content = method(table)
        if isinstance(content, bytes):
            return content
        text = str(content)
        return f"{text}\n".encode() if text and not text.endswith("\n") else text.encode()

    return render


def _guard(table: Table, entry: Entry) -> Callable[[Caller], None] | None:
    return table.private_guard if entry.private else table.guard


def value(
    name: str,
    mode: int = 0o444,
    *,
    write: str = "",
    check: str = "",
    on: tuple[Cause, ...] = (),
    private: bool = False,
    polled: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method returns the content (text gets its newline). `write` names the method
    `async (text, caller)` that takes a new value, `check` one `(caller)` that is asked when it is
    opened. `polled`: programs read it again and again until it changes."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        apply = None
        if write:
            setter = getattr(table, write)

            async def apply(data: bytes, caller: Caller) -> None:
                await setter(as_text(data).strip(), caller)

        guard = getattr(table, check) if check else _guard(table, entry)
        basics = Basics(key, mode, table.owner, guard)
        return Value(basics, _render(table, method), apply, polled=polled)

    return _declare(
        "Value", name, mode, build, on=on, private=private, example=example, errors=errors
    )


def live(
    name: str, mode: int = 0o444, *, private: bool = False, example: str = ""
) -> Callable[[Method], Method]:
    """The method returns the content of this moment; an async one may wait for it, and returns
    bytes."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        basics = Basics(key, mode, table.owner, _guard(table, entry))
        if iscoroutinefunction(method):
            return Live(basics, late=lambda: method(table))
        return Live(basics, _render(table, method))

    return _declare("Live", name, mode, build, private=private, example=example)


def document(
    name: str,
    mode: int = 0o644,
    *,
    write: str,
    sync: str = "",
    check: str = "",
    guard: str = "",
    on: tuple[Cause, ...] = (),
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method returns the whole text; `write` names `async (content: bytes, caller)`, `check`
    `(caller)`, which is asked when it is opened for writing, and `guard` one that is asked whenever
    it is used."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        return Document(
            Basics(
                key, mode, table.owner, getattr(table, guard) if guard else _guard(table, entry)
            ),
            _render(table, method),
            getattr(table, write),
            getattr(table, sync) if sync else None,
            getattr(table, check) if check else None,
        )

    return _declare(
        "Document", name, mode, build, on=on, private=private, example=example, errors=errors
    )


def control(
    name: str,
    mode: int = 0o200,
    *,
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method is `async (command: str, caller)`, called for each line written."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        async def run(command: str, caller: Caller) -> None:
            await method(table, command, caller)

        return Control(Basics(key, mode, table.owner, _guard(table, entry)), run=run)

    return _declare("Control", name, mode, build, private=private, example=example, errors=errors)


def message(
    name: str,
    mode: int = 0o200,
    *,
    limit: str,
    sync: str = "",
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method is `async (content: bytes, caller)`: every write(2) is one request, of at most
    `limit` bytes (the name of a method that says how many)."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        async def take(content: bytes, caller: Caller) -> None:
            await method(table, content, caller)

        return Control(
            Basics(key, mode, table.owner, _guard(table, entry)),
            whole=take,
            limit=getattr(table, limit),
            sync=getattr(table, sync) if sync else None,
        )

    return _declare("Control", name, mode, build, private=private, example=example, errors=errors)


def transaction(
    name: str,
    mode: int = 0o600,
    *,
    limit: str = "",
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method is `async (request: bytes, caller) -> bytes | str`: the reply. `limit` names a
    method that says how many bytes a request may have; without one they are 64 KiB."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        async def serve(request: bytes, caller: Caller) -> bytes:
            reply = await method(table, request, caller)
            return reply if isinstance(reply, bytes) else str(reply).encode()

        basics = Basics(key, mode, table.owner, _guard(table, entry))
        if limit:
            return Transaction(basics, serve, getattr(table, limit))
        return Transaction(basics, serve)

    return _declare(
        "Transaction", name, mode, build, private=private, example=example, errors=errors
    )


def exchange(
    name: str,
    mode: int = 0o600,
    *,
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method is `(caller) -> Answerer`, called at open."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        basics = Basics(key, mode, table.owner, _guard(table, entry))
        return Exchange(basics, lambda caller: method(table, caller))

    return _declare("Exchange", name, mode, build, private=private, example=example, errors=errors)


def stream(
    name: str,
    mode: int = 0o444,
    *,
    known_as: str = "",
    apart: bool = False,
    commands: bool = False,
    on: tuple[Cause, ...] = (),
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method is `(caller) -> StreamHandle`, called at open. With a mode that lets somebody
    write (0o600, 0o222), what is written goes to the handle's `try_write`; if that may have to
    wait, say `apart` (see Node). `commands`: what is written is about what is read, so it is opened
    for both, and not for writing alone."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        made = Stream(
            Basics(key, mode, table.owner, _guard(table, entry)),
            lambda caller: method(table, caller),
            apart=apart,
            commands=commands,
        )
        made.kind = entry.word
        return made

    return _declare(
        "Stream",
        name,
        mode,
        build,
        on=on,
        private=private,
        example=example,
        errors=errors,
        known_as=known_as,
    )


class _DeclaredLink(Link):
    def __init__(
        self, key: Hashable, owner: Callable[[], Owner], resolve: Callable[[Caller], str]
    ) -> None:
        self.key = key
        self._owner = owner
        self._resolve = resolve

    def stat(self) -> Stat:
        owner = self._owner()
        return Stat(0o120777, owner.uid, owner.gid, 0, owner.mtime, 1, owner.mtime, owner.mtime)

    def target(self, caller: Caller) -> str:
        return self._resolve(caller)


def link(name: str, *, on: tuple[Cause, ...] = (), example: str = "") -> Callable[[Method], Method]:
    """The method is `(caller) -> str`, the target; it may raise ENOENT."""

    def build(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
        return _DeclaredLink(key, table.owner, lambda caller: str(method(table, caller)))

    return _declare("Link", name, 0o777, build, on=on, example=example)


def _given(table: Any, key: Hashable, entry: Entry, method: Method) -> Node:
    node = method(table)
    assert isinstance(node, Node)
    return node


def directory(
    name: str,
    mode: int = 0o755,
    *,
    on: tuple[Cause, ...] = (),
    private: bool = False,
    example: str = "",
) -> Callable[[Method], Method]:
    """The method returns the directory itself."""
    return _declare("Directory", name, mode, _given, on=on, private=private, example=example)


def file(
    name: str,
    mode: int,
    *,
    kind: str = "File",
    known_as: str = "",
    on: tuple[Cause, ...] = (),
    private: bool = False,
    example: str = "",
    errors: dict[str, str] | None = None,
) -> Callable[[Method], Method]:
    """The method returns the file: one of a kind of its own, or of the `kind` named."""
    return _declare(
        kind,
        name,
        mode,
        _given,
        on=on,
        private=private,
        example=example,
        errors=errors,
        known_as=known_as,
    )


def fifo(name: str, mode: int) -> Callable[[Method], Method]:
    """The method returns the FIFO; Linux serves its bytes."""
    return _declare("Fifo", name, mode, _given)
