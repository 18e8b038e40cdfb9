"""/sys/gateway and /dev/gateway: the process that takes the calls of models, and its door."""

from __future__ import annotations

import errno

from agentfs.base.errors import KernelError
from agentfs.providers.system_table import HasKernel
from agentfs.vfs.caller import Caller
from agentfs.vfs.declare import link, live
from agentfs.vfs.files import fields
from agentfs.vfs.table import AddedRows

__all__ = ["GatewayFacts", "GatewayLink"]


class GatewayFacts(AddedRows):
    """What operators want to know of it."""

    INTO = "/sys"

    def __init__(self, above: HasKernel) -> None:
        super().__init__(above)
        self._gateway = above.kernel.gateway

    @live("gateway", example="State:\trunning\nOspid:\t4711\nSince:\t2026-11-21T09:00:00.123Z\n…")
    def gateway(self) -> str:
        """The gateway of models, `Key:\\tvalue` a line: State (asleep: nobody has asked it yet;
        starting; running; ended: the next one waits a moment), its process on this machine, since
        when, its Address for HTTP, its Socket, how many Calls are in flight, how many Restarts
        there were since the daemon's start, and the Trouble: why it ended last. `-`: there is
        none."""
        return fields(*self._gateway.facts().items())


class GatewayLink(AddedRows):
    """Its unix socket, for HTTP."""

    INTO = "/dev"

    def __init__(self, above: HasKernel) -> None:
        super().__init__(above)
        self._gateway = above.kernel.gateway

    @link("gateway", example="/run/agentfs/5f0c1d2e/gateway")
    def gateway(self, caller: Caller) -> str:
        """The unix socket of the gateway of models: HTTP, in the dialects of OpenAI and Anthropic,
        for who may not use the network. It lies outside of the tree, because Linux lets nobody
        unmount a tree in which a socket is bound. Linux tells whose program calls, and no key is
        looked at."""
        path = self._gateway.socket_path
        if not path:
            raise KernelError(errno.ENOENT, "the gateway has no socket: the log says why")
        return path
