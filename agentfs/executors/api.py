"""Nodes that ask a service on the network: `api_call: {url, method, headers, params, json_body}`.

A program beside the run asks, with what the run has, so the kernel itself reaches no network: a run
without the capability `network` gets no connection.
"""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.executors.ends import Ends
from agentfs.executors.tasks import StepTasks
from agentfs.machine.sidecar import Sidecar
from agentfs.store.ground import Ground
from agentfs.tooling.commands import Commands
from agentfs.tooling.sidecars import Sidecars
from agentfs.tooling.toolbox_process import READS
from agentfs.workflow.model import Step

__all__ = ["ApiNodes"]

COMMAND = (sys.executable, "-I", "-m", "agentfs.toolbox.http")

KEYS = ("url", "method", "headers", "params", "json_body")

TIMEOUT = 60.0
"""Seconds for a response, where the node has no `timeout`."""

AGAIN = frozenset({408, 425, 429})
"""Refusals of a server, below 500, that may be none a moment later."""


class ApiNodes:
    """The output is `{"status", "headers", "body"}`. A status of 400 and more fails the node; those
    that say nothing of the request itself (429, 5xx) may be tried again."""

    def __init__(self, ground: Ground, engine: Ends, sidecars: Sidecars) -> None:
        self._clock = ground.clock
        self._commands = Commands(sidecars)
        self.nodes = StepTasks(ground.store, engine, "api_call", self._call)

    async def _call(self, step: Step) -> Any:
        timeout = TIMEOUT
        if step.deadline is not None:
            timeout = max(1.0, step.deadline - self._clock.now())
        asked = {key: step.spec[key] for key in KEYS if key in step.spec} | {"timeout": timeout}
        found = bytearray()

        async def keep(piece: bytes) -> None:
            found.extend(piece)

        sidecar = Sidecar(exec=COMMAND, reads=READS)
        await self._commands.run(step.process, sidecar, json.dumps(asked).encode(), keep)
        response = json.loads(found)
        status = response["status"]
        if status >= 400:
            again = status >= 500 or status in AGAIN
            number = errno.EREMOTEIO if again else errno.EINVAL
            body = response["body"]
            words = body if isinstance(body, str) else json.dumps(body)
            raise KernelError(number, f"{step.spec['url']} answered {status}: {words[:500]}")
        return response
