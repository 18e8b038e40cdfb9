"""Connections of callers: who they are, how many, and how they end."""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from agentfs.dialects.refusal import refusal
from agentfs.gateway.channel import ChannelClosedError
from agentfs.gateway.client import BadHttpError, BodyRoom, ClientConnection, HttpRequest
from agentfs.gateway.ledger import CallingProcess, RefusedError
from agentfs.gateway.office import Office
from agentfs.gateway.outlet import DialectOutlet, encoded
from agentfs.gateway.peers import peer_of
from agentfs.gateway.routes import RoutedRequest, dialect_of

__all__ = ["Reception"]

MOST_CONNECTIONS = 256
"""Connections of one process at the same time."""

ACCEPT_PAUSE = 0.1
"""Seconds until it is tried again where there are no descriptors left."""

Handle = Callable[[HttpRequest], Awaitable[None]]
Identify = Callable[[socket.socket], Awaitable[CallingProcess]]


class Reception:
    """`nursery` has the tasks of listeners and connections."""

    def __init__(self, office: Office, nursery: trio.Nursery) -> None:
        self._office = office
        self._nursery = nursery
        self._of: defaultdict[int, set[trio.CancelScope]] = defaultdict(set)
        self._connections: Counter[int] = Counter()
        self._rooms: defaultdict[int, BodyRoom] = defaultdict(BodyRoom)

    # -- what the daemon hands over ----------------------------------------------------------------

    def serve(self, descriptor: int, via: str) -> None:
        """Accept at a listener to which anybody may connect."""

        async def identify(connection: socket.socket) -> CallingProcess:
            peer = peer_of(connection)
            if peer is None:
                raise RefusedError("EPERM", "nobody can say whose this connection is", "caller")
            return CallingProcess(await self._office.ledger.who(peer), via)

        self._nursery.start_soon(self._listen, socket.socket(fileno=descriptor), identify)

    def listen(self, descriptor: int, pid: int) -> None:
        """Accept at a listener that only the programs of one process can reach."""
        listener = socket.socket(fileno=descriptor)
        self._nursery.start_soon(
            self._listen, listener, _always(CallingProcess(pid, "listener")), pid
        )

    def connected(self, descriptor: int, pid: int, via: str) -> None:
        """Answer on a connection of the daemon's own, for a process."""
        connection = socket.socket(fileno=descriptor)
        self._nursery.start_soon(
            self._connection, connection, _always(CallingProcess(pid, via)), True
        )

    def end(self, pid: int) -> None:
        """The program of a process has ended: nobody is there any more."""
        for scope in self._of.pop(pid, ()):
            scope.cancel()

    # -- connections -------------------------------------------------------------------------------

    async def _listen(self, listener: socket.socket, identify: Identify, pid: int = 0) -> None:
        listener.setblocking(False)
        with self._belongs(pid), listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(listener)
                except OSError:  # no descriptors; or it was reset before it was accepted
                    await trio.sleep(ACCEPT_PAUSE)
                else:
                    self._nursery.start_soon(self._connection, connection, identify)
                    await trio.lowlevel.checkpoint()  # somebody may connect again and again

    def _belongs(self, pid: int) -> trio.CancelScope:
        """A scope that ends with the program of a process."""
        scope = trio.CancelScope()
        if pid:
            self._of[pid].add(scope)
        return scope

    async def _connection(
        self, connection: socket.socket, identify: Identify, handed: bool = False
    ) -> None:
        """A barrier: whatever goes wrong with one connection is nobody else's."""
        client = ClientConnection(connection)
        try:
            try:
                caller = await identify(connection)
            except RefusedError as why:
                await self._turn_away(client, why)
                return
            await self._known(client, caller, handed)
        except Exception as bug:  # noqa: BLE001 -- of any kind
            self._office.ledger.log(f"a connection failed: {self._hidden(bug)}", "error")
        finally:
            client.close()

    def _hidden(self, bug: BaseException) -> str:
        while isinstance(bug, BaseExceptionGroup):
            bug = bug.exceptions[0]
        said = f"{type(bug).__name__}: {bug}"
        at = bug.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        if at is not None:
            said += f" ({at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno})"
        return self._office.providers.shown(said.encode("utf-8", "replace")).decode()

    async def _turn_away(self, client: ClientConnection, why: RefusedError) -> None:
        """Say why to a caller whom nobody knows: it gets one answer."""

        async def refuse(request: HttpRequest) -> None:
            await DialectOutlet(client, dialect_of(request), self._shown).refuse(why)

        await self._requests(client, refuse, BodyRoom(), most=1)

    async def _known(self, client: ClientConnection, caller: CallingProcess, handed: bool) -> None:
        if self._connections[caller.pid] >= MOST_CONNECTIONS:
            words = f"{MOST_CONNECTIONS} connections are open: close some"
            await self._turn_away(client, RefusedError("EAGAIN", words, "connections", 1.0))
            return

        async def answer(request: HttpRequest) -> None:
            await RoutedRequest(self._office, client, caller, request, handed).answer()

        self._connections[caller.pid] += 1
        scope = self._belongs(caller.pid)
        try:
            with scope:
                await self._requests(client, answer, self._rooms[caller.pid])
        finally:
            self._of.get(caller.pid, set()).discard(scope)
            self._connections[caller.pid] -= 1
            if not self._connections[caller.pid]:
                del self._connections[caller.pid], self._rooms[caller.pid]

    @property
    def _shown(self) -> Callable[[bytes], bytes]:
        return self._office.providers.shown

    async def _guarded(
        self, client: ClientConnection, answer: Handle, request: HttpRequest
    ) -> None:
        """Answer; a fault of ours is said to the caller, if that is still possible."""
        try:
            await answer(request)
        except (trio.BrokenResourceError, ChannelClosedError):
            raise
        except Exception as bug:  # noqa: BLE001 -- of any kind
            self._office.ledger.log(f"a request failed: {self._hidden(bug)}", "error")
            if client.begun:
                raise trio.BrokenResourceError from None
            words = "the gateway has failed; the log of the daemon says how"
            outlet = DialectOutlet(client, dialect_of(request), self._shown)
            await outlet.refuse(RefusedError("EIO", words, "gateway"))

    async def _requests(
        self,
        client: ClientConnection,
        answer: Handle,
        room: BodyRoom,
        most: float = float("inf"),
    ) -> None:
        """Answer one request after the other."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.watch)
            with suppress(trio.BrokenResourceError):
                try:
                    while most and (request := await client.request(room)) is not None:
                        await self._guarded(client, answer, request)
                        del request  # up to 32 MB
                        most -= 1
                        if not client.goes_on:
                            break
                except BadHttpError as bad:
                    if not client.begun:
                        said = refusal("chat", "EINVAL", "http", bad.words)
                        await client.respond(bad.status, encoded(said.headers), said.body)
                await client.linger()
            nursery.cancel_scope.cancel()


def _always(caller: CallingProcess) -> Identify:
    async def identify(_: socket.socket) -> CallingProcess:
        return caller

    return identify
