"""`python -m agentfs.gateway FD PARENT UID GID`: started by the daemon, process PARENT, with their
channel as descriptor FD. It becomes the user UID, GID; -1 is who it is."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress

import trio

from agentfs.gateway.catalogue import Catalogue
from agentfs.gateway.channel import DaemonChannel, Packet
from agentfs.gateway.ledger import Ledger
from agentfs.gateway.office import Office
from agentfs.gateway.providers import Providers
from agentfs.gateway.reception import Reception
from agentfs.gateway.seclusion import seclude

REPORT_SECONDS = 1.0
"""How old what the daemon knows of a stream may be: it is charged if this process dies."""


class Switchboard:
    """What the daemon says, and who does it."""

    def __init__(self, office: Office, server: Reception) -> None:
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


async def main(descriptor: int) -> None:
    channel = DaemonChannel(descriptor)
    async with trio.open_nursery() as nursery:
        ledger = Ledger(channel)
        office = Office(ledger, Providers(nursery, ledger.log))
        switchboard = Switchboard(office, Reception(office, nursery))
        nursery.start_soon(switchboard.report)
        channel.tell({"do": "ready"})
        await channel.packets(switchboard.take)
        nursery.cancel_scope.cancel()


def prepare(arguments: list[str]) -> int:
    """Be shut off, and allowed many connections. Returns the descriptor of the channel."""
    channel, parent, uid, gid = map(int, arguments)
    seclude(parent, uid, gid)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the daemon
    return channel


if __name__ == "__main__":
    trio.run(main, prepare(sys.argv[1:]))
