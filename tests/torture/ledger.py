"""What the audit says of each message, in the order of its records: no clock is asked.

Notes have times, and a program may stand still between a call's return and its note. The kernel
writes each change of a message into the audit in the transaction of that change, so the order of
the records is the order in which things happened, also under any load. A message's life is judged
by that, and what the programs noted has to be in it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentfs.audit.audit_table import beside, page
from tests.torture.model import History

__all__ = ["Ledger"]

PAGE = 10_000
ALL = 2**63 - 1
GONE = ""


@dataclass(slots=True)
class _Life:
    """Where the message is (`new`, `cur`, `dead`, or gone), in which line it waits (its mailbox and
    its sender), at which attempt it is, who has had it at which, and who had it when it was done.
    """

    folder: str
    line: tuple[str, str] = ("", "")
    attempt: int = 1
    holder: str = ""
    had: set[tuple[str, int]] = field(default_factory=set)
    done: tuple[str, int] | None = None


class Ledger:
    """The lives of all messages. `names` are the programs, by the number of their process;
    `faults` are the records that cannot follow the ones before."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._lives: dict[str, _Life] = {}
        self._lines: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.faults: list[str] = []

    def read(self, store: Path) -> None:
        """Take in the whole audit of a store that no daemon has open."""
        with closing(beside(store)) as connection:
            seq = 0
            while rows := page(connection, seq, ALL, PAGE):
                for seq, record, _ in rows:
                    for change in json.loads(record)["changes"]:
                        self.see(seq, change)

    def see(self, seq: int, change: Mapping[str, Any]) -> None:
        """Take in one change of record `seq`. Of the kernel's own messages the folders count alone:
        they may arrive as later attempts and with other priorities, of which no event tells."""
        kind, number = change["type"], change.get("id")
        if kind == "message_arrived":
            if number in self._lives:
                self._fault(seq, kind, number)
            line = change["agent"], change["sender"]
            self._lives[number] = _Life("new", line)
            self._lines[line].add(number)
        elif kind in _COMES_FROM:
            life = self._lives.get(number)
            came_from = _COMES_FROM[kind] or change["folder"]
            if life is None or life.folder != came_from:
                self._fault(seq, kind, number)
                life = self._lives.setdefault(number, _Life(came_from))
            self._go_on(seq, life, change)
            waiting = self._lines[life.line]
            waiting.discard(number)
            if life.folder == "new":
                waiting.add(number)

    def _go_on(self, seq: int, life: _Life, change: Mapping[str, Any]) -> None:
        match change["type"]:
            case "message_claimed":
                life.folder = "cur"
                life.holder = self._names.get(change["pid"], "somebody")
                life.had.add((life.holder, life.attempt))
                self._check_turn(seq, life, change)
            case "message_returned" | "message_revived" as kind:
                more = change["attempt"] - life.attempt
                possible = (1,) if kind == "message_revived" else (0, 1)
                if self._is_of_program(life) and more not in possible:
                    self._fault(seq, f"{kind} as attempt {change['attempt']}", change["id"])
                life.folder, life.attempt = "new", change["attempt"]
            case "message_given_up":
                life.folder = "dead"
            case "message_done" | "message_expired" | "dead_letter_dropped" as kind:
                life.folder = GONE
                if kind == "message_done":
                    life.done = life.holder, life.attempt

    def _is_of_program(self, life: _Life) -> bool:
        return life.line[1] in self._names.values()

    def _check_turn(self, seq: int, life: _Life, change: Mapping[str, Any]) -> None:
        """In the rig the messages of one program to one mailbox have one priority: the first comes
        first. A reader that renames files takes which it likes, and after a death of the daemon
        each reader gets first what it had."""
        number = change["id"]
        if self._is_of_program(life) and life.attempt == 1 and change["renamed"].endswith(":2,"):
            first = min(self._lines[life.line], default=number)
            if first < number:
                self._fault(seq, f"message_claimed before {first}", number)

    def _fault(self, seq: int, what: str, number: str) -> None:
        life = self._lives.get(number)
        was = "unknown" if life is None else f"in {life.folder or 'no folder'}/"
        attempt = "" if life is None else f", attempt {life.attempt}"
        self.faults.append(f"ledger: record {seq}: {what} of {number}, which was {was}{attempt}")

    def compare(self, history: History) -> Iterator[str]:
        """Everything that is wrong with the lives, and everything that was noted and is not in
        them. No reader in the rig is so slow that its time is over: nothing is taken from one that
        lives."""
        yield from self.faults
        for each in history.deliveries:
            life = self._lives.get(each.id)
            if life is None or (each.consumer, each.attempt) not in life.had:
                yield (
                    f"unrecorded: {each.consumer} got {each.id} as attempt {each.attempt}, and the"
                    f" audit has it for {sorted(life.had) if life else 'nobody'}"
                )
        for number in history.acknowledged:
            if number in self._lives and self._lives[number].done is None:
                yield f"unrecorded: {number} was acknowledged, and is in {self._lives[number]}"
        for who, number, attempt in sorted(history.endings):
            done = self._lives[number].done if number in self._lives else None
            if done is None or done == (who, attempt):
                continue
            # A client that gets again what it has done ends that without a word to its handler.
            if done[0] != who or (who, number, done[1]) in history.endings:
                yield (
                    f"in vain: {who} acknowledged attempt {attempt} of {number}, which was taken"
                    f" from it before: attempt {done[1]} of {done[0]} was the one that ended it"
                )
        for number, _ in history.left:
            if number not in self._lives or not self._lives[number].folder:
                yield f"unrecorded: {number} is still there, and the audit has it as gone"


_COMES_FROM = {
    "message_claimed": "new",
    "message_returned": "cur",
    "message_revived": "dead",
    "message_done": GONE,  # the event says from where
    "message_expired": GONE,
    "message_given_up": GONE,
    "dead_letter_dropped": "dead",
}
"""In which folder a message has to be for that to become of it."""
