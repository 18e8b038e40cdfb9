"""Every way to pass messages, reduced to a sender, a receiver, and the loops of both.

Standard library only, as whatever a worker loads: it also runs in an environment of its own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

__all__ = ["BODY", "END", "Receiver", "Sender"]

BODY = b"x" * 255 + b"\n"
"""Of every message: a paragraph."""

END = b"the end\n"
"""Of the message after which a receiver stops."""

WARM_NS = 1_000_000
"""How long before a message is due the sender stops sleeping and looks at the clock."""


class Sender(ABC):
    """One who sends; when `send` returns the message is kept as safely as the way promises."""

    @abstractmethod
    def send(self, body: bytes) -> None: ...

    def fill(self, count: int) -> None:
        """Send so many messages, and the one that ends it."""
        for _ in range(count):
            self.send(BODY)
        self.send(END)

    def pace(self, count: int, interval: float) -> tuple[list[int], list[int]]:
        """Send a message every `interval` seconds: when each was called, and when it returned (ns
        of perf_counter, which all processes share). A sender that is late sends at once."""
        calls, returns = [], []
        due = time.perf_counter_ns()
        for _ in range(count):
            due += int(interval * 1e9)
            early = due - time.perf_counter_ns()
            if early > WARM_NS:
                time.sleep((early - WARM_NS) / 1e9)
            while time.perf_counter_ns() < due:
                time.sleep(0)
            calls.append(time.perf_counter_ns())
            self.send(BODY)
            returns.append(time.perf_counter_ns())
        return calls, returns


class Receiver(ABC):
    """One who waits for messages, and says of each that it was handled."""

    @abstractmethod
    def receive(self) -> bytes:
        """The next message: its body at least, at the end."""

    @abstractmethod
    def acknowledge(self) -> None:
        """The last message from `receive` was handled."""

    def drain(self) -> int:
        """Receive and acknowledge until the message that ends it; how many came before it."""
        handled = 0
        while not self.receive().endswith(END):
            self.acknowledge()
            handled += 1
        self.acknowledge()
        self.rest()
        return handled

    def notice(self, count: int) -> list[int]:
        """Receive and acknowledge so many messages: when the program had each (ns)."""
        wakes = []
        for _ in range(count):
            self.receive()
            wakes.append(time.perf_counter_ns())
            self.acknowledge()
        self.rest()
        return wakes

    def rest(self) -> None:
        """Nothing more is asked for at the moment: whatever is still owed is done now."""
        return
