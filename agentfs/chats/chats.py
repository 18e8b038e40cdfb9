"""Models as files: who may ask which, and what is asked."""

from __future__ import annotations

import socket
from collections.abc import Callable

from agentfs.catalog.entries import Model
from agentfs.chats.asking import Asking
from agentfs.chats.chat_table import Chat
from agentfs.chats.conversation import Conversation, Fleeting, Talk
from agentfs.chats.kept_chats import KeptChats, KeptTalk
from agentfs.chats.settings import ChatSettings
from agentfs.model.principal import Principal
from agentfs.process.agents import Agents
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
        agents: Agents,
        connect: Callable[[int], socket.socket],
        waits: Waits,
    ) -> None:
        self._settings = ground.settings
        self._gate = gate
        self._relayed = calls.relayed
        self._waits = waits
        self._asking = Asking(connect)
        self.kept = KeptChats(ground, gate, agents)

    def load(self) -> None:
        self.kept.table.load()

    def agent_removed(self, name: str) -> None:
        self.kept.agent_removed(name)

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
        self._relayed.require(self._gate.actor(principal), name)
        talk = Fleeting(name, memory, lambda: self._settings.of(ChatSettings).max_conversation)
        return self._conversation(principal, talk)

    def go_on(self, principal: Principal, chat: Chat) -> Conversation:
        """Go on with a conversation that is kept. Raises ESTALE, and EACCES for who is no agent."""
        self.kept.check(chat)
        return self._conversation(principal, KeptTalk(self.kept, principal, chat))

    def _conversation(self, principal: Principal, talk: Talk) -> Conversation:
        speaker = _Speaker(self._gate.actor(principal).pid, self._settings, self._waits)
        return Conversation(self._asking, speaker, talk)

    # -- conversations that are kept ---------------------------------------------------------------

    def make(self, principal: Principal, agent: str, name: str) -> Chat:
        """Begin one. Raises as `KeptChats.make`."""
        return self.kept.make(principal, agent, name, self.usual(principal))

    def usual(self, principal: Principal) -> str:
        """The model of its process, if that may be asked; else the first that may; empty if none
        may."""
        offered = [model.name for model in self.offered(principal)]
        process = self._gate.process(principal)
        if process is not None and process.model in offered:
            return process.model
        return offered[0] if offered else ""

    def set_model(self, principal: Principal, chat: Chat, model: str) -> None:
        """Ask `model` from now on. Raises as `converse`."""
        self._relayed.require(self._gate.actor(principal), model)
        self.kept.set_model(principal, chat, model)


class _Speaker:
    """A process that asks."""

    def __init__(self, pid: int, settings: Settings, waits: Waits) -> None:
        self.pid = pid
        self._settings = settings
        self._waits = waits

    def limit(self) -> int:
        return self._settings.of(ChatSettings).max_request

    def longest(self) -> int:
        return self._settings.of(ChatSettings).max_conversation

    def waits(self, model: str) -> Callable[[], object]:
        return self._waits.begin(self.pid, "model", model)
