"""`agentfs inbox`: a person's mail: what waits, reading and answering it, being done with it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from agentfs.tools.how import FileCommand, Given
from agentfs.tools.terminal import beginning, paint, shown
from agentfs.tools.tree import Tree, TreeError, encoded, shell_root

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["inbox"]

FOLDERS = ("new", "cur")


class InboxMessage(NamedTuple):
    """One message that is in the inbox: its number, where it lies, and what it says."""

    id: str
    path: str
    new: bool
    content: bytes

    @property
    def mail(self) -> EmailMessage:
        # Here, as 10 ms of the start of each command went into these.
        from email import policy
        from email.message import EmailMessage
        from email.parser import BytesParser

        parsed = BytesParser(policy=policy.default).parsebytes(self.content)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def header(self, name: str) -> str:
        return str(self.mail.get(name, ""))

    @property
    def body(self) -> str:
        return self.content.partition(b"\n\n")[2].decode(errors="replace")

    def row(self) -> dict[str, str | bool]:
        """The message as the listing has it."""
        return {
            "id": self.id,
            "new": self.new,
            "from": self.header("From").partition("@")[0].strip('<" '),
            "date": self.header("Date"),
            "type": self.header("Type"),
            "body": self.body,
        }


def _how(given: Given) -> str:
    words = list(given.get("words") or ())
    name = words.pop(0) if words and words[0] not in VERBS else "self"
    box = f"{shell_root()}/agents/{name}/inbox"
    verb = words.pop(0) if words else ""
    number = words[0] if words else "ID"
    if verb == "read":
        return f"cat {box}/*/*{number}*"
    if verb == "done":
        return f"rm {box}/*/*{number}*"
    if verb == "reply":
        answer = f"'In-Reply-To: {number}\\n\\n%s\\n' TEXT"
        return f"printf {answer} > {shell_root()}/agents/{name}/outbox/NAME"
    return f"ls {box}/new {box}/cur"


VERBS = ("read", "reply", "done")


@click.command(cls=FileCommand, how=_how)
@click.argument("words", nargs=-1, metavar="[NAME] [read ID | reply ID TEXT | done ID]")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON, one object a line.")
def inbox(words: tuple[str, ...], as_json: bool) -> None:
    """List the messages of an inbox; read, answer or acknowledge one.

    The inbox is the caller's own, or that of agent NAME.

    \b
    (nothing)      list the messages, oldest first; `*` marks one that nobody has claimed
    read ID        print a message; it stays
    reply ID TEXT  answer its sender (TEXT may be - for standard input); it stays
    done ID        acknowledge a message: it goes away, and its sender sees it done

    An ID is the number of a message. Its leading zeros may be left out.
    """
    given = list(words)
    name = given.pop(0) if given and given[0] not in VERBS else "self"
    verb = given.pop(0) if given else "list"
    wants = {"list": 0, "read": 1, "reply": 2, "done": 1}
    if verb not in wants:
        raise click.UsageError(f"one of {', '.join(VERBS)} was expected, not {shown(verb)!r}")
    if len(given) != wants[verb]:
        raise click.UsageError(f"{verb} takes {wants[verb]} words, {len(given)} were given")
    tree = Tree()
    if verb == "list":
        for letter in _letters(tree, name):
            click.echo(json.dumps(letter.row()) if as_json else _line(letter))
        return
    letter = _letter(tree, name, given[0])
    if verb == "read":
        click.echo(shown(letter.content.decode(errors="replace")).rstrip("\n"))
    elif verb == "reply":
        sender = letter.row()["from"]
        text = sys.stdin.buffer.read() if given[1] == "-" else encoded(given[1])
        head = f"To: {sender}\nIn-Reply-To: {letter.header('Message-ID')}\n\n"
        tree.write(f"agents/{name}/send", encoded(head) + text)
    else:
        tree.remove(letter.path)


def _letters(tree: Tree, name: str) -> list[InboxMessage]:
    found = []
    for folder in FOLDERS:
        for file in tree.names(f"agents/{name}/inbox/{folder}"):
            path = f"agents/{name}/inbox/{folder}/{file}"
            try:
                content = b"".join(tree.stream(path))
            except TreeError as gone:
                if gone.errno and os.path.lexists(tree.path(path)):
                    raise
                continue  # somebody else took it meanwhile
            letter = InboxMessage("", path, folder == "new", content)
            number = letter.header("Message-ID").strip("<> ").partition("@")[0]
            found.append(letter._replace(id=number or file))
    return sorted(found, key=lambda letter: letter.id)


def _letter(tree: Tree, name: str, given: str) -> InboxMessage:
    wanted = given.lstrip("0") or "0"
    for letter in _letters(tree, name):
        if letter.id.lstrip("0") == wanted or os.path.basename(letter.path) == given:
            return letter
    raise TreeError(tree.path(f"agents/{name}/inbox"), f"there is no message {shown(given)[:40]}")


def _line(letter: InboxMessage) -> str:
    row = letter.row()
    mark = paint("*", "yellow") if letter.new else " "
    kind = f"[{row['type']}] " if row["type"] else ""
    return f"{mark} {letter.id}  {shown(str(row['from'])):<12}  {kind}{beginning(letter.body, 60)}"
