"""Models as files: who may ask which, and what is asked."""

from __future__ import annotations

import socket
from collections.abc import Callable

from agentfs.catalog.entries import Model
from agentfs.chats.asking import Asking
from agentfs.chats.conversation import Conversation, Fleeting
from agentfs.chats.settings import ChatSettings
from agentfs.model.principal import Principal
from agentfs.process.waits import Waits
from agentfs.quota.calls import Calls
from agentfs.quota.shares import Charge
from agentfs.rights.gate import Gate
from agentfs.store.ground import Ground
from agentfs.store.part import Part
from agentfs.store.settings import Settings

__all__ = ["Chats"]


class Chats(Part):
    """Conversations with models. `connect(pid)` is a connection to the gateway of models in the
    name of a process."""

    def __init__(
        self,
        ground: Ground,
        gate: Gate,
        calls: Calls,
        connect: Callable[[int], socket.socket],
        waits: Waits,
    ) -> None:
        self._settings = ground.settings
        self._gate = gate
        self._relayed = calls.relayed
        self._waits = waits
        self._asking = Asking(connect)

    @property
    def under_way(self) -> int:
        """How many answers are waited for, or being read."""
        return self._asking.under_way

    async def run(self) -> None:
        await self._asking.run()

    def offered(self, principal: Principal) -> list[Model]:
        """The models that it may ask now; none for who is no agent."""
        process = self._gate.process(principal)
        return [] if process is None else self._relayed.offered(process)

    def converse(self, principal: Principal, name: str, memory: Charge) -> Conversation:
        """Begin a conversation with the model that answers to `name`; what is said counts as
        `memory`. Raises EACCES (nobody's process, the capability, a key that is not set), EPERM
        (the tier) and ENOENT (no such model, or nobody answers for it)."""
        process = self._gate.actor(principal)
        self._relayed.require(process, name)
        talk = Fleeting(name, memory, lambda: self._limits.max_conversation)
        speaker = _Speaker(process.pid, self._settings, self._waits)
        return Conversation(self._asking, speaker, talk)

    @property
    def _limits(self) -> ChatSettings:
        return self._settings.of(ChatSettings)


class _Speaker:
    """A process that asks."""

    def __init__(self, pid: int, settings: Settings, waits: Waits) -> None:
        self.pid = pid
        self._settings = settings
        self._waits = waits

    def limit(self) -> int:
        return self._settings.of(ChatSettings).max_request

    def waits(self, model: str) -> Callable[[], object]:
        return self._waits.begin(self.pid, "model", model)
