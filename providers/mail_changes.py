"""The change that an event about a message is to the mailbox that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def mail_changes(room: Mailroom, event: Any) -> tuple[Change]:
    """Where the message came, went, or was moved to, in the folders of `room`."""
    return (_CHANGES[type(event)](room, event),)


def _arrived(room: Mailroom, event: MessageArrived) -> Change:
    return Created(room.folder_key("new"), event.file, _message(room, event.id))


def _claimed(room: Mailroom, event: MessageClaimed) -> Change:
    new, cur = room.folder_key("new"), room.folder_key("cur")
    return Moved(new, event.file, cur, event.renamed, _message(room, event.id))


def _returned(room: Mailroom, event: MessageReturned) -> Change:
    cur, new = room.folder_key("cur"), room.folder_key("new")
    return Moved(cur, event.renamed, new, event.file, _message(room, event.id))


def _ended(room: Mailroom, event: MessageDone | MessageExpired) -> Change:
    return Removed(room.folder_key(event.folder), event.file, MessageFile.at(int(event.id)))


def _given_up(room: Mailroom, event: MessageGivenUp) -> Change:
    folder, dead = room.folder_key(event.folder), room.folder_key("dead")
    letter = DeadFile(room, int(event.id), event.id, announcing=True)
    return Moved(folder, event.file, dead, event.id, letter)


def _revived(room: Mailroom, event: MessageRevived) -> Change:
    dead, new = room.folder_key("dead"), room.folder_key("new")
    return Moved(dead, event.renamed, new, event.file, _message(room, event.id))


def _dropped(room: Mailroom, event: DeadLetterDropped) -> Change:
    return Removed(room.folder_key("dead"), event.file, MessageFile.at(int(event.id)))


def _message(room: Mailroom, number: str) -> MessageFile:
    return MessageFile(room, int(number), announcing=True)


_CHANGES: dict[type[Event], Callable[[Mailroom, Any], Change]] = {
    MessageArrived: _arrived,
    MessageClaimed: _claimed,
    MessageReturned: _returned,
    MessageDone: _ended,
    MessageExpired: _ended,
    MessageGivenUp: _given_up,
    MessageRevived: _revived,
    DeadLetterDropped: _dropped,
}
