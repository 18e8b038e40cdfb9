"""Providers without a server: recorded answers, and written ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from agentfs.dialects.messages import COUNT_TOKENS, counted
from agentfs.dialects.refusal import refusal
from agentfs.dialects.scripted import Script
from agentfs.dialects.tape import Tape, read_tape
from agentfs.gateway.source import Deadline, FailedError, Headers, Outgoing

__all__ = ["PlayedReply", "ScriptSource", "TapeSource", "find_tape"]

SHIPPED = Path(__file__).with_name("tapes")
"""Tapes of the release. Those of the state win."""

BYTES_A_TOKEN = 4.0


def find_tape(folder: str, name: str) -> str | None:
    """The path of a tape; None if there is none of that name."""
    places = (f"{folder}/{name}.jsonl", f"{SHIPPED}/{name}.jsonl")
    return next((path for path in places if os.path.isfile(path)), None)


class PlayedReply:
    """An answer that is there already. It takes the time that it took."""

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        chunks: Sequence[tuple[float, bytes]],
    ) -> None:
        self.status = status
        self.headers: Headers = [(name.encode(), value.encode()) for name, value in headers]
        self._chunks = iter(chunks)

    async def read(self) -> bytes:
        for pause, data in self._chunks:
            await trio.sleep(pause)
            if data:
                return data
        return b""

    def complete(self) -> None:
        """Nothing is kept for another one."""

    def close(self) -> None:
        """Nothing is at work."""


def _counted(request: Outgoing) -> PlayedReply | None:
    """The answer to a question for the number of tokens, which is on no tape."""
    if request.request.dialect is not COUNT_TOKENS:
        return None
    body = counted(request.request.estimate(BYTES_A_TOKEN))
    return PlayedReply(200, [("content-type", "application/json")], [(0.0, body)])


class TapeSource:
    """Recorded answers, each to its request. The tape is read again when it has changed."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = folder, name
        self._tape = Tape(())
        self._read: tuple[str, int, int] | None = None

    async def send(self, request: Outgoing, deadline: Deadline) -> PlayedReply:
        await trio.lowlevel.checkpoint()
        tape = self._loaded()
        record = tape.find(request.request)
        if record is not None:
            shown = [*record.headers, ("x-agentfs-tape", self._name)]
            return PlayedReply(record.status, shown, record.chunks)
        return _counted(request) or _missing(request, tape.missing(request.request))

    def _loaded(self) -> Tape:
        path = find_tape(self._folder, self._name)
        if path is None:
            raise FailedError(f"there is no tape {self._name}", "ENOENT", again=False)
        found = os.stat(path)
        state = path, found.st_mtime_ns, found.st_size
        if state != self._read:
            try:
                with open(path, "rb") as file:
                    self._tape = Tape(read_tape(file.read()))
            except (OSError, ValueError) as fault:
                raise FailedError(f"tape {self._name}: {fault}", again=False) from None
            self._read = state
        return self._tape

    async def aclose(self) -> None:
        """Nothing is open."""


class ScriptSource:
    """Written answers, from the text of a file."""

    def __init__(self, file: str, text: str) -> None:
        import yaml  # 2 MB, which most gateways do without

        self._script: Script | None = None
        self._fault = ""
        try:
            self._script = Script(yaml.safe_load(text))
        except (ValueError, yaml.YAMLError) as fault:
            self._fault = f"{file}: {' '.join(str(fault).split())}"

    async def send(self, request: Outgoing, deadline: Deadline) -> PlayedReply:
        await trio.lowlevel.checkpoint()
        if self._script is None:
            raise FailedError(self._fault, again=False)
        played = _counted(request)
        if played is not None:
            return played
        # The maximum is the one that is sent on, and not that of the caller.
        reply = self._script.reply(request.request.dialect.parse(request.body))
        return PlayedReply(reply.status, reply.headers, reply.chunks)

    async def aclose(self) -> None:
        """Nothing is open."""


def _missing(request: Outgoing, words: str) -> PlayedReply:
    said = refusal(request.request.dialect.name, "ENOENT", "tape", words)
    return PlayedReply(said.status, said.headers, [(0.0, said.body)])
