"""The daemon's side of the gateway's channel, for tests of the gateway alone: the process is the
real one, and so is the channel; the books are a budget of tokens and a list of what was settled."""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Desk", "Settled"]

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that is over. `usage` None: it was dropped."""

    call: int
    pid: int
    model: str
    usage: dict[str, int] | None
    estimated: bool = False
    error: str = ""

    @property
    def output(self) -> int:
        assert self.usage is not None
        return self.usage["output"]


class Desk:
    """From `with` until the end of the block the gateway runs, for one test after the other, which
    each call `begin`. Everybody is process 7, agent scout, unless `strangers`: nobody is."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._open: dict[int, dict[str, Any]] = {}
        self._configuration: dict[str, Any] = {}

    def begin(
        self,
        providers: dict[str, dict[str, Any]],
        models: dict[str, dict[str, Any]],
        tapes: str = "/nonexistent",
        budget: int | None = None,
    ) -> None:
        """A test begins: with these, and nothing of the one before."""
        self.wait(lambda desk: not desk._open)
        self.budget = budget
        self.strangers = False
        self.settled: list[Settled] = []
        self.begun: list[dict[str, Any]] = []
        self.logged: list[str] = []
        self.who: list[dict[str, Any]] = []
        self.refuse: dict[str, dict[str, Any]] = {}
        """Refusals of calls, by model."""
        self.most_held = 0
        self._configuration = {"tapes": tapes}
        self.configure(providers, models)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def __enter__(self) -> Desk:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = theirs.fileno()
        command = [sys.executable, "-P", "-m", "agentfs.gateway", str(number), str(os.getpid())]
        self.process = subprocess.Popen([*command, "-1", "-1"], pass_fds=[number])
        theirs.close()
        self._reader = threading.Thread(target=self._serve)
        self._reader.start()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._tell({"do": "serve", "what": "tcp"}, self._listener.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._reader.join(PATIENCE)
        self._channel.close()
        self._listener.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    # -- what tests do -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.getsockname()

    def configure(
        self,
        providers: dict[str, dict[str, Any]] | None = None,
        models: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Tell of providers and models; those that were told before, unless others are given."""
        said = self._configuration
        said |= {"providers": providers} if providers is not None else {}
        said |= {"models": models} if models is not None else {}
        packet = json.dumps({"do": "configure"} | said).encode()
        if len(packet) <= 1 << 16:
            self._channel.send(packet)
            return
        file = os.memfd_create("catalogue")
        try:
            os.write(file, packet)
            self._tell({"do": "configure"}, file)
        finally:
            os.close(file)

    def connect(self, pid: int = 7, via: str = "dev") -> socket.socket:
        """A connection as the daemon hands it over for a process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._tell({"do": "connection", "pid": pid, "via": via}, theirs.fileno())
        ours.settimeout(PATIENCE)
        return ours

    def serve(self, listener: socket.socket, what: str) -> None:
        self._tell({"do": "serve", "what": what}, listener.fileno())

    def listen(self, listener: socket.socket, pid: int) -> None:
        self._tell({"do": "listen", "pid": pid}, listener.fileno())

    @property
    def last(self) -> int:
        """The number of the call that has begun last."""
        return max(self._open)

    def cancel(self, call: int) -> None:
        self._tell({"do": "cancel", "call": call})

    def end(self, pid: int) -> None:
        self._tell({"do": "end", "pid": pid})

    def wait(self, what: Callable[[Desk], object]) -> None:
        """Until that is true."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not what(self):
                if time.monotonic() > deadline:
                    raise AssertionError(f"it did not happen: {self.settled} {self.logged}")
                self._changed.wait(1)

    def over(self, count: int = 1) -> list[Settled]:
        """What was settled, as soon as these are so many and no call is open."""
        self.wait(lambda desk: len(desk.settled) >= count and not desk._open)
        return list(self.settled)

    # -- the books ---------------------------------------------------------------------------------

    def _tell(self, packet: dict[str, Any], *descriptors: int) -> None:
        numbers = array.array("i", descriptors)
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if descriptors else []
        self._channel.sendmsg([json.dumps(packet).encode()], beside)

    def _serve(self) -> None:
        while True:
            try:
                data, beside, _, _ = self._channel.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            except OSError:
                return
            if not data:
                return
            for _, _, raw in beside:
                numbers = array.array("i")
                numbers.frombytes(raw)
                for number in numbers:
                    os.close(number)
            packet = json.loads(data)
            with self._changed:
                reply = self._take(packet)
                self._changed.notify_all()
            if reply is not None:
                with contextlib.suppress(OSError):
                    self._tell(reply | {"n": packet["n"]})

    def _take(self, packet: dict[str, Any]) -> dict[str, Any] | None:
        match packet["do"]:
            case "ready":
                return None
            case "log":
                self.logged.append(packet["words"])
                return None
            case "progress":
                return None
            case "who":
                self.who.append(packet)
                if self.strangers:
                    return _refused("EPERM", "you are a stranger here", "caller")
                return {"pid": 7, "agent": "scout"}
            case "models":
                names = self._configuration["models"]
                return {"models": [{"name": n, "id": n, "speaks": [], "context": 1} for n in names]}
            case "begin":
                return self._begin(packet)
            case "grow":
                return self._grow(packet)
            case "settle":
                return self._close(packet, packet["usage"])
            case "drop":
                return self._close(packet, None)
        raise AssertionError(packet)

    @property
    def _left(self) -> int:
        if self.budget is None:
            return 1 << 40
        return self.budget - sum(call["holds"] for call in self._open.values())

    def _begin(self, packet: dict[str, Any]) -> dict[str, Any]:
        self.begun.append(packet)
        models = self._configuration["models"]
        name = next((n for n, m in models.items() if packet["model"] in (n, *m["match"])), "")
        if not name:
            return _refused("ENOENT", f"there is no model {packet['model']}", "model")
        if name in self.refuse:
            return {"refused": self.refuse[name]}
        left = self._left - packet["input"]
        if left < 1:
            return _refused("EDQUOT", "the budget of scout is used up", "budget")
        asked = packet["output"]
        room = left if asked is None else min(asked, left)
        output = min(2048, room) if packet["stream"] else room
        number = next(self._numbers)
        call = {"holds": packet["input"] + output, "input": packet["input"], "pid": packet["pid"]}
        self._open[number] = call | {"model": name}
        self._note()
        provider = models[name]["provider"]
        return {"call": number, "model": name, "provider": provider, "output": output, "room": room}

    def _note(self) -> None:
        self.most_held = max(self.most_held, sum(call["holds"] for call in self._open.values()))

    def _grow(self, packet: dict[str, Any]) -> dict[str, Any]:
        call = self._open[packet["call"]]
        more = min(packet["output"] - (call["holds"] - call["input"]), self._left)
        if more < 1:
            return _refused("EDQUOT", "the budget of scout is used up", "budget")
        call["holds"] += more
        self._note()
        return {"output": call["holds"] - call["input"]}

    def _close(self, packet: dict[str, Any], usage: dict[str, int] | None) -> dict[str, Any]:
        call = self._open.pop(packet["call"], None)
        if call is None:
            return _refused("ENOENT", "there is no such call", "")
        if self.budget is not None and usage is not None:
            self.budget -= sum(usage.values())
        estimated, error = bool(packet.get("estimated")), packet.get("error") or ""
        number, pid, model = packet["call"], call["pid"], call["model"]
        self.settled.append(Settled(number, pid, model, usage, estimated, error))
        return {}


def _refused(errno: str, words: str, rule: str, **more: Any) -> dict[str, Any]:
    said = {"errno": errno, "rule": rule, "words": words, "retry_after": None, "stop": False}
    return {"refused": said | more}
