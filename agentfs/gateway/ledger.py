"""The daemon's books, as the gateway asks for them: who calls, and what a call may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from agentfs.dialects.dialect import Request
from agentfs.dialects.usage import TokenUsage
from agentfs.gateway.channel import ChannelClosedError, DaemonChannel, Packet
from agentfs.gateway.peers import Peer

__all__ = ["CallingProcess", "Grant", "Ledger", "RefusedError"]


@dataclass(frozen=True, slots=True)
class CallingProcess:
    """The process that calls, and the way on which it came."""

    pid: int
    via: str


class RefusedError(Exception):
    """The daemon says no: the name of an errno, the rule that decided, words for the caller, and in
    how many seconds it may say yes."""

    def __init__(
        self, errno: str, words: str, rule: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(words)
        self.errno, self.words, self.rule, self.retry_after = errno, words, rule, retry_after


@dataclass(frozen=True, slots=True)
class Grant:
    """A call that has begun. `output` tokens are held for its answer; the provider may be asked for
    `room` at most. `input` is the estimate that is held beside them."""

    call: int
    model: str
    provider: str
    output: int
    room: int
    input: int


class Ledger:
    """Each question raises RefusedError; ChannelClosedError when there is no daemon any more."""

    def __init__(self, channel: DaemonChannel) -> None:
        self._channel = channel

    async def who(self, peer: Peer) -> int:
        """The pid of the process that is at the other end of a connection. Closes the peer's
        descriptor."""
        descriptors = [] if peer.pidfd < 0 else [peer.pidfd]
        try:
            reply = await self._ask({"do": "who"} | peer.packet, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return int(reply["pid"])

    async def begin(
        self,
        caller: CallingProcess,
        request: Request,
        model: str,
        estimate: int,
        *,
        whole: bool,
        instead_of: str,
    ) -> Grant:
        """Hold what a call may use. `whole`: all of its output, and not only the first part of a
        stream. A begin whose caller is cancelled is dropped."""
        packet = {
            "do": "begin",
            "pid": caller.pid,
            "model": model,
            "dialect": request.dialect.name,
            "input": estimate,
            "output": request.output,
            "stream": request.stream and not whole,
            "via": caller.via,
            "instead_of": instead_of or None,
        }
        reply = await self._ask(packet, (), self._dropped)
        return Grant(
            reply["call"],
            reply["model"],
            reply["provider"],
            reply["output"],
            reply["room"],
            estimate,
        )

    def _dropped(self, reply: Packet) -> None:
        """A call has begun after its caller went."""
        if "call" in reply:
            self._channel.tell({"do": "drop", "n": 0, "call": reply["call"]})

    async def grow(self, call: int, output: int) -> int:
        """Hold so many tokens of output in all; how many are held now, which may be fewer."""
        reply = await self._ask({"do": "grow", "call": call, "output": output})
        return int(reply["output"])

    def progress(self, call: int, output: int, provider: str) -> None:
        """So much was relayed: it is charged if nobody settles any more."""
        packet = {"do": "progress", "call": call, "output": output, "first_byte": True}
        self._channel.tell(packet | {"provider": provider})

    async def settle(
        self,
        call: int,
        usage: TokenUsage,
        provider: str,
        *,
        estimated: bool = False,
        error: str = "",
    ) -> None:
        """The call is over, and has used this. Not interrupted by a cancellation."""
        used = {
            "input": usage.input,
            "output": usage.output,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
        }
        packet = {"do": "settle", "call": call, "usage": used, "estimated": estimated}
        await self._close(packet | {"error": error or None, "provider": provider})

    async def drop(self, call: int) -> None:
        """The call was not made. Not interrupted by a cancellation."""
        await self._close({"do": "drop", "call": call})

    async def _close(self, packet: Packet) -> None:
        # Closed already: its process has ended, and the daemon has charged it.
        with trio.CancelScope(shield=True), suppress(RefusedError, ChannelClosedError):
            await self._ask(packet)

    async def models(self, pid: int) -> list[dict[str, Any]]:
        """The models that a process may call now: name, id, speaks, context."""
        models: list[dict[str, Any]] = (await self._ask({"do": "models", "pid": pid}))["models"]
        return models

    def log(self, words: str, level: str = "warning") -> None:
        """A line of the daemon's log. There must be no key in it."""
        self._channel.tell({"do": "log", "level": level, "words": words[:2_000]})

    async def _ask(
        self,
        packet: Packet,
        descriptors: Sequence[int] = (),
        late: Callable[[Packet], None] | None = None,
    ) -> Packet:
        reply = await self._channel.ask(packet, descriptors, late)
        refused = reply.get("refused")
        if refused is not None:
            raise RefusedError(
                refused["errno"],
                refused["words"],
                refused.get("rule") or "",
                refused.get("retry_after"),
            )
        return reply
