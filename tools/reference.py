"""The reference page of the tree, made from the declarations of its nodes.

    python -m agentfs.tools.reference > docs/namespace.md

A test holds the page against the declarations, so it cannot fall behind.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator

import agentfs.providers
from agentfs.vfs.table import Entry, Table

__all__ = ["page"]

HEAD = """\
# The namespace: every path

Made from the declarations of the nodes (`python -m agentfs.tools.reference`); do not edit.

Paths are relative to the mount. Text is UTF-8 and ends in a newline; times are RFC 3339 in UTC,
durations are `90s`, `10m`, `2h`, `7d`. *Private* paths open only for the agent they belong to and
for the operator. `cat /proc/self/error` says why a call was refused.

The extended attribute `user.agentfs.kind` of every path is its kind in small letters
(`getfattr -n user.agentfs.kind --only-values PATH`); real files do not list it, so that copies of
them do not carry it, and Linux gives links and FIFOs no such attributes: their type says it.

| kind | read | write |
|---|---|---|
| Value | the value; cached, and never stale | each write is parsed and applied |
| Document | the whole text; cached, and never stale | applied as a whole when it is closed |
| Live | the value at the moment of opening | – |
| Control | empty | each line is a command, run in order; of files that send, each write or each \
open is a message |
| Transaction | the reply, after a write on the same handle | the request |
| Exchange | the answer to the request, as it comes, then the end of the file; waits for it, as a \
stream does | the request, in any number of pieces; after an answer the next one. It is opened for \
both |
| Stream | the next record; waits for it (O_NONBLOCK: EAGAIN; poll works) | where the mode has it: \
commands, or records, which may wait for room |
| Mailbox | takes the next message; waits for it, as a stream does | what became of it |
| File | what is kept there: a message, an artifact, a log | as its folder says |
| Directory, Link, Fifo | as everywhere; a Fifo is Linux's own | |
| Plain | a real file of /shared or a memory | as everywhere |

Whoever only looks (`ls`, `stat`, a listing) is shown an *Exchange*, a *Stream* or a *Mailbox* as a
named pipe, of which every program knows that reading it takes something, or waits. So `grep -r`,
`rg`, `find -type f`, `tar`, `rsync`, `zip`, `cp -r`, `git add` and backups pass it by; opening it
(`cat recv`, `read x < recv`, `open("recv")`) opens a regular file.
"""


def page() -> str:
    """The whole page, in Markdown."""
    return HEAD + "".join(_section(table) for table in _tables())


def _tables() -> Iterator[type[Table]]:
    """Every declared directory, in the order of its path."""
    for module in pkgutil.iter_modules(agentfs.providers.__path__):
        importlib.import_module(f"agentfs.providers.{module.name}")
    found: dict[str, type[Table]] = {}
    waiting: list[type[Table]] = [Table]
    while waiting:
        table = waiting.pop()
        waiting += table.__subclasses__()
        path = getattr(table, "PATH", None)
        if path is not None and table.__module__.startswith("agentfs.providers"):
            found[path] = table
    for path in sorted(found):
        yield found[path]


def _section(table: type[Table]) -> str:
    path = table.PATH
    summary = (table.__doc__ or "").strip().split("\n\n")[0].removeprefix(f"{path}: ")
    lines = [f"\n## {path}\n", summary[:1].upper() + summary[1:], ""]
    if table.TABLE:
        lines += ["| name | mode | kind | what |", "|---|---|---|---|"]
        lines += [_row(entry) for entry in table.TABLE.values()]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    kind = entry.word.capitalize() + (", private" if entry.private else "")
    what = entry.doc
    if entry.example:
        what += f" Example: `{entry.example.strip().splitlines()[0]}`."
    for name, when in entry.errors:
        what += f" **{name}**: {when}."
    return f"| `{entry.name}` | {entry.mode:04o} | {kind} | {what.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(page())
