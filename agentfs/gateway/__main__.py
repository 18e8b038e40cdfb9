"""`python -m agentfs.gateway`: started by the daemon, with their channel as descriptor 3."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

import trio

from agentfs.gateway.catalogue import Catalogue
from agentfs.gateway.channel import Channel, Packet
from agentfs.gateway.ledger import Ledger
from agentfs.gateway.office import Office
from agentfs.gateway.providers import Providers
from agentfs.gateway.server import Server

CHANNEL = 3
PR_SET_DUMPABLE = 4
REPORT_SECONDS = 1.0
"""How old what the daemon knows of a stream may be: it is charged if this process dies."""


class Switchboard:
    """What the daemon says, and who does it."""

    def __init__(self, office: Office, server: Server) -> None:
        self._office, self._server = office, server

    def take(self, packet: Packet, descriptors: list[int]) -> None:
        """A packet of the daemon's."""
        match packet["do"], descriptors:
            case "configure", []:
                self._office.providers.configure(Catalogue(packet))
            case "serve", [listener]:
                self._server.serve(listener, packet["what"])
            case "listen", [listener]:
                self._server.listen(listener, packet["pid"])
            case "connection", [connection]:
                self._server.connected(connection, packet["pid"], packet["via"])
            case "cancel", []:
                attempt = self._office.open.get(packet["call"])
                if attempt is not None:
                    attempt.cancel()
            case "end", []:
                self._server.end(packet["pid"])
            case _:
                for descriptor in descriptors:
                    os.close(descriptor)
                self._office.ledger.log(f"a packet that is not known: {packet['do']}", "error")

    async def report(self) -> None:
        """Tell the daemon how far each call is, as long as there is any."""
        while True:
            await trio.sleep(REPORT_SECONDS)
            for attempt in tuple(self._office.open.values()):
                attempt.metered.report()


async def main() -> None:
    channel = Channel(CHANNEL)
    async with trio.open_nursery() as nursery:
        office = Office(Ledger(channel), Providers(nursery))
        switchboard = Switchboard(office, Server(office, nursery))
        nursery.start_soon(switchboard.report)
        channel.tell({"do": "ready"})
        await channel.packets(switchboard.take)
        nursery.cancel_scope.cancel()


def prepare() -> None:
    """Nobody reads the memory of this process, where the keys are; it may have many connections;
    and it ends when its channel does, whatever happens in the terminal."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    prepare()
    trio.run(main)
