"""The gate: every system call enters it, and it ends the call's transaction.

The gate does what is the same for all calls. The call itself asks for what differs, inside the
block of `enter`:

    identity     the gate: the principal, told by the operating system, acts for a living process
    permission   the call asks `policy` whether role, rules and capabilities allow it
    limits       the call asks for what it makes, starts, sends or uses
    transaction  the gate: the change is whole, in memory and in the store, or it is refused
    record       the gate: the audit has room for it; then the call counts, by its kind
    events       the store: what happened goes out after the commit

As a rule a call looks up what it is about before it asks whether that is allowed, because the rules
speak of it. There is no checkpoint of the event loop between the first check and the commit.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from agentfs.base.errors import KernelError
from agentfs.model.principal import Principal
from agentfs.model.process import Process
from agentfs.rights.policy import Policy
from agentfs.store.ground import Ground
from agentfs.store.part import Part

__all__ = ["ALL_CALLS", "KINDS", "MESSAGES", "Gate"]

ALL_CALLS, MESSAGES = "calls", "messages"
KINDS = (
    ALL_CALLS,
    MESSAGES,
    "spawns",
    "signals",
    "claims",
    "artifacts",
    "llm_calls",
    "tool_calls",
)
"""The kinds of calls that can be limited by the minute; `calls` is all others together."""


class Gate:
    """Entered once by every system call."""

    def __init__(
        self, ground: Ground, policy: Policy, find: Callable[[int], Process | None]
    ) -> None:
        self._store = ground.store
        self._transaction = ground.store.transaction()  # it is always the same
        self._events = ground.events
        self._parts = ground.parts
        self._find = find
        self.policy = policy
        self.calls = 0

    def process(self, principal: Principal) -> Process | None:
        """The living process that `principal` acts for; None if there is none."""
        process = None if principal.pid is None else self._find(principal.pid)
        return process if process is not None and process.state.alive else None

    def actor(self, principal: Principal) -> Process:
        """The same. Raises EACCES if there is none."""
        process = None if principal.pid is None else self._find(principal.pid)
        if process is None or not process.state.alive:
            raise KernelError(
                errno.EACCES,
                f"{principal.name} is no agent of this system and may not change anything in it",
                rule="identity",
            )
        return process

    def enter(self, principal: Principal, kind: str = "") -> AbstractContextManager[Process]:
        """Begin a system call. The block gets the acting process, and everything inside it is one
        atomic change; a KernelError raised in it refuses the call. `kind` is one of `KINDS`, for a
        call that counts; messages are counted where they are accepted.
        """
        self.calls += 1
        return _Entered(self, self.actor(principal), principal, kind)

    def admit(self, principal: Principal, actor: Process, kind: str, ahead: int = 0) -> None:
        """Before what `principal` did is accepted: raise ENOSPC if its record (with `ahead` of
        others before it) has no room, and count the call. This comes last, because a call that is
        refused for another reason does not count.
        """
        for admit in self._parts.each(Part.admit):
            admit(principal, ahead)
        if kind:
            for count in self._parts.each(Part.count_call):
                count(actor, kind)

    def beside(self, principal: Principal, kind: str, change: Callable[[Process], object]) -> bool:
        """Within the transaction of somebody else, make `change(actor)`, a call that `principal`
        has made before and waits in. The questions that `enter` asks at its end come first here. If
        one of them refuses the call, nothing is changed: False."""
        actor = self.process(principal)
        if actor is None:
            return False
        promised = self._store.promised
        self._store.promise(False)  # the call was not accepted before
        try:
            self.admit(principal, actor, kind, self._events.records)
        except KernelError:
            return False
        finally:
            self._store.promise(promised)
        self.calls += 1
        self._events.apart(principal, lambda: change(actor))
        return True

    def require_room(self, principal: Principal | None) -> None:
        """Raise ENOSPC if the system stops until the audit has room. For a call that has no record
        there, or gets it later, and is to stop with the rest. `principal` is None for anybody but
        the operator."""
        self._parts.tell(Part.require_room, principal)

    def check_making(self, maker: str, kind: str, count: int) -> None:
        """Raise EDQUOT or ENOSPC if agent `maker` may not make `count` more things of a kind."""
        self._parts.tell(Part.check_making, maker, kind, count)

    def check_launch(self, maker: str) -> None:
        """Raise EAGAIN if agent `maker` may not start one more program now."""
        self._parts.tell(Part.check_launch, maker)

    def count_message(self, sender: Process, messages: int = 1) -> None:
        """Count so many messages of `sender`, inside the transaction that accepts them; with 0 only
        ask. Raises EAGAIN if one more is more than it may send within the minute."""
        for count in self._parts.each(Part.count_message):
            count(sender, messages)

    def attribute(self, principal: Principal) -> None:
        """Have the audit name `principal` for the transaction under way. The first one that is
        named stays; a transaction without one is the kernel's own work."""
        if self._store.acting is None:
            self._store.act_for(principal)


class _Entered(AbstractContextManager[Process]):
    """The block of `Gate.enter`. It is a class, as the store's is, because it is on every call's
    way."""

    __slots__ = ("_actor", "_gate", "_kind", "_principal")

    def __init__(self, gate: Gate, actor: Process, principal: Principal, kind: str) -> None:
        self._kind = kind
        self._gate = gate
        self._actor = actor
        self._principal = principal

    def __enter__(self) -> Process:
        gate = self._gate
        gate._transaction.__enter__()
        if gate._store.acting is None:
            gate._store.act_for(self._principal)
        return self._actor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if failure is None:
            try:
                self._gate.admit(self._principal, self._actor, self._kind)
            except BaseException as refusal:
                self._gate._transaction.__exit__(type(refusal), refusal, refusal.__traceback__)
                raise
        self._gate._transaction.__exit__(kind, failure, trace)
