"""A conversation with a model on one open file: prompts that are written, and answers to read.

The model is told all of it with each prompt. The part of an answer that its reader may have seen
belongs to it, also if the rest was given up or has failed; a prompt to which nothing was answered
does not.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from agentfs.base.errors import KernelError
from agentfs.chats.asking import Asking
from agentfs.chats.model_request import Said, of_dialect, of_text
from agentfs.quota.shares import Charge
from agentfs.vfs.exchange import Answerer, PendingReply
from agentfs.vfs.handles import as_text

__all__ = ["Conversation", "Fleeting", "Speaker", "Talk"]


class Speaker(Protocol):
    """The process that asks: `pid` pays, and waits."""

    pid: int

    def limit(self) -> int:
        """Bytes that a request may have."""

    def longest(self) -> int:
        """Bytes that a conversation may have."""

    def waits(self, model: str) -> Callable[[], object]:
        """A read begins to wait for `model`; what is returned ends that."""


class Talk(Protocol):
    """All that was said so far, and the model that is asked."""

    @property
    def model(self) -> str:
        """The name of the model that is asked."""

    @property
    def system(self) -> str:
        """Words that the model is told before everything else; empty if none."""

    def said(self) -> list[Said]:
        """All that was said, the oldest first."""

    def begin(self, prompt: str) -> None:
        """Something is about to be asked. Raises EMSGSIZE if it has no room, EBUSY if something is
        being asked already."""

    def room(self, size: int) -> int:
        """How many bytes are kept of an answer that has `size`, to the prompt that was begun."""

    def end(self, answer: str, *, whole: bool) -> None:
        """That was the answer. Without a word in it nothing was asked."""

    def drop(self) -> None:
        """Nobody has it open any more."""


class Conversation(Answerer):
    """`speaker` asks the model of `talk`."""

    def __init__(self, asking: Asking, speaker: Speaker, talk: Talk) -> None:
        self._asking = asking
        self._speaker = speaker
        self._talk = talk

    def limit(self) -> int:
        return self._speaker.limit()

    def ask(self, request: bytes, reply: PendingReply) -> None:
        talk, pid = self._talk, self._speaker.pid
        if not talk.model:
            raise KernelError(errno.ENOENT, "there is no model that you may ask", rule="model")
        if request.startswith(b"{"):
            self._asking.begin(pid, of_dialect(talk.model, request), reply)
            return
        if len(request) > self._speaker.longest() + 1:
            raise KernelError(
                errno.EMSGSIZE,
                f"a prompt of {len(request):,} bytes is more than a conversation may have,"
                f" {self._speaker.longest():,}",
                rule="chats.max_conversation",
            )
        prompt = as_text(request).removesuffix("\n")
        if not prompt.strip():
            raise KernelError(errno.EINVAL, "the prompt is empty")
        talk.begin(prompt)
        try:
            said = [*talk.said(), Said("user", prompt)]
            asked = of_text(talk.model, talk.system, said)
            self._asking.begin(pid, asked, reply, _Turn(talk))
        except BaseException:
            talk.end("", whole=False)
            raise

    def waits(self) -> Callable[[], object]:
        return self._speaker.waits(self._talk.model)

    def close(self) -> None:
        self._talk.drop()


class _Turn:
    """An answer on its way into a talk."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._content = bytearray()
        self._cut = False

    def heard(self, content: bytes) -> None:
        if self._cut:
            return
        before, size = len(self._content), len(self._content) + len(content)
        room = max(before, self._talk.room(size))
        self._content += content[: room - before]
        self._cut = room < size

    def over(self, *, whole: bool) -> None:
        answer = self._content.decode("utf-8", "replace")
        self._talk.end(answer, whole=whole and not self._cut)


class Fleeting:
    """A talk that ends with the open file. Its bytes count for whoever opened that, and are at
    most `most()`."""

    system = ""

    def __init__(self, model: str, charge: Charge, most: Callable[[], int]) -> None:
        self.model = model
        self._charge = charge
        self._most = most
        self._said: list[Said] = []
        self._size = 0
        self._prompt = ""

    def said(self) -> list[Said]:
        return list(self._said)

    def begin(self, prompt: str) -> None:
        size, most = self._size + len(prompt.encode()), self._most()
        if size > most:
            raise KernelError(
                errno.EMSGSIZE,
                f"this conversation would have {size:,} bytes, and may have {most:,}: begin another"
                " (open the file again)",
                rule="chats.max_conversation",
            )
        self._charge.resize(size)
        self._prompt = prompt

    def room(self, size: int) -> int:
        before = self._size + len(self._prompt.encode())
        size = min(size, self._most() - before)
        try:
            self._charge.resize(before + size)
        except KernelError:
            return 0
        return size

    def end(self, answer: str, *, whole: bool) -> None:
        if answer:
            self._said += (Said("user", self._prompt), Said("assistant", answer))
            self._size += len(self._prompt.encode()) + len(answer.encode())
        self._prompt = ""
        if self._charge.amount > self._size:
            self._charge.resize(self._size)

    def drop(self) -> None:
        self._said.clear()
        self._charge.release()
