"""What may stand behind a port: a program, a tool, a model, a service on the network, an agent, a
queue. Each takes a text and gives one, for whoever asks."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import trio

from agentfs.asks.asks import Asks
from agentfs.base.errors import KernelError
from agentfs.chats.asking import Asking
from agentfs.chats.model_request import Said, of_text
from agentfs.executors.replying import read_reply
from agentfs.executors.spec import duration
from agentfs.executors.starters import of_run
from agentfs.machine.sidecar import Sidecar
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Message
from agentfs.mail.notices import KERNEL
from agentfs.mail.settings import MessageSettings
from agentfs.model.principal import Kind, Principal
from agentfs.model.process import Process
from agentfs.shared.queues import Queues
from agentfs.store.ground import Ground
from agentfs.tooling.commands import Commands
from agentfs.tooling.sidecars import Sidecars
from agentfs.tooling.toolbox_process import READS
from agentfs.tooling.tooling import Tooling

__all__ = [
    "Adapter",
    "Behind",
    "MailBehind",
    "ModelBehind",
    "ProgramBehind",
    "ServiceBehind",
    "ToolBehind",
    "to_agent",
    "to_queue",
]

MOST = 16 * 1024 * 1024
"""Bytes of an answer."""

HTTP = (sys.executable, "-I", "-m", "agentfs.toolbox.http")
"""The program that makes one request over HTTP."""

Adapter = Mapping[str, Any]
"""As `manifests.documents.read_adapter` gives it."""


class Behind(Protocol):
    """One kind of it."""

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        """The answer to `request`, for `process`. Raises KernelError."""


class ProgramBehind:
    """A program beside that of who asks: the request is its input, what it writes the answer. The
    adapter's `config` is JSON in its variable CONFIG."""

    def __init__(self, sidecars: Sidecars) -> None:
        self._commands = Commands(sidecars)

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        env = {"CONFIG": json.dumps(adapter.get("config") or {})}
        return await self.run(process, Sidecar(exec=tuple(adapter["program"]), env=env), request)

    async def run(self, process: Process, sidecar: Sidecar, given: bytes) -> bytes:
        """What the program writes. Raises EREMOTEIO with its words, and EFBIG."""
        found = bytearray()

        async def keep(piece: bytes) -> None:
            found.extend(piece)
            if len(found) > MOST:
                raise KernelError(errno.EFBIG, f"the answer has more than {MOST:,} bytes")

        await self._commands.run(process, sidecar, given, keep)
        return bytes(found)


class ServiceBehind:
    """A service on the network, asked by a program beside that of who asks, and so by nobody who
    may not use the network. The request is the body of a POST, `config` may name another `method`
    and a `timeout`."""

    def __init__(self, programs: ProgramBehind) -> None:
        self._programs = programs

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        config = adapter.get("config") or {}
        asked = {
            "url": adapter["url"],
            "method": config.get("method", "POST"),
            "headers": adapter.get("headers") or {},
            "timeout": config.get("timeout"),
            "body": request.decode("utf-8", "replace"),
        }
        response = await self.fetch(process, asked)
        body = response["body"]
        return (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()

    async def fetch(self, process: Process, asked: dict[str, Any]) -> dict[str, Any]:
        """The response to a request, as `agentfs.toolbox.http` describes both. Raises EINVAL for
        one that is refused, EREMOTEIO for one that may be answered another time."""
        sidecar = Sidecar(exec=HTTP, reads=READS)
        given = json.dumps(asked).encode()
        response: dict[str, Any] = json.loads(await self._programs.run(process, sidecar, given))
        status = response["status"]
        if status >= 400:
            passing = status >= 500 or status in PASSING
            body = response["body"]
            words = body if isinstance(body, str) else json.dumps(body)
            raise KernelError(
                errno.EREMOTEIO if passing else errno.EINVAL,
                f"{asked['url']} answered {status}: {words[:500]}",
            )
        return response


PASSING = frozenset({408, 425, 429})
"""Refusals of a server, below 500, that may be none a moment later."""


class ToolBehind:
    """A tool of /lib/tools: the request are its arguments."""

    def __init__(self, tooling: Tooling) -> None:
        self._tooling = tooling

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        name, who = str(adapter["tool"]), of_run(process)
        return await read_reply(lambda reply: self._tooling.call(who, name, request, reply), MOST)


class ModelBehind:
    """A model: the request is a prompt. `config` may have a `system_message` and `max_output`."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        config = adapter.get("config") or {}
        said = [Said("user", request.decode("utf-8", "replace"))]
        system = str(config.get("system_message") or "")
        asked = of_text(str(adapter["model"]), system, said, config.get("max_output"))
        return await read_reply(lambda reply: self._asking.begin(process.pid, asked, reply), MOST)


Put = Callable[[Principal, Adapter, Draft], Message]
"""Sends a question to whoever stands behind an adapter."""


class MailBehind:
    """A question by mail, in the name of the agent that asks: its reply is the answer. `config` may
    have a `patience`."""

    def __init__(self, ground: Ground, mail: Mail, asks: Asks, put: Put) -> None:
        self._clock, self._settings = ground.clock, ground.settings
        self._mail = mail
        self._asks = asks
        self._put = put

    async def ask(self, process: Process, adapter: Adapter, request: bytes) -> bytes:
        usual = self._settings.of(MessageSettings).reply_timeout
        patience = duration(adapter.get("config") or {}, "patience", usual)
        who = Principal(Kind.AGENT, process.pid, process.agent, process.uid, process.gid)
        headers = [("Type", "port-request"), ("Port", str(adapter["adapter"]))]
        draft = Draft("", request, headers)
        draft.reply_by, draft.answer_apart = self._clock.now() + patience, True
        self._asks.check_room(who.name)
        ask = self._asks.get(who.name, self._put(who, adapter, draft).seq)
        ended = trio.Event()
        forget = self._asks.on_end(ask, ended.set)
        try:
            if ask.open:
                await ended.wait()
        finally:
            forget()
            if ask.open:
                self._asks.cancel(KERNEL, who.name, ask.id)
        ask.check()
        return self._asks.answer(ask).partition(b"\n\n")[2]


def to_agent(mail: Mail) -> Put:
    """Questions for an agent."""

    def put(who: Principal, adapter: Adapter, draft: Draft) -> Message:
        return mail.send(who, who.name, replace(draft, to=str(adapter["agent"])))

    return put


def to_queue(queues: Queues) -> Put:
    """Questions for whoever takes them from a queue first."""

    def put(who: Principal, adapter: Adapter, draft: Draft) -> Message:
        queue = queues.get(str(adapter["queue"]))
        return queues.send(who, queue, replace(draft, to=queue.mailbox))

    return put
