"""A mailbox in memory: three folders of messages, and the order in which they are delivered."""

from __future__ import annotations

from agentfs.base.due_heap import DueHeap
from agentfs.mail.message import Message
from agentfs.mail.readers import Reader

__all__ = ["FOLDERS", "Mailbox"]

FOLDERS = ("new", "cur", "dead")


class Mailbox:
    """The mail of one agent or queue: `new`, `cur` and `dead`, each from file name to message.

    The order of delivery: all messages age alike, one level in 1/`ageing` seconds, so of two
    messages the one that is first stays first, and the key that says so can be fixed at arrival:
    level + ageing × arrival. It is kept divided by `ageing`, in seconds, which is exact for the
    usual numbers. Equal keys are first in, first out.
    """

    __slots__ = (
        "_ageing",
        "_order",
        "_reading",
        "cur",
        "dead",
        "name",
        "new",
        "senders",
    )

    def __init__(self, name: str, ageing: float) -> None:
        self.name = name
        self.new: dict[str, Message] = {}
        self.cur: dict[str, Message] = {}
        self.dead: dict[str, Message] = {}
        self.senders: dict[str, int] = {}
        """How many of those that wait each has sent."""
        self._ageing = ageing
        self._order: DueHeap[Message] = DueHeap()
        self._reading: dict[int | Reader, dict[int, Message]] = {}

    @property
    def waiting(self) -> int:
        """How many messages wait to be claimed."""
        return len(self.new)

    def folder(self, name: str) -> dict[str, Message]:
        """The folder `new`, `cur` or `dead`. KeyError for another name."""
        if name not in FOLDERS:
            raise KeyError(name)
        found: dict[str, Message] = getattr(self, name)
        return found

    def first(self) -> Message | None:
        """The message to deliver next, left in place; None if none waits."""
        return self._order.first()

    def claims(self, pid: int | None) -> list[Message]:
        """The claims of process `pid` (None: those for no process), oldest first. Costs a look at
        all that is claimed here."""
        return [message for message in self.cur.values() if message.claimed_by == pid]

    def reading(self, reader: int | Reader) -> list[Message]:
        """The messages that were claimed last through `recv` and are not acknowledged, one or the
        rest of a batch: through an open file, or, by the principal's pid, through files that are
        closed."""
        return list(self._reading.get(reader, {}).values())

    def put(self, message: Message) -> None:
        """Take `message` into the folder and under the name that it says."""
        if message.folder == "new":
            self.new[message.file] = message
            self._order.add(self._key(message), message.seq, message)
            self.senders[message.sender] = self.senders.get(message.sender, 0) + 1
        elif message.folder == "dead":
            self.dead[message.file] = message
        else:
            self.cur[message.file] = message
            reader = _reader(message)
            if reader is not None:
                self._reading.setdefault(reader, {})[message.seq] = message

    def take(self, message: Message) -> None:
        """Remove `message` from where it says it is."""
        if message.folder == "new":
            del self.new[message.file]
            self._order.discard(message.seq)
            left = self.senders[message.sender] - 1
            if left:
                self.senders[message.sender] = left
            else:
                del self.senders[message.sender]
        elif message.folder == "dead":
            del self.dead[message.file]
        else:
            del self.cur[message.file]
            reader = _reader(message)
            if reader is not None:
                reading = self._reading[reader]
                del reading[message.seq]
                if not reading:
                    del self._reading[reader]

    def age_by(self, ageing: float) -> None:
        """Let messages age by `ageing` levels a second from now on, as if always so."""
        self._ageing = ageing
        waiting, self._order = self._order, DueHeap()
        for message in waiting:
            self._order.add(self._key(message), message.seq, message)

    def free_name(self, folder: str, wanted: str) -> str:
        """`wanted`, or a name like it that is not taken in `folder`."""
        taken = self.folder(folder)
        name, count = wanted, 1
        base, colon, flags = wanted.partition(":")
        while name in taken:
            name = f"{base[:200]}_{count}{colon}{flags}"
            count += 1
        return name

    def _key(self, message: Message) -> float:
        if self._ageing < 1e-9:  # a level in 30 years: none
            return message.level
        return message.level / self._ageing + message.arrived


def _reader(message: Message) -> int | Reader | None:
    """Under what a message that was claimed through `recv` is found."""
    through = message.through
    return message.reader if through is None or through.closed else through
