"""Nodes that ask a service on the network: `api_call: {url, method, headers, params, json_body}`.

A program beside the run asks, with what the run has, so the kernel itself reaches no network: a run
without the capability `network_access` gets no connection.
"""

from __future__ import annotations

from typing import Any

from agentfs.executors.behind import ServiceBehind
from agentfs.executors.tasks import StepTasks
from agentfs.store.ground import Ground
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["ApiNodes"]

KEYS = ("url", "method", "headers", "params", "json_body")

TIMEOUT = 60.0
"""Seconds for a response, where the node has no `timeout`."""


class ApiNodes:
    """The output is `{"status", "headers", "body"}`. A status of 400 and more fails the node; those
    that say nothing of the request itself (429, 5xx) may be tried again."""

    def __init__(self, ground: Ground, engine: Engine, service: ServiceBehind) -> None:
        self._clock = ground.clock
        self._service = service
        self.nodes = StepTasks(ground.store, engine, "api_call", self._call)

    async def _call(self, step: Step) -> Any:
        timeout = TIMEOUT
        if step.deadline is not None:
            timeout = max(1.0, step.deadline - self._clock.now())
        asked = {key: step.spec[key] for key in KEYS if key in step.spec}
        return await self._service.fetch(step.process, asked | {"timeout": timeout})
