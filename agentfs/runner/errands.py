"""Mail as turns: the waiting messages of one sender are claimed, worked on, answered and
acknowledged together, one turn after another.

A message is acknowledged when its answer is on its way. One that was worked on and not acknowledged
(this program or the daemon was killed between the two) comes again, and its answer is in the
agent's memory: it is sent then, if it was not, and nothing is worked on twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from agentfs.agent import Agent, Message

__all__ = [
    "Errands",
    "Letters",
    "StoppedError",
    "TurnFailedError",
    "TurnJournal",
    "note",
    "write_line",
]

MOST = 100
"""Messages of one turn."""

MOST_BYTES = 1 << 20
"""Of the bodies of one turn together; one message may have more."""

MOST_ANSWER = 900 * 1024
"""Bytes of an answer that are sent: `messages.max_size` is 1 MiB."""

KEPT = 200
"""Answers to messages that are not acknowledged, the newest."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds after a turn that failed: twice as many after the second one in a row."""

AWAY_PAUSE = 0.2

PIECE = 64 * 1024


class TurnFailedError(Exception):
    """The turn has failed; the text is the reason that the messages get."""


class StoppedError(Exception):
    """This program is to end: its messages wait again, and this was no attempt."""


def note(text: str) -> None:
    """A line for the agent's log."""
    print(text, file=sys.stderr, flush=True)


class _Claimed:
    """A message, and the open `recv` through which it was claimed."""

    def __init__(self, file: int, message: Message) -> None:
        self.file = file
        self.message = message

    def settle(self, words: str) -> None:
        """Say what became of it: done, back, failed REASON."""
        try:
            with contextlib.suppress(FileNotFoundError):  # it expired, or was settled otherwise
                os.write(self.file, words.encode("utf-8", "replace"))
        finally:
            os.close(self.file)
            self.file = -1


class Letters:
    """The messages of a turn, all of one sender, the first that came first."""

    def __init__(self, messages: list[Message], attempt: int) -> None:
        self.messages = messages
        self.attempt = attempt
        self.sender = messages[0].sender

    @property
    def key(self) -> str:
        """Their numbers."""
        return " ".join(message.id for message in self.messages)

    def as_mail(self) -> str:
        """Headers and text of each. If there is more than one, their number stands first."""
        parts = [f"Messages-Waiting: {len(self.messages)}\n"] if len(self.messages) > 1 else []
        return "\n".join(parts + [_shown(message) for message in self.messages])

    def as_text(self) -> str:
        """The texts alone."""
        return "\n".join(message.text for message in self.messages)


SHOWN = ("From", "Subject", "Type", "Priority", "Reply-By", "Message-ID", "In-Reply-To")


def _shown(message: Message) -> str:
    lines = [f"{name}: {text}" for name in SHOWN if (text := message.get(name))]
    if message.attempt > 1:
        lines.append(f"Delivery-Attempt: {message.attempt}")
    text = message.text
    return "\n".join([*lines, "", text if text.endswith("\n") else f"{text}\n"])


class Errands:
    """The turns of an agent. `work(letters)` returns the answer, or raises TurnFailedError."""

    def __init__(
        self, agent: Agent, work: Callable[[Letters], str], *, interrupts: bool = False
    ) -> None:
        self._agent = agent
        self._work = work
        self._interrupts = interrupts  # a signal ends `work`, which does not look at `wake`
        self._working = False
        self._journal = TurnJournal(f"{agent.home}/memory/.agentfs/turns.json")
        self._turns = f"{agent.tree}/proc/self/turns"
        self._failures = 0
        self.stopping = False
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """It can be read as soon as this program is to end."""

    @property
    def journal(self) -> TurnJournal:
        return self._journal

    def serve(self) -> None:
        """Until TERM or INT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self.stopping:
            try:
                self._turn()
            except StoppedError:
                return
            except OSError as failure:
                if not self._agent._is_away(failure):
                    raise
                note(f"the tree is away ({failure.strerror}); trying again")
                self._rest(AWAY_PAUSE)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        os.eventfd_write(self.wake, 1)
        if self._interrupts and self._working:
            raise StoppedError

    def _rest(self, seconds: float) -> None:
        select.select([self.wake], [], [], seconds)

    # -- one turn ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        claimed = self._claim()
        settled = False
        try:
            words = self._answered(claimed)
            settled = True
            for each in claimed:
                each.settle(words)
            if words == "done":
                self._journal.forget(each.message.id for each in claimed)
        finally:
            for each in claimed:
                if each.file >= 0:
                    if not settled:
                        with contextlib.suppress(OSError):
                            each.settle("back")
                    else:
                        os.close(each.file)
        if words.startswith("failed"):
            self._failures += 1
            self._rest(min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE))
        else:
            self._failures = 0

    def _answered(self, claimed: list[_Claimed]) -> str:
        """Work on them and send the answer; what is to be said of them."""
        letters = Letters(
            [each.message for each in claimed],
            max(each.message.attempt for each in claimed),
        )
        self._mark(f"begin {letters.key}")
        try:
            self._work_on(letters)
        except TurnFailedError as failed:
            reason = " ".join(str(failed).split())[:500]
            note(f"the turn on {letters.key} failed: {reason}")
            self._mark(f"end failed {reason}")
            return f"failed {reason}"
        except StoppedError:
            self._mark("end failed it was stopped")
            raise
        self._mark("end ok")
        return "done"

    def _mark(self, line: str) -> None:
        """Tell the kernel of the turn. If it knows of another one, that was cut by a crash. It may
        be over already, and a message of it may have expired."""
        for told in (line, "end failed it was cut", line):
            try:
                write_line(self._turns, told)
            except OSError as failure:
                if failure.errno == errno.EBUSY:
                    continue
                if failure.errno not in (errno.ENOENT, errno.ESRCH):
                    raise
            if told is line:
                return

    def _work_on(self, letters: Letters) -> None:
        known = self._journal.answer(letters.messages[0].id)
        if known is not None:  # it was worked on before, alone or with others
            for message in letters.messages:
                if known and not self._was_answered(message):
                    self._reply(message, known)
            return
        self._working = True
        try:
            answer = self._work(letters)
        finally:
            self._working = False
        to_answer = self._to_answer(letters)
        self._journal.keep(
            {each.id: answer if each in to_answer else "" for each in letters.messages}
        )
        for message in to_answer:
            self._reply(message, answer)

    def _reply(self, message: Message, answer: str) -> None:
        try:
            self._agent.reply(message, _fitting(answer), auto_submitted="auto-replied")
        except FileNotFoundError:
            note(f"{message.sender} is no more: the answer to {message.id} goes to nobody")
        except OSError as failure:
            if self._agent._is_away(failure):
                raise
            raise TurnFailedError(f"the answer cannot be sent: {self._why(failure)}") from None

    def _to_answer(self, letters: Letters) -> list[Message]:
        """Each question, and of the rest the newest that a program has not sent by itself."""
        questions = [each for each in letters.messages if each.get("Reply-By")]
        others = [
            each for each in letters.messages if not each.automatic and not each.get("Reply-By")
        ]
        return questions + others[-1:]

    def _was_answered(self, message: Message) -> bool:
        """Whether a message that was sent after it is the reply to it."""
        folder = f"{self._agent.home}/sent"
        for name in sorted(os.listdir(folder), reverse=True):
            if name <= message.id:
                return False
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", "rb") as file:
                head = file.read(PIECE).partition(b"\n\n")[0].decode("utf-8", "replace")
                if any(
                    line.startswith("In-Reply-To:") and message.id in line
                    for line in head.splitlines()
                ):
                    return True
        return False

    def _why(self, failure: OSError) -> str:
        try:
            return self._agent.why().strip() or str(failure.strerror)
        except OSError:
            return str(failure.strerror)

    # -- claiming ----------------------------------------------------------------------------------

    def _claim(self) -> list[_Claimed]:
        """The next message, as soon as there is one, and those of the same sender that wait behind
        it. Raises StoppedError."""
        first = self._next(wait=True)
        assert first is not None
        claimed, size = [first], len(first.message.body)
        try:
            while claimed[-1].message.waiting and len(claimed) < MOST:
                if self._journal.answer(first.message.id) is not None or size > MOST_BYTES:
                    break
                if not self._goes_with(first.message):
                    break
                another = self._next(wait=False)
                if another is None:
                    break
                if another.message.sender != first.message.sender:
                    another.settle("back")
                    break
                claimed.append(another)
                size += len(another.message.body)
        except BaseException:
            for each in claimed:
                with contextlib.suppress(OSError):
                    each.settle("back")
            raise
        return claimed

    def _goes_with(self, first: Message) -> bool:
        """Whether the message that is next is from the same sender, as far as a look tells, and
        was not worked on before."""
        folder = f"{self._agent.home}/inbox/new"
        for name in sorted(os.listdir(folder)):
            with contextlib.suppress(FileNotFoundError), open(f"{folder}/{name}", "rb") as file:
                there = Message(file.read(PIECE))
                return there.sender == first.sender and self._journal.answer(there.id) is None
        return False

    def _next(self, *, wait: bool) -> _Claimed | None:
        if self.stopping:
            raise StoppedError
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_DIRECT | os.O_CLOEXEC
        file = os.open(f"{self._agent.home}/recv", flags)
        try:
            while True:
                try:
                    content = b""
                    while len(piece := os.read(file, PIECE)) == PIECE:
                        content += piece
                    return _Claimed(file, Message(content + piece))
                except BlockingIOError:
                    if not wait:
                        os.close(file)
                        return None
                poller = select.poll()
                poller.register(file, select.POLLIN)
                poller.register(self.wake, select.POLLIN)
                poller.poll()
                if self.stopping:
                    raise StoppedError
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise


def write_line(path: str, line: str) -> None:
    """Write one line to a file of the tree, in one write(2). Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, line.encode("utf-8", "replace"))
    finally:
        os.close(file)


def _fitting(answer: str) -> str:
    data = answer.encode("utf-8", "replace")
    if len(data) <= MOST_ANSWER:
        return answer
    cut = data[:MOST_ANSWER].decode("utf-8", "ignore")
    return f"{cut}\n[the answer has {len(data)} bytes; the rest of it is left out]\n"


class TurnJournal:
    """The answers of the last turns, by the numbers of their messages, and what else is to be
    known in the next one: a file in the memory of the agent, which is on the disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._now: dict[str, Any] | None = None

    @property
    def _kept(self) -> dict[str, Any]:
        if self._now is None:
            self._now = {"answers": {}} | self._stored()
        return self._now

    def _stored(self) -> dict[str, Any]:
        """What the file has; nothing if it is not there, or the power went off meanwhile."""
        try:
            with open(self._path, encoding="utf-8") as file:
                found = json.load(file)
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) and "answers" in found else {}

    def answer(self, message: str) -> str | None:
        """The answer to a message; empty if it gets none, None if it was not worked on."""
        return self._kept["answers"].get(message)  # type: ignore[no-any-return]

    def keep(self, answered: dict[str, str]) -> None:
        """They were worked on, and are not acknowledged yet."""
        answers = self._kept["answers"]
        answers |= answered
        while len(answers) > KEPT:
            del answers[next(iter(answers))]
        self._write()

    def forget(self, messages: Iterable[str]) -> None:
        """They are acknowledged; the file says so with the next answer."""
        for message in messages:
            self._kept["answers"].pop(message, None)

    def get(self, name: str) -> Any:
        """Something else that was kept."""
        return self._kept.get(name)

    def set(self, name: str, value: object) -> None:
        """Keep it; it is written with the next answer."""
        self._kept[name] = value

    def _write(self) -> None:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        beside = f"{self._path}.new"
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(self._kept, file, ensure_ascii=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
