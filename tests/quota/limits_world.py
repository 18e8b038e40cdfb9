"""Processes with limits that send, receive and call, without programs, on a clock that a test
moves."""

from __future__ import annotations

from agentfs.mail.message import Draft, Message
from agentfs.model.process import Process
from tests.process.world import OPERATOR, as_agent
from tests.quota import budget_world

__all__ = ["World"]


class World(budget_world.World):
    """The same system, with short words for limits and mail."""

    limits_of_all = None

    def sizes(self) -> dict[str, int]:
        return super().sizes() | {"timers": len(self.timers)}

    def configure_limits(self, **limits: object) -> None:
        """`limits` of the configuration."""
        self.settings.replace(f"limits: {limits}")

    def limit(self, process: Process, name: str, text: object, by: Process | None = None) -> None:
        """Set one, as `by`, or as the operator."""
        self.limits.set(OPERATOR if by is None else as_agent(by), process.pid, name, str(text))

    # -- mail --------------------------------------------------------------------------------------

    def send(self, sender: Process, receiver: str, text: str = "hello") -> Message:
        draft = Draft.parse(text.encode(), now=self.clock.now(), to=receiver)
        return self.mail.send(as_agent(sender), sender.name, draft)

    def tell(self, receiver: str, count: int = 1) -> None:
        """Let so many messages of the operator wait for an agent."""
        for number in range(count):
            draft = Draft.parse(f"{number}".encode(), now=self.clock.now(), to=receiver)
            self.mail.send(OPERATOR, "init", draft)

    def claim(self, process: Process, mailbox: str = "") -> Message:
        """Rename the first message that waits into cur/."""
        name = mailbox or process.name
        file = min(self.mail.mailbox(name).new)
        message = self.mail.mailbox(name).new[file]
        self.mail.delivery.claim(as_agent(process), name, file, f"{file}:2,")
        return message

    def acknowledge(self, process: Process, message: Message) -> None:
        """Delete it from cur/, under the name that it was claimed by."""
        file = f"{message.named}:2,"
        self.mail.delivery.acknowledge(as_agent(process), message.mailbox, "cur", file)

    def waiting(self, name: str) -> int:
        return self.mail.mailbox(name).waiting
