"""Nodes that send mail: `message: {to, subject, body, headers, type}`.

The messages are part of the commit in which the node ends. So they are sent once, whenever the
daemon dies.
"""

from __future__ import annotations

import json
from typing import Any

from agentfs.executors.ends import beginning
from agentfs.executors.starters import starter_of
from agentfs.mail.headers import FORBIDDEN
from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft
from agentfs.manifests.plan import PlanNode
from agentfs.process.agents import Agents
from agentfs.store.ground import Ground
from agentfs.workflow.engine import Engine
from agentfs.workflow.model import Step, StepRef

__all__ = ["MessageNodes", "as_body", "step_headers"]


class MessageNodes:
    """Sends mail as the agent that started the run, with the header `Run`. The output of the node
    is `{"message": ID, "to": NAME}`, or `{"messages": […]}` of these where several get it."""

    kinds = frozenset({"message"})

    def __init__(self, ground: Ground, engine: Engine, mail: Mail, agents: Agents) -> None:
        self._clock = ground.clock
        self._engine = engine
        self._mail = mail
        self._agents = agents

    def room(self, node: PlanNode) -> int | None:
        return None

    def begin(self, step: Step) -> None:
        with beginning(self._engine, step):
            self._engine.succeed(step.ref, self._send(step))

    def start(self, step: Step, again: bool) -> None:
        """It has ended in the commit in which it began."""

    def cancel(self, step: Step) -> None:
        """Nothing of it is under way."""

    due = cancel

    def _send(self, step: Step) -> Any:
        principal, to = starter_of(step.process, self._agents), step.spec["to"]
        names = to if isinstance(to, list) else [to]
        drafts = [self._draft(step, name) for name in names]
        for draft in drafts:  # all or none
            self._mail.check(principal, principal.name, draft.to, draft.size)
        sent = [
            {"message": self._mail.send(principal, principal.name, draft).id, "to": draft.to}
            for draft in drafts
        ]
        return sent[0] if len(sent) == 1 else {"messages": sent}

    def _draft(self, step: Step, to: Any) -> Draft:
        """What its `spec` says, read as an agent's own mail is: so a header that only the kernel
        writes is refused. Raises EINVAL."""
        spec = step.spec
        lines = [f"To: {one(to)}"]
        for key, name in (("subject", "Subject"), ("type", "Type")):
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
