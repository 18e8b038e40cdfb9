"""The gateway as the kernel has it: started when somebody asks at a door, supervised, told who may
do what.

It is a process of its own (`agentfs.gateway`), because relaying fifty streams would take a quarter
of the loop, and because the keys of providers are to be nowhere else. All that it has is told it on
its channel. If it dies, what it had under way is settled as it had come, and the next who asks has
another one started.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from agentfs.base.clock import rfc3339
from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.events import KeyRenewed, SecretRemoved, SecretSet
from agentfs.dialects.clean import clean
from agentfs.machine.network import PORT
from agentfs.machine.programs import Programs
from agentfs.model.process import Process
from agentfs.models.answers import Answers
from agentfs.models.doors import Doors, turn_away
from agentfs.models.events import GatewayEnded, GatewayStarted
from agentfs.models.line import ChannelError, Packet
from agentfs.models.worker import END_SECONDS, Worker
from agentfs.quota.events import CallCancelled
from agentfs.store.event_log import Record
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.instance import Instance
from agentfs.store.layout import TAPES
from agentfs.store.part import Part

__all__ = ["Gateway"]

log = logging.getLogger("agentfs.gateway")

PORT_META = "gateway_port"
"""The meta value with the port of the last run: programs that outlive the daemon know that one."""

READY_SECONDS = 60.0
"""For its start: 0.4 s as a rule."""

BACKOFF_SECONDS = 0.25
BACKOFF_MOST_SECONDS = 30.0
SOON_SECONDS = 1.0
HANDED_MOST = 256
"""Connections that may wait until it takes them: each has a descriptor of ours."""

STEADY_SECONDS = 60.0
"""One that ran for so long before it ended starts again at once."""


class Gateway(Part):
    """Starts the gateway when it is needed, and answers it until it ends.

    state: asleep (nobody has asked yet), starting, running, ended (the next one waits a moment).
    ospid: of the process; None while there is none.
    restarts: how often it was started again since the daemon was.
    trouble: why it ended last, or could not be started; empty if all was well.
    """

    def __init__(
        self,
        ground: Ground,
        instance: Instance,
        programs: Programs,
        catalog: Catalog,
        answers: Answers,
    ) -> None:
        self._store, self._events, self._clock = ground.store, ground.events, ground.clock
        self._tapes = ground.state_dir / TAPES
        self._doors = Doors(instance.name)
        self._programs = programs
        self._catalog = catalog
        self._answers = answers
        self._worker: Worker | None = None
        self._wanted = trio.Event()
        self._handed: list[tuple[Packet, socket.socket]] = []  # for the next one to be started
        self._failures = 0  # in a row
        self._next_start = -math.inf  # by trio's clock
        self._since = 0.0
        self._runs = 0
        self.state = "asleep"
        self.trouble = ""
        ground.events.listen(self._on_change, ConfigChanged, SecretSet, SecretRemoved, KeyRenewed)
        ground.events.listen(self._on_cancelled, CallCancelled)

    # -- what the tree shows ---------------------------------------------------------------------

    @property
    def ospid(self) -> int | None:
        return None if self._worker is None else self._worker.ospid

    @property
    def restarts(self) -> int:
        return max(0, self._runs - 1)

    @property
    def calls(self) -> int:
        """How many are in flight."""
        return self._answers.in_flight

    @property
    def port(self) -> int:
        """On the loopback; 0 if it has none."""
        return self._doors.port

    @property
    def socket_path(self) -> str:
        """The unix socket; empty if there is none."""
        return self._doors.path

    def facts(self) -> dict[str, object]:
        """What operators want to know."""
        return {
            "State": self.state,
            "Ospid": self.ospid or "-",
            "Since": rfc3339(self._since) if self._since else "-",
            "Address": self._doors.url or "-",
            "Socket": self._doors.path or "-",
            "Calls": self.calls,
            "Restarts": self.restarts,
            "Trouble": self.trouble or "-",
        }

    def complaint(self) -> str:
        if self._failures < 3:
            return ""
        return f"the gateway has ended {self._failures} times in a row: {self.trouble}"

    # -- what the kernel asks of it --------------------------------------------------------------

    def connect(self, pid: int, via: str = "dev") -> socket.socket:
        """A connection to the gateway in the name of process `pid`, for HTTP: a stream socket that
        does not block, and is the caller's. The gateway is started if there is none. If it cannot
        be, or dies, the stream is at its end, or reset, and `trouble` says why. Raises ENODEV if
        the next start is more than `SOON_SECONDS` away, EAGAIN if `HANDED_MOST` connections wait
        for it, and EMFILE."""
        if self._next_start - trio.current_time() > SOON_SECONDS:
            raise KernelError(errno.ENODEV, f"there is no gateway of models: {self.trouble}")
        waiting = len(self._handed) if self._worker is None else self._worker.channel.waiting
        if waiting >= HANDED_MOST:
            raise KernelError(errno.EAGAIN, f"{waiting} calls wait for the gateway of models")
        try:
            ours, theirs = socket.socketpair()
        except OSError as failure:
            raise KernelError.from_os(failure, "the gateway cannot be connected to") from failure
        ours.setblocking(False)
        packet: Packet = {"do": "connection", "pid": pid, "via": via}
        if self._worker is not None:
            self._worker.channel.send(packet, [theirs], give=True)
        else:
            self._handed.append((packet, theirs))
            self._wanted.set()
        return ours

    def program_ended(self, process: Process, code: int) -> None:
        """Its calls are settled by then."""
        self._store.on_commit(lambda: self._tell({"do": "end", "pid": process.pid}))

    def _on_change(self, record: Record) -> None:
        """A model, a provider or a key is another one."""
        event = record.event
        ours = not isinstance(event, ConfigChanged) or event.path == self._catalog.path
        if ours and self._worker is not None:
            self._configure(self._worker)

    def _on_cancelled(self, record: Record) -> None:
        """A call that it makes is to be ended; it settles that."""
        if isinstance(record.event, CallCancelled):
            self._tell({"do": "cancel", "call": record.event.call})

    def _tell(self, packet: Packet) -> None:
        if self._worker is not None:
            self._worker.channel.send(packet)

    # -- its life --------------------------------------------------------------------------------

    async def run(self) -> None:
        self._open_doors()
        try:
            while True:
                began = math.inf
                try:
                    await self._needed()
                    began = trio.current_time()
                    await self._one_run()
                except OSError as failure:  # no descriptors, or no memory
                    self.state, self.trouble = "ended", f"it cannot be started: {failure}"
                    log.error("the gateway: %s", self.trouble)
                await self._rest(steady=trio.current_time() - began > STEADY_SECONDS)
        finally:
            self._refuse_handed()
            self._doors.close()

    def _open_doors(self) -> None:
        known = self._store.meta(PORT_META, "")
        before = int(known or PORT)
        self._doors.open(before)
        port = self._doors.port
        if port:
            self._programs.set_models_port(port)
        if port not in (0, before):
            if known:
                words = "the gateway is at port %d; programs that run may still ask %d"
                log.warning(words, port, before)
            with self._kept():
                self._store.set_meta(PORT_META, str(port))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """A transaction of its own, of what is no reason to end if it has no room on the disk."""
        try:
            with self._store.transaction():
                yield
        except KernelError as failure:
            log.error("the gateway: %s", failure)

    async def _rest(self, *, steady: bool) -> None:
        """Wait for the next start: the longer, the more have ended one after the other. Everybody
        who comes to a door long before it is turned away."""
        self._failures = 1 if steady else self._failures + 1
        wait = BACKOFF_SECONDS * 2.0 ** min(self._failures - 1, 16)
        self._next_start = trio.current_time() + min(wait, BACKOFF_MOST_SECONDS)
        with trio.move_on_at(self._next_start - SOON_SECONDS):
            while True:
                await _first_of(self._knock, self._programs.listeners.change.wait)
                for door in self._all_doors():
                    turn_away(door, self._next_start - trio.current_time())
        await trio.sleep_until(self._next_start)

    async def _knock(self) -> None:
        """Wait until somebody is at a door of those that there are now. Without a descriptor for
        that nobody can tell: then somebody may be."""
        try:
            doors = select.epoll()
        except OSError as failure:
            log.error("the gateway: %s", failure)
            await trio.sleep(SOON_SECONDS)
            return
        with doors:
            for door in self._all_doors():
                doors.register(door, select.EPOLLIN)
            await trio.lowlevel.wait_readable(doors.fileno())

    async def _needed(self) -> None:
        """Wait until somebody asks at a door, or the kernel has a connection for it."""
        listeners = self._programs.listeners
        while await _first_of(self._knock, self._wanted.wait, listeners.change.wait) == 2:
            pass
        self._wanted = trio.Event()

    async def _one_run(self) -> None:
        """Start it, and answer it until it has ended. Raises OSError if it cannot be started."""
        groups = self._programs.groups
        try:
            worker = await Worker.start(self._tapes, self._doors.instance, groups)
        except OSError:
            self._refuse_handed()
            raise
        self._began(worker)
        wanted, reason = True, ""
        try:
            await self._attend(worker)
            wanted = False
        except* (OSError, ChannelError) as failures:
            wanted, reason = False, _words(failures)
        finally:
            self._worker = None
            how = await worker.stop(groups, self._without_keys)
            with self._kept():
                self._answers.end()
            if not wanted:
                self._ended(worker, f"{reason}, {how}" if reason else how)

    def _began(self, worker: Worker) -> None:
        self._worker, self.state, self._since = worker, "starting", self._clock.now()
        self._runs += 1
        with self._kept():
            self._answers.end()  # what the one before has left, where there was no room to say so
        with self._kept():
            self._events.emit(GatewayStarted(worker.ospid))
        self._configure(worker)
        for what, door in self._doors:
            worker.channel.send({"do": "serve", "what": what}, [door])
        handed, self._handed = self._handed, []
        for packet, given in handed:
            worker.channel.send(packet, [given], give=True)

    async def _attend(self, worker: Worker) -> None:
        async with trio.open_nursery() as nursery:
            self._answers.begin(worker.channel, nursery, self._without_keys)
            nursery.start_soon(worker.hear, self._without_keys)
            nursery.start_soon(self._talk, worker)
            nursery.start_soon(self._await_ready)
            nursery.start_soon(self._give_listeners, worker)
            await worker.ended()
            nursery.cancel_scope.cancel()

    async def _talk(self, worker: Worker) -> None:
        await worker.channel.run(self._answers.take)
        with trio.move_on_after(END_SECONDS):  # it is about to end, as a rule, and says how
            await trio.sleep_forever()
        raise ChannelError("it has closed its channel")

    async def _await_ready(self) -> None:
        with trio.move_on_after(READY_SECONDS):
            await self._answers.ready.wait()
            self.state = "running"
            return
        raise ChannelError(f"it was not ready within {READY_SECONDS:g} s")

    def _ended(self, worker: Worker, reason: str) -> None:
        """Say how it ended, which it was not told to."""
        self.state, self.trouble = "ended", reason
        log.error("the gateway has ended: %s", reason)
        with self._kept():
            self._events.emit(GatewayEnded(worker.ospid, reason))

    def _without_keys(self, text: str) -> str:
        """It says no key, as far as we know; but what it says is kept, and shown."""
        return clean(text, (each.get("key") for each in self._catalog.wire()["providers"].values()))

    def _configure(self, worker: Worker) -> None:
        """Tell it everything: the keys are in there."""
        worker.channel.send(self._catalog.wire() | {"tapes": "."})

    async def _give_listeners(self, worker: Worker) -> None:
        """Hand on the listeners of programs that have a network of their own, as they come. What
        went with its program it is told of by `end`."""
        given: dict[int, socket.socket] = {}
        listeners = self._programs.listeners
        while True:
            for pid, listener in listeners.items():
                if given.get(pid) is not listener:
                    worker.channel.send({"do": "listen", "pid": pid}, [listener])
            given = dict(listeners.items())
            await listeners.changed()

    def _all_doors(self) -> Iterator[socket.socket]:
        yield from (door for _, door in self._doors)
        yield from self._programs.listeners.values()

    def _refuse_handed(self) -> None:
        handed, self._handed = self._handed, []
        for _, given in handed:
            given.close()


def _words(failure: BaseException) -> str:
    """What the first failure of a group says; nothing of a socket, whose other end has gone: how
    the process ended says more."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return "" if isinstance(failure, OSError) else str(failure)


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> int:
    """Wait until one of these is over; which."""
    over = -1
    async with trio.open_nursery() as nursery:

        async def wait(which: int) -> None:
            nonlocal over
            await waits[which]()
            over = which
            nursery.cancel_scope.cancel()

        for which in range(len(waits)):
            nursery.start_soon(wait, which)
    return over
