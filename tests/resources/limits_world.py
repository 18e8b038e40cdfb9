"""Processes with limits that send, receive and call, without programs, on a clock that a test
moves."""

from __future__ import annotations

from typing import Self

from agentfs.mail.mail import Mail
from agentfs.mail.message import Draft, Message
from agentfs.model.process import Process
from agentfs.process.ceilings import Ceilings
from agentfs.quota.limits import ProcessLimits
from agentfs.quota.rates import Rates
from agentfs.quota.spending import Spending
from agentfs.shared.queues import Queues
from agentfs.shared.topics import Topics
from tests.process.world import OPERATOR, as_agent
from tests.resources import budget_world

__all__ = ["World"]


class World(budget_world.World):
    """As the kernel wires it. The budgets are those of the configuration: they do not matter."""

    killed = False

    def restarted(self) -> Self:
        again = super().restarted()
        self.killed = True
        return again

    def close(self) -> None:
        if not self.killed:
            super().close()

    def wire_resources(self) -> None:
        super().wire_resources()
        self.ceilings = Ceilings(self.table, self.settings)
        self.spending = Spending(self.ceilings, self.marks, self.store, self.clock)
        self.spending.hold_again((call.pid, call.held_by(self.spending)) for call in self.calls)
        self.calls.meters.insert(0, self.spending)
        self.rates = Rates(
            self.table,
            self.ceilings,
            self.settings,
            self.store,
            self.events,
            self.clock,
        )
        self.mail = Mail(self.ground, self.gate, self.table, self.agents, "here")
        self.limits = ProcessLimits(
            self.gate,
            self.table,
            self.ceilings,
            self.events,
            self.mail.delivery.tasks,
            self.spending,
            self.rates,
            self.programs,
        )
        self.queues = Queues(
            self.gate,
            self.table,
            self.agents,
            self.mail,
            self.store,
            self.events,
            self.clock,
            self.settings,
        )
        self.topics = Topics(
            self.gate,
            self.table,
            self.agents,
            self.store,
            self.events,
            self.clock,
            self.settings,
        )
        self.ground.parts.add(self.spending, self.rates, *self.mail.parts, self.queues, self.topics)
        self.mail.boxes.load()

    def sizes(self) -> dict[str, int]:
        return (
            super().sizes()
            | self.rates.sizes()
            | self.mail.delivery.tasks.sizes()
            | {"spent": len(self.spending), "timers": len(self.timers)}
        )

    def later(self, seconds: float) -> None:
        """Time goes by, and what is due happens."""
        self.clock.advance(seconds)
        self.timers.run_due()

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
