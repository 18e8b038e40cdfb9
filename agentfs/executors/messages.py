"""Nodes that send mail: `message: {to, subject, body, headers, type}`.

The message is part of the commit that begins the attempt. So it is sent once, whenever the daemon
dies: an attempt that has begun has sent it, and one that has not, has not.
"""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass
from typing import Any

from agentfs.base.errors import KernelError
from agentfs.executors.ends import Ends, end
from agentfs.executors.starters import starter_of
from agentfs.mail.headers import FORBIDDEN
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft
from agentfs.manifests.plan import Node
from agentfs.process.agents import Agents
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.records import Records
from agentfs.workflow.model import Step, StepRef

__all__ = ["KIND", "MessageNodes", "as_body", "step_headers"]

KIND = "step_message"
"""The records in the store: the message that an attempt has sent, until the node has ended."""


@dataclass(slots=True)
class Sent:
    """Message `seq` went to `to`."""

    seq: int
    to: str


class MessageNodes(Part):
    """Sends mail as the agent that started the run, with the header `Run`. The output of the node
    is `{"message": ID, "to": NAME}`."""

    kinds = frozenset({"message"})

    def __init__(self, ground: Ground, engine: Ends, mail: Mail, agents: Agents) -> None:
        self._clock = ground.clock
        self._store = ground.store
        self._engine = engine
        self._mail = mail
        self._agents = agents
        self._sent = Records(ground.store, KIND, lambda key, record: (key, Sent(**record)), asdict)

    def load(self) -> None:
        self._sent.load()

    def room(self, node: Node) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        principal = starter_of(step.process, self._agents)
        draft = self._draft(step)
        message = self._mail.send(principal, principal.name, draft)
        self._sent.put(str(step.ref), Sent(message.seq, draft.to))

    def start(self, step: Step, again: bool) -> None:
        end(lambda: self._done(step))

    def _done(self, step: Step) -> None:
        with self._store.transaction():
            sent = self._sent.drop(str(step.ref))
            if sent is None:  # the kernel has no attempt of this name
                raise KernelError(errno.ESTALE, f"{step.ref} has sent nothing")
            output = {"message": f"{sent.seq:012d}", "to": sent.to}
            self._engine.succeed(step.ref, output)

    def cancel(self, step: Step) -> None:
        """What is sent is sent."""
        self._sent.drop(str(step.ref))

    def _draft(self, step: Step) -> Draft:
        """What its `spec` says, read as an agent's own mail is: so a header that only the kernel
        writes is refused. Raises EINVAL."""
        spec = step.spec
        lines = [f"To: {one(spec['to'])}"]
        for name, key in (("Subject", "subject"), ("Type", "type")):
            if spec.get(key):
                lines.append(f"{name}: {one(spec[key])}")
        lines += [f"{name}: {one(text)}" for name, text in (spec.get("headers") or {}).items()]
        text = "\n".join(lines).encode() + b"\n\n" + as_body(spec.get("body", step.input))
        draft = Draft.parse(text, now=self._clock.now())
        draft.headers += step_headers(step.ref)
        return draft


def step_headers(ref: StepRef) -> list[tuple[str, str]]:
    """Which run, and which node of it, a message comes from."""
    return [("Run", str(ref.run)), ("Node", ref.path), ("Attempt", str(ref.attempt))]


def one(value: Any) -> str:
    """A value as the text of a header: on one line, so that it cannot bring another header."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return FORBIDDEN.sub(" ", text)


def as_body(value: Any) -> bytes:
    """A value as the body of a message: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return (text if text.endswith("\n") else f"{text}\n").encode()
