"""What the gateway asks of the kernel: a request is a packet with a number, and its answer has the
same number.

It asks for the process that `who` has told it of. A request that is refused, is wrong, or fails
here for a reason that nobody has thought of, has an answer that says so: the daemon goes on.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable
from typing import Any

import trio

from agentfs.base.errors import KernelError
from agentfs.machine.programs import Programs
from agentfs.model.process import OnLimit, Process
from agentfs.models.callers import Callers
from agentfs.models.line import GatewayLine, Packet
from agentfs.process.identity import Identity
from agentfs.process.table import ProcessTable
from agentfs.quota.meter import LimitError
from agentfs.quota.relay import Used, Wanted
from agentfs.quota.relayed import Relayed

__all__ = ["Answers"]

log = logging.getLogger("agentfs.gateway")

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "error": logging.ERROR}
LOGGED_MOST = 2000

ASKING_MOST = 1000
"""Connections whose caller is looked for at the same time. More are refused: EAGAIN."""


class Answers:
    """Answers one gateway after another. `ready` is set when the present one is."""

    def __init__(
        self, table: ProcessTable, identity: Identity, programs: Programs, relayed: Relayed
    ) -> None:
        self._table = table
        self._callers = Callers(table, identity, programs)
        self._relayed = relayed
        self._asking = 0
        self._answers: dict[str, Callable[[Packet], Packet | None]] = {
            "begin": self._begin,
            "grow": self._grow,
            "settle": self._settle,
            "drop": self._drop,
            "models": self._models,
        }
        self._news: dict[str, Callable[[Packet], object]] = {
            "ready": lambda packet: self.ready.set(),
            "progress": self._progress,
            "log": self._log,
        }
        self._channel: GatewayLine | None = None
        self._nursery: trio.Nursery | None = None
        self._cleaned: Callable[[str], str] = str
        self.ready = trio.Event()

    @property
    def in_flight(self) -> int:
        """How many calls it has begun and not settled."""
        return sum(1 for _ in self._relayed)

    def begin(
        self, channel: GatewayLine, nursery: trio.Nursery, cleaned: Callable[[str], str]
    ) -> None:
        """Answer a gateway that has just been started, on its channel. Callers are looked for in
        the nursery; what it wants to have logged is `cleaned`."""
        self._channel, self._nursery, self._cleaned = channel, nursery, cleaned
        self._asking = 0
        self.ready = trio.Event()

    def end(self) -> int:
        """There is none: settle what it had begun. How many calls there were."""
        self._channel = self._nursery = None
        return self._relayed.charge_lost()

    def take(self, packet: Packet, descriptors: list[int]) -> None:
        """Deal with one of its packets. The descriptors are ours."""
        what = packet.get("do")
        if what == "who" and len(descriptors) <= 1:
            self._look(packet, descriptors[0] if descriptors else -1)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        news = self._news.get(str(what))
        if news is not None:
            self._guarded(news, packet)
            return
        answer = self._answers.get(str(what))
        self._reply(packet, self._guarded(answer or _unknown, packet))

    def _guarded(self, make: Callable[[Packet], Any], packet: Packet) -> Packet:
        """What `make` answers, or why it does not."""
        try:
            return make(packet) or {}
        except KernelError as refusal:
            return self._refused(refusal, packet)
        except (KeyError, TypeError, ValueError) as wrong:
            log.error("a wrong request of the gateway, %s: %r", packet.get("do"), wrong)
            return _refusal(errno.EINVAL, "a wrong request of the gateway")
        except Exception:
            log.exception("a request of the gateway has failed: %s", packet.get("do"))
            return _refusal(errno.EIO, "the kernel has failed; its log says how")

    def _reply(self, packet: Packet, answer: Packet) -> None:
        if self._channel is not None and "n" in packet:
            self._channel.send({"n": packet["n"], **answer})

    # -- who -------------------------------------------------------------------------------------

    def _look(self, packet: Packet, pidfd: int) -> None:
        assert self._nursery is not None
        if self._asking >= ASKING_MOST:
            if pidfd >= 0:
                os.close(pidfd)
            self._reply(packet, _refusal(errno.EAGAIN, "too many callers are looked for"))
            return
        self._asking += 1
        self._nursery.start_soon(self._who, packet, pidfd)

    async def _who(self, packet: Packet, pidfd: int) -> None:
        try:
            process = await self._callers.who(packet, pidfd)
            answer = {"pid": process.pid, "agent": process.name}
        except KernelError as refusal:
            answer = self._refused(refusal, {})
        except Exception:
            log.exception("a caller of the gateway cannot be told")
            answer = _refusal(errno.EIO, "the kernel has failed; its log says how")
        finally:
            self._asking -= 1
            if pidfd >= 0:
                os.close(pidfd)
        self._reply(packet, answer)

    # -- calls -----------------------------------------------------------------------------------

    def _process(self, packet: Packet) -> Process:
        """Raises ESRCH."""
        return self._table.get(int(packet["pid"]))

    def _begin(self, packet: Packet) -> Packet:
        output = packet["output"]
        wanted = Wanted(
            model=str(packet["model"]),
            input=max(0, int(packet["input"])),
            output=None if output is None else max(0, int(output)),
            stream=bool(packet["stream"]),
            via=str(packet["via"]),
            dialect=str(packet["dialect"]),
            instead_of=str(packet.get("instead_of") or ""),
        )
        begun = self._relayed.begin(self._process(packet), wanted)
        return {
            "call": begun.id,
            "model": begun.model,
            "provider": begun.provider,
            "output": begun.output,
            "room": begun.room,
        }

    def _grow(self, packet: Packet) -> Packet:
        return {"output": self._relayed.grow(int(packet["call"]), int(packet["output"]))}

    def _progress(self, packet: Packet) -> None:
        self._relayed.progress(
            int(packet["call"]),
            int(packet["output"]),
            bool(packet.get("first_byte")),
            str(packet.get("provider") or ""),
        )

    def _settle(self, packet: Packet) -> None:
        usage = packet.get("usage")
        self._relayed.settle(
            int(packet["call"]),
            None if usage is None else _used(usage),
            bool(packet.get("estimated")),
            str(packet.get("error") or ""),
            str(packet.get("provider") or ""),
        )

    def _drop(self, packet: Packet) -> None:
        self._relayed.drop(int(packet["call"]))

    def _models(self, packet: Packet) -> Packet:
        offered = self._relayed.offered(self._process(packet))
        return {
            "models": [
                {
                    "name": model.name,
                    "id": model.id,
                    "speaks": [] if model.provider is None else list(model.provider.speaks),
                    "context": model.context,
                }
                for model in offered
            ]
        }

    def _log(self, packet: Packet) -> None:
        level = LEVELS.get(str(packet.get("level")), logging.WARNING)
        log.log(level, "%s", self._cleaned(str(packet["words"])[:LOGGED_MOST]))

    def _refused(self, refusal: KernelError, packet: Packet) -> Packet:
        """`stop`: the caller is about to be ended for it, so no answer will have it try again."""
        process = self._table.find(int(packet.get("pid") or 0))
        return _refusal(
            refusal.errno,
            refusal.reason,
            refusal.rule,
            refusal.retry_after,
            stop=isinstance(refusal, LimitError)
            and process is not None
            and process.on_limit is OnLimit.STOP,
        )


def _used(usage: dict[str, Any]) -> Used:
    return Used(
        int(usage["input"]),
        int(usage["output"]),
        int(usage.get("cache_read") or 0),
        int(usage.get("cache_write") or 0),
    )


def _unknown(packet: Packet) -> Packet:
    raise ValueError(f"there is no {packet.get('do')}")


def _refusal(
    number: int,
    words: str,
    rule: str = "gateway",
    retry_after: float | None = None,
    *,
    stop: bool = False,
) -> Packet:
    return {
        "refused": {
            "errno": errno.errorcode.get(number, str(number)),
            "rule": rule,
            "words": words,
            "retry_after": None if retry_after is None else math.ceil(retry_after),
            "stop": stop,
        }
    }
