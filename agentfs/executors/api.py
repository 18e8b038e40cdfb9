"""Nodes that ask a service on the network: `api_call: {url, method, headers, params, json_body}`.

A program beside the run asks, with what the run has, so the kernel itself reaches no network: a run
without the capability `network_access` gets no connection. With a `port` the address is that of its
adapter, and `url` is relative to it.
"""

from __future__ import annotations

import errno
from typing import Any
from urllib.parse import urljoin

from agentfs.base.errors import KernelError
from agentfs.executors.behind import Adapter, ServiceBehind
from agentfs.executors.ports import Ports
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

    def __init__(
        self, ground: Ground, engine: Engine, service: ServiceBehind, ports: Ports
    ) -> None:
        self._clock = ground.clock
        self._ports = ports
        self._service = service
        self.nodes = StepTasks(ground.store, engine, "api_call", self._call)

    async def _call(self, step: Step) -> Any:
        timeout = TIMEOUT
        if step.deadline is not None:
            timeout = max(1.0, step.deadline - self._clock.now())
        asked = {key: step.spec[key] for key in KEYS if key in step.spec} | {"timeout": timeout}
        port = step.spec.get("port")
        if port is None:
            return await self._service.fetch(step.process, asked)
        behind = step.plan.ports.get(str(port))
        if behind is None:
            raise KernelError(errno.EINVAL, f"the pipeline has no port {port!r}")
        return await self._ports.first(
            str(port),
            behind,
            lambda adapter: self._service.fetch(step.process, _at(adapter, asked)),
        )


def _at(adapter: Adapter, asked: dict[str, Any]) -> dict[str, Any]:
    """The request, at the address that an adapter has, with its headers. Raises EINVAL."""
    if "url" not in adapter:
        raise KernelError(
            errno.EINVAL,
            f"the adapter {adapter['adapter']} stands for no `url`: it takes no request",
        )
    url = urljoin(str(adapter["url"]), str(asked.get("url") or ""))
    headers = (adapter.get("headers") or {}) | (asked.get("headers") or {})
    return asked | {"url": url, "headers": headers}
