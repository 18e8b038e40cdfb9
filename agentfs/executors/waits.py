"""Nodes that wait for somebody: `{wait: payment-7, timeout: 2h, on_timeout: {paid: false}}`.

The key is that of a signal: of the run alone (/proc/runs/ID/signals/KEY), where one that came
before the wait is kept for it, or of all that wait for it (/dev/waits/KEY). The value that comes
with it is the output. A wait is a row of the journal and holds neither a slot nor a task.
"""

from __future__ import annotations

import errno
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.executors.ends import beginning, end
from agentfs.executors.messages import as_body, step_headers
from agentfs.executors.spec import duration
from agentfs.mail.mail import Mail
from agentfs.manifests.plan import PlanNode
from agentfs.store.ground import Ground
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step

__all__ = ["WaitNodes", "check_key"]

FAIL = "fail"
"""As `on_timeout`: the node fails, which it does too if the spec says nothing."""


class WaitNodes:
    """A wait that nobody ends in time has the output `on_timeout`; without that it fails with
    ETIMEDOUT. With a `prompt` the agent that started the run is told of it by mail."""

    kinds = frozenset({"wait"})

    def __init__(self, ground: Ground, engine: Engine, mail: Mail) -> None:
        self._clock = ground.clock
        self._engine = engine
        self._mail = mail

    def room(self, node: PlanNode) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        with beginning(self._engine, step):
            key = check_key(step.spec["event_key"])
            seconds = duration(step.spec, "timeout", 0.0)
            there, data = self._engine.take_signal(step.ref.run, key)
            if there:
                self._engine.succeed(step.ref, data)
            else:
                until = self._clock.now() + seconds if seconds else None
                self._engine.wait(step.ref, until, key)
                self._tell(step, key)

    def _tell(self, step: Step, key: str) -> None:
        """Let the agent that started the run know what is waited for, if the node says so."""
        prompt = step.spec.get("prompt")
        if prompt:
            how = f"Write the answer to /proc/runs/{step.ref.run}/signals/{key}."
            body = as_body(prompt) + f"\n{how}\n".encode()
            headers = [("Type", "notice"), *step_headers(step.ref)]
            self._mail.notify(step.process.agent, body, headers)

    def start(self, step: Step, again: bool) -> None:
        """It waits since the commit in which it began."""

    def due(self, step: Step) -> None:
        """The time of the wait is over."""
        instead = step.spec.get("on_timeout", FAIL)
        if instead == FAIL:
            key, seconds = step.spec["event_key"], duration(step.spec, "timeout", 0.0)
            late = KernelError(errno.ETIMEDOUT, f"no signal {key} came within {seconds:g} s")
            end(lambda: self._engine.fail(step.ref, str(late), again=False, kind="timeout"))
        else:
            end(lambda: self._engine.succeed(step.ref, instead))

    def cancel(self, step: Step) -> None:
        """The row is all there is of it."""


def check_key(said: Any) -> str:
    """The key of a signal. Raises EINVAL unless it can be the name of a file."""
    key = said if isinstance(said, str) else str(said)
    if not key.isprintable() or "/" in key or key in ("", ".", "..") or len(key.encode()) > 255:
        raise KernelError(
            errno.EINVAL, f"{key[:64]!r} is no key: 1 to 255 bytes without a slash were expected"
        )
    return key
