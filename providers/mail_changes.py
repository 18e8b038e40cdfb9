"""What an event about a message changes in the mailbox that it names."""

from __future__ import annotations

from collections.abc import Iterator

from agentfs.mail.events import (
    DeadLetterDropped,
    MessageArrived,
    MessageClaimed,
    MessageDone,
    MessageExpired,
    MessageGivenUp,
    MessageReturned,
    MessageRevived,
)
from agentfs.providers.dead import DeadFile
from agentfs.providers.maildir import Mailroom, MessageFile
from agentfs.store.event import Event
from agentfs.vfs.changes import Change, Created, Moved, Removed

__all__ = ["mail_changes"]


def mail_changes(room: Mailroom, event: Event) -> Iterator[Change]:
    """Where the message came, went, or was moved to, in the folders of `room`."""
    key = room.folder_key
    match event:
        case MessageArrived(id=number, file=file):
            yield Created(key("new"), file, _message(room, number))
        case MessageClaimed(id=number, file=file, renamed=renamed):
            yield Moved(key("new"), file, key("cur"), renamed, _message(room, number))
        case MessageReturned(id=number, file=file, renamed=renamed):
            yield Moved(key("cur"), renamed, key("new"), file, _message(room, number))
        case MessageDone(id=number, folder=folder, file=file):
            yield Removed(key(folder), file, MessageFile.at(int(number)))
        case MessageExpired(id=number, folder=folder, file=file):
            yield Removed(key(folder), file, MessageFile.at(int(number)))
        case MessageGivenUp(id=number, folder=folder, file=file):
            letter = DeadFile(room, int(number), number, announcing=True)
            yield Moved(key(folder), file, key("dead"), number, letter)
        case MessageRevived(id=number, file=file, renamed=renamed):
            yield Moved(key("dead"), renamed, key("new"), file, _message(room, number))
        case DeadLetterDropped(id=number, file=file):
            yield Removed(key("dead"), file, MessageFile.at(int(number)))


def _message(room: Mailroom, number: str) -> MessageFile:
    return MessageFile(room, int(number), announcing=True)
