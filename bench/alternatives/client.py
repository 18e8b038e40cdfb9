"""The way of AgentFS that is written with `agentfs.agent`."""

from __future__ import annotations

import time

from agentfs.agent import Agent, Message
from bench.alternatives.transport import END, Receiver, Sender

__all__ = ["AgentReceiver", "AgentSender"]


class AgentSender(Sender):
    """`Agent.send`."""

    def __init__(self, to: str) -> None:
        self._agent = Agent()
        self._to = to

    def send(self, body: bytes) -> None:
        self._agent.send(self._to, body)


class AgentReceiver(Receiver):
    """`Agent.run` with a handler."""

    def __init__(self) -> None:
        self._agent = Agent()

    def receive(self) -> bytes:
        raise NotImplementedError("the loop is the agent's: use drain or notice")

    def acknowledge(self) -> None:
        raise NotImplementedError("a handler that returns does")

    def drain(self) -> int:
        handled = 0

        @self._agent.on_message
        def handle(message: Message) -> None:
            nonlocal handled
            if message.body.endswith(END):
                self._agent.stop()
            else:
                handled += 1

        self._agent.run()
        return handled

    def notice(self, count: int) -> list[int]:
        wakes: list[int] = []

        @self._agent.on_message
        def handle(message: Message) -> None:
            wakes.append(time.perf_counter_ns())
            if len(wakes) == count:
                self._agent.stop()

        self._agent.run()
        return wakes
